"""The manifest: everything that is needed to serve a published model, and to audit it later.

A version is derived from content, so that publishing the same model twice gives one version. Its 16 hexadecimal
digits are the start of the SHA-256 over these parts, as JSON with sorted keys, and over nothing else:

* **what is served**: the digest of `model.onnx`, and `serving`: how to feed it and how to read its output;
* **the terms it was admitted on**: the protocol of the exported file's evaluation, and the limits of the gate.

So times, run names, people, tool versions and machines do not change a version, nor does a metric that comes out a
little different when the same file is measured again. The same file judged on other images, or against other limits,
is a version of its own: its manifest holds that evidence, while the manifest that was published first stays as it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from hpe_tasks.config.base import Frozen, Sha256, Slug
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import Processors
from hpe_tasks.contract.keys import blob_key
from hpe_tasks.contract.names import VERSION
from hpe_tasks.contract.version import content_version
from hpe_tasks.errors import BadInputError
from hpe_tasks.records.base import Record
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, ScoreSpread, Stats
from hpe_tasks.records.execution import KernelAgreement, KernelProof, LatencyComparison, PlacementAudit
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.registry.build_provenance import BuildProvenance

Version = Annotated[str, StringConstraints(pattern=f"^{VERSION}$")]

MODEL_ROLE = "model"
ENCODINGS_ROLE = "encodings"
CHECKPOINT_ROLE = "checkpoint"
"""The weights that the version came from; not in manifests of older versions, nor where they are an ONNX file."""
FP32_ROLE = "fp32"
"""The network before quantization as a float32 ONNX file; not in manifests of older versions."""


class ManifestFile(Frozen):
    """A file of the version.

    Attributes:
        role: What the file is: `model` and `encodings` always; others, such as `checkpoint` and `fp32`, as published.
        blob: Key relative to the registry's prefix.
    """

    role: Slug
    blob: str
    sha256: Sha256
    size_bytes: int = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.blob != blob_key(self.sha256):
            raise ValueError(f"blob of {self.role!r} is {self.blob!r}, its digest says {blob_key(self.sha256)!r}")
        return self


class Serving(Frozen):
    """How the network is fed and how its output is read.

    Attributes:
        codec: What is shown to the network and what comes back, by its name in `hpe_tasks.pose.codecs`: such as
            `heatmap`, the crop of one person and the heatmaps of its joints.
        decoder: How coordinates were read from the output when the model was measured.
        input_sizes: (W, H) of the network's input in pixels. Where whole images are shown there are two: for those
            that are wider than high, and for the others.
        channel_order: Order of the input's color channels, and of `mean` and `std`.
        mean: For each channel: subtracted from pixel values in [0, 1].
        std: For each channel: divides after the subtraction.
        outputs: The outputs that are read, by the codec's names for them.
        joints: What the decoder gives, in its order; with codecs of crops also the order of the channels.
        limbs: Pairs of joint indices to draw.
        flip_pairs: Joint indices (left, right) that swap when the image is mirrored.
        processors: Where the model may be served; None in manifests that say nothing of it.
    """

    architecture: str
    codec: str
    decoder: str
    input: TensorSpec
    input_layout: Literal["nchw", "nhwc"]
    input_sizes: tuple[tuple[int, int], ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    outputs: dict[str, TensorSpec]
    output_layout: Literal["nchw", "nhwc"]
    skeleton: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    processors: Processors | None = None

    @model_serializer(mode="wrap")
    def _as_published(self, default: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older manifests do not have: a version is a digest of what is served."""
        values: dict[str, Any] = default(self)
        if self.processors is None:
            del values["processors"]
        return values


class GoldenPerson(Frozen):
    """A person as the exported file found it when it was measured.

    Attributes:
        box: (x, y, w, h) that the person was cut out by, in pixels; None where it was found in the whole image.
        joints: (x, y, score) of each joint in the order of `Serving.joints`; None for a joint that was not found.
    """

    box: tuple[float, float, float, float] | None
    joints: tuple[tuple[float, float, float] | None, ...]


class GoldenImage(Frozen):
    """An evaluation image that tells whether a function serves this version as it was measured.

    Attributes:
        file: Role of the image among the version's files.
        people: Everybody whom the exported file found in it.
    """

    file: Slug
    width: int
    height: int
    people: tuple[GoldenPerson, ...]


