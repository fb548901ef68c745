"""Real networks and real photographs through the whole DAG: from the file to the channel that serves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.local.object_store import Server
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import airflow_server
from support.mpii_inputs import write_mpii_of_photographs

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("photographs")]

COCO_CASES = [
    # FP32 AP by the protocol of Simple Baselines; tests/integration/test_efficientpose_check_figures.py compares them
    # with another implementation.
    pytest.param("efficientpose_rt_lite", "EfficientPoseRT_LITE_224.onnx", 0.254, id="RT_LITE"),
    pytest.param("efficientpose_i_lite", "EfficientPoseI_LITE_256.onnx", 0.273, id="I_LITE", marks=pytest.mark.long),
]

FIGURES_ALONE = {
    "gate.confidence": None,
    "gate.max_joint_drop": 1.0,
    "gate.max_joint_pckh_drop": 100.0,
    "gate.max_size_drop": 1.0,
}
"""So few photographs cannot tell a loss of some hundredths from none."""


MPII_CASES = [
    # Mean PCKh at 0.5 in percent: of FP32, and the least of the int8 file. Five persons with 66 joints: each is 1.5.
    pytest.param("efficientpose_rt_lite", "EfficientPoseRT_LITE_224.onnx", 86.4, 80.0, id="RT_LITE"),
    pytest.param("efficientpose_i_lite", "EfficientPoseI_LITE_256.onnx", 89.4, 83.0, id="I_LITE"),
]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    home = airflow_server.prepare_home()
    airflow_server.airflow(home, "dags", "reserialize")
    yield home
    shutil.rmtree(home)


@dataclass(frozen=True)
class DagRun:
    """What a run of the DAG has left."""

    folder: Path
    said: str

    def record(self, step: str) -> dict[str, Any]:
        path = self.folder / step / "result.json"
        assert path.is_file(), self.said[-4000:]
        return dict(json.loads(path.read_text())["record"])

    def measured(self) -> dict[str, dict[str, Any]]:
        """The three evaluations, which were made in the same way."""
        later = self.record("evaluate_quantized")
        found = {"fp32": self.record("evaluate_fp32"), "quantsim": later["quantsim"], "onnx": later["onnx"]}
        assert all(report["fingerprint"] == found["fp32"]["fingerprint"] for report in found.values())
        return found


def run_dag(home: Path, server: Server, settings: dict[str, Any]) -> DagRun:
    conf = ("--conf", json.dumps(settings))
    said = airflow_server.airflow(home, "dags", "test", "hpe_requantize", "2026-03-01", *conf, **server.environment)
    asked = {f: json.loads((f / "run.json").read_text())["config"] for f in home.glob(".hpe/workspace/runs/*")}
    wanted = settings["preset"], settings["dataset.source"]
    (folder,) = (f for f, config in asked.items() if (config["preset"], config["dataset"]["source"]) == wanted)
    return DagRun(folder, said)


def check_published(run: DagRun, server: Server, split: str) -> None:
    exported, published = run.record("export_onnx"), run.record("publish")
    assert exported["model"]["size_bytes"] < exported["fp32_size_bytes"] / 2
    assert exported["placement"]["int8_mac_share"] > 0.5
    registry = ModelRegistry(server.client(), S3Location.parse(published["registry"]))
    manifest = registry.served(published["name"], "staging")
    assert manifest.version == published["version"]
    assert manifest.onnx.stats.model_dump() == run.measured()["onnx"]["stats"]
    assert manifest.provenance.calibration.split == split
    smoked = run.record("smoke_test_lambda")["images"]
    print(smoked)
    assert [image["people"] for image in smoked] == [len(golden.people) for golden in manifest.golden]
    assert all(image["min_oks"] is None or image["min_oks"] > 0.99 for image in smoked)
    html = (run.folder / "report/report.html").read_text()
    assert published["version"] in html
    assert "data:image/jpeg;base64," in html


@pytest.mark.parametrize(("preset", "file", "fp32_ap"), COCO_CASES)
def test_a_real_model_is_measured_and_published(
    home: Path, s3_server: Server, test_data: Path, preset: str, file: str, fp32_ap: float
) -> None:
    settings = {
        "preset": preset,
        "model.checkpoint": str(test_data / "models" / file),
        "dataset.source": str(test_data / "coco-mini"),
        **FIGURES_ALONE,
        "destination.registry": f"s3://hpe-models/{preset}",
        "destination.smoke_test": "true",
    }
    run = run_dag(home, s3_server, settings)
    measured = run.measured()
    assert measured["fp32"]["fingerprint"]["num_persons"] == 66
    assert len(measured["fp32"]["fingerprint"]["joint_map"]) == 12
    assert measured["fp32"]["stats"]["ap"] == pytest.approx(fp32_ap, abs=0.003)
    assert measured["onnx"]["stats"]["ap"] > fp32_ap - 0.03
    assert run.record("gate")["passed"], run.record("gate")
    check_published(run, s3_server, "train2017")


@pytest.fixture(scope="module")
def mpii(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mpii_of_photographs(test_data, tmp_path_factory.mktemp("mpii") / "data")


@pytest.mark.long
@pytest.mark.parametrize(("preset", "file", "fp32_pckh", "least"), MPII_CASES)
def test_a_real_model_is_judged_by_pckh(
    home: Path, s3_server: Server, test_data: Path, mpii: Path, preset: str, file: str, fp32_pckh: float, least: float
) -> None:
    settings = {
        "preset": preset,
        "model.checkpoint": str(test_data / "models" / file),
        "dataset.kind": "mpii",
        "dataset.source": str(mpii),
        "dataset.min_persons": 5,
        "gate.min_pckh": least,
        "gate.max_pckh_drop": 7.0,
        "gate.max_quantsim_pckh_gap": 7.0,
        **FIGURES_ALONE,
        "destination.registry": f"s3://hpe-models/mpii-{preset}",
        "destination.smoke_test": "true",
    }
    run = run_dag(home, s3_server, settings)
    measured = run.measured()
    print(preset, "mean PCKh of 5 persons:", {form: round(one["stats"]["mean"], 1) for form, one in measured.items()})
    assert measured["fp32"]["fingerprint"]["metric"] == "mpii_pckh"
    assert measured["fp32"]["fingerprint"]["num_persons"] == 5
    assert measured["fp32"]["stats"]["num_joints"] == 66
    assert measured["fp32"]["stats"]["mean"] == pytest.approx(fp32_pckh, abs=0.1)
    assert measured["onnx"]["stats"]["mean"] >= least
    decision = run.record("gate")
    assert decision["passed"], decision
    assert "(5 persons)" in decision["checks"][0]["reason"]
    check_published(run, s3_server, "train")
    assert "5 persons" in (run.folder / "report/report.html").read_text()
