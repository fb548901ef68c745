"""Reading weights into a network: the published forms of pose checkpoints, and nothing that can run code."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError, shortened
from hpe_tasks.models import build_model
from hpe_tasks.models.recognition import COUNTER, recognize
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.untrusted.tar import PlainTarInfo

_PICKLED = (".pth", ".pt", ".pth.tar", ".tar")
_TENSORS_ONLY = ".safetensors"
_ARCHIVES = (".tgz", ".tar.gz")
_MAX_UNPACKED_BYTES = 2_000_000_000
_MAX_MEMBERS = 1000
_PARALLEL_PREFIX = "module."
_LISTED = 8
# How torch.load(weights_only=True) names a class or function that it would have to import.
_REFUSED_CODE = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def sample_checkpoint(architecture: str = "pose_mobilenet") -> Path:
    """The shipped weights of a network, trained on the sample data set.

    Raises:
        CheckpointError: No weights of it are shipped.
    """
    name = ARCHITECTURES[architecture].sample_checkpoint
    if name is None:
        raise CheckpointError(f"No weights of {architecture} are shipped.", hint="Set model.checkpoint to yours.")
    return Path(__file__).resolve().parent.parent / "assets" / name


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Read weights into a network; either all of them fit, or the network is left as it was.

    The file is `.safetensors`, or what `torch.save` wrote (`.pth`, `.pth.tar`): a state dict or a dict with one under
    `state_dict`, with or without the `module.` prefix that training on several GPUs leaves. Or it is a `.tgz` with
    exactly one such file, which is read in memory. Only tensors are unpickled, never code.

    Raises:
        CheckpointError: The file is missing, of another kind, broken, or does not fit; lists missing, extra and
            misshapen keys.
    """
    model.load_state_dict(_fitting_state(model, path))


@dataclass(frozen=True)
class CommonLayers:
    """Which weights a network has taken from a file.

    Attributes:
        taken: Names of those that both have, with the same shapes.
        own: Names of the network's others, which stay as they are.
        left: Names of the file's others.
    """

    taken: tuple[str, ...]
    own: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        told = [f"{len(self.taken)} weights taken ({_by_module(self.taken, (*self.taken, *self.own))})"]
        told.append(f"at random: {_by_module(self.own, (*self.taken, *self.own)) or 'none'}")
        if self.left:
            told.append(f"not used of the file: {_by_module(self.left, (*self.taken, *self.left))}")
        return "; ".join(told)


def _by_module(names: Sequence[str], among: Sequence[str]) -> str:
    """The modules at the top that hold weights; of one of which others hold some, how many."""
    found, all_of = (Counter(name.split(".")[0] for name in listed) for listed in (names, among))
    return ", ".join(
        module if count == all_of[module] else f"{module} ({count} of {all_of[module]})"
        for module, count in found.items()
    )


def load_common_layers(model: nn.Module, path: Path) -> CommonLayers:
    """Read the weights whose names and shapes a network has as well: those of a network with another head.

    Such a file may be a classifier's that was trained on ImageNet: torchvision's ResNets name their layers as Simple
    Baselines does.

    Raises:
        CheckpointError: The file cannot be read, or has none of the network's layers.
    """
    state, own = _without_prefix(_read(path)), model.state_dict()
    common = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    if not any(tensor.dim() > 1 for tensor in common.values()):
        raise CheckpointError(
            f"The checkpoint {path} has no layer in common with the network.",
            hint="Set architecture and width_multiplier to what the file was trained with.",
        )
    model.load_state_dict({**own, **common})
    return CommonLayers(
        taken=tuple(name for name in own if name in common),
        own=tuple(name for name in own if name not in common and not name.endswith(COUNTER)),
        left=tuple(name for name in state if name not in common),
    )


def check_checkpoint(model: nn.Module, path: Path) -> None:
    """Raise CheckpointError unless `load_checkpoint` would take the file; the network stays as it was."""
    _fitting_state(model, path)


def try_checkpoint(file: str, *, model: dict[str, Any]) -> None:
    """Read a file as `check_checkpoint` does, with the fields of a model's configuration: for `try_reading`."""
    check_checkpoint(build_model(ModelConfig.model_validate(model)), Path(file))


