"""Records as the steps of a run would leave them, for the tests of the gate, the manifest and the registry."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.version import content_version
from hpe_tasks.gate.decision import decide
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import (
    CocoStats,
    EvaluationReport,
    FailedImage,
    PckhStats,
    ProtocolFingerprint,
    QuantizedEvaluation,
)
from hpe_tasks.records.execution import (
    FamilyProof,
    KernelAgreement,
    KernelProof,
    Latency,
    LatencyComparison,
    PlacementAudit,
    SpeedUp,
)
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import ExportedModel, NormalForm, QuantizedModel, TensorSpec
from hpe_tasks.registry.describing import build_manifest
from hpe_tasks.registry.manifest import ModelManifest

CPU = ("x86_64", "avx2", "avx512_vnni")


def fingerprint(**changes: Any) -> ProtocolFingerprint:
    """How all metrics here are made, but for the changes."""
    fields: dict[str, Any] = {
        "dataset_digest": "d" * 64,
        "split": "val",
        "image_ids_digest": "e" * 64,
        "num_images": 100,
        "num_persons": 310,
        "subset": False,
        "box_source": "ground_truth",
        "flip_test": False,
        "decoder": "heatmap_quarter_offset",
        "input_size": (192, 256),
        "joint_map": (("nose", 0, 0), ("left_eye", 1, 1)),
        "sigmas": (0.026, 0.025),
    }
    return ProtocolFingerprint(**(fields | changes))


def report(
    runtime: str, value: float | None, *, metric: str = "ap", failed: tuple[str, ...] = (), **changes: Any
) -> EvaluationReport:
    """A measurement with this AP, or mean PCKh; `changes` go into its fingerprint."""
    stats: CocoStats | PckhStats
    if metric == "ap":
        stats = CocoStats(ap=value, **dict.fromkeys(set(CocoStats.model_fields) - {"ap"}, 0.5))
    else:
        rest = dict.fromkeys(set(PckhStats.model_fields) - {"mean", "num_joints"}, 50.0)
        stats = PckhStats(mean=value, num_joints=66, **rest)
        changes = {"metric": "mpii_pckh", "box_source": "annotated_center_scale", "sigmas": (), **changes}
    return EvaluationReport(
        runtime=runtime,
        stats=stats,
        by_group={"head": 0.7, "ankles": None},
        by_joint={"left_wrist": 0.4},
        failed_images=tuple(FailedImage(name=name, reason="is cut off") for name in failed),
        fingerprint=fingerprint(**changes),
        predictions=Artifact(uri="file:///p.json", sha256="a" * 64, size_bytes=2),
        images_per_second=12.5,
        cpu_features=CPU,
    )


def kernels(sqnr_db: float | None = 72.5) -> KernelAgreement:
    """Optimized int8 kernels that compute what the file says; with another figure, kernels that do not."""
    layer = None if sqnr_db is None else "conv1_codes"
    return KernelAgreement(sqnr_db=sqnr_db, layer=layer, max_difference=1.0, num_images=16, cpu_features=CPU)


def latency(ratio: float = 3.5, low: float | None = None, high: float | None = None) -> LatencyComparison:
    """A file that is so many times as fast as FP32 with one thread, and half as many with two; without noise."""
    taken = Latency(median_ms=10.0, p95_ms=11.0, runs=100)
    one = SpeedUp(
        threads=1,
        fp32=taken,
        onnx=taken,
        ratio=ratio,
        ratio_low=low or ratio,
        ratio_high=high or ratio,
        pairs=10,
    )
    two = one.model_copy(update={"threads": 2, "ratio": ratio / 2, "ratio_low": ratio / 2, "ratio_high": ratio / 2})
    return LatencyComparison(
        speed_ups=(one, two),
        input_shape=(1, 3, 256, 192),
        onnxruntime_version="1.31.0",
        processor="AMD EPYC 9R14",
        cpu_features=CPU,
    )


def artifact(path: Path) -> Artifact:
    """A file as the workspace would describe it."""
    data = path.read_bytes()
    return Artifact(uri=path.as_uri(), sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def exported(
    model: Artifact | None = None,
    encodings: Artifact | None = None,
    *,
    share: float = 0.8,
    total_macs: int = 1000,
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="heatmaps", dtype="float32", shape=("batch", 17, 64, 48)),),
    unproved: tuple[str, ...] = (),
) -> ExportedModel:
    """An exported file of 34.5 MB, or the one that is given; `unproved` names layers that x86-64 may clip."""
    model = model or Artifact(uri="file:///model.onnx", sha256="b" * 64, size_bytes=34_500_000)
    return ExportedModel(
        model=model,
        encodings=encodings or Artifact(uri="file:///model.encodings", sha256="c" * 64, size_bytes=20_000),
        fp32_size_bytes=136_000_000,
        opset=17,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 256, 192)),),
        outputs=outputs,
        placement=PlacementAudit(
            int8_mac_share=share,
            int8_macs=int(share * total_macs),
            total_macs=total_macs,
            float_operators=("ConvTranspose up.0 (120)", "ConvTranspose up.1 (60)", "Gemm a (3)", "Gemm b (2)"),
            onnxruntime_version="1.31.0",
            cpu_features=CPU,
        ),
        proof=KernelProof(
            model_sha256=model.sha256,
            layers=53,
            channels=26_000,
            x86_64=FamilyProof(
                unproved_layers=len(unproved), unproved=unproved, smallest_margin=127, tightest_layer="Conv conv1"
            ),
            arm64=FamilyProof(unproved_layers=0, smallest_margin=255, tightest_layer="Conv conv1"),
        ),
    )


def run_config(**changes: Any) -> RunConfig:
    """The configuration behind the records."""
    dataset = {"source": "sample", "calibration_split": "train", "evaluation_split": "val"}
    fields = {"model": ModelConfig(checkpoint="sample"), "dataset": dataset, "seed": 7}
    return RunConfig(**(fields | changes))


def manifest(
    files: dict[str, Path],
    *,
    ap: float = 0.6,
    limits: GateLimits | None = None,
    config: RunConfig | None = None,
    protocol: dict[str, Any] | None = None,
    run: str = "run-1",
    created_at: datetime = datetime(2026, 11, 20, 10, 0, tzinfo=UTC),
    created_by: str = "ada",
    metric: str = "ap",
    calibration: tuple[int | str, ...] = (5, 3, 9),
    speed: LatencyComparison | None = None,
    **described: Any,
) -> ModelManifest:
    """The manifest of a run that exported these files and measured this AP, or PCKh; `described` is of the file."""
    changes = protocol or {}
    fp32 = report("fp32", ap + 0.01, metric=metric, **changes)
    evaluation = QuantizedEvaluation(
        quantsim=report("quantsim", ap + 0.005, metric=metric, **changes),
        onnx=report("onnxruntime", ap, metric=metric, **changes),
        kernels=kernels(),
        latency=speed,
    )
    model = exported(artifact(files["model"]), artifact(files["encodings"]), **described)
    config = config or run_config()
    return build_manifest(
        config,
        dataset=FetchedDataset(source="sample", digest="d" * 64, num_files=400, size_bytes=10**7),
        checkpoint=FetchedCheckpoint(
            source="sample", file=Artifact(uri="file:///c.safetensors", sha256="f" * 64, size_bytes=2_300_000)
        ),
        quantized=QuantizedModel(
            recipe=config.recipe,
            model=Artifact(uri="file:///q.safetensors", sha256="1" * 64, size_bytes=2_300_000),
            encodings=model.encodings,
            calibration_image_ids=calibration,
            calibration_persons=8,
            device="cpu",
            tool_versions={"aimet_torch": "2.42.0"},
            normal_form=NormalForm(applied=True, nodes_before=269, nodes_after=247, largest_difference=2e-7),
        ),
        exported=model,
        fp32=fp32,
        evaluation=evaluation,
        gate=decide(limits or GateLimits(), fp32, evaluation, model, metric=config.dataset.gate_metric),
        run=run,
        created_by=created_by,
        created_at=created_at,
        git_commit="0" * 40,
        other_files={role: artifact(path) for role, path in files.items() if role not in ("model", "encodings")},
    )


def write_files(folder: Path, content: str = "one") -> dict[str, Path]:
    """The files of a version whose model differs with `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model": folder / "model.onnx", "encodings": folder / "model.encodings"}
    files["model"].write_bytes(f"onnx {content} ".encode() * 1000)
    files["encodings"].write_bytes(b'{"activation_encodings": {}}')
    return files


def as_published_before_kernels(manifest: ModelManifest) -> bytes:
    """The manifest as this project published it before it compared kernels, with the version that it had then."""
    stored = json.loads(manifest.to_bytes())
    for field in ("kernels", "proof", "golden", "latency"):
        del stored[field]
    del stored["serving"]["processors"], stored["provenance"]["trained_on"]
    for form in ("fp32", "quantsim", "onnx"):
        del stored[form]["cpu_features"], stored[form]["person_scores"]
    for setting in ("subpixel_deconvolution", "saturation_free"):
        del stored["recipe"][setting]
    later = {"kernel_sqnr_db", "kernel_proof_any"}
    stored["gate"]["checks"] = [check for check in stored["gate"]["checks"] if check["name"] not in later]
    limits = {check["name"]: check["limit"] for check in stored["gate"]["checks"]}
    model = manifest.file("model").sha256
    stored["version"] = content_version(model, stored["serving"], stored["onnx"]["fingerprint"], limits)
    return json.dumps(stored, indent=2).encode() + b"\n"
