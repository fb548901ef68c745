"""Running an ONNX pose model in onnxruntime on the CPU, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from hpe_tasks.config import ModelConfig
from hpe_tasks.errors import CheckpointError

_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

_LOG_ERRORS_ONLY = 3

_Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def onnx_predictor(path: Path, config: ModelConfig, *, threads: int | None = None) -> _Forward:
    """Load an ONNX model and present it as a network from N×3×H×W float32 to heatmaps N×J×h×w float32.

    A model with a fixed batch is run in pieces of that size.

    Args:
        path: The model.
        config: Its layouts, its output, its input size and its joints.
        threads: Threads of one operator; None leaves the choice to onnxruntime.

    Raises:
        CheckpointError: The file is no model that onnxruntime runs, or its input or output is not what `config` says.
    """
    session = _open(path, threads)
    input_name, fixed_batch = _check_input(session, path, config)
    output_name = _choose_output(session, path, config)
    channels_last_in = config.input_layout == "nhwc"
    channels_last_out = config.output_layout == "nhwc"

    def forward(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(session.run([output_name], {input_name: batch})[0])
        except _REFUSALS as error:
            raise CheckpointError(
                f"{path} fails on an input of {_text(batch.shape)}: {_first_line(error)}",
                hint="A model whose inner shapes are fixed must say so: export it with a fixed batch of 1.",
            ) from error

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = np.ascontiguousarray(images.transpose(0, 2, 3, 1) if channels_last_in else images)
        heatmaps = forward(batch) if fixed_batch is None else _run_in_pieces(forward, batch, fixed_batch)
        result: NDArray[np.float32] = np.asarray(heatmaps, dtype=np.float32)
        # A wrong rank is left for the caller's check, which names the shape.
        return result.transpose(0, 3, 1, 2) if channels_last_out and result.ndim == 4 else result

    return run


def _run_in_pieces(forward: _Forward, batch: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    pieces = []
    for start in range(0, len(batch), size):
        piece = batch[start : start + size]
        count = len(piece)
        if count < size:
            piece = np.concatenate([piece, np.zeros((size - count, *piece.shape[1:]), dtype=piece.dtype)])
        pieces.append(forward(piece)[:count])
    return np.concatenate(pieces)


def _open(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise CheckpointError(f"The ONNX model {path} does not exist.", hint="Check model.checkpoint.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that spin while they wait make a shared core two to three times slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        raise CheckpointError(
            f"{path} is not a model that onnxruntime runs: {_first_line(error)}",
            hint="Export the model again, or fetch it again.",
        ) from error


def _check_input(session: onnxruntime.InferenceSession, path: Path, config: ModelConfig) -> tuple[str, int | None]:
    """The input's name, and its batch size where that is fixed."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise CheckpointError(
            f"{path} has {len(inputs)} inputs ({names}); a pose model has one.", hint="Export it with the image only."
        )
    only = inputs[0]
    width, height = config.input_size
    wanted = (height, width, 3) if config.input_layout == "nhwc" else (3, height, width)
    shape = tuple(only.shape)
    fits = len(shape) == 4 and all(
        not isinstance(has, int) or has == want for has, want in zip(shape[1:], wanted, strict=True)
    )
    if not fits or only.type != "tensor(float)":
        raise CheckpointError(
            f"The input {only.name!r} of {path} is {only.type} {_text(shape)}; the configuration says "
            f"tensor(float) {_text(('N', *wanted))} ({config.input_layout}).",
            hint="Set model.input_width, model.input_height and model.input_layout to the model's.",
        )
    return only.name, shape[0] if isinstance(shape[0], int) else None


def _choose_output(session: onnxruntime.InferenceSession, path: Path, config: ModelConfig) -> str:
    outputs = {o.name: o for o in session.get_outputs()}
    names = ", ".join(outputs)
    name = config.output_name
    if name is None:
        if len(outputs) > 1:
            raise CheckpointError(
                f"{path} has several outputs: {names}.", hint="Set model.output_name to the one that holds heatmaps."
            )
        name = next(iter(outputs))
    if name not in outputs:
        raise CheckpointError(f"{path} has no output {name!r}; it has: {names}.", hint="Set model.output_name.")
    joints = len(config.joints.joints)
    shape = tuple(outputs[name].shape)
    channel = 3 if config.output_layout == "nhwc" else 1
    # onnxruntime gives no dimensions at all where the file states none.
    if shape and (len(shape) != 4 or (isinstance(shape[channel], int) and shape[channel] != joints)):
        wanted = ("N", "height", "width", joints) if channel == 3 else ("N", joints, "height", "width")
        raise CheckpointError(
            f"The output {name!r} of {path} is {_text(shape)}; heatmaps of {joints} joints ({config.joints.name}) "
            f"are {_text(wanted)} ({config.output_layout}).",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, "
            "and model.output_layout and model.output_name to where the heatmaps are.",
        )
    return name


def _text(shape: tuple[int | str | None, ...]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
