"""What steps produce: the records that are stored in the workspace and cross every boundary."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from hpe_tasks.config.run import Frozen, QuantizationRecipe
from hpe_tasks.datasets import MetricName
from hpe_tasks.pose.skeletons import Skeleton

Runtime = Literal["fp32", "quantsim", "onnxruntime"]
"""What ran a network when it was measured."""


class Artifact(Frozen):
    """A stored file that can be verified."""

    uri: str
    sha256: str
    size_bytes: int


class Record(Frozen):
    """Base of what a step stores as `result.json`."""

    schema_version: Literal[1] = 1


class PreflightCheck(Frozen):
    """One thing that was looked at before the run began.

    Attributes:
        title: What it is about, for people.
        state: With `warning` the run goes on.
        found: What is there.
        advice: What to do about a warning or a failure.
        may_pass: The network or a server failed: trying again may help.
    """

    name: str
    title: str
    state: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""
    may_pass: bool = False


class Preflight(Record):
    """What was found before anything long began: the inputs, the destination and this machine."""

    checks: tuple[PreflightCheck, ...]

    @property
    def failed(self) -> tuple[PreflightCheck, ...]:
        """What must stop the run."""
        return tuple(check for check in self.checks if check.state == "failed")

    @property
    def warnings(self) -> tuple[PreflightCheck, ...]:
        """What a run goes on with."""
        return tuple(check for check in self.checks if check.state == "warning")


class DatasetSkeleton(Frozen):
    """The joints of a data set that brings its own, and the limbs between them."""

    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]

    @property
    def skeleton(self) -> Skeleton:
        """As drawing takes it."""
        return Skeleton(name="dataset", joints=self.joints, limbs=self.limbs)


class FetchedDataset(Record):
    """A data set that is at hand.

    Attributes:
        source: The address that it came from.
        digest: SHA-256 over the annotation files and images of the run's splits; the same bytes on any machine.
        boxes_sha256: SHA-256 of the file with detected boxes; None without one.
        num_files: Files that the digest covers.
        own_joints: Of a data set that brings its own; None for another, and where its annotations do not say them.
    """

    source: str
    digest: str
    num_files: int
    size_bytes: int
    boxes_sha256: str | None = None
    own_joints: DatasetSkeleton | None = None


class FetchedCheckpoint(Record):
    """The checkpoint's bytes, as they were fetched.

    Attributes:
        trained_on: What the file itself says that it was trained on; None where it says nothing.
    """

    source: str
    file: Artifact
    trained_on: str | None = None


class DatasetProblem(Frozen):
    """One expectation that the data set does not meet.

    Attributes:
        check: Name of the expectation.
        message: What is wrong, in a sentence.
        count: How many files or records are at fault.
        examples: The first few, by file name or id.
    """

    check: str
    message: str
    count: int
    examples: tuple[str, ...] = ()


class SplitCounts(Frozen):
    """What a split holds. `persons` have at least one labelled joint and are no crowd."""

    split: str
    images: int
    annotations: int
    persons: int


class DatasetValidation(Record):
    """The outcome of the data set's expectations, kept whether or not they were met.

    Attributes:
        warnings: What a run goes on with, such as calibration images that are copies of evaluation images.
    """

    passed: bool
    checks_run: int
    problems: tuple[DatasetProblem, ...]
    warnings: tuple[DatasetProblem, ...] = ()
    splits: tuple[SplitCounts, ...]
    data_docs: Artifact


class ProtocolFingerprint(Frozen):
    """How a metric was made. Metrics with different fingerprints must not be compared.

    Attributes:
        dataset_digest: Content digest of the data set.
        joint_map: (joint, channel of the model, keypoint of the data set) for every joint that is compared.
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


class CocoStats(Frozen):
    """The ten COCO keypoint statistics in [0, 1]; None where the split holds no person of that size."""

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


Stats = CocoStats | CrowdPoseStats | PckhStats
"""What a metric comes to; the kind of data set says which metric."""


class FailedImage(Frozen):
    """An image that could not be measured, and why."""

    name: str
    reason: str