class Metrics(Frozen):
    """Accuracy of one form of the model; sample counts are in the fingerprint.

    Attributes:
        failed_images: How many images could not be measured; their persons count as missed.
        cpu_features: int8 features of the CPU that it was measured on; empty in manifests of older versions.
        person_scores: As the evaluation's report has them; None in manifests of older versions.
    """

    stats: Stats
    by_group: dict[str, float | None]
    by_joint: dict[str, float | None]
    failed_images: int
    cpu_features: tuple[str, ...] = ()
    person_scores: ScoreSpread | None = None
    fingerprint: ProtocolFingerprint

    @classmethod
    def of(cls, report: EvaluationReport) -> Metrics:
        """The lasting part of a report: its predictions and its speed stay behind."""
        return cls(
            stats=report.stats,
            by_group=report.by_group,
            by_joint=report.by_joint,
            failed_images=len(report.failed_images),
            cpu_features=report.cpu_features,
            person_scores=report.person_scores,
            fingerprint=report.fingerprint,
        )


class Calibration(Frozen):
    """The images that the quantization ranges were estimated on.

    Attributes:
        image_ids_digest: SHA-256 of the drawn ids of COCO, or file names of MPII, in order.
    """

    split: str
    num_images: int
    num_persons: int
    seed: int
    image_ids_digest: Sha256


class Provenance(Frozen):
    """Where the version comes from. Nothing here changes the version.

    Attributes:
        run: Name of the run that made it.
        created_by: The person or the service that published it.
        git_commit: Commit of this project's code; None when it ran outside a checkout.
        trained_on: What the checkpoint was trained on, in a sentence: of the configuration, or else of the file itself;
            None where neither says it, and in manifests of older versions.
        recipe_found: How the recipe was found, in a sentence; None where it was given, and in manifests of older
            versions.
    """

    run: str
    created_at: datetime
    created_by: str
    preset: str
    dataset_source: str
    dataset_digest: Sha256
    checkpoint_source: str
    checkpoint_sha256: Sha256
    calibration: Calibration
    quantized_on: str
    tool_versions: dict[str, str]
    git_commit: str | None
    trained_on: str | None = None
    recipe_found: str | None = None


class ModelManifest(Record):
    """One published version of a model.

    Attributes:
        kernels: None in a manifest of a version of this project that did not compare them.
        proof: None in a manifest of a version of this project that proved nothing.
        latency: None in a manifest of a version of this project that did not measure it.
        golden: Empty where no smoke test was asked for.
        build: How it was made, in SLSA's words; None in a manifest of a version of this project that did not say it.
    """

    name: Slug
    version: Version
    files: tuple[ManifestFile, ...]
    serving: Serving
    recipe: QuantizationRecipe
    fp32: Metrics
    quantsim: Metrics
    onnx: Metrics
    kernels: KernelAgreement | None = None
    proof: KernelProof | None = None
    latency: LatencyComparison | None = None
    gate: GateDecision
    placement: PlacementAudit
    golden: tuple[GoldenImage, ...] = ()
    fp32_size_bytes: int
    opset: int
    provenance: Provenance
    build: BuildProvenance | None = None

    @field_validator("recipe", mode="before")
    @classmethod
    def _older_recipe(cls, recipe: Any) -> Any:
        """Manifests that do not name a setting are older than it: deconvolutions in float, sums that may saturate."""
        if not isinstance(recipe, dict):
            return recipe
        reduced = recipe.get("reduce_range", False)
        kept = {key: value for key, value in recipe.items() if key != "reduce_range"}
        decomposed = kept.pop("four_phase_deconvolution", False)
        return {"subpixel_deconvolution": decomposed, "saturation_free": reduced, **kept}

    @model_validator(mode="after")
    def _check(self) -> Self:
        roles = [file.role for file in self.files]
        if len(set(roles)) != len(roles) or not {MODEL_ROLE, ENCODINGS_ROLE} <= set(roles):
            raise ValueError(f"files must hold 'model' and 'encodings', and each role once; they are {roles}")
        model = self.file(MODEL_ROLE).sha256
        if self.proof is not None and self.proof.model_sha256 != model:
            raise ValueError(f"proof is of a file with the SHA-256 {self.proof.model_sha256}, the model has {model}")
        expected = version_of(model, self.serving, self.onnx.fingerprint, self.gate)
        if self.version != expected:
            raise ValueError(f"version is {self.version!r}, but the content says {expected!r}")
        return self

    def file(self, role: str) -> ManifestFile:
        """The file of this role; raises BadInputError when the version has none."""
        for file in self.files:
            if file.role == role:
                return file
        known = ", ".join(file.role for file in self.files)
        raise BadInputError(
            f"Version {self.version} of {self.name!r} has no file {role!r}.", hint=f"Its files are: {known}."
        )

    def to_bytes(self) -> bytes:
        """The manifest as it is stored: UTF-8 JSON."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def version_of(model_sha256: str, serving: Serving, protocol: ProtocolFingerprint, gate: GateDecision) -> str:
    """The version of a file that is served like this, measured like this and held to these limits."""
    return content_version(
        model_sha256,
        serving.model_dump(mode="json"),
        protocol.model_dump(mode="json"),
        {check.name: check.limit for check in gate.checks},
    )
