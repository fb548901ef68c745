"""What a pose network takes and gives, as the configuration describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.codec import FileOutputs, Shape, channels_second, fits, laid_out, shape_text

__all__ = [
    "Shape",
    "check_shapes",
    "find_outputs",
    "input_sizes",
    "named_arrays",
    "output_shapes",
    "shape_text",
]


def input_sizes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Every (W, H) that images are presented in: one for crops, for whole images that for wide and that for high."""
    return CODECS[config.codec].input_sizes(config.input_size)


def output_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The arrays that the network gives for N inputs, by the codec's names and in its order; maps as N×C×h×w."""
    return CODECS[config.codec].outputs(len(config.joints.joints), config.input_size)


def find_outputs(shapes: Mapping[str, Shape], config: ModelConfig, path: Path) -> dict[str, str]:
    """The output of an ONNX file for each array that the codec reads, by the codec's name for it and in its order.

    Args:
        shapes: The file's outputs in their order.
        config: Codec, joints, input size, output name and output layout.
        path: The file, for messages.

    Raises:
        CheckpointError: There is no such output, or it is not clear which one it is.
    """
    return CODECS[config.codec].find(
        FileOutputs(str(path), shapes, _wanted(config), _channels_last(config), config.output_name)
    )


def check_shapes(shapes: Mapping[str, Shape], names: Mapping[str, str], config: ModelConfig, path: Path) -> None:
    """Raise CheckpointError unless outputs have the shapes that the codec asks for.

    Args:
        shapes: Of the file's outputs; empty where none is stated.
        names: As `find_outputs` gives them.
        config: Codec, joints, input size and output layout.
        path: The file, for messages.
    """
    joints = config.joints
    for kind, wanted in _wanted(config).items():
        shape = shapes[names[kind]]
        # onnxruntime gives no dimensions at all where the file states none.
        if shape and not fits(shape, wanted):
            layout = f" ({config.output_layout})" if len(wanted) == len("nchw") else ""
            raise CheckpointError(
                f"The output {names[kind]!r} of {path} is {shape_text(shape)}; {kind} of {len(joints.joints)} joints "
                f"({joints.name}) are {shape_text(wanted)}{layout}.",
                hint=CODECS[config.codec].settings_hint,
            )
    found = {kind: shapes[name] for kind, name in names.items()}
    if fault := CODECS[config.codec].fault(found, config.input_size):
        raise CheckpointError(f"Of the outputs of {path}, {fault}.", hint=CODECS[config.codec].settings_hint)


def named_arrays(
    outputs: Sequence[NDArray[np.float32]], names: Mapping[str, str], config: ModelConfig, path: Path
) -> Arrays:
    """What a file gave, as the codec takes it: by its names, maps as N×C×h×w.

    Args:
        outputs: In the order of `names`.
        names: As `find_outputs` gives them.
        config: Codec, joints, input size and output layout.
        path: The file, for messages.

    Raises:
        CheckpointError: They have other shapes than the codec asks for, which the file left open.
    """
    check_shapes(dict(zip(names.values(), map(np.shape, outputs), strict=True)), names, config, path)
    last = _channels_last(config)
    return {
        kind: channels_second(np.asarray(array, dtype=np.float32), channels_last=last)
        for kind, array in zip(names, outputs, strict=True)
    }


def _wanted(config: ModelConfig) -> dict[str, Shape]:
    last = _channels_last(config)
    return {kind: laid_out(shape, channels_last=last) for kind, shape in output_shapes(config).items()}


def _channels_last(config: ModelConfig) -> bool:
    return config.output_layout == "nhwc"