class ScoreSpread(Frozen):
    """The scores of people, as the function gives them: what a score is to be held against.

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
            None where nobody has such joints.
        by_joint: The same for each compared joint.
        fingerprint: The protocol.
        predictions: JSON, one entry for each pose: of COCO a results file, of MPII a list of the annotated persons.
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
    failed_images: tuple[FailedImage, ...] = ()
    images_per_second: float
    cpu_features: tuple[str, ...] = ()
    person_scores: ScoreSpread | None = None

    @property
    def accuracy(self) -> float | None:
        """The figure that the gate judges: AP in [0, 1], or mean PCKh at 0.5 in percent."""
        return self.stats.accuracy


class TriedMistake(Frozen):
    """A usual mistake, or several at once, and what the network reaches without it.

    Attributes:
        when: What may be wrong, in words that follow "when".
        settings: What mends it, as `--set` takes it; empty where no setting does.
        accuracy: The judged figure with it mended, on the images of the diagnosis; None where the network's output is
            not finite.
    """

    when: str
    settings: tuple[str, ...]
    accuracy: float | None


class Diagnosis(Frozen):
    """What a network with too little accuracy reaches on a few labelled images when a usual mistake is mended.

    Attributes:
        split: Where the images were drawn from.
        num_persons: Persons in the images that were compared.
        accuracy: The judged figure as configured, on these images.
        tried: The best first.
        found: The mistake that explains the figure; None where none does.
        summary: All of this in a sentence.
        seconds: How long it took.
    """

    split: str
    num_images: int
    num_persons: int
    accuracy: float | None
    tried: tuple[TriedMistake, ...]
    found: TriedMistake | None
    summary: str
    seconds: float


class Fp32Check(Record):
    """Whether the checkpoint, before quantization, reaches what the gate asks of the exported file.

    Attributes:
        observed: AP in [0, 1] or mean PCKh in percent; None where nothing could be measured.
        limit: The gate's floor.
        reason: Why it passed or failed, in a sentence.
        diagnosis: Of a checkpoint that failed; None where it passed, or where nothing could be measured.
    """

    passed: bool
    metric: Literal["ap", "pckh"]
    observed: float | None
    limit: float
    reason: str
    diagnosis: Diagnosis | None = None


class QuantizedModel(Record):
    """A calibrated QuantSim, in the parts that rebuild it.

    Attributes:
        model: The network that was quantized, after folding and equalization: .safetensors or .onnx.
        encodings: AIMET's quantization encodings.
        calibration_image_ids: The images that were drawn: ids of COCO, file names of MPII.
    """

    recipe: QuantizationRecipe
    model: Artifact
    encodings: Artifact
    calibration_image_ids: tuple[int | str, ...]
    calibration_persons: int
    device: str
    tool_versions: dict[str, str]


class PlacementAudit(Frozen):
    """Where onnxruntime runs the network's arithmetic, read back from its optimized graph.

    Attributes:
        int8_mac_share: Share of the multiply-accumulates of convolutions and matrix products that run in int8.
        float_operators: Operators that stayed float and do arithmetic, as "OpType name (MACs)"; most MACs first.
        cpu_features: int8 features of the CPU that the graph was optimized on.
    """

    int8_mac_share: float = Field(ge=0, le=1)
    int8_macs: int
    total_macs: int
    float_operators: tuple[str, ...]
    onnxruntime_version: str
    cpu_features: tuple[str, ...]


class TensorSpec(Frozen):
    """A named input or output; dimensions are numbers, or a name where they are free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FamilyProof(Frozen):
    """Whether the int8 kernels of a family of processors can clip a sum of a file's products, whatever the image.

    Attributes:
        unproved_layers: Layers that can clip, or whose kernels are not known.
        unproved: The first of them, with the reason.
        smallest_margin: Least distance of any sum from what its kernel's integers hold, in products of codes; negative
            where it can be left; None without a layer that was examined.
        tightest_layer: The layer of that sum.
    """

    unproved_layers: int = Field(ge=0)
    unproved: tuple[str, ...] = ()
    smallest_margin: int | None = None
    tightest_layer: str | None = None

    @property
    def proved(self) -> bool:
        """Whether nothing can clip."""
        return self.unproved_layers == 0


class KernelProof(Frozen):
    """What follows from the codes of a file for onnxruntime's int8 kernels.

    Attributes:
        model_sha256: The file that was examined.
        layers: Layers that run in int8.
        channels: Their output channels.
        x86_64: Kernels for x86-64, from SSE4.1 to AMX.
        arm64: Kernels for arm64, with and without dot products.
    """

    model_sha256: str
    layers: int
    channels: int
    x86_64: FamilyProof
    arm64: FamilyProof

    @property
    def families(self) -> dict[str, FamilyProof]:
        """The proofs by what a person calls the processors."""
        return {"x86-64": self.x86_64, "arm64": self.arm64}


class ExportedModel(Record):
    """The file that ships.

    Attributes:
        proof: None in a record of a version that proved nothing.
    """

    model: Artifact
    encodings: Artifact
    fp32_size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: PlacementAudit
    proof: KernelProof | None = None


class KernelAgreement(Frozen):
    """What onnxruntime's int8 kernels make of the exported file on this CPU, against the same file unoptimized.

    Unoptimized, every quantized operator runs in float between its conversions, so nothing can saturate. On a CPU
    without VNNI instructions the optimized graph's sums can. Each layer is given the same input in both.

    Attributes:
        sqnr_db: Lowest signal-to-noise ratio of an optimized layer's result; None where all are equal.
        layer: The result that it belongs to.
        max_difference: Largest difference of a quantized value, in steps.
        num_images: Images, or crops of persons, that were compared.
        cpu_features: int8 features of the CPU.
    """

    sqnr_db: float | None
    layer: str | None
    max_difference: float
    num_images: int = Field(ge=1)
    cpu_features: tuple[str, ...]


class Latency(Frozen):
    """How long one file takes for one batch in onnxruntime.

    Attributes:
        runs: How many were timed.
    """

    median_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0)
    runs: int = Field(ge=1)


