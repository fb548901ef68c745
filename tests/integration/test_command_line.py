"""The `hpe` command as a user runs it: the whole pipeline on tiny inputs, and every kind of bad input."""

from __future__ import annotations

import importlib.metadata
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
import yaml

from hpe_tasks.local.object_store import Server
from support.tiny_inputs import tiny_bottom_up_settings, tiny_settings

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("command-line")]

Hpe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command-line")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    return tiny_settings(folder)


@pytest.fixture(scope="module")
def bottom_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_bottom_up_settings(tmp_path_factory.mktemp("bottom-up"))


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
    assert (told["promoted"]["version"], len(told["smoke_test"]["images"])) == (version, 3)
    assert Path(told["report"].removeprefix("file://")).is_file()

    again = hpe("run", *options(settings), "--verbose")
    assert again.returncode == 0, again.stderr
    assert version in again.stdout
    assert "quantize: reused" in again.stderr
    assert "in 3 golden images" in again.stdout
    for command in ("publish", "smoke-test-lambda", "promote"):
        alone = hpe(command, *options(settings), "--json")
        assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["previous_version"] == version
    assert json.loads(hpe("show", "--json").stdout)["published"]["created"] is False

    other = hpe("run", *options(settings, recipe="w8a8_per_tensor"), "--json")
    assert other.returncode == 0, other.stderr
    second = json.loads(other.stdout)["promoted"]
    assert (second["version"] != version, second["previous_version"]) == (True, version)

    assert json.loads(hpe("channel", "show", "tiny", "--json").stdout)["version"] == second["version"]
    assert json.loads(hpe("channel", "rollback", "tiny", "--json").stdout)["version"] == version
    for channel, asked in (("staging", ()), ("production", ("--channel", "production"))):
        promoted = json.loads(hpe("channel", "promote", "tiny", second["version"], *asked, "--json").stdout)
        assert (promoted["reason"], promoted["channel"]) == ("promote", channel)
    assert "production" in hpe("channel", "show", "tiny", "--channel", "production").stdout
    assert version in hpe("channel", "versions", "tiny").stdout
    absent = hpe("channel", "versions", "nope")
    assert absent.returncode == 2
    assert "There is no model 'nope' in s3://hpe-models/registry" in absent.stderr

    kept = folder / "predictions.json"
    file = told["exported"]["model"]["uri"].removeprefix("file://")
    same = hpe(
        "evaluate", "--model", file, "--dataset", settings["dataset.source"], *options(settings)[:2],
        "--predictions", str(kept), "--json",
    )  # fmt: skip
    assert same.returncode == 0, same.stderr
    # The input's size is the file's, not the preset's.
    assert json.loads(same.stdout)["fingerprint"]["input_size"] == [64, 64]
    assert json.loads(same.stdout)["stats"] == told["quantized_evaluation"]["onnx"]["stats"]
    assert json.loads(same.stdout)["predictions"]["uri"] == kept.as_uri()
    assert kept.is_file()


@pytest.mark.slow
def test_a_failed_gate_ends_with_the_reason_and_the_next_command(hpe: Hpe, settings: dict[str, Any]) -> None:
    done = hpe("run", *options(settings, gate__max_size_mb=0.001, destination__name="refused"))
    assert done.returncode == 1, done.stderr
    assert "FAILED" in done.stdout
    # Without a terminal each step has one line, with its time.
    lines = {line.split()[0]: line.split()[1:] for line in done.stderr.splitlines() if line.startswith("  ")}
    steps = ["preflight", "fetch_checkpoint", "fetch_dataset", "validate_dataset", "evaluate_fp32", "check_fp32"]
    last = ("quantize", "export_onnx", "evaluate_quantized", "compare_accuracy", "gate", "diagnose_layers")
    assert list(lines) == [*steps, *last]
    assert all(state in ("done", "reused") and unit == "s" and float(time) >= 0 for state, time, unit in lines.values())
    machine = hpe("show", "--json")
    assert machine.returncode == 1
    told = json.loads(machine.stdout)
    assert (told["verdict"]["kind"], told["report"].endswith("report.html")) == ("gate_failed", True)
    assert told["next_steps"][0]["text"].startswith("Use a smaller network")
    assert "report.html" in done.stdout
    absent = hpe("channel", "show", "refused")
    assert absent.returncode == 2
    assert "has no channel 'staging'" in absent.stderr
    forced = hpe("publish", *options(settings, gate__max_size_mb=0.001, destination__name="refused"))
    assert forced.returncode == 2
    assert "The gate did not pass" in forced.stderr
    *_, end = done.stdout.split("Why the gate failed\n")
    assert end.startswith("  Size of the exported file: Size 0.")
    assert "What to try next\n  1. Use a smaller network" in end


