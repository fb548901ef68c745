"""Whoever loads a network has its device alone: what an orphan still holds keeps its retry from loading one."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hpe_tasks.inference
import hpe_tasks.quantization
from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import BelowFloorError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.standalone import evaluate_file
from hpe_tasks.storage.devices import LOCK_CPU, LOCKS
from support.no_s3 import no_s3
from support.other_process import other_process
from support.tiny_inputs import tiny_settings

ORPHAN = """
import os, sys, time
os.environ |= {"HPE_DEVICE_LOCKS": sys.argv[1], "HPE_LOCK_CPU": "1"}
from hpe_tasks.storage.devices import device_held
with device_held("cpu"):
    print("ready", flush=True)
    time.sleep(600)
"""
STEPS = (
    *("fetch_dataset", "fetch_checkpoint", "validate_dataset", "evaluate_fp32", "check_fp32", "quantize"),
    *("export_onnx", "evaluate_quantized"),
)
LOADS = {
    hpe_tasks.inference: ("measured_fp32", "fp32_predictor", "onnx_predictor"),
    hpe_tasks.quantization: ("load_quantsim", "quantize_model"),
}


class Machine:
    """A workspace with inputs, on a machine whose processor counts as a device."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, {**tiny_settings(folder), "evaluation.batch_size": 2}

    def open(self, **changes: Any) -> Run:
        overrides = self.settings | {key.replace("__", "."): value for key, value in changes.items()}
        config = load_config(overrides.pop("preset"), overrides=overrides)
        workspace, cache = (self.folder / "workspace").as_uri(), self.folder / "cache"
        return open_run(config, workspace=workspace, cache=cache, name="r", s3=no_s3)

    def up_to(self, last: str, run: Run) -> Run:
        """Have made what a step needs, and forget what it has made itself before."""
        for name in STEPS[: STEPS.index(last)]:
            getattr(steps, name)(run)
        for made in (self.folder / "workspace/store").glob(f"{last}*"):
            shutil.rmtree(made)
        return run


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


def whole(name: str) -> Callable[[Machine], Any]:
    return lambda machine: getattr(steps, name)(machine.up_to(name, machine.open()))


def shard(name: str) -> Callable[[Machine], Any]:
    return lambda machine: getattr(steps, name).make_shard(machine.up_to(name, machine.open(evaluation__shards=2)), 1)


def in_shards(machine: Machine) -> Any:
    return steps.evaluate_fp32(machine.up_to("evaluate_fp32", machine.open(evaluation__shards=2)))


def below_the_floor(machine: Machine) -> Any:
    run = machine.up_to("check_fp32", machine.open(gate__min_ap=0.9))
    with pytest.raises(BelowFloorError):
        steps.check_fp32(run)


def by_command(machine: Machine) -> Any:
    return evaluate_file(machine.open().config, machine.folder / "cache", no_s3)


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(whole("evaluate_fp32"), id="evaluate_fp32"),
        pytest.param(in_shards, id="evaluate_fp32 in parts"),
        pytest.param(shard("evaluate_fp32"), id="a part of evaluate_fp32"),
        pytest.param(below_the_floor, id="check_fp32"),
        pytest.param(by_command, id="hpe evaluate"),
        pytest.param(whole("quantize"), id="quantize", marks=pytest.mark.long),
        pytest.param(whole("evaluate_quantized"), id="evaluate_quantized", marks=pytest.mark.long),
        pytest.param(shard("evaluate_quantized"), id="a part of evaluate_quantized", marks=pytest.mark.long),
    ],
)
def test_no_network_is_loaded_while_an_orphan_has_the_device(
    measure: Callable[[Machine], Any],
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    prepare(machine, request.node.callspec.id)
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    monkeypatch.setenv(LOCK_CPU, "1")
    loaded = noticed(monkeypatch)
    with other_process(ORPHAN, tmp_path / "locks") as orphan, ThreadPoolExecutor(1) as retry:
        with caplog.at_level(logging.WARNING):
            measured = retry.submit(measure, machine)
            deadline = time.monotonic() + 120
            while f"Waiting for process {orphan.pid}, which uses cpu" not in caplog.text:
                assert not measured.done(), (measured.exception(), loaded)
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert loaded == []
        orphan.kill()
        measured.result(120)
        assert loaded != []


def prepare(machine: Machine, case: str) -> None:
    """Have what a step needs made before an orphan holds the device: steps before it want that too."""
    name = case.removeprefix("a part of ").removesuffix(" in parts")
    if name in STEPS:
        machine.up_to(name, machine.open())


def noticed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what loads a network from now on."""
    loaded: list[str] = []

    def notice(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(*arguments: Any, **options: Any) -> Any:
            loaded.append(name)
            return original(*arguments, **options)

        return load

    for module, names in LOADS.items():
        for name in names:
            monkeypatch.setattr(module, name, notice(name, getattr(module, name)))
    return loaded