class SpeedUp(Frozen):
    """How many times as fast as FP32 the exported file is with a number of threads; see `hpe_tasks.evaluation.latency`.

    Attributes:
        ratio: Median over pairs of measurements that were made one after the other.
        ratio_low: Lower end of the interval that holds the true median with 95 % confidence: the noise.
        ratio_high: Its upper end.
        pairs: How many there were.
    """

    threads: int = Field(ge=1)
    fp32: Latency
    onnx: Latency
    ratio: float = Field(gt=0)
    ratio_low: float = Field(gt=0)
    ratio_high: float = Field(gt=0)
    pairs: int = Field(ge=1)

    @property
    def noise(self) -> float:
        """How far the interval reaches from the ratio to its farther end, as a share of the ratio."""
        return max(self.ratio_high - self.ratio, self.ratio - self.ratio_low) / self.ratio


class LatencyComparison(Frozen):
    """The exported file's speed against FP32 in the same onnxruntime on the machine at hand.

    Attributes:
        speed_ups: With one thread, then with all that the machine has; one entry where that is the same.
        input_shape: Of what each run was given.
        processor: Name of the CPU.
        cpu_features: Its int8 features.
    """

    speed_ups: tuple[SpeedUp, ...] = Field(min_length=1)
    input_shape: tuple[int, ...]
    onnxruntime_version: str
    processor: str
    cpu_features: tuple[str, ...]

    @property
    def one_thread(self) -> SpeedUp:
        """With the fewest threads: what the gate judges."""
        return min(self.speed_ups, key=lambda one: one.threads)


class QuantizedEvaluation(Record):
    """QuantSim and the exported file, measured on the same persons.

    Attributes:
        kernels: None in a record of a version that did not compare them.
        latency: None in a record of a version that did not measure it.
    """

    quantsim: EvaluationReport
    onnx: EvaluationReport
    kernels: KernelAgreement | None = None
    latency: LatencyComparison | None = None


class GateCheck(Frozen):
    """One requirement: what was observed, what was asked, and why it passed or failed."""

    name: str
    title: str
    passed: bool
    observed: float | None
    limit: float
    comparison: Literal["at_least", "at_most"]
    unit: str
    reason: str


class GateDecision(Record):
    """Whether the model may be published."""

    passed: bool
    checks: tuple[GateCheck, ...]

    @property
    def reason(self) -> str:
        """The failed checks in one sentence; empty when all passed."""
        return "; ".join(check.reason for check in self.checks if not check.passed)


class ServedBefore(Frozen):
    """What a channel served when a version was stored; `version` is None for a channel that did not exist."""

    channel: str
    version: str | None


class PublishedModel(Record):
    """A version in the registry; no channel points to it yet.

    Attributes:
        before: What the channel served that is to be moved; None where no channel was named.
        created: False when the same content had been published before.
        signed_by: SHA-256 of the public key that the manifest's signature belongs to; None without a signature.
    """

    registry: str
    name: str
    version: str
    manifest: Artifact
    created: bool
    signed_by: str | None = None
    before: ServedBefore | None = None


class SmokedImage(Frozen):
    """A golden image as the function saw it.

    Attributes:
        image: Role of the image in the manifest.
        people: People that it found.
        expected: People that were measured.
        min_oks: Similarity (OKS) of the least similar person in [0, 1]; None where nobody was clear enough to compare.
        duration_ms: Time that the function took, as it says.
    """

    image: str
    people: int
    expected: int
    min_oks: float | None
    duration_ms: float


class SmokeTest(Record):
    """What the built Lambda package made of a published version's golden images, in the emulator.

    Attributes:
        version: The version that was tested.
        manifest_sha256: Of its manifest's bytes.
        package_sha256: Of the .zip.
        zipped_bytes: Its size.
        unzipped_bytes: Size of its content, which Lambda limits to 250 MB.
        cold_start_ms: From the first request to its answer: the emulator starts the function then.
        python: Version of the interpreter that ran it.
        cpu_features: int8 features of the CPU that it ran on.
    """

    version: str
    manifest_sha256: str
    package_sha256: str
    zipped_bytes: int
    unzipped_bytes: int
    cold_start_ms: float
    python: str
    cpu_features: tuple[str, ...]
    images: tuple[SmokedImage, ...]


class PromotedModel(Record):
    """A channel that serves the run's version now.

    Attributes:
        previous_version: What the channel pointed to; None for a new channel.
    """

    registry: str
    name: str
    version: str
    channel: str
    previous_version: str | None


class RunReport(Record):
    """The HTML report of the run."""

    html: Artifact


class StepFailure(Record):
    """Why a step did not produce its result."""

    step: str
    error: str
    message: str
    hint: str
    failed_at: datetime


StepState = Literal["done", "failed", "refused", "skipped", "not_run"]


class StepOutcome(Frozen):
    """How one step of a run went.

    Attributes:
        title: What it does, in two or three words.
        failure: Why its last attempt failed.
    """

    name: str
    title: str
    state: StepState
    failure: StepFailure | None = None
