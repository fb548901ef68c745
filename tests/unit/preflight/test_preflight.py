"""What the preflight says of a run's inputs, destination and machine; all at once, and before anything is fetched."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import onnx
import pytest
import torch
from moto import mock_aws
from onnx import TensorProto, helper
from safetensors.torch import save_file

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import CheckpointError, PreflightError, TransientError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.preflight import refuse_failed
from hpe_tasks.records.preflight import Preflight, PreflightCheck
from support import tiny_networks as tiny
from support.faulty_server import serve
from support.signing_keys import key_pem

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def client() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t")
        client.create_bucket(Bucket="models")
        yield client


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set `data`, a fitting checkpoint, and an ONNX network of 64×32."""
    folder = tmp_path_factory.mktemp("inputs")
    make_sample(folder / "data", SampleSpec(train=1, calibration=2, val=2, width=200, height=150))
    tiny.write_checkpoint(folder / "fits.safetensors", tiny.mobilenet_config())
    tiny.write_onnx(folder / "pose.onnx")
    return folder


@pytest.fixture
def open_at(client: Any, inputs: Path, tmp_path: Path) -> Callable[..., Run]:
    def open_one(**changes: Any) -> Run:
        settings = {
            "model.checkpoint": str(inputs / "fits.safetensors"),
            "model.input_width": 64,
            "model.input_height": 64,
            "model.width_multiplier": 0.125,
            "dataset.source": str(inputs / "data"),
            "dataset.allow_private_addresses": True,
            "destination.registry": "s3://models/registry",
            "destination.smoke_test": False,
        } | {key.replace("__", "."): value for key, value in changes.items()}
        config = load_config("sample", overrides=settings)
        workspace = (tmp_path / "workspace").as_uri()
        return open_run(config, workspace=workspace, cache=tmp_path / "cache", name="r", s3=lambda: client)

    return open_one


ONNX = {"model__architecture": "onnx", "model__joint_names": ("head", "neck", "hip", "knee", "foot")}


def recorded(run: Run) -> Preflight:
    record = run.find(steps.preflight)
    assert record is not None
    return record


def test_a_run_that_can_end_well(open_at: Callable[..., Run], tmp_path: Path, client: Any) -> None:
    run = open_at()
    record = steps.preflight(run)
    assert [check.state for check in record.checks] == ["ok"] * len(record.checks), record.checks
    assert [check.name for check in record.checks] == [
        *("configuration", "workspace", "destination", "signing_key", "checkpoint", "dataset"),
        *("disk", "memory", "processor"),
    ]
    assert run.recorded(steps.preflight) == record
    # It always looks anew, and leaves nothing but its record, and what tells a collector that it is in use.
    steps.preflight(run)
    assert not (tmp_path / "cache").exists()
    workspace = tmp_path / "workspace"
    left = [path.relative_to(workspace) for path in workspace.rglob("*") if path.is_file()]
    assert {path.name for path in left if path.parts[0] != "used"} == {"run.json", "result.json"}
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket="models")["Contents"]] == [
        "registry/preflight/probe"
    ]


def other_architecture(folder: Path) -> dict[str, Any]:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, folder / "other.safetensors")
    return {"model__checkpoint": str(folder / "other.safetensors")}


def fixed_size(folder: Path) -> dict[str, Any]:
    tiny.write_onnx(folder / "pose.onnx")
    return ONNX | {"model__checkpoint": str(folder / "pose.onnx"), "model__input_height": 64}


def size_that_it_does_not_take(folder: Path) -> dict[str, Any]:
    """A network with a free size that adds a map at a quarter of it, enlarged, to one at half of it."""
    model = tiny.pose_onnx(shape=("n", 3, "h", "w"))
    graph, heatmaps = model.graph, model.graph.output[0].name
    pooled = helper.make_node("MaxPool", [heatmaps], ["pooled"], kernel_shape=[2, 2], strides=[2, 2])
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    enlarged = helper.make_node("Resize", ["pooled", "", "scales"], ["enlarged"])
    added = helper.make_node("Add", [heatmaps, "enlarged"], ["sum"])
    graph.node.extend([pooled, enlarged, added])
    graph.initializer.append(scales)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 5, "a", "b"]))
    onnx.save(model, folder / "free.onnx")
    return ONNX | {"model__checkpoint": str(folder / "free.onnx"), "model__input_width": 64, "model__input_height": 34}


