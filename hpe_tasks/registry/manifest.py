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

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
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
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import Processors, RunConfig
from hpe_tasks.contract.version import content_version
from hpe_tasks.errors import BadInputError
from hpe_tasks.models.interface import find_outputs, input_sizes
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, QuantizedEvaluation, ScoreSpread, Stats
from hpe_tasks.records.execution import KernelAgreement, KernelProof, LatencyComparison, PlacementAudit
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import ExportedModel, QuantizedModel, TensorSpec

Version = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]

MODEL_ROLE = "model"
ENCODINGS_ROLE = "encodings"


def blob_key(sha256: str) -> str:
    """Key of a content-addressed file, relative to the registry's prefix."""
    return f"blobs/sha256/{sha256}"


class ManifestFile(Frozen):
    """A file of the version.

    Attributes:
        role: What the file is: `model` and `encodings` always; others, such as `predictions`, as published.
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


class ModelManifest(Record):
    """One published version of a model.

    Attributes:
        kernels: None in a manifest of a version of this project that did not compare them.
        proof: None in a manifest of a version of this project that proved nothing.
        latency: None in a manifest of a version of this project that did not measure it.
        golden: Empty where no smoke test was asked for.
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

    @field_validator("recipe", mode="before")
    @classmethod
    def _older_recipe(cls, recipe: Any) -> Any:
        """Manifests that do not name a setting are older than it: deconvolutions in float, sums that may saturate."""
        if not isinstance(recipe, dict):
            return recipe
        reduced = recipe.get("reduce_range", False)
        kept = {key: value for key, value in recipe.items() if key != "reduce_range"}
        return {"four_phase_deconvolution": False, "saturation_free": reduced, **kept}

    @model_validator(mode="after")
    def _check(self) -> Self:
        roles = [file.role for file in self.files]
        if len(set(roles)) != len(roles) or not {MODEL_ROLE, ENCODINGS_ROLE} <= set(roles):
            raise ValueError(f"files must hold 'model' and 'encodings', and each role once; they are {roles}")
        model = self.file(MODEL_ROLE).sha256
        if self.proof is not None and self.proof.model_sha256 != model:
            raise ValueError(f"proof is of a file with the SHA-256 {self.proof.model_sha256}, the model has {model}")
        expected = _version(model, self.serving, self.onnx.fingerprint, self.gate)
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


def build_manifest(
    config: RunConfig,
    *,
    dataset: FetchedDataset,
    checkpoint: FetchedCheckpoint,
    quantized: QuantizedModel,
    exported: ExportedModel,
    fp32: EvaluationReport,
    evaluation: QuantizedEvaluation,
    gate: GateDecision,
    run: str,
    created_by: str,
    created_at: datetime,
    git_commit: str | None = None,
    golden: Iterable[GoldenImage] = (),
    other_files: Mapping[str, Artifact] | None = None,
) -> ModelManifest:
    """Describe a run's exported model, ready to be published, from what the run's steps produced.

    `other_files` are published beside `model` and `encodings`, by role: the golden images among them. `created_at` is
    aware of its time zone.

    Raises:
        BadInputError: The exported file names no input or no output.
        CheckpointError: It lacks the output that the configuration names, or that its codec needs.
    """
    files = {MODEL_ROLE: exported.model, ENCODINGS_ROLE: exported.encodings, **(other_files or {})}
    own_joints = None if dataset.own_joints is None else dataset.own_joints.skeleton
    serving = _serving(config, config.model.drawn_as(own_joints), exported, evaluation.onnx.fingerprint)
    return ModelManifest(
        name=config.destination.name,
        version=_version(exported.model.sha256, serving, evaluation.onnx.fingerprint, gate),
        files=tuple(
            ManifestFile(role=role, blob=blob_key(file.sha256), sha256=file.sha256, size_bytes=file.size_bytes)
            for role, file in sorted(files.items())
        ),
        serving=serving,
        recipe=quantized.recipe,
        fp32=Metrics.of(fp32),
        quantsim=Metrics.of(evaluation.quantsim),
        onnx=Metrics.of(evaluation.onnx),
        kernels=evaluation.kernels,
        proof=exported.proof,
        latency=evaluation.latency,
        gate=gate,
        placement=exported.placement,
        golden=tuple(golden),
        fp32_size_bytes=exported.fp32_size_bytes,
        opset=exported.opset,
        provenance=Provenance(
            run=run,
            created_at=created_at,
            created_by=created_by,
            preset=config.preset,
            dataset_source=dataset.source,
            dataset_digest=dataset.digest,
            checkpoint_source=checkpoint.source,
            checkpoint_sha256=checkpoint.file.sha256,
            calibration=Calibration(
                split=config.dataset.calibration_split,
                num_images=len(quantized.calibration_image_ids),
                num_persons=quantized.calibration_persons,
                seed=config.seed,
                image_ids_digest=_digest(list(quantized.calibration_image_ids)),
            ),
            quantized_on=quantized.device,
            tool_versions={**quantized.tool_versions, "onnxruntime": exported.placement.onnxruntime_version},
            git_commit=git_commit,
            trained_on=config.model.trained_on or checkpoint.trained_on,
        ),
    )


def _serving(config: RunConfig, model: ModelConfig, exported: ExportedModel, protocol: ProtocolFingerprint) -> Serving:
    if not exported.inputs or not exported.outputs:
        raise BadInputError(
            f"The exported file {exported.model.uri} names no input or no output.",
            hint="Run the step export_onnx again.",
        )
    outputs = {output.name: output for output in exported.outputs}
    shapes = {name: output.shape for name, output in outputs.items()}
    names = find_outputs(shapes, model, Path(exported.model.uri.rpartition("/")[2]))
    joints = model.joints
    return Serving(
        architecture=model.architecture,
        codec=model.codec,
        decoder=protocol.decoder,
        input=exported.inputs[0],
        input_layout=model.input_layout,
        input_sizes=input_sizes(model),
        channel_order=model.channel_order,
        mean=model.mean,
        std=model.std,
        outputs={kind: outputs[name] for kind, name in names.items()},
        output_layout=model.output_layout,
        skeleton=joints.name,
        joints=joints.joints,
        limbs=joints.limb_indices(),
        flip_pairs=joints.flip_pairs,
        processors=config.destination.processors,
    )


def _version(model_sha256: str, serving: Serving, protocol: ProtocolFingerprint, gate: GateDecision) -> str:
    return content_version(
        model_sha256,
        serving.model_dump(mode="json"),
        protocol.model_dump(mode="json"),
        {check.name: check.limit for check in gate.checks},
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
