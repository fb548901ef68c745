"""The `hpe` command as a user runs it: the whole pipeline on tiny inputs, and every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_inputs import tiny_settings

from hpe_tasks.object_store import Server

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("command-line")]

Hpe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command-line")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    return tiny_settings(folder)


@pytest.fixture(scope="module")
def hpe_environment(folder: Path, s3_server: Server) -> dict[str, str]:
    places = {"HPE_WORKSPACE": str(folder / "workspace"), "HPE_CACHE": str(folder / "cache")}
    return os.environ | places | dict(s3_server.environment) | {"OMP_NUM_THREADS": "2", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def hpe(folder: Path, hpe_environment: dict[str, str]) -> Hpe:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpe_tasks", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=hpe_environment | environment,
        )

    return run


def options(settings: dict[str, Any], **changes: Any) -> list[str]:
    chosen = settings | {key.replace("__", "."): value for key, value in changes.items()}
    preset = chosen.pop("preset")
    return ["--preset", preset, *(f"--set={key}={json.dumps(value)}" for key, value in chosen.items())]


@pytest.mark.slow
def test_a_model_is_published_once_and_moved_by_channel(hpe: Hpe, settings: dict[str, Any], folder: Path) -> None:
    first = hpe("run", *options(settings), "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    version = told["published"]["version"]
    assert told["decision"]["passed"]
    assert Path(told["report"].removeprefix("file://")).is_file()

    again = hpe("run", *options(settings))
    assert again.returncode == 0, again.stderr
    assert version in again.stdout
    assert "quantize: reused" in hpe("run", *options(settings), "--verbose").stderr
    assert json.loads(hpe("show", "--json").stdout)["published"]["created"] is False

    other = hpe("run", *options(settings, recipe="w8a8_per_tensor"), "--json")
    assert other.returncode == 0, other.stderr
    second = json.loads(other.stdout)["published"]
    assert (second["version"] != version, second["previous_version"]) == (True, version)

    assert json.loads(hpe("channel", "show", "tiny", "--json").stdout)["version"] == second["version"]
    assert json.loads(hpe("channel", "rollback", "tiny", "--json").stdout)["version"] == version
    promoted = hpe("channel", "promote", "tiny", second["version"], "--channel", "production", "--json")
    assert json.loads(promoted.stdout)["reason"] == "promote"
    assert "production" in hpe("channel", "show", "tiny", "--channel", "production").stdout
    assert version in hpe("channel", "versions", "tiny").stdout

    kept = folder / "predictions.json"
    file = told["exported"]["model"]["uri"].removeprefix("file://")
    same = hpe(
        "evaluate", "--model", file, "--dataset", settings["dataset.source"], *options(settings)[:2],
        "--set=model.input_width=64", "--set=model.input_height=64", "--predictions", str(kept), "--json",
    )  # fmt: skip
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["stats"] == told["quantized_evaluation"]["onnx"]["stats"]
    assert kept.is_file()


@pytest.mark.slow
def test_a_failed_gate_publishes_nothing_and_says_why(hpe: Hpe, settings: dict[str, Any]) -> None:
    done = hpe("run", *options(settings, gate__min_ap=0.99, destination__name="refused"))
    assert done.returncode == 1, done.stderr
    assert "below" in done.stdout or "FAILED" in done.stdout
    assert "report.html" in done.stdout
    absent = hpe("channel", "show", "refused")
    assert absent.returncode == 2
    assert "has no channel 'staging'" in absent.stderr
    forced = hpe("publish", *options(settings, gate__min_ap=0.99, destination__name="refused"))
    assert forced.returncode == 2
    assert "The gate did not pass" in forced.stderr


@pytest.mark.slow
def test_steps_one_by_one(hpe: Hpe, settings: dict[str, Any]) -> None:
    asked = [*options(settings, seed=7), "--run", "steps"]
    early = hpe("quantize", *asked)
    assert early.returncode == 2
    assert "Run fetch_dataset first" in early.stderr
    for step in ("fetch-dataset", "fetch-checkpoint", "validate-dataset", "evaluate-fp32", "quantize", "export-onnx"):
        done = hpe(step, *asked)
        assert done.returncode == 0, done.stderr
    tables = hpe("evaluate-quantized", *asked, "--json")
    assert json.loads(tables.stdout)["onnx"]["runtime"] == "onnxruntime"


@pytest.mark.slow
def test_a_killed_step_leaves_nothing_that_counts(
    hpe: Hpe, hpe_environment: dict[str, str], settings: dict[str, Any], folder: Path
) -> None:
    asked = [*options(settings, seed=8), "--run", "killed"]
    for step in ("fetch-dataset", "fetch-checkpoint", "validate-dataset"):
        assert hpe(step, *asked).returncode == 0
    store, scratch = folder / "workspace" / "store" / "quantize", folder / "workspace" / "scratch"
    before = set(store.glob("*")), set(scratch.glob("*"))
    command = [sys.executable, "-m", "hpe_tasks", "quantize", *asked]
    with subprocess.Popen(
        command, env=hpe_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while set(scratch.glob("*")) == before[1]:
            assert process.poll() is None, "the step ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert set(store.glob("*")) == before[0]
    assert hpe("export-onnx", *asked).returncode == 2
    assert hpe("quantize", *asked).returncode == 0
    assert len(set(store.glob("*")) - before[0]) == 1
    assert hpe("export-onnx", *asked).returncode == 0


def corrupt_archive(folder: Path) -> Path:
    file = folder / "broken.zip"
    file.write_bytes(b"PK\x03\x04 this is no archive")
    return file


def escaping_archive(folder: Path) -> Path:
    file = folder / "escaping.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    return file


def other_architecture(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    file = folder / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    return file


def without_keypoints(folder: Path) -> Path:
    root = folder / "boxes only"
    for split in ("calibration", "val"):
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        annotations = root / "annotations" / f"person_keypoints_{split}.json"
        annotations.parent.mkdir(exist_ok=True)
        person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 9, "iscrowd": 0}
        image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}
        categories = [{"id": 1, "name": "person"}]
        annotations.write_text(json.dumps({"images": [image], "annotations": [person], "categories": categories}))
    return root


EARLIER = {
    "validate-dataset": ["fetch-dataset"],
    "evaluate-fp32": ["fetch-dataset", "fetch-checkpoint", "validate-dataset"],
}

BAD_INPUTS = [
    pytest.param("fetch-dataset", {"preset": "smaple"}, None, ["no preset 'smaple'"], id="unknown preset"),
    pytest.param("fetch-dataset", {"gate.min_app": 1}, None, ["no setting 'gate.min_app'", "gate.min_ap"], id="key"),
    pytest.param("fetch-dataset", {"dataset.source": "/no/such"}, None, ["/no/such"], id="missing folder"),
    pytest.param("fetch-dataset", {}, ("dataset.source", corrupt_archive), ["broken.zip"], id="corrupt archive"),
    pytest.param(
        "fetch-dataset", {}, ("dataset.source", escaping_archive), ["escaping.zip", "escaped.txt"], id="escape"
    ),
    pytest.param("validate-dataset", {}, ("dataset.source", without_keypoints), ["keypoints"], id="no keypoints"),
    pytest.param("fetch-checkpoint", {"model.checkpoint": "/no/such.pth"}, None, ["/no/such.pth"], id="no checkpoint"),
    pytest.param("fetch-checkpoint", {"model.checkpoint_sha256": "0" * 64}, None, ["SHA-256", "0" * 64], id="digest"),
    pytest.param(
        "fetch-checkpoint", {"model.checkpoint": "s3://absent-bucket/x.pth"}, None, ["absent-bucket"], id="bucket"
    ),
    pytest.param("evaluate-fp32", {}, ("model.checkpoint", other_architecture), ["conv1.weight"], id="architecture"),
]


@pytest.mark.parametrize(("step", "changes", "made", "says"), BAD_INPUTS)
def test_bad_input_is_one_clear_error(
    hpe: Hpe,
    settings: dict[str, Any],
    tmp_path: Path,
    step: str,
    changes: dict[str, Any],
    made: tuple[str, Callable[[Path], Path]] | None,
    says: list[str],
) -> None:
    asked = settings | changes | ({made[0]: str(made[1](tmp_path))} if made else {})
    for before in EARLIER.get(step, ()):
        assert hpe(before, *options(asked)).returncode == 0
    done = hpe(step, *options(asked))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for text in says:
        assert text in line
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    ("environment", "code", "says"),
    [
        pytest.param({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, 3, "could not be reached", id="unreachable"),
        pytest.param({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 2, "No AWS credentials", id="credentials"),
    ],
)
def test_registry_out_of_reach(hpe: Hpe, environment: dict[str, str], code: int, says: str) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    done = hpe("channel", "show", "tiny", **nowhere, **environment)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_answers_at_once_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, hpe_tasks.__main__ as m\n"
        "try: m.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'boto3', 'airflow', 'great_expectations'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    began = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout
    assert time.process_time() - began < 10


def test_presets_and_keys(hpe: Hpe) -> None:
    assert "efficientpose_rt_lite" in json.loads(hpe("presets", "--json").stdout)
    assert "gate.min_ap" in hpe("presets", "--keys").stdout
    shown = hpe("presets", "--show", "sample").stdout
    assert "source: sample" in shown
    assert hpe("presets", "--show", "x").returncode == 2
