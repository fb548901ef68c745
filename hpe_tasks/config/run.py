"""What a run is asked to do: one immutable, validated description that every step reads.

The trigger form in Airflow, the keys of `hpe run --set` and the configuration files are all generated from these
models, so a field's title, description and bounds are written here once.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hpe_tasks.config.base import Frozen, Slug
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.retraining import RetrainingConfig
from hpe_tasks.datasets import KINDS
from hpe_tasks.datasets.kind import named
from hpe_tasks.pose.codecs import CODECS

Fp32Runtime = Literal["torch", "onnxruntime"]


class EvaluationConfig(Frozen):
    """How accuracy is measured."""

    num_images: int | None = Field(
        default=None, ge=1, description="Measure on a seeded subset of this many images: a quick look, marked as one."
    )
    batch_size: int = Field(
        default=16, ge=1, le=512, description="Persons (with codec `paf`: images) in one forward pass."
    )
    flip_test: bool = Field(
        default=False,
        description="Average what the network gives for each crop with what it gives for its mirror image: slower, a "
        "little more accurate.",
    )
    max_failed_images: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Largest share of images that may turn out unreadable or unlike their records. Their persons count "
        "as missed, and the report names them; with more the step fails.",
    )
    shards: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Parts that several workers measure beside each other, before the figures are counted; 0 for one "
        "part for each 250 persons, and no more parts than HPE_SHARD_TASKS. The figures are the same whatever their "
        "number.",
    )
    fp32_runtime: Fp32Runtime = Field(
        default="onnxruntime",
        description="What runs the checkpoint on a CPU: `onnxruntime` is faster, and compared with `torch` first, "
        "which takes its place where the two differ. A GPU runs torch.",
    )

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what comes out."""
        return self.model_dump(exclude={"shards"})


Processors = Literal["any", "x86_64", "arm64", "x86_64_vnni"]
"""Where a published model may be served."""


class DestinationConfig(Frozen):
    """Where a model that passes is published."""

    registry: str = Field(
        default="s3://hpe-models/registry",
        pattern=r"^s3://[^/]+(/.*)?$",
        description="Bucket and prefix of the model registry.",
    )
    name: Slug = Field(default="pose", description="Name of the model in the registry.")
    channel: Slug = Field(default="staging", description="Channel that is moved to the new version.")
    processors: Processors = Field(
        default="any",
        description="Processors that may serve the model: `any`, `x86_64` or `arm64` ask for proof that no int8 kernel "
        "there can clip a sum; `x86_64_vnni` asks for none, and the function starts such a model on a processor with "
        "VNNI only.",
    )
    smoke_test: bool = Field(
        default=False,
        description="Before the channel moves, build the Lambda package, run it in the Runtime Interface Emulator on "
        "this machine, and compare what it finds in the golden images with what was measured. Those images, up to "
        "three of the evaluation split, are uploaded to the registry with the version.",
    )
    require_signature: bool = Field(
        default=False,
        description="Publish only with an Ed25519 signature over the manifest: see docs/registry.md on signing keys.",
    )


class RunConfig(Frozen):
    """Everything that decides what a run produces."""

    schema_version: Literal[1] = 1
    preset: str = Field(default="custom", description="The preset that the run started from.")
    model: ModelConfig
    dataset: DatasetConfig
    recipe: QuantizationRecipe = QuantizationRecipe()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateLimits = GateLimits()
    destination: DestinationConfig = DestinationConfig()
    training: RetrainingConfig = RetrainingConfig()
    seed: int = Field(default=0, ge=0, description="Seed of the calibration draw and of every subset.")

    @model_serializer(mode="wrap")
    def _as_asked(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without settings of a training that nobody has asked for: the names of older runs are digests of this."""
        values: dict[str, Any] = default(self)
        if self.training == RetrainingConfig():
            values.pop("training", None)
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dataset.calibration_split == self.dataset.evaluation_split:
            raise ValueError(
                f"dataset.calibration_split and dataset.evaluation_split are both {self.dataset.evaluation_split!r}: "
                "a model must not be calibrated on the images that judge it"
            )
        if self.dataset.training_split == self.dataset.evaluation_split:
            raise ValueError(
                f"dataset.training_split and dataset.evaluation_split are both {self.dataset.evaluation_split!r}: "
                "a model must not learn from the images that judge it"
            )
        if self.recipe.distillation_labels and (self.dataset.training_split is None or self.model.network.from_file):
            raise ValueError(
                "recipe.distillation_labels needs dataset.training_split, and a network that the project builds: how "
                "the one in a user's file was taught is not known"
            )
        codec = CODECS[self.model.codec]
        kind = self.dataset.described
        if codec.whole_images and not (kind.takes_detections and self.dataset.boxes is None):
            fit = named(kind for kind in KINDS.values() if kind.takes_detections)
            raise ValueError(f"codec {codec.name!r} finds people in whole images: no dataset.boxes, and kind {fit}")
        if self.evaluation.flip_test and not codec.takes_flip_test:
            raise ValueError(f"evaluation.flip_test is not for codec {codec.name!r}")
        return self
