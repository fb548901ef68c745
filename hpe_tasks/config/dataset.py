"""The data set that a run calibrates and measures on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from hpe_tasks.config.base import SAMPLE, Frozen, Sha256
from hpe_tasks.datasets import KINDS, DatasetKind, GateMetric
from hpe_tasks.datasets.kind import named

if TYPE_CHECKING:
    KindName: TypeAlias = str
else:
    KindName = Literal[tuple(KINDS)]


def _usual_split(number: int) -> str:
    """The default of one of the two splits by the kind of data set, in words."""
    return ", ".join(f"`{kind.splits[number]}` for {name}" for name, kind in KINDS.items())


class DatasetConfig(Frozen):
    """A data set of people with labelled joints.

    COCO's layout is `images/<split>/` and `annotations/person_keypoints_<split>.json`; MPII's, in the form of Simple
    Baselines, `images/`, `annot/<split>.json` and `annot/gt_<split>.mat`; CrowdPose's `images/` and
    `json/crowdpose_<split>.json`; one with joints of its own has `annotations/<split>.json`, and its images in
    `images/<split>/` or `images/`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: KindName = Field(
        default="coco",
        description="Layout, joints and metric: COCO (OKS AP), MPII (PCKh), CrowdPose (OKS AP, also of easy, medium "
        "and hard images), or `custom`, COCO's layout with joints of its own.",
    )
    source: str = Field(
        min_length=1,
        description="A folder, a .zip or .tar(.gz) archive, an s3:// or http(s):// address of one; or `sample`. For "
        "MPII also the original annotation file (.mat).",
    )
    sha256: Sha256 | None = Field(default=None, description="SHA-256 that the data set's archive must have.")
    image_archives: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Addresses of archives with the images, where `source` holds the annotations only.",
    )
    images_by_url: bool = Field(
        default=False,
        description="Fetch only the images that the run needs, each from the address in its record (`coco_url`); "
        "`source` then holds the annotations only. `evaluation.num_images` does not lower their number.",
    )
    requests_per_second: float = Field(
        default=50.0, gt=0, le=1000, description="Most images that are asked for in a second with `images_by_url`."
    )
    allow_private_addresses: bool = Field(
        default=False,
        description="Fetch data set and checkpoint also from web servers that not everybody can reach: those of this "
        "machine, of a private network, or of a cloud's own services. Without it such an address is refused, wherever "
        "it stands: in a setting, in an image's record or in a redirect.",
    )
    boxes: str | None = Field(
        default=None,
        min_length=1,
        description="COCO results file (.json: a path or an address) with detected boxes of persons, for a top-down "
        "evaluation by AP without the annotated boxes.",
    )
    valid_images: str | None = Field(
        default=None,
        min_length=1,
        description="With MPII's original annotation file: a text file (a path or an address) that names the images "
        "of the split `valid`, one file name on a line; without it a tenth of the videos is taken.",
    )
    calibration_split: str = Field(
        default="train2017",
        min_length=1,
        description=f"Split that calibration images are drawn from; the default is {_usual_split(0)}.",
    )
    evaluation_split: str = Field(
        default="val2017",
        min_length=1,
        description=f"Split that metrics are measured on; the default is {_usual_split(1)}.",
    )
    training_split: str | None = Field(
        default=None,
        min_length=1,
        description="Split whose annotations a quantized network may learn from, with `recipe.distillation_labels`.",
    )
    evaluation_images: Literal["with_persons", "all"] = Field(
        default="with_persons",
        description="Images of the evaluation split that are measured. People found where there are none count against "
        "a model only with `all`.",
    )
    calibrate_on_lookalikes: bool = Field(
        default=False,
        description="Calibrate also on images that look like an evaluation image though their files differ (scaled, "
        "re-encoded, brightened): for data in which all images look alike, as those of a camera that does not move. "
        "By default they are left out, and the report names them.",
    )
    min_persons: int = Field(
        default=50,
        ge=1,
        description="Fewest persons with visible joints that the evaluation split must hold, and that a model must be "
        "measured on to pass the gate: a smaller subset never does.",
    )

    @property
    def gate_metric(self) -> GateMetric:
        """The figure that a model is judged by on such data."""
        return self.described.gate_metric

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that a run reads, each once."""
        named = (self.calibration_split, self.evaluation_split, self.training_split)
        return tuple(dict.fromkeys(split for split in named if split is not None))

    @property
    def described(self) -> DatasetKind:
        """What a data set of this kind is made of."""
        return KINDS[self.kind]

    @model_validator(mode="before")
    @classmethod
    def _usual_splits(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") in KINDS:
            calibration, evaluation = KINDS[values["kind"]].splits
            return {"calibration_split": calibration, "evaluation_split": evaluation, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images_by_url and self.image_archives is not None:
            raise ValueError("images_by_url and image_archives exclude one another: choose one")
        if self.source == SAMPLE and (self.images_by_url or self.image_archives is not None):
            raise ValueError("the sample brings its own images: leave images_by_url and image_archives out")
        if self.images_by_url and self.training_split not in {None, self.calibration_split}:
            raise ValueError("images_by_url fetches no further split: set training_split to the calibration_split")
        self._refuse_unfit("source 'sample' is", self.source == SAMPLE, lambda kind: kind.is_drawn)
        self._refuse_unfit("images_by_url is", self.images_by_url, lambda kind: kind.has_addresses)
        self._refuse_unfit("boxes are", self.boxes is not None, lambda kind: kind.takes_detections)
        self._refuse_unfit("valid_images is", self.valid_images is not None, lambda kind: bool(kind.layout.originals))
        return self

    def _refuse_unfit(self, setting: str, given: bool, fits: Callable[[DatasetKind], bool]) -> None:
        if given and not fits(self.described):
            raise ValueError(f"{setting} for kind {named(filter(fits, KINDS.values()))}, not for {self.kind!r}")
