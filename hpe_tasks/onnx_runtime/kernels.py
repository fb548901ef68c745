"""Whether onnxruntime's int8 kernels compute on this CPU what the exported file says.

Kernels for x86 without VNNI add two products of an unsigned and a signed 8-bit number in 16 bits and clip the sum: a
network with large weights then gives other maps than on the CPU that it was measured on, without an error.

Every layer is compared on the same input. The maps at the end would tell less: a code that rounds the other way in one
layer moves codes in all that follow, and healthy kernels, too, leave as little as 25 dB of a whole network
(docs/decisions/0009-kernels-are-compared-layer-by-layer.md has the figures behind the gate's limit).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_runtime.session import open_session
from hpe_tasks.records.execution import KernelAgreement

GIVEN = "given:"
"""Before the name of a tensor that its readers are given instead of what the graph computes."""

_Tensors = dict[str, NDArray[Any]]


def compare_kernels(
    path: Path, config: ModelConfig, batches: Iterable[NDArray[np.float32]], *, num_images: int
) -> KernelAgreement:
    """Compare every layer of the optimized graph with the same layer without any optimization.

    A layer is what lies between one quantized activation and the next. Activations with several zero points are no
    border: what they separate is one layer.

    Args:
        path: The exported file.
        config: Its input layout.
        batches: Images as the network is shown them, N×3×H×W float32, normalized.
        num_images: How many of them are compared; all that there are when there are fewer.

    Raises:
        CheckpointError: onnxruntime does not run the file.
        QuantizationError: There is no image, or an output holds values that are not finite.
    """
    model = onnx.load(path)
    zero_points = _expose_codes(model)
    signal = dict.fromkeys((output.name for output in model.graph.output), 0.0)
    noise, largest, count = signal.copy(), 0.0, 0
    images = islice((image for batch in batches for image in batch), num_images)
    for expected, computed in _run_both(path, model, config, images, tuple(zero_points)):
        count += 1
        for name, wanted in expected.items():
            if not (np.isfinite(wanted).all() and np.isfinite(computed[name]).all()):
                raise QuantizationError(
                    f"The kernels of {path.name} cannot be compared: its output {name!r} holds NaN or infinite values.",
                    hint="The weights are broken, or the input's normalization (model.mean, model.std) is not theirs.",
                )
            difference = computed[name].astype(np.float64) - wanted
            signal[name] += float(np.square(wanted.astype(np.float64) - zero_points.get(name, 0)).sum())
            noise[name] += float(np.square(difference).sum())
            if name in zero_points:
                largest = max(largest, float(np.abs(difference).max()))
    if count == 0:
        raise QuantizationError(f"There is no image to compare the kernels of {path.name} on.")
    # A layer of zeros counts as one of a single step: its ratio would have no number.
    ratios = {name: noise[name] / max(signal[name], 1.0) for name in signal}
    worst = max(ratios, key=lambda name: ratios[name])
    equal = ratios[worst] == 0
    return KernelAgreement(
        sqnr_db=None if equal else -10 * math.log10(ratios[worst]),
        layer=None if equal else worst,
        max_difference=largest,
        num_images=count,
        cpu_features=cpu_features(),
    )


def _run_both(
    path: Path, model: onnx.ModelProto, config: ModelConfig, images: Iterable[NDArray[np.float32]], codes: Sequence[str]
) -> Iterator[tuple[_Tensors, _Tensors]]:
    """For each image all outputs without optimization, and what optimized layers make of the same `codes`."""
    whole = open_session(path, model.SerializeToString(), optimized=False)
    layers: onnxruntime.InferenceSession | None = None
    names = [output.name for output in whole.get_outputs()]
    image_input = whole.get_inputs()[0]
    fixed_batch = image_input.shape[0] if isinstance(image_input.shape[0], int) else 1
    for image in images:
        shown = image.transpose(1, 2, 0) if config.input_layout == "nhwc" else image
        feeds = {image_input.name: np.repeat(shown[None], fixed_batch, axis=0)}
        expected: _Tensors = dict(zip(names, whole.run(names, feeds), strict=True))
        given = {GIVEN + name: expected[name] for name in codes}
        if layers is None:
            layers = open_session(path, taken_apart(model, given).SerializeToString())
        yield expected, dict(zip(names, layers.run(names, feeds | given), strict=True))


def _expose_codes(model: onnx.ModelProto) -> dict[str, int]:
    """Make every quantized activation of one zero point an output as well; returns these by name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    zero_points = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            stored = constants.get(node.input[2]) if len(node.input) > 2 else None
            zero = np.zeros(1) if stored is None else onnx.numpy_helper.to_array(stored)
            if zero.size == 1:
                zero_points[node.output[0]] = int(zero.item())
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in zero_points if name not in outputs)
    return zero_points


def taken_apart(model: onnx.ModelProto, codes: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The same graph, whose layers are given their quantized inputs."""
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    for node in apart.graph.node:
        for i, name in enumerate(node.input):
            if GIVEN + name in codes:
                node.input[i] = GIVEN + name
    for name, tensor in codes.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        apart.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * tensor.ndim))
    return apart
