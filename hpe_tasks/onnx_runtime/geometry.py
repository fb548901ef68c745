"""What an ONNX file says of its input size and layouts, so that users need not repeat it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.refusals import REFUSALS, first_line
from hpe_tasks.errors import CheckpointError, ConfigError
from hpe_tasks.models.interface import Shape, check_shapes, find_outputs, input_sizes, shape_text
from hpe_tasks.onnx_runtime.session import open_session
from hpe_tasks.pose.codecs import CODECS

if TYPE_CHECKING:
    import onnxruntime

_CHANNEL_AXES = {"nchw": 1, "nhwc": 3}
_RGB = 3


@dataclass(frozen=True)
class _Reading:
    """A file that is read, and whose word counts beside the file's.

    Attributes:
        asked: Settings of `model` that the user has given: the file must not say otherwise.
        usual: Those that a preset has given: they count where the file says nothing.
    """

    path: Path
    model: ModelConfig
    asked: Collection[str]
    usual: Collection[str]

    def layout(self, setting: str, fitting: Collection[str], what: str) -> str:
        """The layout that the file leaves, or that is set where it leaves several."""
        chosen: str = getattr(self.model, setting)
        if setting in self.asked and chosen not in fitting:
            raise ConfigError(
                f"model.{setting} is {chosen!r}, but {what}: that is {' or '.join(fitting)}.",
                hint=f"Leave model.{setting} out.",
            )
        if len(fitting) == 1:
            return next(iter(fitting))
        if setting not in self.asked and setting not in self.usual:
            raise CheckpointError(
                f"{_sentence(what)}, which fits {' and '.join(fitting)} alike.",
                hint=f"Set model.{setting} to one of them.",
            )
        return chosen

    def side(self, setting: str, stated: int | None, what: str) -> int:
        """A side of the input in pixels: the file's, or what is set where the file leaves it free."""
        chosen: int = getattr(self.model, setting)
        if stated is None:
            if setting not in self.asked and setting not in self.usual:
                raise CheckpointError(
                    f"{_sentence(what)}: it leaves its size free.",
                    hint="Set model.input_width and model.input_height to the size that the network was trained for.",
                )
            return chosen
        if setting in self.asked and chosen != stated:
            raise ConfigError(
                f"model.{setting} is {chosen}, but {what}: that is {stated}.", hint=f"Leave model.{setting} out."
            )
        return stated


def read_geometry(model: ModelConfig, path: Path, *, asked: Collection[str], usual: Collection[str]) -> ModelConfig:
    """The description of an `onnx` model with input size, input layout and output layout as its file has them.

    Args:
        model: The description so far.
        path: The file.
        asked: Fields of `model` that the user has set.
        usual: Fields that a preset has set: they count where the file leaves something open.

    Raises:
        CheckpointError: onnxruntime does not run the file, or it leaves open what no setting says; names the setting.
        ConfigError: The user's setting contradicts the file, or the file has a size that no run can have.
    """
    session = open_session(path, threads=1)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != len("nchw"):
        return model  # no network with one image: whoever loads it says so
    shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
    what = f"the input {inputs[0].name!r} of {path} is {shape_text(inputs[0].shape)}"
    reading = _Reading(path, model, asked, usual)
    # An axis of 3 is the channels' rather than one that is free.
    layouts = [layout for layout, axis in _CHANNEL_AXES.items() if shape[axis] == _RGB] or [
        layout for layout, axis in _CHANNEL_AXES.items() if shape[axis] is None
    ]
    if not layouts:
        raise CheckpointError(f"{_sentence(what)}: no axis has 3 channels.", hint="Give a network that takes RGB.")
    found: dict[str, Any] = {"input_layout": reading.layout("input_layout", layouts, what)}
    height, width = shape[2:] if found["input_layout"] == "nchw" else shape[1:3]
    found["input_width"] = reading.side("input_width", width, what)
    found["input_height"] = reading.side("input_height", height, what)
    fitted = _changed(model, found, path)
    outputs = _output_layouts(session, fitted, path)
    if not outputs:
        return fitted  # other joints or another codec: whoever loads it says which
    maps = ", ".join(f"{name!r} ({shape_text(s)})" for name, s in _output_shapes(session, fitted, path).items())
    return _changed(
        fitted, {"output_layout": reading.layout("output_layout", outputs, f"the output of {path} is {maps}")}, path
    )


def try_network(file: str, *, model: dict[str, Any], asked: Collection[str] | None, usual: Collection[str]) -> None:
    """Read a file as `read_geometry` does, unless `asked` is None, and run it on a blank image: for `try_reading`."""
    path, described = Path(file), ModelConfig.model_validate(model)
    if asked is not None:
        described = read_geometry(described, path, asked=asked, usual=usual)
    session = open_session(path, threads=1)
    only = session.get_inputs()[0]
    for width, height in input_sizes(described):
        sides = (_RGB, height, width) if described.input_layout == "nchw" else (height, width, _RGB)
        try:
            session.run(None, {only.name: np.zeros((1, *sides), np.float32)})
        except REFUSALS as error:
            # Whoever runs it here is told the same; that it lacked memory `try_reading` sees in the cause.
            raise CheckpointError(f"onnxruntime does not run {path}: {first_line(error)}") from error


def _changed(model: ModelConfig, found: dict[str, Any], path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(model.model_dump() | found)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors(include_url=False)]
        raise ConfigError(f"{path} takes images of a size that no run can have: {'; '.join(problems)}.") from error


def _output_layouts(session: onnxruntime.InferenceSession, model: ModelConfig, path: Path) -> list[str]:
    """The layouts in which the maps are those that the configuration's codec and joints ask for, if it has maps."""
    if not CODECS[model.codec].gives_maps:
        return []
    shapes = _output_shapes(session, model, path)
    fitting = []
    for layout in _CHANNEL_AXES:
        described = model.model_copy(update={"output_layout": layout})
        try:
            check_shapes(shapes, find_outputs(shapes, described, path), described, path)
        except CheckpointError:
            continue  # in this layout it has no such outputs; where it has none in either, its loading says so
        fitting.append(layout)
    return fitting


def _output_shapes(session: onnxruntime.InferenceSession, model: ModelConfig, path: Path) -> dict[str, Shape]:
    """The outputs' shapes; of a blank image where the file leaves a size but the batch free."""
    stated: dict[str, Shape] = {output.name: tuple(output.shape) for output in session.get_outputs()}
    if all(len(shape) > 1 and all(isinstance(size, int) for size in shape[1:]) for shape in stated.values()):
        return stated
    only = session.get_inputs()[0]
    batch = only.shape[0] if isinstance(only.shape[0], int) else 1
    width, height = input_sizes(model)[0]
    sides = (_RGB, height, width) if model.input_layout == "nchw" else (height, width, _RGB)
    blank = np.zeros((batch, *sides), np.float32)
    try:
        maps = session.run(None, {only.name: blank})
    except REFUSALS as error:
        raise CheckpointError(
            f"{path} fails on an input of {shape_text(blank.shape)}: {first_line(error)}",
            hint="Set model.input_width and model.input_height to a size that the network takes.",
        ) from error
    return dict(zip(stated, (tuple(np.shape(one)) for one in maps), strict=True))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