def broken_aimet_config(folder: Path) -> dict[str, Any]:
    (folder / "aimet.json").write_text("[]")
    return {"recipe__aimet_config": str(folder / "aimet.json")}


FAILURES = [
    pytest.param({"destination__registry": "s3://absent/r"}, "destination", "bucket 'absent' does not", id="bucket"),
    pytest.param({"destination__registry": "s3://a b/r"}, "destination", "not a valid S3 address", id="bucket's name"),
    pytest.param(
        {"destination__require_signature": True}, "signing_key", r"no signing key.*HPE_SIGNING_KEY", id="no key"
    ),
    pytest.param(
        other_architecture,
        "checkpoint",
        r"does not fit the network.*conv1.weight.*model.architecture",
        id="architecture",
    ),
    pytest.param(
        {"model__width_multiplier": 0.25}, "checkpoint", r"does not fit.*misshapen.*width_multiplier", id="multiplier"
    ),
    pytest.param({"model__skeleton": "mpii16"}, "checkpoint", "does not fit the network", id="joints"),
    pytest.param(fixed_size, "checkpoint", r"64 wide and 64 high.*model\.input_width", id="another fixed size"),
    pytest.param(
        size_that_it_does_not_take,
        "checkpoint",
        r"free\.onnx .*64 wide and 34 high.*model\.input_height to a size that the network takes",
        id="size that it does not take",
    ),
    pytest.param({"model__checkpoint": "/no/such.pth"}, "checkpoint", "/no/such.pth does not exist", id="file"),
    pytest.param({"model__checkpoint_sha256": "0" * 64}, "checkpoint", "has the SHA-256", id="digest"),
    pytest.param(
        {"model__checkpoint": "s3://absent/x.pth"}, "checkpoint", "bucket 'absent' does not exist", id="its bucket"
    ),
    pytest.param(
        {"dataset__evaluation_split": "test"}, "dataset", r"has no annotations/person_keypoints_test\.json", id="split"
    ),
    pytest.param({"dataset__boxes": "/no/boxes.json"}, "dataset.boxes", "does not exist", id="boxes"),
    pytest.param(
        {"dataset__image_archives": ["/no/a.zip", "/no/b.zip"]},
        "dataset.image_archives",
        "'/no/a.zip' does not exist",
        id="archives",
    ),
    pytest.param(broken_aimet_config, "configuration", "has no `defaults` section", id="AIMET's configuration"),
]


@pytest.mark.parametrize(("changes", "name", "says"), FAILURES)
def test_each_failure_is_recorded_with_what_to_do(
    open_at: Callable[..., Run], tmp_path: Path, changes: Any, name: str, says: str
) -> None:
    run = open_at(**(changes(tmp_path) if callable(changes) else changes))
    with pytest.raises(PreflightError, match=says):
        steps.preflight(run)
    (first, *_) = recorded(run).failed
    assert first.name == name
    assert {check.name for check in recorded(run).failed} == {name}
    assert first.advice or name == "checkpoint"
    assert not first.may_pass


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        pytest.param(b"no key", "not a private key in PEM", id="no key"),
        pytest.param(key_pem(), "", id="a key"),
    ],
)
def test_the_signing_key_is_opened(open_at: Callable[..., Run], pem: bytes, says: str) -> None:
    run = replace(open_at(), signing_key=lambda: pem)
    if says:
        with pytest.raises(PreflightError, match=says):
            steps.preflight(run)
    else:
        assert "Ed25519" in next(c.found for c in steps.preflight(run).checks if c.name == "signing_key")


def test_all_failures_are_told_together(
    open_at: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 1000))
    monkeypatch.setenv("HPE_LAMBDA_PYTHON", "/nowhere/python")
    run = open_at(
        destination__registry="s3://absent/r",
        destination__smoke_test=True,
        model__checkpoint="/no/such.pth",
        dataset__source="/no/data",
    )
    with pytest.raises(PreflightError) as caught:
        steps.preflight(run)
    failed = {check.name: check for check in recorded(run).failed}
    assert list(failed) == ["destination", "smoke_test", "checkpoint", "dataset", "disk"]
    assert "too full" in failed["disk"].found
    assert f"5 of {len(recorded(run).checks)} preflight checks failed." in caught.value.message
    for check in failed.values():
        assert f"{check.title}: {check.found}" in caught.value.message
        assert check.advice in caught.value.message
    (failure,) = REQUANTIZE.failures(run)
    assert (failure.step, failure.message) == ("preflight", caught.value.message)
    assert records_of(run).preflight == recorded(run)


