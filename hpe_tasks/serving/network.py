"""An ONNX file in onnxruntime, fed and read as its manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.contract.refusals import REFUSALS, first_line
from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.codec import channels_second, fits, laid_out, shape_text
from hpe_tasks.serving.processors import check_processor
from hpe_tasks.serving.served_model import ServedModel

Images = NDArray[np.float32]

_HINT = "Export the model again and publish it, or serve another version."
_LARGEST_BATCH = 2


class Network:
    """A loaded network.

    Args:
        model: How it is fed and read.
        file: model.onnx; its digest has been verified.
        threads: Threads of onnxruntime.
        optimized: Whether the file is a graph that onnxruntime has rewritten already.

    Attributes:
        batch: Most images in one run: the file's own number if that is fixed, else two. On one thread and on two, two
            were up to a tenth faster than one after the other; more gained nothing, and onnxruntime keeps the memory
            of the largest batch for good.

    Raises:
        CheckpointError: onnxruntime cannot load the file, or its inputs and outputs are not those of the manifest.
        ConfigError: The model was not published for this processor.
    """

    def __init__(self, model: ServedModel, file: Path, threads: int, *, optimized: bool = False) -> None:
        check_processor(model)
        self._model = model
        self._wanted = CODECS[model.codec].outputs(len(model.skeleton.joints), model.input_sizes[0])
        self._session = _open(file, threads, optimized)
        fixed = self._check_input()
        self._fixed = fixed is not None
        self.batch = fixed or _LARGEST_BATCH
        self._check_outputs()

    def empty(self, count: int, size: tuple[int, int]) -> Images:
        """Room for `count` inputs of `size` (W, H), all zero: N×3×H×W or N×H×W×3, as the file has it."""
        width, height = size
        return np.zeros((count, *((height, width, 3) if self._input_nhwc else (3, height, width))), np.float32)

    def planes(self, images: Images) -> Images:
        """Inputs as N×3×H×W, whatever their layout: a view."""
        return images.transpose(0, 3, 1, 2) if self._input_nhwc else images

    def run(self, images: Images) -> Arrays:
        """Run the network on at most `batch` images, laid out as `empty` gives them.

        Returns:
            Its outputs by the codec's names for them, maps as N×C×h×w.

        Raises:
            CheckpointError: It fails, or its outputs are not those of the manifest.
        """
        count = len(images)
        if self._fixed and count < self.batch:
            images = np.concatenate([images, np.zeros((self.batch - count, *images.shape[1:]), np.float32)])
        names = list(self._model.outputs.values())
        try:
            outputs = self._session.run(names, {self._model.input_name: images})
        except REFUSALS as error:
            raise CheckpointError(
                f"{self._title} fails on an input of {shape_text(images.shape)}: {first_line(error)}", hint=_HINT
            ) from error
        arrays = {}
        for (kind, name), output in zip(self._model.outputs.items(), outputs, strict=True):
            # What the file leaves free shows here.
            self._check_output(kind, name, output.shape)
            arrays[kind] = channels_second(output, channels_last=self._output_nhwc)[:count]
        self._check_together({kind: array.shape for kind, array in arrays.items()})
        return arrays

    def _check_together(self, shapes: dict[str, Sequence[int | str | None]]) -> None:
        fault = CODECS[self._model.codec].fault(shapes, self._model.input_sizes[0])
        if fault is not None:
            raise CheckpointError(f"Of the outputs of {self._title}, {fault}.", hint=_HINT)

    @property
    def _title(self) -> str:
        return f"Version {self._model.version} of {self._model.name!r}"

    @property
    def _input_nhwc(self) -> bool:
        return self._model.input_layout == "nhwc"

    @property
    def _output_nhwc(self) -> bool:
        return self._model.output_layout == "nhwc"

    def _check_input(self) -> int | None:
        """The file's batch where that is fixed."""
        inputs = self._session.get_inputs()
        wanted = [self.empty(1, size).shape[1:] for size in self._model.input_sizes]
        if [i.name for i in inputs] != [self._model.input_name]:
            raise CheckpointError(
                f"{self._title} has the inputs {', '.join(i.name for i in inputs)}; its manifest's serving.input.name "
                f"is {self._model.input_name!r}.",
                hint=_HINT,
            )
        shape = inputs[0].shape
        fits = len(shape) == 4 and all(
            not isinstance(has, int) or has == want
            for dims in wanted
            for has, want in zip(shape[1:], dims, strict=True)
        )
        if not fits or inputs[0].type != "tensor(float)":
            raise CheckpointError(
                f"The input {inputs[0].name!r} of {self._title} is {inputs[0].type} {shape_text(shape)}; its "
                f"manifest's serving.input_sizes and serving.input_layout say tensor(float) "
                f"{' and '.join(shape_text(('N', *dims)) for dims in wanted)}.",
                hint=_HINT,
            )
        return shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None

    def _check_outputs(self) -> None:
        has = {output.name: output for output in self._session.get_outputs()}
        for kind, name in self._model.outputs.items():
            if name not in has or has[name].type != "tensor(float)":
                shown = ", ".join(f"{output.name} ({output.type})" for output in has.values())
                raise CheckpointError(
                    f"{self._title} has the outputs {shown}; its manifest's serving.outputs.{kind}.name is {name!r}, "
                    "a tensor(float).",
                    hint=_HINT,
                )

            # onnxruntime gives no dimensions at all where the file states none.
            if has[name].shape:
                self._check_output(kind, name, has[name].shape)
        self._check_together({kind: has[name].shape for kind, name in self._model.outputs.items()})

    def _check_output(self, kind: str, name: str, shape: Sequence[int | str | None]) -> None:
        wanted = laid_out(self._wanted[kind], channels_last=self._output_nhwc)
        if not fits(shape, wanted):
            raise CheckpointError(
                f"The output {name!r} of {self._title} is {shape_text(shape)}; its manifest says that it holds "
                f"{kind}, {shape_text(wanted)} ({self._model.output_layout}).",
                hint=_HINT,
            )


def _open(file: Path, threads: int, optimized: bool) -> onnxruntime.InferenceSession:
    try:
        return inference_session(file, threads=threads, optimized=not optimized)
    except REFUSALS as error:
        raise CheckpointError(f"onnxruntime cannot load {file}: {first_line(error)}", hint=_HINT) from error
