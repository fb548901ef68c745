"""Real networks and real COCO photographs through the whole DAG: from the file to the channel that serves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow_server
import pytest

from hpe_tasks.object_store import Server
from hpe_tasks.registry.publishing import Registry
from hpe_tasks.s3 import S3Location

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("photographs")]

CASES = [
    # FP32 AP by the protocol of Simple Baselines; tests/integration/test_efficientpose_check_figures.py compares them
    # with another implementation.
    pytest.param("efficientpose_rt_lite", "EfficientPoseRT_LITE_224.onnx", 0.254, id="RT_LITE"),
    pytest.param("efficientpose_i_lite", "EfficientPoseI_LITE_256.onnx", 0.273, id="I_LITE"),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    home = airflow_server.prepare_home()
    airflow_server.airflow(home, "dags", "reserialize")
    yield home
    shutil.rmtree(home)


@pytest.mark.parametrize(("preset", "file", "fp32_ap"), CASES)
def test_a_real_model_is_measured_and_published(
    home: Path, s3_server: Server, test_data: Path, preset: str, file: str, fp32_ap: float
) -> None:
    settings = {
        "preset": preset,
        "model.checkpoint": str(test_data / "models" / file),
        "dataset.source": str(test_data / "coco-mini"),
        "destination.registry": f"s3://hpe-models/{preset}",
    }
    said = airflow_server.airflow(
        home, "dags", "test", "hpe_requantize", "2026-03-01", "--conf", json.dumps(settings), **s3_server.environment
    )
    runs = {json.loads((f / "run.json").read_text())["config"]["preset"]: f for f in home.glob(".hpe/workspace/runs/*")}
    folder = runs[preset]

    def record(step: str) -> dict[str, Any]:
        path = folder / step / "result.json"
        assert path.is_file(), said[-4000:]
        return dict(json.loads(path.read_text())["record"])

    measured = {"fp32": record("evaluate_fp32"), **{k: record("evaluate_quantized")[k] for k in ("quantsim", "onnx")}}
    for report in measured.values():
        assert report["fingerprint"]["num_persons"] == 66
        assert len(report["fingerprint"]["joint_map"]) == 12
        assert report["fingerprint"] == measured["fp32"]["fingerprint"]
    assert measured["fp32"]["stats"]["ap"] == pytest.approx(fp32_ap, abs=0.003)
    assert measured["onnx"]["stats"]["ap"] > fp32_ap - 0.03
    assert record("gate")["passed"], record("gate")

    exported, published = record("export_onnx"), record("publish")
    assert exported["model"]["size_bytes"] < exported["fp32_size_bytes"] / 2
    assert exported["placement"]["int8_mac_share"] > 0.5
    registry = Registry(s3_server.client(), S3Location.parse(published["registry"]))
    manifest = registry.served(published["name"], "staging")
    assert manifest.version == published["version"]
    assert manifest.onnx.stats.ap == measured["onnx"]["stats"]["ap"]
    assert manifest.provenance.calibration.split == "train2017"
    html = (folder / "report/report.html").read_text()
    assert published["version"] in html
    assert "data:image/jpeg;base64," in html