def _fitting_state(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    state = _without_prefix(_read(path))
    expected = model.state_dict()
    # Files from before PyTorch 0.4.1 do not count batches; the counter is not used in inference.
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            state.setdefault(name, tensor)
    _check_fit(state, expected, path)
    return state


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.", hint="Check model.checkpoint.")
    name = path.name.lower()
    if name.endswith(_ARCHIVES):
        name, content = _only_member(path)
        if not name.endswith(_TENSORS_ONLY):
            return _state_dict(_unpickle(io.BytesIO(content), path), path)
        try:
            return dict(load(content))
        except SafetensorError as error:
            raise _broken(path, str(error)) from error
    if name.endswith(_TENSORS_ONLY):
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise _broken(path, str(error)) from error
    if name.endswith(_PICKLED):
        return _state_dict(_unpickle(path, path), path)
    raise CheckpointError(
        f"The checkpoint {path.name} has a suffix that is not known.",
        hint="Give a .safetensors, .pth or .pth.tar file, or a .tgz with one of them; an .onnx file needs "
        "model.architecture=onnx.",
    )


def _only_member(path: Path) -> tuple[str, bytes]:
    """Name in lower case and content of the one checkpoint in a compressed tar archive."""
    names: list[str] = []
    found: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(path, "r:gz", tarinfo=PlainTarInfo) as archive:
            for member in archive:
                cast("Any", archive).members.clear()  # tarfile would keep every record in memory.
                if member.offset_data + member.size > _MAX_UNPACKED_BYTES:
                    raise CheckpointError(
                        f"The archive {path} unpacks to more than {_MAX_UNPACKED_BYTES / 1e9:g} GB.",
                        hint="Take the checkpoint out of it, and give that file.",
                    )
                # macOS adds a hidden `._x` beside each file `x`.
                hidden = PurePosixPath(member.name).name.startswith(".")
                if member.isfile() and not hidden:
                    names.append(shortened(member.name))
                    if member.name.lower().endswith((*_PICKLED, _TENSORS_ONLY)):
                        found.append(member)
                if len(names) > _MAX_MEMBERS:
                    raise CheckpointError(
                        f"The archive {path} holds more than {_MAX_MEMBERS:,} files, but must hold one checkpoint.",
                        hint="Take the checkpoint out of it, and give that file.",
                    )
            if len(found) == 1 and (file := archive.extractfile(found[0])) is not None:
                return found[0].name.lower(), file.read()
    except (tarfile.TarError, EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise _broken(path, _first_line(error)) from error
    raise CheckpointError(
        f"The archive {path} holds {len(found) or 'no'} checkpoint{'s' if found else ''}, but must hold exactly one. "
        f"Its files: {_listing(names) or 'none'}.",
        hint="Take the checkpoint (.pth, .pth.tar, .pt, .safetensors) out of it, and give that file.",
    )


def _unpickle(source: Path | BinaryIO, path: Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _REFUSED_CODE.search(str(error))
        if code:
            raise CheckpointError(
                f"The checkpoint {path} holds more than tensors: it refers to the code {code.group(1)}.",
                hint="Unpickling such a file can run any code, so it is refused. "
                "Save the state dict alone: torch.save(model.state_dict(), file).",
            ) from error
        raise _broken(path, "it is not a file that torch.save wrote") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise _broken(path, _first_line(error)) from error


def _state_dict(content: object, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(
            f"The checkpoint {path} holds no state dict, but {_kind(content)}.",
            hint="Save it with torch.save(model.state_dict(), file).",
        )
    other = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise CheckpointError(
            f"The checkpoint {path} holds no plain state dict: {_listing(other)} {'is' if len(other) == 1 else 'are'} "
            "not tensors.",
            hint="Give the file with the network's weights, or put them under the key 'state_dict'.",
        )
    return dict(content)


def _kind(content: object) -> str:
    return "an empty one" if isinstance(content, Mapping) and not content else f"a {type(content).__name__}"


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not all(name.startswith(_PARALLEL_PREFIX) for name in state):
        return state
    return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in state.items()}


def _check_fit(state: Mapping[str, torch.Tensor], expected: Mapping[str, Any], path: Path) -> None:
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    misshapen = [
        f"{name} ({_shape(state[name])}, expected {_shape(tensor)})"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {what}: {_listing(names)}"
        for what, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The checkpoint {path} does not fit the network. Keys: " + "; ".join(problems) + ".", hint=_hint(state)
        )


def _hint(state: Mapping[str, torch.Tensor]) -> str:
    found = recognize(state)
    if found is None:
        return (
            "Set model.architecture, model.codec, model.skeleton and model.width_multiplier, and for SimCC also "
            "model.input_width and model.input_height, to what the file was trained with."
        )
    return (
        f"Its weights are those of a {found.architecture} for {found.joints} joints: set model.architecture to that, "
        "and model.skeleton or model.joint_names to its joints."
    )


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "scalar"


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {path} cannot be read: {reason}.",
        hint="It may be cut off or of another format: fetch it again.",
    )
