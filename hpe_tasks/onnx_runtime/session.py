"""Running an ONNX pose model in onnxruntime on the CPU, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.contract.refusals import REFUSALS, first_line
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models.external_data import read_complete
from hpe_tasks.models.interface import check_shapes, find_outputs, input_sizes, named_arrays, shape_text
from hpe_tasks.pose.codecs.arrays import Arrays

_Forward = Callable[[NDArray[np.float32]], Arrays]


def onnx_predictor(path: Path, config: ModelConfig, *, threads: int | None = None) -> _Forward:
    """Load an ONNX model and present it as a network from N×3×H×W float32 to the arrays that its codec reads.

    A model with a fixed batch is run in pieces of that size.

    Args:
        path: The model.
        config: Its layouts, its outputs, its input size, its codec and its joints.
        threads: Threads of one operator; by default all that this process may use.

    Raises:
        CheckpointError: onnxruntime does not run the file, or its input or output is not what `config` says;
            where whole images are shown also that it takes those of one orientation only.
    """
    session = open_session(path, threads=threads)
    input_name, fixed_batch = _check_input(session, path, config)
    output_names = _choose_outputs(session, path, config)
    channels_last = config.input_layout == "nhwc"

    def forward(batch: NDArray[np.float32]) -> Arrays:
        outputs = _run(session, path, list(output_names.values()), {input_name: batch})
        return named_arrays(outputs, output_names, config, path)

    def run(images: NDArray[np.float32]) -> Arrays:
        batch = np.ascontiguousarray(images.transpose(0, 2, 3, 1) if channels_last else images)
        return forward(batch) if fixed_batch is None else _run_in_pieces(forward, batch, fixed_batch)

    return run


def single_run(
    path: Path, config: ModelConfig, image: NDArray[np.float32], *, threads: int
) -> tuple[Callable[[], object], tuple[int, ...]]:
    """Load an ONNX model and give one forward pass of an image as a function, with nothing around it, to be timed.

    Args:
        path: The model.
        config: As for `onnx_predictor`.
        image: 3×H×W float32. A model with a fixed batch is given copies.
        threads: Threads of one operator.

    Returns:
        The function, and the shape of its input.

    Raises:
        CheckpointError: As from `onnx_predictor`, and, when the function is called, that the model fails on the image.
    """
    session = open_session(path, threads=threads)
    input_name, fixed_batch = _check_input(session, path, config)
    output_names = list(_choose_outputs(session, path, config).values())
    shown = image.transpose(1, 2, 0) if config.input_layout == "nhwc" else image
    batch = np.repeat(shown[None], fixed_batch or 1, axis=0)
    return partial(_run, session, path, output_names, {input_name: batch}), batch.shape


def _run(
    session: onnxruntime.InferenceSession, path: Path, names: Sequence[str], feeds: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    try:
        outputs: list[NDArray[np.float32]] = session.run(names, feeds)
    except REFUSALS as error:
        shapes = ", ".join(shape_text(batch.shape) for batch in feeds.values())
        raise CheckpointError(
            f"{path} fails on an input of {shapes}: {first_line(error)}",
            hint="A model whose inner shapes are fixed must say so: export it with a fixed batch of 1.",
        ) from error
    return outputs


def _run_in_pieces(forward: _Forward, batch: NDArray[np.float32], size: int) -> Arrays:
    pieces: list[Arrays] = []
    for start in range(0, len(batch), size):
        piece = batch[start : start + size]
        count = len(piece)
        if count < size:
            piece = np.concatenate([piece, np.zeros((size - count, *piece.shape[1:]), dtype=piece.dtype)])
        pieces.append({name: array[:count] for name, array in forward(piece).items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def open_session(
    path: Path,
    content: bytes | None = None,
    *,
    threads: int | None = None,
    optimized: bool = True,
    save_graph: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Load an ONNX model on the CPU.

    Args:
        path: The model.
        content: What is loaded in its place, when it was changed after it was read.
        threads: Threads of one operator; by default all that this process may use.
        optimized: Let onnxruntime rewrite the graph; otherwise every node runs as it is written, which is slow.
        save_graph: Write the graph there as it was rewritten.

    Raises:
        CheckpointError: There is no such file, it is not a model that onnxruntime runs, or it names other files.
    """
    if not path.is_file():
        raise CheckpointError(f"The ONNX model {path} does not exist.", hint="Check model.checkpoint.")
    if content is None:
        read_complete(path)
    try:
        return inference_session(content or path, threads=threads, optimized=optimized, save_graph=save_graph)
    except REFUSALS as error:
        raise CheckpointError(
            f"{path} is not a model that onnxruntime runs: {first_line(error)}",
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
    shape = tuple(only.shape)
    sizes = input_sizes(config)
    wanted = [(h, w, 3) if config.input_layout == "nhwc" else (3, h, w) for w, h in sizes]
    fits = [
        len(shape) == 4
        and all(not isinstance(has, int) or has == want for has, want in zip(shape[1:], dims, strict=True))
        for dims in wanted
    ]
    if any(fits) and not all(fits):
        raise CheckpointError(
            f"The input {only.name!r} of {path} is {shape_text(shape)}, for images of one orientation; codec "
            f"{config.codec!r} presents wide ones as {shape_text(('N', *wanted[0]))} and high "
            f"ones as {shape_text(('N', *wanted[1]))}.",
            hint="Export the model with a free height and width.",
        )
    if not all(fits) or only.type != "tensor(float)":
        raise CheckpointError(
            f"The input {only.name!r} of {path} is {only.type} {shape_text(shape)}; the configuration says "
            f"tensor(float) {shape_text(('N', *wanted[0]))} ({config.input_layout}).",
            hint="Set model.input_width, model.input_height and model.input_layout to the model's.",
        )
    return only.name, shape[0] if isinstance(shape[0], int) else None


def _choose_outputs(session: onnxruntime.InferenceSession, path: Path, config: ModelConfig) -> dict[str, str]:
    shapes = {o.name: tuple(o.shape) for o in session.get_outputs()}
    names = find_outputs(shapes, config, path)
    check_shapes(shapes, names, config, path)
    return names
