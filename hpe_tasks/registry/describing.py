"""The manifest of a run's model, from what the run's steps produced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.keys import blob_key
from hpe_tasks.errors import BadInputError
from hpe_tasks.models.interface import find_outputs, input_sizes
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, QuantizedEvaluation
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.ladder import RecipeChoice
from hpe_tasks.records.network import ExportedModel, QuantizedModel
from hpe_tasks.registry.build_provenance import BuildProvenance, ids_digest
from hpe_tasks.registry.manifest import (
    ENCODINGS_ROLE,
    MODEL_ROLE,
    Calibration,
    GoldenImage,
    ManifestFile,
    Metrics,
    ModelManifest,
    Provenance,
    Serving,
    version_of,
)


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
    choice: RecipeChoice | None = None,
    run: str,
    created_by: str,
    created_at: datetime,
    git_commit: str | None = None,
    build: BuildProvenance | None = None,
    golden: Iterable[GoldenImage] = (),
    other_files: Mapping[str, Artifact] | None = None,
) -> ModelManifest:
    """Describe a run's exported model, ready to be published, from what the run's steps produced.

    `choice` says which recipe a search has come to. `other_files` are published beside `model` and `encodings`, by
    role: the golden images among them. `created_at` is aware of its time zone.

    Raises:
        BadInputError: The exported file names no input or no output.
        CheckpointError: It lacks the output that the configuration names, or that its codec needs.
    """
    files = {MODEL_ROLE: exported.model, ENCODINGS_ROLE: exported.encodings, **(other_files or {})}
    own_joints = None if dataset.own_joints is None else dataset.own_joints.skeleton
    serving = _serving(config, config.model.drawn_as(own_joints), exported, evaluation.onnx.fingerprint)
    return ModelManifest(
        name=config.destination.name,
        version=version_of(exported.model.sha256, serving, evaluation.onnx.fingerprint, gate),
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
                image_ids_digest=ids_digest(list(quantized.calibration_image_ids)),
            ),
            quantized_on=quantized.device,
            tool_versions=tool_versions(quantized, exported),
            git_commit=git_commit,
            trained_on=config.model.trained_on or checkpoint.trained_on,
            recipe_found=None if choice is None else f"recipe.search={choice.search}, {choice.rung}: {choice.reason}",
        ),
        build=build,
    )


def tool_versions(quantized: QuantizedModel, exported: ExportedModel) -> dict[str, str]:
    """Versions of the libraries that the file came from, by their names."""
    return {**quantized.tool_versions, "onnxruntime": exported.placement.onnxruntime_version}


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
