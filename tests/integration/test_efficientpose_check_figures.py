"""Real networks on real photographs: the whole path from JPEG to AP against figures made by another implementation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import onnx_predictor
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import CocoStats, EvaluationReport, ProtocolFingerprint
from support.efficientpose import efficientpose

pytestmark = pytest.mark.integration

TOLERANCE = 0.002


def measure(dataset: CocoDataset, path: Path, config: ModelConfig, predictions: Path) -> EvaluationReport:
    return evaluate(
        dataset,
        onnx_predictor(path, config, threads=2),
        config,
        EvaluationConfig(),
        runtime="fp32",
        dataset_digest="0" * 64,
        seed=0,
        predictions_file=predictions,
        artifact=lambda file: Artifact(
            uri=file.as_uri(), sha256=hashlib.sha256(file.read_bytes()).hexdigest(), size_bytes=file.stat().st_size
        ),
    )


def scored_by_the_plain_mean(dataset: CocoDataset, predictions: Path, fingerprint: ProtocolFingerprint) -> CocoStats:
    """AP of stored predictions when a person's score is the mean of all its joint scores, low ones too."""
    joints = [index for _, _, index in fingerprint.joint_map]
    rows = json.loads(predictions.read_text())
    for row in rows:
        row["score"] = float(np.mean(row["keypoints"][2::3], where=np.isin(np.arange(17), joints)))
    truth = read_annotations(dataset.annotation_file)["annotations"]
    return coco_stats(truth, rows, joints=joints, sigmas=fingerprint.sigmas)


def not_clipped(dataset: CocoDataset) -> CocoDataset:
    """The same persons in boxes that keep their extent: the reference's clipping takes a pixel from each side."""
    persons = {
        image_id: tuple(replace(p, box=(p.box[0], p.box[1], p.box[2] + 1, p.box[3] + 1)) for p in group)
        for image_id, group in dataset.persons_by_image.items()
    }
    return replace(dataset, persons_by_image=persons)


@pytest.mark.parametrize(
    ("name", "size", "ap"),
    [
        pytest.param("EfficientPoseRT_LITE_224.onnx", 224, 0.266, id="RT_LITE"),
        pytest.param("EfficientPoseI_LITE_256.onnx", 256, 0.274, id="I_LITE"),
    ],
)
def test_the_check_figures_come_out(test_data: Path, tmp_path: Path, name: str, size: int, ap: float) -> None:
    """AP over the 12 body joints of 66 persons, scored by the plain mean.

    The figures come out with boxes that keep their extent. With Simple Baselines' clipping, which takes a pixel from
    the width and the height, RT_LITE has 0.260 and I_LITE 0.275: on 66 persons, a pixel decides that much.
    """
    path, config = efficientpose(test_data, name, size)
    dataset = not_clipped(load_coco(test_data / "coco-mini", "val2017"))
    predictions = tmp_path / "predictions.json"
    report = measure(dataset, path, config, predictions)
    assert len(report.fingerprint.joint_map) == 12
    assert report.fingerprint.num_persons == 66
    assert scored_by_the_plain_mean(dataset, predictions, report.fingerprint).ap == pytest.approx(ap, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "size", "ap", "plain_ap"),
    [
        pytest.param("EfficientPoseRT_LITE_224.onnx", 224, 0.2543, 0.2603, id="RT_LITE"),
        pytest.param("EfficientPoseI_LITE_256.onnx", 256, 0.2726, 0.2750, id="I_LITE"),
    ],
)
def test_the_products_own_figures_stay(
    test_data: Path, tmp_path: Path, name: str, size: int, ap: float, plain_ap: float
) -> None:
    """AP by the reference's protocol to the letter: clipped boxes, joint scores above 0.2, OKS-NMS."""
    path, config = efficientpose(test_data, name, size)
    dataset = load_coco(test_data / "coco-mini", "val2017")
    predictions = tmp_path / "predictions.json"
    report = measure(dataset, path, config, predictions)
    assert report.fingerprint.num_persons == 66
    assert report.fingerprint.num_images == 31
    assert report.stats.ap == pytest.approx(ap, abs=TOLERANCE)
    assert report.by_group["head"] is None
    assert scored_by_the_plain_mean(dataset, predictions, report.fingerprint).ap == pytest.approx(
        plain_ap, abs=TOLERANCE
    )