@pytest.mark.parametrize(
    ("also", "kind"),
    [
        pytest.param({}, TransientError, id="the network alone"),
        pytest.param({"destination__registry": "s3://absent/r"}, PreflightError, id="and a wrong bucket"),
    ],
)
def test_only_what_may_pass_is_tried_again(open_at: Callable[..., Run], also: dict[str, Any], kind: type) -> None:
    run = open_at(model__checkpoint="http://127.0.0.1:9/x.safetensors", **also)
    with pytest.raises(kind):
        steps.preflight(run)
    assert {check.may_pass for check in recorded(run).failed} == ({True, False} if also else {True})


def test_a_mended_run_forgets_its_failure(open_at: Callable[..., Run], client: Any) -> None:
    run = open_at(destination__registry="s3://later/r")
    with pytest.raises(PreflightError, match="'later' does not exist"):
        steps.preflight(run)
    client.create_bucket(Bucket="later")
    assert not steps.preflight(run).failed
    assert REQUANTIZE.failures(run) == ()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        pytest.param({"recipe__activation_bw": 16}, "recipe.activation_bw=8", id="16-bit activations"),
        pytest.param({"recipe__saturation_free": False}, "recipe.saturation_free=true", id="no proof"),
    ],
)
def test_settings_that_cannot_publish_are_a_warning(
    open_at: Callable[..., Run], caplog: pytest.LogCaptureFixture, changes: dict[str, Any], advice: str
) -> None:
    (warning,) = steps.preflight(open_at(**changes)).warnings
    assert warning.name == "configuration"
    assert advice in warning.advice
    assert f"the gate will refuse it. {warning.advice}" in caplog.text


def test_a_function_that_would_not_start_here_fails_before_the_run(
    open_at: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpe_tasks.contract.cpu.cpu_features", lambda: ("x86_64", "avx2"))
    asked = {"destination__processors": "x86_64_vnni", "recipe__saturation_free": False}
    with pytest.raises(PreflightError, match=r"would not start here: destination\.processors is x86_64_vnni"):
        steps.preflight(open_at(**asked, destination__smoke_test=True))
    assert not steps.preflight(open_at(**asked)).failed


def test_a_remote_checkpoint_is_held_against_the_architecture_when_it_is_here(
    open_at: Callable[..., Run], inputs: Path, tmp_path: Path
) -> None:
    with serve((inputs / "fits.safetensors").read_bytes()) as site:
        address = f"{site.address}/fits.safetensors"
        run = open_at(model__checkpoint=address, model__width_multiplier=0.25)
        (found,) = [check for check in steps.preflight(run).checks if check.name == "checkpoint"]
        assert found.state == "ok"
        assert "fetch_checkpoint sees whether it fits" in found.found
        assert not (tmp_path / "cache").exists()
        with pytest.raises(CheckpointError, match="does not fit the network"):
            steps.fetch_checkpoint(run)
        assert run.find(steps.fetch_checkpoint) is None
        # Now it is here, and the preflight sees it too.
        with pytest.raises(PreflightError, match="does not fit the network"):
            steps.preflight(run)
        fitting = open_at(model__checkpoint=address)
        assert "fits pose_mobilenet" in str(steps.preflight(fitting).checks)
        assert steps.fetch_checkpoint(fitting).file.size_bytes > 0


def test_every_step_works_without_it(open_at: Callable[..., Run]) -> None:
    run = open_at(destination__registry="s3://absent/r")
    assert steps.fetch_checkpoint(run)
    assert steps.fetch_dataset(run)
    assert records_of(run).preflight is None
    assert all(steps.preflight not in (*step.needs, *step.after) for step in REQUANTIZE.steps)


def test_records_survive_json() -> None:
    check = PreflightCheck(name="disk", title="Disk", state="failed", found="full", advice="free some")
    record = Preflight(checks=(check,))
    assert Preflight.model_validate(json.loads(record.model_dump_json())) == record
    refuse_failed(Preflight(checks=()))
