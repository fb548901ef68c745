"""CrowdPose, and bodies of five points, from their files to a served answer: real steps on drawn people."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.sample.dataset import FIVE_POINTS
from hpe_tasks.datasets import CROWDPOSE, CUSTOM
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.steps.inputs import dataset_of
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.records.evaluation import CocoStats, CrowdPoseStats
from hpe_tasks.registry.describing import build_manifest
from hpe_tasks.report.page import ReportFiles, render_report
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source
from support.no_s3 import no_s3
from support.serving_cases import ask, http_v2

pytestmark = [pytest.mark.integration]

SPEC = SampleSpec(train=1, calibration=8, val=24)
SPLITS = ["calibration", "val"]


def open_at(folder: Path, **settings: Any) -> Run:
    overrides = {
        "dataset.source": str(folder / "data"),
        "dataset.calibration_split": "calibration",
        "dataset.evaluation_split": "val",
        "dataset.min_persons": 1,
        "recipe.calibration_images": 8,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    config = load_config("sample", overrides=overrides)
    return open_run(config, workspace=(folder / "workspace").as_uri(), cache=folder / "cache", name="r", s3=no_s3)


OF_24_IMAGES = {"gate__max_joint_drop": 0.1, "gate__max_size_drop": 0.1}
"""Their intervals are wide: a group that loses nothing may have lost 0.05."""


def all_steps(run: Run) -> None:
    """Everything up to the gate."""
    for step in (
        steps.fetch_checkpoint, steps.fetch_dataset, steps.validate_dataset, steps.evaluate_fp32, steps.check_fp32,
        steps.quantize, steps.export_onnx, steps.evaluate_quantized, steps.compare_accuracy,
        steps.gate,
    ):  # fmt: skip
        step(run)


def report_of(run: Run, out: Path) -> str:
    """The run's report, with pictures of its people."""
    local, evaluation = run.workspace.local, run.result(steps.evaluate_quantized)
    files = ReportFiles(
        dataset_root=dataset_of(run)[0],
        fp32_predictions=local(records_of(run).fp32.predictions),
        onnx_predictions=local(evaluation.onnx.predictions),
    )
    text = render_report(records_of(run), files, out).read_text(encoding="utf-8")
    assert "They could not be made" not in text
    return text


def five_point_checkpoint(folder: Path) -> Path:
    """The sample's network with the five of its channels that end its people."""
    state = load_file(sample_checkpoint())
    channels = [
        COCO17.joints.index(joint) for joint in ("nose", "left_wrist", "right_wrist", "left_ankle", "right_ankle")
    ]
    for name in ("heatmaps.weight", "heatmaps.bias"):
        state[name] = state[name][channels].contiguous()
    save_file(state, folder / "five.safetensors")
    return folder / "five.safetensors"


@pytest.mark.long
def test_crowdpose_goes_through_the_steps(tmp_path: Path) -> None:
    make_sample(tmp_path / "data", SPEC, splits=SPLITS, kind=CROWDPOSE)
    run = open_at(tmp_path, dataset__kind="crowdpose", gate__min_ap=0.3, **OF_24_IMAGES)
    all_steps(run)
    evaluation = run.result(steps.evaluate_quantized)
    stats, protocol = evaluation.onnx.stats, evaluation.onnx.fingerprint
    assert isinstance(stats, CrowdPoseStats)
    assert protocol.metric == "crowdpose_oks_ap"
    # The sample's network has no channels for the last two joints.
    assert [joint for joint, _, _ in protocol.joint_map] == list(CROWDPOSE.skeleton.joints[:12])
    assert protocol.sigmas == tuple(CROWDPOSE.sigmas.values())[:12]
    assert stats.ap > 0.5
    crowd = [image.crowd_index for image in load_coco(tmp_path / "data", "val", CROWDPOSE).images]
    assert (stats.ap_easy is not None, stats.ap_medium is not None) == (min(crowd) < 0.1, max(crowd) >= 0.1)
    assert run.result(steps.gate).passed
    assert records_of(run).metric.title == "CrowdPose statistics"
    page = report_of(run, tmp_path / "report.html")
    assert "AP easy" in page
    assert "AP large" not in page


@pytest.fixture(scope="module")
def five_points(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("five")
    make_sample(folder / "data", SPEC, splits=SPLITS, kind=CUSTOM)
    (folder / "data" / "annotations" / "sigmas.json").write_text(json.dumps([0.12, 0.07, 0.07, 0.09, 0.09]))
    run = open_at(
        folder,
        dataset__kind="custom",
        model__checkpoint=str(five_point_checkpoint(folder)),
        model__joint_names=list(FIVE_POINTS.joints),
        gate__min_ap=0.3,
        gate__max_ap_drop=0.1,
        gate__max_quantsim_gap=0.1,
    )
    all_steps(run)
    return run


@pytest.mark.long
def test_five_points_go_through_the_steps(five_points: Run, tmp_path: Path) -> None:
    measured = five_points.result(steps.evaluate_quantized).onnx
    assert isinstance(measured.stats, CocoStats)
    assert measured.stats.ap > 0.5
    assert measured.fingerprint.sigmas == (0.12, 0.07, 0.07, 0.09, 0.09)
    assert list(measured.by_joint) == list(FIVE_POINTS.joints)
    assert list(measured.by_group) == ["hand", "foot"]
    assert five_points.result(steps.gate).passed
    assert five_points.result(steps.fetch_dataset).own_joints.limbs == FIVE_POINTS.limbs
    assert "left hand" in report_of(five_points, tmp_path / "report.html")


@pytest.mark.long
def test_the_function_serves_five_points_by_their_names(five_points: Run, tmp_path: Path) -> None:
    run, local = five_points, five_points.workspace.local
    exported, evaluation = run.result(steps.export_onnx), run.result(steps.evaluate_quantized)
    manifest = build_manifest(
        run.config,
        dataset=run.result(steps.fetch_dataset),
        checkpoint=run.result(steps.fetch_checkpoint),
        quantized=run.result(steps.quantize),
        exported=exported,
        fp32=run.result(steps.evaluate_fp32),
        evaluation=evaluation,
        gate=run.result(steps.gate),
        run="r",
        created_by="ada",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
    joints = FIVE_POINTS.joints
    assert manifest.serving.joints == joints
    assert {(joints[a], joints[b]) for a, b in manifest.serving.limbs} == set(FIVE_POINTS.limbs)
    assert manifest.serving.flip_pairs == ((1, 2), (3, 4))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(local(exported.model).read_bytes())
    (tmp_path / "model" / "manifest.json").write_bytes(manifest.to_bytes())
    settings = ServingSettings.from_environment({}, tmp_path)
    service = PoseService(settings, open_source(settings))
    dataset = load_coco(dataset_of(run)[0], "val", CUSTOM)
    whole = [person for person in dataset.all_persons() if person.num_joints == len(joints)]
    person = max(whole, key=lambda one: one.area)
    (image,) = dataset.subset([person.image_id]).images
    photo = base64.b64encode(dataset.image_path(image).read_bytes()).decode()
    answers = {}
    for draw in (True, False):
        body = json.dumps({"image": photo, "boxes": [person.box], "draw": draw})
        status, answers[draw] = ask(service, http_v2(body, content_type="application/json"))
        assert status == 200
    (found,) = answers[True]["people"]
    assert [joint["name"] for joint in found["joints"]] == list(joints)
    offsets = np.array([(joint["x"], joint["y"]) for joint in found["joints"]]) - person.joints[:, :2]
    assert np.median(np.linalg.norm(offsets, axis=1)) < 0.1 * np.sqrt(person.area)
    assert answers[True]["hpe"]
