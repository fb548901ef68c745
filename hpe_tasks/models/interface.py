"""What a pose network takes and gives, as the configuration describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.run import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs.outputs import OUTPUT_NAMES
from hpe_tasks.pose.codecs.paf import HEATMAPS, PAF_CHANNELS

Shape = Sequence[int | str | None]
"""Dimensions as an ONNX file states them: a number, or a name or None where they are free; empty if not stated."""

_PAF_OUTPUT_CHANNELS = dict(zip(OUTPUT_NAMES["paf"], (PAF_CHANNELS, HEATMAPS), strict=True))


def input_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Every (W, H) that images are presented in: one, or with codec `paf` that for wide and that for high images."""
    wide, high = config.input_size_for((2, 1)), config.input_size_for((1, 2))
    return (wide,) if wide == high else (wide, high)


def map_outputs(shapes: Mapping[str, Shape], config: ModelConfig, path: Path) -> tuple[str, ...]:
    """Names of the outputs of an ONNX file that hold the maps, in the order in which their channels are joined.

    Codec `heatmap`: `model.output_name`, or the only output. Codec `paf`: `pafs` and `heatmaps`, or else the outputs
    with 38 and with 19 channels; of several, as in a network that gives all its stages, the last.

    Args:
        shapes: The file's outputs in their order.
        config: Codec, output name and output layout.
        path: The file, for messages.

    Raises:
        CheckpointError: There is no such output, or it is not clear which one it is.
        ConfigError: `model.output_name` is set with codec `paf`.
    """
    return _paf_outputs(shapes, config, path) if config.codec == "paf" else (_heatmap_output(shapes, config, path),)


def _heatmap_output(shapes: Mapping[str, Shape], config: ModelConfig, path: Path) -> str:
    names = ", ".join(shapes)
    if config.output_name is None:
        if len(shapes) > 1:
            raise CheckpointError(
                f"{path} has several outputs: {names}.", hint="Set model.output_name to the one that holds heatmaps."
            )
        return next(iter(shapes))
    if config.output_name not in shapes:
        raise CheckpointError(
            f"{path} has no output {config.output_name!r}; it has: {names}.",
            hint="Set model.output_name to one of them.",
        )
    return config.output_name


def _paf_outputs(shapes: Mapping[str, Shape], config: ModelConfig, path: Path) -> tuple[str, ...]:
    axis = 3 if config.output_layout == "nhwc" else 1
    channels = {name: shape[axis] if shape else None for name, shape in shapes.items() if len(shape) in (0, 4)}
    chosen = []
    for kind, count in _PAF_OUTPUT_CHANNELS.items():
        fitting = [n for n, has in channels.items() if has == count or (n == kind and not isinstance(has, int))]
        if not fitting:
            raise CheckpointError(
                f"{path} has no output {kind!r} and none with {count} channels; it has: "
                + ", ".join(f"{name} ({shape_text(shape)})" for name, shape in shapes.items())
                + ".",
                hint="Export the network with its outputs named 'pafs' and 'heatmaps', and check model.output_layout.",
            )
        chosen.append(kind if kind in fitting else fitting[-1])
    return tuple(chosen)


def join_outputs(outputs: Mapping[str, NDArray[np.float32]], config: ModelConfig, path: Path) -> NDArray[np.float32]:
    """Part-affinity fields and heatmaps, as `map_outputs` orders them, in one array of 57 channels.

    Raises:
        CheckpointError: They do not have 38 and 19 channels in the configured layout.
    """
    axis = 3 if config.output_layout == "nhwc" else 1
    for (name, maps), count in zip(outputs.items(), _PAF_OUTPUT_CHANNELS.values(), strict=True):
        if maps.ndim != 4 or maps.shape[axis] != count:
            raise CheckpointError(
                f"The output {name!r} of {path} is {shape_text(maps.shape)}; it should have {count} channels "
                f"({config.output_layout}).",
                hint="Set model.output_layout to the layout of the maps.",
            )
    return np.concatenate(list(outputs.values()), axis=axis)


def shape_text(shape: Shape) -> str:
    """Dimensions as they are shown in messages, such as `N×3×256×192`."""
    return "×".join("?" if size is None else str(size) for size in shape)
