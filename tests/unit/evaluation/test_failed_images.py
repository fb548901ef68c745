"""Images that cannot be read: counted, named and missed, in every kind of evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.mpii import load_mpii
from hpe_tasks.errors import DatasetError
from hpe_tasks.evaluation import evaluate
from hpe_tasks.evaluation.request import FailedImages
from hpe_tasks.inference import Unreadable, calibration_batches
from hpe_tasks.records.evaluation import EvaluationReport, FailedImage
from support.dot_pictures import CONFIG, ONE, TWO, describe, measure, write_dataset
from support.mpii_factory import write_mpii
from support.named_outputs import heatmap_network, paf_network

PAF = ModelConfig(checkpoint="unused", architecture="onnx", codec="paf", input_width=496, input_height=384)


def nobody(images: np.ndarray) -> np.ndarray:
    return np.zeros((len(images), 57, images.shape[2] // 8, images.shape[3] // 8), np.float32)


def five_images(root: Path) -> CocoDataset:
    return write_dataset(root, [ONE], [ONE, TWO], [TWO], [ONE], [TWO])


def break_image(dataset: CocoDataset, number: int, how: str = "delete") -> None:
    path = dataset.root / "images" / "val" / f"{number}.png"
    if how == "delete":
        path.unlink()
    elif how == "resize":
        cv2.imwrite(str(path), np.zeros((30, 20, 3), np.uint8))
    else:
        path.write_bytes(path.read_bytes()[:200])


def in_crops(dataset: CocoDataset, **evaluation: Any) -> tuple[EvaluationReport, list[dict[str, Any]]]:
    return measure(dataset, **evaluation)


def in_whole_images(dataset: CocoDataset, **evaluation: Any) -> tuple[EvaluationReport, list[dict[str, Any]]]:
    return measure(dataset, paf_network(nobody), PAF, **evaluation)


both = pytest.mark.parametrize("run", [in_crops, in_whole_images])


@both
def test_failed_images_are_named_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Callable) -> None:
    dataset = five_images(tmp_path)
    break_image(dataset, 2)
    break_image(dataset, 3, "resize")
    break_image(dataset, 4, "cut")
    report, _ = run(dataset, max_failed_images=0.6)
    assert report.failed_images == (
        FailedImage(name="images/val/2.png", reason="is missing"),
        FailedImage(name="images/val/3.png", reason="is 20×30 pixels, but its record says 480×360"),
        FailedImage(name="images/val/4.png", reason="is not an image, or is cut off"),
    )
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"The image {tmp_path}/images/val/2.png is missing: its persons count as missed.",
        f"The image {tmp_path}/images/val/3.png is 20×30 pixels, but its record says 480×360: its persons count as "
        "missed.",
        f"The image {tmp_path}/images/val/4.png is not an image, or is cut off: its persons count as missed.",
    ]
    # Measured is what was asked for, so that reports stay comparable.
    assert (report.fingerprint.num_images, report.fingerprint.num_persons) == (5, 6)


def test_their_persons_count_as_missed(tmp_path: Path) -> None:
    dataset = five_images(tmp_path)
    break_image(dataset, 2)
    report, rows = in_crops(dataset, max_failed_images=0.2)
    assert [row["image_id"] for row in rows] == [1, 3, 4, 5]
    assert report.stats.ar == pytest.approx(4 / 6)


def test_a_box_outside_its_image_fails_the_image(tmp_path: Path) -> None:
    """All its persons are missed, those with good boxes too."""
    file = five_images(tmp_path).annotation_file
    content = json.loads(file.read_text())
    content["annotations"][2]["bbox"] = [500, 10, 40, 60]
    file.write_text(json.dumps(content))
    dataset = load_coco(tmp_path, "val")
    report, rows = in_crops(dataset, max_failed_images=0.2)
    assert report.failed_images == (
        FailedImage(
            name="images/val/2.png",
            reason="does not fit annotation 3: The box (x, y, w, h) = (500, 10, 40, 60) covers nothing of an image of "
            "480×360 pixels",
        ),
    )
    assert [row["image_id"] for row in rows] == [1, 3, 4, 5]
    with pytest.raises(DatasetError, match=r"1 cannot be measured, where 0 may fail: images/val/2\.png does not fit"):
        in_crops(dataset)


@pytest.mark.parametrize(("run", "images"), [(in_crops, "with_persons"), (in_whole_images, "all")])
def test_the_rate_counts_the_images_that_the_network_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable, images: str
) -> None:
    clock = iter((10.0, 12.0))
    monkeypatch.setattr("hpe_tasks.evaluation.time.perf_counter", lambda: next(clock))
    dataset = five_images(tmp_path)
    break_image(dataset, 2)
    assert run(dataset, max_failed_images=0.2, images=images)[0].images_per_second == 2.0


@both
@pytest.mark.parametrize("share", [0.0, 0.19])
def test_by_default_the_first_failure_ends_the_evaluation(tmp_path: Path, run: Callable, share: float) -> None:
    dataset = five_images(tmp_path)
    break_image(dataset, 3)
    with pytest.raises(
        DatasetError, match=r"Of the 5 images .* 1 cannot be measured, where 0 may.*val/3\.png is missing"
    ):
        run(dataset, max_failed_images=share)
    assert not (tmp_path / "out").exists()


@both
def test_one_too_many_names_all(tmp_path: Path, run: Callable) -> None:
    dataset = five_images(tmp_path)
    for number in (1, 2, 5):
        break_image(dataset, number)
    with pytest.raises(DatasetError) as caught:
        run(dataset, max_failed_images=0.4, batch_size=1)
    assert all(f"images/val/{number}.png is missing" in caught.value.message for number in (1, 2, 5))
    assert "evaluation.max_failed_images" in caught.value.hint


def test_mpii_counts_their_joints_as_wrong(tmp_path: Path) -> None:
    """Also where truth lies near (0, 0), which is what a joint that was not found holds."""
    dataset = load_mpii(write_mpii(tmp_path), "valid")
    model = CONFIG.model_copy(update={"skeleton": "mpii16"})

    def measured(**evaluation: object) -> EvaluationReport:
        return evaluate(
            dataset,
            heatmap_network(lambda images: np.zeros((len(images), 16, 64, 48), np.float32)),
            model,
            EvaluationConfig(**evaluation),
            runtime="fp32",
            dataset_digest="d" * 64,
            seed=0,
            predictions_file=tmp_path / "predictions.json",
            artifact=describe,
        )

    whole = measured()
    (tmp_path / "images" / dataset.images[0]).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"Of the 3 images .* is an empty file"):
        measured(max_failed_images=0.3)
    report = measured(max_failed_images=0.34)
    assert [failed.name for failed in report.failed_images] == [f"images/{dataset.images[0]}"]
    assert report.stats.num_joints == whole.stats.num_joints
    assert report.fingerprint == whole.fingerprint
    assert report.stats.mean <= whole.stats.mean


def test_the_allowed_number_is_a_share_of_the_measured_images(tmp_path: Path) -> None:
    failed = FailedImages(tmp_path, 100, 0.29)  # 0.29 · 100 is 28.999999999999996
    for number in range(29):
        failed.add(Unreadable(tmp_path / f"{number}.jpg", "is missing"))
    with pytest.raises(DatasetError, match="30 cannot be measured, where 29 may fail"):
        failed.add(Unreadable(tmp_path / "29.jpg", "is missing"))


@pytest.mark.parametrize("model", [CONFIG, PAF], ids=["crops", "whole-images"])
@pytest.mark.parametrize(("how", "says"), [("delete", "is missing"), ("resize", "is 20×30 pixels, but its record")])
def test_calibration_goes_without_no_image(tmp_path: Path, model: ModelConfig, how: str, says: str) -> None:
    dataset = five_images(tmp_path)
    break_image(dataset, 5, how)
    with pytest.raises(DatasetError, match=rf"The image .*5\.png {says}"):
        list(calibration_batches(dataset, model, 2))


def test_a_failed_image_does_not_shift_those_after_it(tmp_path: Path) -> None:
    """The pictures of the others are found in their own images."""
    dataset = five_images(tmp_path)
    whole = in_crops(dataset, batch_size=2)[1]
    break_image(dataset, 1, "cut")
    rows = in_crops(dataset, batch_size=2, max_failed_images=0.2)[1]
    assert rows == [row for row in whole if row["image_id"] != 1]
