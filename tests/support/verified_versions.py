"""A version with everything that its figures can be counted again from: poses on 60 small images, matched for real."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.evaluation.paired import Question, compare_paired
from hpe_tasks.gate.accuracy import accuracy_limits
from hpe_tasks.gate.decision import decide
from hpe_tasks.metrics.image_tables import SIZES, WHOLE, MatchTable, match_table
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import CocoStats, EvaluationReport, QuantizedEvaluation, Runtime
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import NormalForm, QuantizedModel
from hpe_tasks.registry.build_provenance import BuildEnvironment, describe_build
from hpe_tasks.registry.describing import build_manifest, tool_versions
from hpe_tasks.registry.evidence import compared_role, predictions_role, table_role
from hpe_tasks.registry.manifest import ModelManifest
from support import sample_records as records

IMAGES = list(range(100, 160))
PARTS = {
    WHOLE: ([0, 1, 2, 3, 4], [0.05] * 5),
    "group/head": ([0, 1], [0.05] * 2),
    "joint/nose": ([0], [0.05]),
    "joint/left_wrist": ([4], [0.05]),
}
NOISE_PX = {"fp32": 1.5, "quantsim": 1.55, "onnxruntime": 1.6}
EVIDENCE = {
    *(role(runtime) for role in (predictions_role, table_role) for runtime in NOISE_PX),
    *(compared_role(runtime) for runtime in ("fp32", "onnxruntime")),
}
JOINTS = np.array([[5.0, 5], [20, 5], [5, 40], [20, 40], [12, 22]])


def _truth() -> list[dict[str, Any]]:
    rows = []
    for image in IMAGES:
        for number in range(1 + image % 2):
            joints = JOINTS + np.array([100 * number, image % 7])
            visible = np.concatenate([joints, np.full((5, 1), 2)], axis=1)
            rows.append(
                {
                    "id": 10 * image + number,
                    "image_id": image,
                    "keypoints": visible.ravel().tolist(),
                    "num_keypoints": 5,
                    "bbox": [0, 0, 60, 60],
                    "area": 1600.0 if number else 10_000.0,
                    "iscrowd": 0,
                }
            )
    return rows


def _poses(truth: list[dict[str, Any]], noise_px: float) -> list[dict[str, Any]]:
    """What a network found: the same persons, off by some pixels, each network a little otherwise."""
    rng = np.random.default_rng(int(noise_px * 100))
    rows = []
    for person in truth:
        joints = np.array(person["keypoints"]).reshape(5, 3)
        joints[:, :2] += rng.normal(0, noise_px, (5, 2))
        found = {"image_id": person["image_id"], "annotation_id": person["id"], "category_id": 1}
        rows.append({**found, "keypoints": joints.ravel().round(3).tolist(), "score": float(rng.uniform(0.3, 1))})
    return rows


def table_of(noise_px: float) -> MatchTable:
    """What a network that is off by some pixels gives on all images."""
    truth = _truth()
    return match_table(truth, _poses(truth, noise_px), PARTS, images=IMAGES, sizes=SIZES)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _report(runtime: Runtime, folder: Path, images: list[int]) -> tuple[EvaluationReport, MatchTable, dict[str, Path]]:
    truth = [row for row in _truth() if row["image_id"] in images]
    poses = _poses(truth, NOISE_PX[runtime])
    table = match_table(truth, poses, PARTS, images=images, sizes=SIZES)
    files = {predictions_role(runtime): folder / f"p-{runtime}.json", table_role(runtime): folder / f"t-{runtime}.npz"}
    files[predictions_role(runtime)].write_text(json.dumps(poses))
    files[table_role(runtime)].write_bytes(table.to_bytes())
    figures = {part: _number(value) for part, value in table.whole().items()}
    stats = {"ap": figures[WHOLE], "ap_medium": figures["size/medium"], "ap_large": figures["size/large"]}
    report = records.report(
        runtime,
        0.5,
        image_ids_digest=hashlib.sha256(",".join(map(str, images)).encode()).hexdigest(),
        num_images=len(images),
        num_persons=len(truth),
        subset=len(images) < len(IMAGES),
    )
    return (
        report.model_copy(
            update={
                "stats": CocoStats(**(report.stats.model_dump() | stats)),
                "by_group": {"head": figures["group/head"], "ankles": None},
                "by_joint": {"nose": figures["joint/nose"], "left_wrist": figures["joint/left_wrist"]},
                "predictions": records.artifact(files[predictions_role(runtime)]),
                "image_table": records.artifact(files[table_role(runtime)]),
            }
        ),
        table,
        files,
    )


def config(**changes: Any) -> RunConfig:
    """What was asked: limits that such small data can keep, and fewer resamples than usual."""
    limits = {"min_ap": 0.3, "max_ap_drop": 0.3, "max_joint_drop": 0.9, "max_quantsim_gap": 0.3, "resamples": 200}
    dataset = {
        "source": "sample",
        "calibration_split": "train",
        "evaluation_split": "val",
        "min_persons": 1,
    }
    destination = {"name": "pose", "registry": "s3://models/team/registry", "channel": "staging"}
    given = {"gate": GateLimits(**limits), "dataset": dataset, "destination": destination}
    return records.run_config(**(given | changes))


Version = tuple[ModelManifest, dict[str, Path]]
"""A manifest, and its files by role."""


def judged_version(folder: Path, *, asked: RunConfig | None = None, first: int | None = None) -> Version:
    """A manifest and its files; with `first`, so many images were too few to tell, and the others were measured too."""
    asked = asked or config()
    files = records.write_files(folder)
    images = IMAGES[: first or len(IMAGES)]
    measured = {runtime: _report(runtime, folder, images) for runtime in ("fp32", "quantsim", "onnxruntime")}
    further: Callable[[int, int], Any] = partial(_further, folder, len(images))
    gate = asked.gate
    question = Question(
        accuracy_limits(gate, "ap").of_part, gate.confidence, gate.resamples, gate.max_looks, asked.seed
    )
    tables = measured["fp32"][1], measured["onnxruntime"][1]
    comparison = compare_paired(tables, len(IMAGES), question, further)
    for runtime, (_, table, kept) in measured.items():
        files |= kept
        if comparison.num_images > len(images) and runtime != "quantsim":
            joined = table.joined(_table(runtime, folder, IMAGES[len(images) : comparison.num_images]))
            files[compared_role(runtime)] = folder / f"c-{runtime}.npz"
            files[compared_role(runtime)].write_bytes(joined.to_bytes())
    reports = {runtime: report for runtime, (report, _, _) in measured.items()}
    return _described(asked, files, reports, comparison), files


def _table(runtime: Any, folder: Path, images: list[int]) -> MatchTable:
    other = folder / "further"
    other.mkdir(exist_ok=True)
    return _report(runtime, other, images)[1]


def _further(folder: Path, first: int, begin: int, end: int) -> tuple[MatchTable, MatchTable]:
    images = IMAGES[first + begin : first + end]
    return _table("fp32", folder, images), _table("onnxruntime", folder, images)


def _described(asked: RunConfig, files: dict[str, Path], reports: dict[str, Any], comparison: Any) -> ModelManifest:
    model = records.exported(records.artifact(files["model"]), records.artifact(files["encodings"]))
    evaluation = QuantizedEvaluation(
        quantsim=reports["quantsim"],
        onnx=reports["onnxruntime"],
        model_sha256=model.model.sha256,
        kernels=records.kernels(),
    )
    finished = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    made: dict[str, Any] = {
        "dataset": FetchedDataset(source="sample", digest="d" * 64, num_files=400, size_bytes=10**7),
        "checkpoint": FetchedCheckpoint(
            source="sample", file=Artifact(uri="file:///c.safetensors", sha256="f" * 64, size_bytes=2_300_000)
        ),
        "quantized": QuantizedModel(
            recipe=QuantizationRecipe.model_validate(asked.recipe.model_dump()),
            model=Artifact(uri="file:///q.safetensors", sha256="1" * 64, size_bytes=2_300_000),
            encodings=model.encodings,
            calibration_image_ids=(5, 3, 9),
            calibration_persons=8,
            device="cpu",
            tool_versions={"aimet_torch": "2.42.0"},
            normal_form=NormalForm(applied=True, nodes_before=269, nodes_after=247, largest_difference=2e-7),
        ),
    }
    decision = decide(asked.gate, reports["fp32"], evaluation, model, min_persons=1, comparison=comparison)
    assert decision.passed, decision.reason
    environment = BuildEnvironment(
        git_commit="0" * 40, lock_sha256="9" * 64, distributions={"numpy": "2.4.0"}, python="3.11.7"
    )
    return build_manifest(
        asked,
        **made,
        exported=model,
        fp32=reports["fp32"],
        evaluation=evaluation,
        gate=decision,
        run="run-1",
        created_by="ada",
        created_at=finished,
        git_commit=environment.git_commit,
        build=describe_build(
            asked,
            environment,
            **made,
            protocol=evaluation.onnx.fingerprint,
            tool_versions=tool_versions(made["quantized"], model),
            run="run-1",
            started=datetime(2026, 11, 20, 9, 0, tzinfo=UTC),
            finished=finished,
        ),
        other_files={role: records.artifact(path) for role, path in files.items() if role in EVIDENCE},
    )
