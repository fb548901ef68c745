"""Runs in every state for the report's and the table's tests: records, a small drawn data set, and predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hpe_tasks.config import GateLimits, ModelConfig, QuantizationRecipe, RunConfig
from hpe_tasks.data.coco import CocoKeypoints, load_coco
from hpe_tasks.gates import decide
from hpe_tasks.presets import load_config
from hpe_tasks.report.page import ReportFiles
from hpe_tasks.report.records import RunRecords
from hpe_tasks.results import (
    Artifact,
    CocoStats,
    DatasetProblem,
    DatasetValidation,
    EvaluationReport,
    ExportedModel,
    FetchedCheckpoint,
    FetchedDataset,
    PlacementAudit,
    ProtocolFingerprint,
    PublishedModel,
    QuantizedEvaluation,
    QuantizedModel,
    SplitCounts,
    StepFailure,
    TensorSpec,
)
from hpe_tasks.skeletons import COCO17

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>'

# A standing figure in a box of 1 × 1, in COCO17 order.
_FIGURE = np.array(
    [
        (0.50, 0.08), (0.53, 0.06), (0.47, 0.06), (0.56, 0.07), (0.44, 0.07), (0.64, 0.20), (0.36, 0.20),
        (0.74, 0.36), (0.26, 0.36), (0.80, 0.50), (0.20, 0.50), (0.59, 0.52), (0.41, 0.52), (0.62, 0.75),
        (0.38, 0.75), (0.63, 0.97), (0.37, 0.97),
    ]
)  # fmt: skip
_SIGMAS = (
    0.026,
    *[0.025] * 2,
    *[0.035] * 2,
    *[0.079] * 2,
    *[0.072] * 2,
    *[0.062] * 2,
    *[0.107] * 2,
    *[0.087] * 2,
    *[0.089] * 2,
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def artifact(name: str, size: int = 1000) -> Artifact:
    return Artifact(uri=f"file:///workspace/{name}", sha256=digest(name), size_bytes=size)


def draw_dataset(root: Path, *, images: int = 4, split: str = "val") -> Path:
    """Write a split with two drawn persons in each image."""
    random = np.random.default_rng(7)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        width, height = 320, 240
        ramp = np.linspace(90, 200, width, dtype=np.float64)[None, :, None] * np.array([0.8, 0.95, 1.0])
        picture = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8))
        pencil = ImageDraw.Draw(picture)
        name = f"{image_id:04d}.jpg"
        records.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for i, left in enumerate((20, 180)):
            w, h = 90.0, float(random.integers(150, 210))
            top = 220 - h
            points = _FIGURE * (w, h) + (left, top) + random.normal(0, 2, (17, 2))
            for a, b in COCO17.limb_indices():
                pencil.line([tuple(points[a]), tuple(points[b])], fill=(70, 60, 50 + 60 * i), width=14)
            pencil.ellipse(
                (points[0][0] - 12, points[0][1] - 12, points[0][0] + 12, points[0][1] + 14), fill=(214, 170, 140)
            )
            keypoints = np.column_stack([points.round(1), np.full(17, 2)])
            annotations.append(
                {
                    "id": 10 * image_id + i,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [float(left), float(top), w, h],
                    "area": w * h * 0.5,
                    "num_keypoints": 17,
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name, quality=90)
    content = {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
    }
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return root


def write_predictions(dataset: CocoKeypoints, path: Path, *, noise: float, seed: int) -> Path:
    """Predictions that miss the truth by a share of the person's size, a few of them badly."""
    random = np.random.default_rng(seed)
    entries = []
    for person in dataset.all_persons():
        size = noise * np.sqrt(person.area) * (4 if random.random() < 0.15 else 1)
        labelled = person.keypoints[:, 2] > 0
        points = person.keypoints[:, :2] + random.normal(0, size, (len(labelled), 2))
        scores = np.where(labelled, random.uniform(0.5, 0.95, len(labelled)), 0.05)
        entries.append(
            {
                "image_id": person.image_id,
                "annotation_id": person.annotation_id,
                "category_id": 1,
                "keypoints": np.column_stack([points, scores]).round(3).ravel().tolist(),
                "score": float(scores.mean()),
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def fingerprint(split: str, persons: int, images: int, *, subset: bool = False) -> ProtocolFingerprint:
    return ProtocolFingerprint(
        dataset_digest=digest("data"),
        split=split,
        image_ids_digest=digest("ids"),
        num_images=images,
        num_persons=persons,
        subset=subset,
        box_source="ground_truth",
        flip_test=False,
        decoder="argmax with quarter-pixel shift",
        input_size=(192, 256),
        joint_map=tuple((name, i, i) for i, name in enumerate(COCO17.joints)),
        sigmas=_SIGMAS,
    )


def evaluation(runtime: str, ap: float | None, protocol: ProtocolFingerprint) -> EvaluationReport:
    def near(offset: float) -> float | None:
        return None if ap is None else min(1.0, ap + offset)

    groups = {
        "head": 0.05,
        "shoulders": 0.11,
        "elbows": -0.02,
        "wrists": -0.10,
        "hips": 0.08,
        "knees": 0.02,
        "ankles": -0.04,
    }
    spread = 0.0 if runtime == "fp32" else 0.3
    return EvaluationReport(
        runtime=runtime,  # type: ignore[arg-type]
        stats=CocoStats(
            ap=ap,
            ap50=near(0.27),
            ap75=near(0.06),
            ap_medium=None,
            ap_large=near(0.01),
            ar=near(0.05),
            ar50=near(0.29),
            ar75=near(0.10),
            ar_medium=None,
            ar_large=near(0.05),
        ),
        by_group={name: near(offset * (1 + spread * (offset < 0))) for name, offset in groups.items()},
        fingerprint=protocol,
        predictions=artifact(f"{runtime}.json", 80_000),
        images_per_second={"fp32": 41.3, "quantsim": 12.8, "onnxruntime": 66.0}[runtime],
    )


def complete(
    config: RunConfig | None = None,
    *,
    onnx_ap: float | None = 0.668,
    int8_share: float = 0.874,
    persons: int = 312,
    images: int = 156,
    split: str = "val",
    subset: bool = False,
) -> RunRecords:
    """A run whose every step has a result; published when the real gate lets it pass."""
    config = config or load_config("sample")
    protocol = fingerprint(split, persons, images, subset=subset)
    fp32 = evaluation("fp32", 0.681, protocol)
    quantized = QuantizedEvaluation(
        quantsim=evaluation("quantsim", 0.672, protocol), onnx=evaluation("onnxruntime", onnx_ap, protocol)
    )
    exported = ExportedModel(
        model=artifact("export_onnx/model.onnx", 712_345),
        encodings=artifact("export_onnx/encodings.json", 91_000),
        fp32_size_bytes=2_312_345,
        opset=17,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 256, 192)),),
        outputs=(TensorSpec(name="heatmaps", dtype="float32", shape=("batch", 17, 64, 48)),),
        placement=PlacementAudit(
            int8_mac_share=int8_share,
            int8_macs=round(int8_share * 212_000_000),
            total_macs=212_000_000,
            float_operators=("ConvTranspose /deconv.0 (12582912)", "ConvTranspose /deconv.1 (9437184)"),
            onnxruntime_version="1.31.0",
            cpu_features=("avx512_vnni", "avx2"),
        ),
    )
    decision = decide(config.gate, fp32, quantized, exported)
    published = PublishedModel(
        registry=config.destination.registry,
        name=config.destination.name,
        version="3f9c2a7b41d0e856",
        channel=config.destination.channel,
        manifest=Artifact(
            uri="s3://hpe-models/registry/models/sample-pose/versions/3f9c2a7b41d0e856/manifest.json",
            sha256=digest("manifest"),
            size_bytes=9000,
        ),
        created=True,
        previous_version="a81b9935cc02f417",
    )
    return RunRecords(
        config=config,
        run="manual-2026-11-02-a1b2c3d4",
        started=NOON,
        dataset=FetchedDataset(
            source=config.dataset.source, digest=digest("data"), num_files=420, size_bytes=18_200_000
        ),
        checkpoint=FetchedCheckpoint(source=config.model.checkpoint, file=artifact("sample.safetensors", 2_301_234)),
        validation=DatasetValidation(
            passed=True,
            checks_run=31,
            problems=(),
            splits=(
                SplitCounts(split="calibration", images=120, annotations=247, persons=240),
                SplitCounts(split=split, images=images, annotations=persons + 9, persons=persons),
            ),
            data_docs=artifact("data_docs.html", 200_000),
        ),
        fp32=fp32,
        quantized=QuantizedModel(
            recipe=config.recipe,
            model=artifact("quantized.safetensors", 2_290_000),
            encodings=artifact("encodings.json", 91_000),
            calibration_image_ids=tuple(range(1, 121)),
            calibration_persons=240,
            device="cpu",
            tool_versions={"aimet-torch": "2.42.0", "torch": "2.13.0", "onnx": "1.23.0"},
        ),
        exported=exported,
        quantized_evaluation=quantized,
        decision=decision,
        published=published if decision.passed else None,
        git_commit=digest("commit")[:40],
    )


