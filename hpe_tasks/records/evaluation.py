"""How accurate a network is, and how that was measured."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hpe_tasks.config.base import Frozen
from hpe_tasks.datasets import MetricName
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.execution import KernelAgreement, LatencyComparison

Runtime = Literal["fp32", "quantsim", "onnxruntime"]
"""What ran a network when it was measured."""


OF_THE_NETWORK = ("decoder", "input_size", "joint_map")
"""In what two networks may differ that are measured alike: how each is shown a person, and read."""


class ProtocolFingerprint(Frozen):
    """How a metric was made. Metrics with different fingerprints must not be compared.

    Attributes:
        dataset_digest: Content digest of the data set.
        joint_map: (joint, channel of the model, number in the data set) for every joint that is compared.
        image_ids_digest: SHA-256 of the sorted ids, or for MPII file names, of the images that were measured.
        num_persons: Annotated persons that were measured.
        box_source: Where the crops come from: the annotated boxes, boxes of a detector, MPII's annotated centre and
            scale; or no crops, but the whole image.
        boxes_digest: SHA-256 of the detector's results file; None without one.
        sigmas: OKS sigma of each compared joint; empty for a metric without.
    """

    dataset_digest: str
    split: str
    image_ids_digest: str
    num_images: int
    num_persons: int
    subset: bool
    box_source: Literal["ground_truth", "detector", "annotated_center_scale", "whole_image"]
    boxes_digest: str | None = None
    flip_test: bool
    decoder: str
    input_size: tuple[int, int]
    joint_map: tuple[tuple[str, int, int], ...]
    sigmas: tuple[float, ...]
    metric: MetricName = "coco_oks_ap"

    def unlike(self, other: ProtocolFingerprint) -> tuple[str, ...]:
        """In what measurements differ beside how a network is shown a person and read; empty: they can be paired."""
        names = [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]
        unlike = [name for name in names if name not in OF_THE_NETWORK]
        compared = [tuple((joint, number) for joint, _, number in one.joint_map) for one in (self, other)]
        return tuple(unlike) if compared[0] == compared[1] else (*unlike, "joint_map")


class CocoStats(Frozen):
    """The ten statistics of COCO in [0, 1]; None where the split holds no person of that size."""

    metric: ClassVar[MetricName] = "coco_oks_ap"

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None
    ar50: float | None
    ar75: float | None
    ar_medium: float | None
    ar_large: float | None

    @property
    def accuracy(self) -> float | None:
        """The figure that the gate judges."""
        return self.ap

    @property
    def by_part(self) -> dict[str, float | None]:
        """Figures among some of the persons or images, by the names that a table of images has for them."""
        return {"size/medium": self.ap_medium, "size/large": self.ap_large}


class CrowdPoseStats(Frozen):
    """The nine statistics of CrowdPose in [0, 1]; None where the split holds no person in such images.

    Attributes:
        ap_easy: AP among images with a crowd index below 0.1.
        ap_medium: From 0.1 to 0.8.
        ap_hard: Above 0.8.
    """

    metric: ClassVar[MetricName] = "crowdpose_oks_ap"

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    ar50: float | None
    ar75: float | None
    ap_easy: float | None
    ap_medium: float | None
    ap_hard: float | None

    @property
    def accuracy(self) -> float | None:
        """The figure that the gate judges."""
        return self.ap

    @property
    def by_part(self) -> dict[str, float | None]:
        """Figures among some of the persons or images, by the names that a table of images has for them."""
        return {"crowd/easy": self.ap_easy, "crowd/medium": self.ap_medium, "crowd/hard": self.ap_hard}


class PckhStats(Frozen):
    """PCKh of MPII in percent; None where no person has such a joint labelled.

    A joint counts as right when its distance to the truth is at most a threshold times the size of the head: 0.5
    unless said otherwise. A group is the mean of the left and the right joint; the means are over all labelled
    joints but pelvis and thorax.

    Attributes:
        head: Of the top of the head.
        mean_at_01: The column that publications call "Mean@0.1"; their reference computes it at the threshold 0.11.
        mean_at_exactly_01: The mean at the threshold 0.1.
        num_joints: Labelled joints that the means are over.
    """

    metric: ClassVar[MetricName] = "mpii_pckh"

    head: float | None
    shoulder: float | None
    elbow: float | None
    wrist: float | None
    hip: float | None
    knee: float | None
    ankle: float | None
    mean: float | None
    mean_at_01: float | None
    mean_at_exactly_01: float | None
    num_joints: int

    @property
    def accuracy(self) -> float | None:
        """The figure that the gate judges."""
        return self.mean

    @property
    def by_part(self) -> dict[str, float | None]:
        """None: groups and joints are all that there is."""
        return {}


Stats = CocoStats | CrowdPoseStats | PckhStats
"""What a metric comes to; the kind of data set says which metric."""


class FailedImage(Frozen):
    """An image that could not be measured, and why."""

    name: str
    reason: str


class ScoreSpread(Frozen):
    """The scores of people, as the function gives them: what a score is to be compared with.

    Attributes:
        low: 95 of 100 people score higher.
    """

    persons: int = Field(ge=1)
    low: float
    median: float


class EvaluationReport(Record):
    """Accuracy of one form of the model, and how it was measured.

    Attributes:
        runtime: What ran the network.
        stats: COCO's or CrowdPose's AP in [0, 1], or MPII's PCKh in percent.
        by_group: The main figure (AP, or PCKh at 0.5) over the joints of one group alone ("head", "shoulders", ...);
            None where no person has such joints.
        by_joint: The same for each compared joint.
        fingerprint: The protocol.
        predictions: JSON, one entry for each pose: of COCO a results file, of MPII a list of the annotated persons.
        image_table: What became of each image, as `hpe_tasks.metrics.image_tables` reads it: its figures can be counted
            again over any of the images. None in older records.
        crop_joints: Where each joint was found in the network's input, as `hpe_tasks.evaluation.crop_joints` reads it.
            None in older records, and of networks that are shown whole images.
        available_images: Images of the split that could have been measured; None in older records.
        failed_images: Images that could not be read or do not fit their records; their persons count as missed.
        images_per_second: Throughput of this measurement, preprocessing and decoding included.
        cpu_features: int8 features of the CPU that it was measured on, such as `avx512_vnni`; empty in older records.
        person_scores: How sure it was of the people whom it was measured on; None in older records, and where scores
            say something else: MPII's have none, and in a detector's boxes they hold the detector's.
    """

    runtime: Runtime
    stats: Stats
    by_group: dict[str, float | None]
    by_joint: dict[str, float | None]
    fingerprint: ProtocolFingerprint
    predictions: Artifact
    image_table: Artifact | None = None
    crop_joints: Artifact | None = None
    available_images: int | None = None
    failed_images: tuple[FailedImage, ...] = ()
    images_per_second: float
    cpu_features: tuple[str, ...] = ()
    person_scores: ScoreSpread | None = None

    @property
    def accuracy(self) -> float | None:
        """The figure that the gate judges: AP in [0, 1], or mean PCKh at 0.5 in percent."""
        return self.stats.accuracy


class QuantizedEvaluation(Record):
    """QuantSim and the exported file, measured on the same persons.

    Attributes:
        model_sha256: Of the exported file that was measured; None in a record of a version that did not say it.
        kernels: None in a record of a version that did not compare them.
        latency: None in a record of a version that did not measure it.
    """

    quantsim: EvaluationReport
    onnx: EvaluationReport
    model_sha256: str | None = None
    kernels: KernelAgreement | None = None
    latency: LatencyComparison | None = None
