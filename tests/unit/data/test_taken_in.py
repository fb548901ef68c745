from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.io
import torch
from onnx import helper, numpy_helper

from hpe_tasks.api.configs import from_onnx
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.fetch.taken_in import check_checkpoint, try_matlab_file
from hpe_tasks.errors import CheckpointError, DatasetError, HpeError
from hpe_tasks.models import build_model
from hpe_tasks.models.onnx_model import prepare_onnx
from hpe_tasks.pipeline.standalone import evaluate_file
from hpe_tasks.training.starting import initial_model
from support import tiny_networks as tiny
from support.bombs import deflated_weights, endless_loop, slow_loop
from support.coco_factory import EVALUATION, write_coco
from support.no_s3 import no_s3
from support.training_factory import top_down

BOMB_BYTES = 300 * 10**6
WEIGHTS = tiny.mobilenet_config()
NETWORK = tiny.onnx_config()


def repeated(path: Path) -> None:
    scipy.io.savemat(path, {"zeros": np.zeros(BOMB_BYTES // 8)}, do_compression=True)


def enlarging(path: Path) -> None:
    """A network that makes a large tensor of one number."""
    model = tiny.pose_onnx()
    model.graph.initializer.append(numpy_helper.from_array(np.array([BOMB_BYTES // 4]), "size"))
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["large"], value=zero))
    model.graph.node.append(helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["maps", "most"], ["heatmaps"]))
    model.graph.node[5].output[0] = "maps"
    onnx.save(model, path)


def good_weights(path: Path) -> None:
    torch.save(build_model(WEIGHTS).state_dict(), path)


def good_network(path: Path) -> None:
    onnx.save(tiny.pose_onnx(), path)


def good_truth(path: Path) -> None:
    scipy.io.savemat(path, {"numbers": np.arange(9.0)}, do_compression=True)


def take_in(path: Path) -> None:
    if path.suffix == ".mat":
        try_matlab_file(path, path.parent / "cache")
    else:
        config: ModelConfig = NETWORK if path.suffix == ".onnx" else WEIGHTS
        check_checkpoint(config, path, path.parent / "cache")


BOMBS: dict[str, tuple[Callable[[Path], object], dict[str, str], type[HpeError], str]] = {
    "bomb.pt": (
        partial(deflated_weights, size_bytes=BOMB_BYTES),
        {"MEMORY_MB": "150"},
        CheckpointError,
        "took more than 150 MB of memory",
    ),
    "bomb.mat": (repeated, {"MEMORY_MB": "150"}, DatasetError, "took more than 150 MB of memory"),
    "large.onnx": (enlarging, {"MEMORY_MB": "150"}, CheckpointError, "took more than 150 MB of memory"),
    "slow.onnx": (slow_loop, {"CPU_S": "2"}, CheckpointError, "took more than 2 s of processor time"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_takes_too_much_is_refused_each_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, limits, kind, message = BOMBS[name]
    for variable, value in limits.items():
        monkeypatch.setenv(f"HPE_READER_{variable}", value)
    write(tmp_path / name)
    for _ in range(2):
        with pytest.raises(kind, match=f"{name} {message}"):
            take_in(tmp_path / name)


def evaluating(path: Path) -> None:
    settings = {"model.checkpoint": str(path), "dataset.source": str(write_coco(path.parent / "coco"))}
    config = load_config("sample", overrides=settings | {"dataset.evaluation_split": EVALUATION})
    if path.suffix == ".onnx":
        config = config.model_copy(update={"model": NETWORK.model_copy(update={"checkpoint": str(path)})})
    evaluate_file(config, path.parent / "cache", no_s3)


def describing(path: Path) -> None:
    names = list(NETWORK.joint_names or ())
    from_onnx(path, path.parent, settings={"model.joint_names": names}, cache=path.parent / "cache")


def training(path: Path) -> None:
    initial_model(top_down(initial_weights=str(path)))


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (evaluating, "bomb.pt"),
        pytest.param(evaluating, "large.onnx", marks=pytest.mark.long),
        pytest.param(evaluating, "slow.onnx", marks=pytest.mark.long),
        (describing, "slow.onnx"),
        (training, "bomb.pt"),
    ],
)
def test_so_is_it_outside_of_runs(
    read: Callable[[Path], None], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, limits, kind, message = BOMBS[name]
    for variable, value in limits.items():
        monkeypatch.setenv(f"HPE_READER_{variable}", value)
    write(tmp_path / name)
    with pytest.raises(kind, match=f"{name} {message}"):
        read(tmp_path / name)


GOOD = {"good.pt": good_weights, "good.onnx": good_network, "good.mat": good_truth}


@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_read_apart_once_for_each_content(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def times() -> int:
        return sum("in a process of its own" in record.message for record in caplog.records)

    caplog.set_level(logging.INFO, "hpe_tasks.untrusted")
    GOOD[name](tmp_path / name)
    for _ in range(2):
        take_in(tmp_path / name)
        assert times() == 1
    same = tmp_path / f"same{Path(name).suffix}"
    same.write_bytes((tmp_path / name).read_bytes())
    take_in(same)
    assert times() == 1
    with (tmp_path / name).open("ab") as changed:
        changed.write(b"\0")
    try:
        take_in(tmp_path / name)
    except CheckpointError as error:
        assert name in error.message  # noqa: PT017 - a byte more is damage to some formats, and none to others
    assert times() == 2


def test_what_does_not_fit_is_told_as_ever(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit the network.*1 extra: other"):
        check_checkpoint(WEIGHTS, tmp_path / "other.pth", tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        check_checkpoint(WEIGHTS, tmp_path / "absent.pth", tmp_path / "cache")


def test_weights_in_a_format_that_is_safe_are_read_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hpe_tasks.untrusted")
    check_checkpoint(WEIGHTS, tiny.write_checkpoint(tmp_path / "w.safetensors", WEIGHTS), tmp_path / "cache")
    assert not caplog.records
    assert not (tmp_path / "cache").exists()


def test_the_loop_of_the_bomb_is_one_that_is_accepted_with_fewer_trips(tmp_path: Path) -> None:
    endless_loop(tmp_path / "loop.onnx")
    model = onnx.load(tmp_path / "loop.onnx")
    trips = next(tensor for tensor in model.graph.initializer if tensor.name == "trips")
    trips.CopyFrom(numpy_helper.from_array(np.array(3), "trips"))
    onnx.save(model, tmp_path / "loop.onnx")
    prepare_onnx(tmp_path / "loop.onnx", tmp_path / "cleaned.onnx", NETWORK)