def gate_failed() -> RunRecords:
    """Accuracy, int8 share and size all fail, after a recipe that leaves much to try."""
    config = load_config("sample").model_copy(
        update={
            "gate": GateLimits(min_ap=0.6, max_size_mb=0.5),
            "recipe": QuantizationRecipe(granularity="per_tensor", scheme="min_max"),
        }
    )
    return complete(config, onnx_ap=0.574, int8_share=0.312, persons=96, images=40, subset=True)


def step_failed() -> RunRecords:
    """The export failed: there is an FP32 baseline and a QuantSim, nothing later."""
    failure = StepFailure(
        step="export_onnx",
        error="QuantizationError",
        message=f"The exported file is refused by onnx.checker: node {HOSTILE} has no output.",
        hint="Write the model as ONNX with opset 13 or later.",
        failed_at=NOON,
    )
    return replace(
        complete(), exported=None, quantized_evaluation=None, decision=None, published=None, failures=(failure,)
    )


def broken_dataset() -> RunRecords:
    """The data set did not meet its expectations; the run ended there."""
    problems = (
        DatasetProblem(
            check="images_exist", message="2 annotated images are missing.", count=2, examples=("000001.jpg", HOSTILE)
        ),
        DatasetProblem(
            check="boxes_inside",
            message="Boxes lie outside their image.",
            count=14,
            examples=("annotation 3", "annotation 9"),
        ),
    )
    run = complete()
    assert run.validation is not None
    failure = StepFailure(
        step="validate_dataset",
        error="DatasetError",
        message="The data set does not meet 2 of 31 expectations: 2 annotated images are missing (000001.jpg).",
        hint="Mend these files or records; the run's report shows the details.",
        failed_at=NOON,
    )
    return RunRecords(
        config=run.config,
        run=run.run,
        started=NOON,
        dataset=run.dataset,
        checkpoint=run.checkpoint,
        validation=run.validation.model_copy(update={"passed": False, "problems": problems}),
        failures=(failure,),
    )


def only_config() -> RunRecords:
    """Nothing but what was asked, with values that try to break out of the page."""
    model = ModelConfig(architecture="onnx", checkpoint=HOSTILE, skeleton="efficientpose16")
    return RunRecords(config=load_config("sample").model_copy(update={"model": model}), run=HOSTILE)


STATES: dict[str, Callable[[], RunRecords]] = {
    "published": complete,
    "gate_failed": gate_failed,
    "step_failed": step_failed,
    "broken_dataset": broken_dataset,
    "only_config": only_config,
}


def report_files(folder: Path, *, root: Path | None = None, split: str = "val") -> ReportFiles:
    """A data set (drawn, unless given), predictions of both models on it, and a page of Data Docs."""
    root = root or draw_dataset(folder / "data", split=split)
    dataset = load_coco(root, split)
    docs = folder / "data_docs.html"
    docs.write_text("<!doctype html><h1>Data Docs</h1><p>31 expectations met</p>", encoding="utf-8")
    return ReportFiles(
        dataset_root=root,
        fp32_predictions=write_predictions(dataset, folder / "fp32.json", noise=0.02, seed=1),
        onnx_predictions=write_predictions(dataset, folder / "onnx.json", noise=0.03, seed=2),
        data_docs=docs,
    )
