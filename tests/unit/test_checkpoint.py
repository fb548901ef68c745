from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpe_tasks.config import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint

State = dict[str, torch.Tensor]


def build(architecture: str = "pose_mobilenet", **fields: object) -> nn.Module:
    return build_model(
        ModelConfig.model_validate(
            {"architecture": architecture, "checkpoint": "w.pth", "width_multiplier": 0.125, **fields}
        )
    )


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(3)
    return build().state_dict()


def bare(state: State, path: Path) -> Path:
    torch.save(state, path.with_name("weights.pth"))
    return path.with_name("weights.pth")


def published(state: State, path: Path) -> Path:
    torch.save(state, path.with_name("weights.pth.tar"))
    return path.with_name("weights.pth.tar")


def nested(state: State, path: Path) -> Path:
    torch.save({"epoch": 140, "state_dict": state, "perf": 0.7}, path.with_name("nested.pth.tar"))
    return path.with_name("nested.pth.tar")


def parallel(state: State, path: Path) -> Path:
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path.with_name("parallel.pth"))
    return path.with_name("parallel.pth")


def parallel_and_nested(state: State, path: Path) -> Path:
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, path.with_name("both.pth"))
    return path.with_name("both.pth")


def old_format(state: State, path: Path) -> Path:
    torch.save(state, path.with_name("old.pth.tar"), _use_new_zipfile_serialization=False)
    return path.with_name("old.pth.tar")


def without_counters(state: State, path: Path) -> Path:
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, path.with_name("counters.pth"))
    return path.with_name("counters.pth")


def tensors_only(state: State, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path.with_name("weights.safetensors"))
    return path.with_name("weights.safetensors")


@pytest.mark.parametrize(
    "write",
    [bare, published, nested, parallel, parallel_and_nested, old_format, without_counters, tensors_only],
    ids=lambda f: f.__name__,
)
def test_published_forms_load(state: State, tmp_path: Path, write: Callable[[State, Path], Path]) -> None:
    model = build()
    load_checkpoint(model, write(state, tmp_path / "x"))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_mpii_resnet_loads(tmp_path: Path) -> None:
    source = build("pose_resnet_18", skeleton="mpii16")
    torch.save(source.state_dict(), tmp_path / "pose_resnet_18_256x256.pth.tar")
    target = build("pose_resnet_18", skeleton="mpii16")
    load_checkpoint(target, tmp_path / "pose_resnet_18_256x256.pth.tar")
    assert torch.equal(target.state_dict()["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(state: State, tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "was_here"
    content = {"state_dict": state, "hook": Malicious(mark)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"hook": Malicious(mark)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        load_checkpoint(build(), path)
    assert not mark.exists()


def test_a_pickled_module_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(build(), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match="more than tensors") as caught:
        load_checkpoint(build(), tmp_path / "module.pth")
    assert "state_dict" in caught.value.hint


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("a.pth", b"", "cannot be read", id="empty"),
        pytest.param("a.pth", b"<!doctype html><title>404</title>", "cannot be read", id="web page"),
        pytest.param("a.pth", b"\x80\x02", "cannot be read", id="cut pickle"),
        pytest.param("a.pth", saved({"a": torch.zeros(64)})[:-200], "cannot be read", id="cut torch file"),
        pytest.param("a.safetensors", b"nothing", "cannot be read", id="broken safetensors"),
        pytest.param("a.pth", saved([1, 2]), "no state dict, but a list", id="a list"),
        pytest.param("a.pth", saved({}), "no state dict, but an empty one", id="empty dict"),
        pytest.param("a.pth", saved({1: torch.zeros(1)}), "no state dict", id="keys are numbers"),
        pytest.param("a.pth", saved({"epoch": 3, "model": torch.zeros(1)}), "epoch is not tensors", id="other dict"),
        pytest.param("a.bin", b"x", "suffix", id="suffix"),
        pytest.param("a.onnx", b"x", "suffix", id="onnx"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(build(), path)
    assert name in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        load_checkpoint(build(), tmp_path / "absent.pth")


def drop(state: State) -> None:
    del state["heatmaps.bias"]


def add(state: State) -> None:
    state["heatmaps.extra"] = torch.zeros(1)


def reshape(state: State) -> None:
    state["heatmaps.bias"] = torch.zeros(16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(drop, r"1 missing: heatmaps\.bias\.", id="missing"),
        pytest.param(add, r"1 extra: heatmaps\.extra\.", id="extra"),
        pytest.param(reshape, r"1 misshapen: heatmaps\.bias \(16, expected 17\)\.", id="misshapen"),
    ],
)
def test_keys_that_do_not_fit_are_listed(
    state: State, tmp_path: Path, change: Callable[[State], None], message: str
) -> None:
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / "w.pth")
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(model, tmp_path / "w.pth")
    assert "model.architecture" in caught.value.hint
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_another_architecture_is_refused_with_a_short_list(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight.* more; .*extra: features\.0\.weight") as caught:
        load_checkpoint(build("pose_resnet_18"), tmp_path / "w.pth")
    assert len(caught.value.message) < 1500


def test_the_shipped_checkpoint_fits(tmp_path: Path) -> None:
    path = sample_checkpoint()
    assert path.stat().st_size <= 3_000_000
    load_checkpoint(build(width_multiplier=0.5), path)