@pytest.mark.long
def test_a_subset_of_fewer_persons_than_asked_never_passes(hpe: Hpe, settings: dict[str, Any]) -> None:
    asked = options(settings, evaluation__num_images=1, dataset__min_persons=14, destination__name="too-few")
    done = hpe("run", *asked)
    assert done.returncode == 1, done.stderr
    assert "a subset of 1 images: fewer than the 14 that dataset.min_persons asks for" in done.stdout
    assert "no channel" in hpe("channel", "show", "too-few").stderr
    # The last word is the command to try next: the same run on the whole split.
    command = done.stdout.splitlines()[-1]
    assert command.startswith("hpe run --preset sample --set model.checkpoint=")
    assert "dataset.min_persons=14" in command
    assert "num_images" not in command


@pytest.mark.long
def test_a_data_set_too_small_for_any_conclusion_says_how_many_images_would_decide(hpe: Hpe, folder: Path) -> None:
    """All images there are have been measured, and the interval reaches over the limit."""
    from hpe_tasks.data.sample import SampleSpec, make_sample

    make_sample(folder / "few", SampleSpec(train=1, calibration=3, val=6), splits=("calibration", "val"))
    asked = {
        "preset": "sample",
        "dataset.source": str(folder / "few"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 3,
        "gate.min_ap": 0.3,
        **dict.fromkeys(
            ("gate.max_ap_drop", "gate.max_joint_drop", "gate.max_size_drop", "gate.max_quantsim_gap"), 1.0
        ),
        "gate.resamples": 500,
        "destination.smoke_test": False,
        "destination.name": "few-images",
    }
    wide = hpe("run", *options(asked), "--json")
    assert wide.returncode == 0, wide.stderr
    whole = json.loads(wide.stdout)["comparison"]["parts"][0]
    drop, most = whole["before"] - whole["after"], -whole["low"]
    assert most > max(drop, 0)

    # A limit between what was lost and what may have been.
    limit = round((max(drop, 0) + most) / 2, 4)
    done = hpe("run", *options(asked, gate__max_ap_drop=limit), "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    [check] = [one for one in told["decision"]["checks"] if not one["passed"]]
    assert (told["verdict"]["kind"], check["name"], check["inconclusive"]) == ("inconclusive", "max_ap_drop", True)
    assert check["images_to_decide"] > 6
    assert "on 6 images (95 % interval" in check["reason"]
    assert check["reason"].endswith(f"about {check['images_to_decide']:,} images would tell")
    first = told["next_steps"][0]["text"]
    assert first.startswith(f"Give the evaluation split more images: about {check['images_to_decide']:,} would tell")
    assert told["published"] is None


@pytest.mark.long
def test_a_checkpoint_below_the_floor_is_a_failed_gate_that_says_why(hpe: Hpe, settings: dict[str, Any]) -> None:
    """Exit status 1, as where the exported file stays below: it is known earlier."""
    asked = options(settings, gate__min_ap=0.99, destination__name="below")
    done = hpe("run", *asked)
    assert done.returncode == 1, done.stderr
    told = " ".join(done.stdout.split())
    assert "Stopped before quantization: FP32 is below the gate's floor" in told
    assert "is below 0.990 (gate.min_ap)" in told
    assert "AP 0.00 as configured; no usual mistake explains it" in told
    assert "What to do: Nothing was quantized." in told
    assert "report.html" in told
    assert "quantize …" not in done.stderr
    alone = hpe("check-fp32", *asked)
    assert alone.returncode == 1
    assert "is below 0.990 (gate.min_ap)" in alone.stderr
    shown = hpe("run", *asked, "--json")
    assert shown.returncode == 1
    record = json.loads(shown.stdout)["fp32_check"]
    assert (record["passed"], record["limit"], record["diagnosis"]["found"]) == (False, 0.99, None)


@pytest.mark.long
def test_bottom_up_network_that_finds_nobody_is_not_quantized(hpe: Hpe, bottom_up: dict[str, Any]) -> None:
    done = hpe("run", *options(bottom_up))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FP32 AP 0.000 is below 0.400 (gate.min_ap), on 14 persons in 4 images of val" in done.stdout
    told = json.loads(hpe("show", "--json").stdout)
    assert told["fp32"]["stats"]["ap"] == 0
    assert [told[step] for step in ("quantized", "decision", "published", "promoted")] == [None] * 4


@pytest.mark.long
def test_bottom_up_network_that_finds_nobody(hpe: Hpe, bottom_up: dict[str, Any]) -> None:
    """Where nothing is asked of its accuracy it goes all the way to the gate, which finds it too large."""
    settings = bottom_up | {"gate.min_ap": 0.0, "gate.max_size_mb": 0.001}
    done = hpe("run", *options(settings))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "MB is above" in done.stdout
    told = json.loads(hpe("show", "--json").stdout)
    assert "ONNX AP 0.000 is at least 0.000 (14 persons)" in [check["reason"] for check in told["decision"]["checks"]]
    assert [told[step] for step in ("published", "smoke_test", "promoted")] == [None, None, None]
    assert told["fp32"]["fingerprint"]["box_source"] == "whole_image"
    assert [output["name"] for output in told["exported"]["outputs"]] == ["pafs", "heatmaps"]
    assert told["exported"]["placement"]["int8_mac_share"] > 0.9
    assert "</html>" in Path(told["report"].removeprefix("file://")).read_text()
    # The exported file finds nobody either, however it is asked.
    file = told["exported"]["model"]["uri"].removeprefix("file://")
    same = {key: settings[key] for key in ("preset", "model.input_width", "model.input_height")}
    alone = hpe("evaluate", "--model", file, "--dataset", settings["dataset.source"], *options(same), "--json")
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["stats"] == told["quantized_evaluation"]["onnx"]["stats"]


def test_evaluate_measures_pckh(hpe: Hpe, test_data: Path) -> None:
    """Five persons, on whom one joint of 66 is 1.5 points."""
    file = test_data / "models" / "EfficientPoseRT_LITE_224.onnx"
    asked = ("--preset", "efficientpose_rt_lite", "--set=dataset.kind=mpii")
    done = hpe("evaluate", "--model", str(file), "--dataset", str(test_data / "mpii-mini"), *asked, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["fingerprint"]["num_persons"] == 5
    assert measured["stats"]["num_joints"] == 66
    assert measured["stats"]["mean"] == pytest.approx(86.4, abs=1.6)
    table = hpe("evaluate", "--model", str(file), "--dataset", str(test_data / "mpii-mini"), *asked).stdout
    assert "5 persons" in table
    assert "PCKh" in table
    assert Path(measured["predictions"]["uri"].removeprefix("file://")).is_file()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        pytest.param("model.input_width=256", "model.input_width is 256, but the input", id="width"),
        pytest.param("model.output_layout=nchw", "that is nhwc. Leave model.output_layout out.", id="layout"),
        pytest.param("model.input_width=wide", 'model.input_width takes a whole number, not "wide"', id="type"),
    ],
)
def test_a_setting_that_contradicts_the_onnx_file(hpe: Hpe, test_data: Path, setting: str, says: str) -> None:
    file = test_data / "models" / "EfficientPoseRT_LITE_224.onnx"
    asked = ("--set=model.skeleton=efficientpose16", f"--set={setting}")
    done = hpe("evaluate", "--model", str(file), "--dataset", str(test_data / "coco-mini"), *asked)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_types_are_named_before_anything_runs(hpe: Hpe, settings: dict[str, Any], folder: Path) -> None:
    done = hpe("run", *options(settings, gate__min_ap=True, recipe__fold_batch_norms="maybe"), "--run", "wrong-types")
    assert done.returncode == 2
    assert done.stderr == (
        'Error: The configuration is not valid: recipe.fold_batch_norms takes true or false, not "maybe"; gate.min_ap '
        "takes a number, not true. `hpe presets --keys` says what each setting takes.\n"
    )
    assert not list((folder / "workspace" / "runs").glob("wrong-types-*"))


def test_check_tells_everything_at_once(hpe: Hpe, settings: dict[str, Any], folder: Path) -> None:
    well = hpe("check", *options(settings))
    assert well.returncode == 0, well.stdout + well.stderr
    assert "Preflight: " in well.stdout
    before = set((folder / "workspace").glob("runs/*"))

    wrong = {
        "destination.registry": "s3://nowhere/registry",
        "destination.require_signature": True,
        "model.width_multiplier": 0.5,
        "dataset.evaluation_split": "test",
    }
    ill = hpe("check", *options(settings | wrong))
    assert ill.returncode == 2, ill.stdout + ill.stderr
    told = " ".join(ill.stdout.split())
    for says in ("4 failed", "'nowhere' does not exist", "no signing key", "misshapen", "person_keypoints_test.json"):
        assert says in told
    assert "Traceback" not in ill.stderr
    machine = hpe("check", *options(settings | wrong), "--json")
    assert machine.returncode == 2
    failed = {check["name"]: check for check in json.loads(machine.stdout)["checks"] if check["state"] == "failed"}
    assert list(failed) == ["destination", "signing_key", "checkpoint", "dataset"]
    assert all(check["advice"] for check in failed.values())
    # It is not a run.
    assert set((folder / "workspace").glob("runs/*")) == before


@pytest.mark.parametrize(
    ("changes", "environment", "code", "says"),
    [
        pytest.param({"gate.min_app": 1}, {}, 2, "no setting 'gate.min_app'", id="configuration"),
        pytest.param({}, {"HPE_SIGNING_KEY": "/no/key.pem"}, 2, "/no/key.pem cannot be read", id="signing key"),
        pytest.param({}, {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, 3, "could not be reached", id="unreachable"),
        pytest.param(
            {}, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 2, "No AWS credentials", id="credentials"
        ),
        pytest.param({}, {"AWS_ACCESS_KEY_ID": "stranger"}, 2, "does not know the credentials", id="unknown key"),
    ],
)
def test_check_names_what_is_wrong(
    hpe: Hpe, settings: dict[str, Any], changes: dict[str, Any], environment: dict[str, str], code: int, says: str
) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    done = hpe("check", *options(settings | changes), **nowhere, **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_run_without_a_bucket_ends_before_anything_is_computed(hpe: Hpe, settings: dict[str, Any]) -> None:
    asked = options(settings, destination__registry="s3://nowhere/registry", model__checkpoint="/no/such.pth")
    done = hpe("run", *asked, "--run", "unfit")
    assert done.returncode == 2, done.stdout + done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "Failed at preflight" in said
    assert said.count("The bucket 'nowhere' does not exist.") == 1
    assert said.count("/no/such.pth does not exist.") == 1
    assert "What to do: Create it" in said
    assert "fetch" not in done.stderr
    machine = hpe("run", *asked, "--run", "unfit", "--json")
    assert machine.returncode == 2
    (failure,) = json.loads(machine.stdout)["failures"]
    assert failure["step"] == "preflight"


def test_a_failure_is_told_once(hpe: Hpe, settings: dict[str, Any]) -> None:
    asked = options(settings, dataset__min_persons=999)
    done = hpe("run", *asked, "--run", "told-once")
    assert done.returncode == 2, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("The data set fails 1 of") == 1
    assert "What to do" in done.stdout
    assert "report.html" in done.stdout
    machine = hpe("run", *asked, "--run", "told-once", "--json")
    assert machine.returncode == 2
    assert json.loads(machine.stdout)["failures"][0]["step"] == "validate_dataset"
    assert machine.stderr.count("Error: The data set fails 1 of") == 1


@pytest.mark.long
def test_steps_one_by_one(hpe: Hpe, settings: dict[str, Any]) -> None:
    asked = [*options(settings, seed=7), "--run", "steps"]
    early = hpe("quantize", *asked)
    assert early.returncode == 2
    assert "Run fetch_dataset first" in early.stderr
    for step in ("fetch-dataset", "fetch-checkpoint", "validate-dataset", "evaluate-fp32"):
        done = hpe(step, *asked)
        assert done.returncode == 0, done.stderr
    checked = hpe("check-fp32", *asked)
    assert checked.returncode == 0, checked.stderr
    assert "is at least 0.000 (gate.min_ap)" in " ".join(checked.stdout.split())
    for step in ("quantize", "export-onnx"):
        done = hpe(step, *asked)
        assert done.returncode == 0, done.stderr
    tables = hpe("evaluate-quantized", *asked, "--json")
    assert json.loads(tables.stdout)["onnx"]["runtime"] == "onnxruntime"


@pytest.mark.long
def test_a_killed_step_leaves_nothing_that_counts(
    hpe: Hpe, hpe_environment: dict[str, str], settings: dict[str, Any], folder: Path
) -> None:
    # What comes before calibration is as in the runs above, and reused where they were made.
    asked = [*options(settings, recipe__calibration_images=2), "--run", "killed"]
    for step in ("fetch-dataset", "fetch-checkpoint", "validate-dataset", "evaluate-fp32", "check-fp32"):
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
    file.write_bytes(b"PK\x03\x04 this is not an archive")
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
}

BAD_INPUTS = [
    pytest.param("fetch-dataset", {"preset": "smaple"}, None, ["no preset 'smaple'"], id="unknown preset"),
    pytest.param("fetch-dataset", {"gate.min_app": 1}, None, ["no setting 'gate.min_app'", "gate.min_ap"], id="key"),
    pytest.param("fetch-dataset", {"dataset.source": "/no/such"}, None, ["/no/such"], id="missing folder"),
    pytest.param("fetch-dataset", {}, ("dataset.source", corrupt_archive), ["broken.zip"], id="corrupt archive"),
    pytest.param(
        "fetch-dataset", {}, ("dataset.source", escaping_archive), ["escaping.zip", "escaped.txt"], id="escape"
    ),
    pytest.param("validate-dataset", {}, ("dataset.source", without_keypoints), ["names its joints"], id="no joints"),
    pytest.param("fetch-checkpoint", {"model.checkpoint": "/no/such.pth"}, None, ["/no/such.pth"], id="no checkpoint"),
    pytest.param("fetch-checkpoint", {"model.checkpoint_sha256": "0" * 64}, None, ["SHA-256", "0" * 64], id="digest"),
    pytest.param(
        "fetch-checkpoint", {"model.checkpoint": "s3://absent-bucket/x.pth"}, None, ["absent-bucket"], id="bucket"
    ),
    pytest.param("fetch-checkpoint", {}, ("model.checkpoint", other_architecture), ["conv1.weight"], id="architecture"),
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
        "import sys, hpe_tasks.cli.app as m\n"
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


def test_unknown_schedule(hpe: Hpe) -> None:
    done = hpe("train", "--schedule", "aimet_post", "--out", "x.safetensors")
    assert done.returncode == 2
    assert "There is no schedule 'aimet_post'. Choose one of: sample, aimet_pose_sample, simcc_sample, " in done.stderr


def test_version(hpe: Hpe) -> None:
    done = hpe("--version")
    assert (done.returncode, done.stdout) == (0, f"{importlib.metadata.version('hpe-tasks')}\n")


def test_presets_and_keys(hpe: Hpe) -> None:
    assert "efficientpose_rt_lite" in json.loads(hpe("presets", "--json").stdout)
    keys = hpe("presets", "--keys").stdout
    assert "gate.min_ap  Lowest AP of the exported file. (at least 0, at most 1, default `0.5`)" in keys
    assert "(one of coco, mpii, crowdpose, custom, default `coco`)" in keys
    shown = hpe("presets", "--show", "sample").stdout
    assert shown.startswith("preset: sample\n")
    assert "  # Builds the Lambda package" in shown
    assert yaml.safe_load(shown)["dataset"]["source"] == "sample"
    needy = hpe("presets", "--show", "pose_resnet_50").stdout
    assert needy.startswith("# Add model.checkpoint and dataset.source.\n")
    assert yaml.safe_load(needy)["preset"] == "pose_resnet_50"
    assert hpe("presets", "--show", "x").returncode == 2
