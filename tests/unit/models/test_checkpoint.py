from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models import build_model, checkpoint
from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint
from hpe_tasks.networks.aimet_pose import AimetPose

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


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_the_zoos_archive_loads(tmp_path: Path) -> None:
    """A bare state dict in a .tgz, read into the network that gives its last stage only."""
    source = AimetPose()
    (tmp_path / "pose").mkdir()
    torch.save(source.state_dict(), tmp_path / "pose" / "pe_weights.pth")
    path = tmp_path / "pose_estimation_pytorch_weights.tgz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "pose", "pose")
    target = build("aimet_pose", codec="paf")
    load_checkpoint(target, path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pose", path.name]


@pytest.mark.parametrize("member", ["w.pth", "W.PTH.TAR", "a/b/w.pt", "/abs/../w.safetensors", "w.tar"])
@pytest.mark.parametrize("suffix", [".tgz", ".tar.gz", ".TGZ"])
def test_the_one_checkpoint_of_an_archive_is_found(state: State, tmp_path: Path, member: str, suffix: str) -> None:
    content = save(state) if member.endswith(".safetensors") else saved(state)
    others = {"README.md": b"notes", "._w.pth": b"what macOS adds", "a/._w.pt": b"x", "log.txt": b""}
    model = build()
    load_checkpoint(model, archive(tmp_path / f"weights{suffix}", {**others, member: content}))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert [p.name for p in tmp_path.iterdir()] == [f"weights{suffix}"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param({}, "holds no checkpoint, .* Its files: none", id="empty"),
        pytest.param({"a.txt": b"x", "b/c.onnx": b"x"}, r"no checkpoint, .* a\.txt, b/c\.onnx\.", id="none"),
        pytest.param({"a.pth": b"x", "b.pt": b"x"}, r"2 checkpoints, .* a\.pth, b\.pt\.", id="several"),
        pytest.param({"a.pth": b"<html>"}, "cannot be read", id="broken member"),
        pytest.param({"a.safetensors": b"<html>"}, "cannot be read", id="broken safetensors member"),
    ],
)
def test_an_archive_without_one_good_checkpoint_is_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(build(), archive(tmp_path / "weights.tgz", members))
    assert "weights.tgz" in caught.value.message
    assert caught.value.hint


def test_a_link_in_an_archive_is_no_checkpoint(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "outside.pth")
    link = tarfile.TarInfo("w.pth")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside.pth")
    with tarfile.open(tmp_path / "weights.tgz", "w:gz") as file:
        file.addfile(link)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(build(), tmp_path / "weights.tgz")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_MAX_UNPACKED_BYTES", 1_000_000)
    path = archive(tmp_path / "bomb.tgz", {"a.txt": bytes(600_000), "w.pth": bytes(600_000)})
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"bomb\.tgz unpacks to more than 0\.001 GB"):
        load_checkpoint(build(), path)


def test_a_cut_archive_is_named(state: State, tmp_path: Path) -> None:
    path = archive(tmp_path / "cut.tgz", {"w.pth": saved(state)})
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match=r"cut\.tgz cannot be read"):
        load_checkpoint(build(), path)


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
        pytest.param("a.tgz", b"<!doctype html>", "cannot be read", id="web page as archive"),
        pytest.param("a.tar.gz", saved({"a": torch.zeros(4)}), "cannot be read", id="torch file as archive"),
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
