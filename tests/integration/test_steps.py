"""The steps in one process, without Airflow: data sets of every kind on their way from the address to the figures."""

from __future__ import annotations

import functools
import http.server
import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.calibration import choose_calibration
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import BelowFloorError, DatasetError, MissingInputError
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.steps.inputs import dataset_of, split_of
from hpe_tasks.records.evaluation import EvaluationReport, PckhStats
from support.no_s3 import no_s3
from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.integration]


def open_at(tmp_path: Path, settings: dict[str, Any], **changes: Any) -> Run:
    overrides = settings | {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(overrides.pop("preset"), overrides=overrides)
    workspace = (tmp_path / "workspace").as_uri()
    return open_run(config, workspace=workspace, cache=tmp_path / "cache", name="r", s3=no_s3)


def annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"person_keypoints_{split}.json"


def measure(run: Run) -> EvaluationReport:
    steps.fetch_dataset(run)
    steps.fetch_checkpoint(run)
    steps.validate_dataset(run)
    measured = steps.evaluate_fp32(run)
    steps.check_fp32(run)
    return measured


def test_detected_boxes_are_an_input_like_any_other(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    found = [
        {"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.9}
        for row in json.loads(annotation_file(tmp_path / "data", "val").read_text())["annotations"]
    ]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(found))
    run = open_at(tmp_path, settings, dataset__boxes=str(boxes))
    measured = measure(run)
    assert measured.fingerprint.box_source == "detector"
    assert measured.fingerprint.boxes_digest == dataset_of(run)[1].boxes_sha256
    assert measure(open_at(tmp_path, settings)).fingerprint.box_source == "ground_truth"

    boxes.write_text(json.dumps(found[:2]))
    later = open_at(tmp_path, settings, dataset__boxes=str(boxes))
    with pytest.raises(DatasetError, match="has changed since this run fetched it"):
        split_of(later, "val")
    assert measure(later).fingerprint.boxes_digest != measured.fingerprint.boxes_digest


@pytest.mark.parametrize(("share", "says"), [(0.0, "data set fails 1 of"), (0.19, "data set fails 1 of"), (0.2, "")])
def test_unreadable_images_up_to_a_share(
    test_data: Path, tmp_path: Path, share: float, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One of mpii-mini's five photographs is cut off; its person counts as missed."""
    root = tmp_path / "mpii"
    shutil.copytree(test_data / "mpii-mini", root)
    (root / "annot" / "train.json").write_text((root / "annot" / "valid.json").read_text().replace('.jpg"', '.jpeg"'))
    for photograph in list((root / "images").glob("*.jpg")):
        shutil.copy(photograph, photograph.with_suffix(".jpeg"))
    for cut in ("060754485.jpg", "060754485.jpeg"):
        (root / "images" / cut).write_bytes((test_data / "mpii-mini/images/060754485.jpg").read_bytes()[:9000])
    settings = {
        "preset": "efficientpose_rt_lite",
        "model.checkpoint": str(test_data / "models" / "EfficientPoseRT_LITE_224.onnx"),
        "dataset.kind": "mpii",
        "dataset.source": str(root),
        "dataset.min_persons": 5,
        "evaluation.max_failed_images": share,
        "gate.min_pckh": 0,
    }
    run = open_at(tmp_path, settings)
    steps.fetch_dataset(run)
    steps.fetch_checkpoint(run)
    if says:
        with pytest.raises(DatasetError, match=says) as caught:
            steps.validate_dataset(run)
        assert "060754485.jpg: cannot be decoded" in str(caught.value)
        return
    with caplog.at_level(logging.WARNING):
        validated = steps.validate_dataset(run)
        measured = steps.evaluate_fp32(run)
        steps.check_fp32(run)
    # Copies of the photographs serve as the other split here.
    assert {warning.check for warning in validated.warnings} == {"images_decode", "contents_disjoint"}
    assert "Image files that cannot be decoded: 2." in caplog.text
    assert [image.name for image in measured.failed_images] == ["images/060754485.jpg"]
    assert isinstance(measured.stats, PckhStats)
    assert measured.stats.num_joints == 66
    assert measured.fingerprint.num_persons == 5
    with pytest.raises(DatasetError, match=r"calibration split 'train' is left to calibrate on\. Left out were 5"):
        steps.quantize(run)


def bgr_sample(folder: Path) -> Path:
    """The sample's checkpoint with the input channels of its first layer swapped: it takes BGR."""
    state = load_file(sample_checkpoint())
    first = next(name for name, weights in state.items() if weights.ndim == 4 and weights.shape[1] == 3)
    state[first] = state[first].flip(1).contiguous()
    save_file(state, folder / "bgr.safetensors")
    return folder / "bgr.safetensors"


def test_a_checkpoint_below_the_floor_stops_before_quantization_and_goes_on_when_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_sample(tmp_path / "data", SampleSpec(train=1, calibration=3, val=36))
    settings = {
        "preset": "sample",
        "model.checkpoint": str(bgr_sample(tmp_path)),
        "model.mean": [0.5, 0.5, 0.5],
        "model.std": [1, 1, 1],
        "dataset.source": str(tmp_path / "data"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 3,
    }
    run = open_at(tmp_path, settings)
    with caplog.at_level(logging.INFO), pytest.raises(BelowFloorError) as caught:
        measure(run)
    wanted = "set model.channel_order=bgr model.mean=[0.406,0.456,0.485] model.std=[0.225,0.224,0.229]"
    assert re.search(r"^FP32 AP 0\.\d+ is below 0\.600 \(gate\.min_ap\), on \d+ persons", caught.value.message)
    assert re.search(r"AP 0\.\d\d as configured; 0\.[67]\d when the image is BGR and ", caught.value.message)
    assert wanted in caught.value.message
    assert "--set model.channel_order=bgr" in caught.value.hint
    assert re.search(r"0\.\d+ when pixel values are 0 to 255", caplog.text)

    # The figure and the diagnosis are results: stored, shown, and there again without another look.
    stored = run.recorded(steps.check_fp32)
    assert stored is not None
    assert stored.diagnosis is not None
    assert stored.diagnosis.found is not None
    with pytest.raises(BelowFloorError) as again:
        steps.check_fp32(run)
    assert again.value.message == caught.value.message
    shown = run.pointer(steps.check_fp32.name)
    assert shown is not None
    assert shown.reused
    with pytest.raises(BelowFloorError, match=r"is below 0\.600"):
        steps.quantize(run)
    assert "Stopped before quantization" in Path(steps.report(run).html.uri.removeprefix("file://")).read_text()
    assert records_of(run).below_floor == stored

    mended = dict(setting.removeprefix("model.").split("=") for setting in stored.diagnosis.found.settings)
    changes = {f"model__{key}": yaml.safe_load(value) for key, value in mended.items()}
    later = open_at(tmp_path, settings, **changes)
    assert measure(later).accuracy == pytest.approx(stored.diagnosis.found.accuracy, abs=0.05)
    assert later.result(steps.check_fp32).passed


@pytest.mark.parametrize(
    ("floor", "says"), [(0.5, "FP32 AP 0.000 is below 0.500 .*no usual mistake explains it"), (0.0, "")]
)
def test_an_accuracy_of_zero(tmp_path: Path, floor: float, says: str) -> None:
    """The network has learned nothing; only a floor of zero lets it through."""
    run = open_at(tmp_path, tiny_settings(tmp_path), gate__min_ap=floor)
    if not says:
        assert measure(run).accuracy == 0
        return
    with pytest.raises(BelowFloorError, match=says) as caught:
        measure(run)
    assert "Check that the checkpoint is the right one" in caught.value.hint
    with pytest.raises(BelowFloorError):
        steps.quantize(run)


def test_another_floor_does_not_calibrate_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = tiny_settings(tmp_path)
    for floor, kind in ((0.0, "done"), (1e-12, "reused")):
        run = open_at(tmp_path, settings, gate__min_ap=floor)
        measure(run)
        with caplog.at_level(logging.INFO):
            steps.quantize(run)
        assert f"quantize: {kind}" in caplog.text
        caplog.clear()


def test_nothing_is_quantized_without_the_check(tmp_path: Path) -> None:
    run = open_at(tmp_path, tiny_settings(tmp_path))
    steps.fetch_dataset(run)
    steps.fetch_checkpoint(run)
    steps.validate_dataset(run)
    with pytest.raises(MissingInputError, match="quantize needs the result of check_fp32") as caught:
        steps.quantize(run)
    assert "Run check_fp32 first" in caught.value.hint


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a server that offers the test's folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_images_by_their_own_addresses(tmp_path: Path, served: str) -> None:
    """Of three calibration images two are asked for: the third is never fetched, and the draw is that of all."""
    settings = tiny_settings(tmp_path)
    for split in ("calibration", "val"):
        file = annotation_file(tmp_path / "data", split)
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["coco_url"] = f"{served}/data/images/{split}/{image['file_name']}"
        file.write_text(json.dumps(content))
    shutil.copytree(tmp_path / "data/annotations", tmp_path / "published/annotations")
    wanted = {
        "dataset__source": str(tmp_path / "published"),
        "dataset__images_by_url": True,
        "dataset__allow_private_addresses": True,
    }
    run = open_at(tmp_path, settings, recipe__calibration_images=2, **wanted)
    measure(run)
    quantized = steps.quantize(run)
    chosen = choose_calibration(load_coco(tmp_path / "data", "calibration"), num_images=2, seed=0)
    assert set(quantized.calibration_image_ids) == set(chosen)
    fetched = {path.name for path in (dataset_of(run)[0] / "images/calibration").iterdir()}
    assert fetched == {f"{image:012d}.jpg" for image in chosen}
