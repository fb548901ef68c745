"""A user's own ONNX pose network: cleaned, checked against its description, or refused with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.contract.refusals import REFUSALS, first_line
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models.external_data import read_complete
from hpe_tasks.models.interface import check_shapes, find_outputs, input_sizes
from hpe_tasks.records.network import TensorSpec

MIN_OPSET = 13
"""First opset whose DequantizeLinear knows one scale for each channel."""

_MIN_IR = 7
"""IR version that came with opset 12; from 4 on initializers need not be graph inputs."""

_SIZE_HINT = "Set model.input_width and model.input_height to a size that the network takes."

# The converter's C++ errors arrive as RuntimeError, its own checks as ValueError or as errors without a base.
_UNCONVERTED = (
    *(RuntimeError, ValueError),
    *(version_converter.ConvertError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
)

_QUANTIZED_OPS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QuantizeLinear",
}


def prepare_onnx(source: Path, destination: Path, config: ModelConfig) -> None:
    """Write a copy of the network that AIMET and onnxruntime accept.

    Initializers leave the list of inputs, constants become initializers, opsets before 13 are converted, and a free
    height and width are fixed to the configured input size, except where images are shown wide or high.
    Names of inputs and outputs stay.

    Args:
        source: A float ONNX file.
        destination: Where the cleaned file goes; may be the same path.
        config: Input size and layout, output name and layout, codec and joints that the file must agree with.

    Raises:
        CheckpointError: The file is not such a network; the message names what disagrees.
    """
    model = _prepared(source, config)
    partial = destination.with_suffix(".part")
    onnx.save(model, partial)
    partial.replace(destination)


def check_onnx(source: Path, config: ModelConfig) -> None:
    """Raise CheckpointError unless `prepare_onnx` would take the file."""
    _prepared(source, config)


def try_onnx(file: str, *, model: dict[str, Any]) -> None:
    """Read and run a file as `check_onnx` does, with the fields of a model's configuration: for `try_reading`."""
    check_onnx(Path(file), ModelConfig.model_validate(model))


def _prepared(source: Path, config: ModelConfig) -> onnx.ModelProto:
    model = _load(source)
    _drop_initializers_from_inputs(model)
    _constants_to_initializers(model)
    name_nodes(model)
    _modernize(model, source)
    _drop_spatial(model)
    model = _convert(model, source)
    _fit_input(model, source, config)
    _check_outputs(model, source, config)
    try:
        onnx.checker.check_model(model, full_check=True)
    # ValueError: a kind of tensor that there is not, or a name that is no text.
    except (onnx.checker.ValidationError, ValueError) as error:
        raise CheckpointError(f"{source} is not valid ONNX: {error}") from error
    except onnx.shape_inference.InferenceError as error:
        width, height = config.input_size
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source} is not valid ONNX for images {width} wide and {height} high: {reason}.", hint=_SIZE_HINT
        ) from error
    _try_run(model, source, config)
    return model


def output_names(model: onnx.ModelProto, config: ModelConfig, source: Path) -> dict[str, str]:
    """Outputs of the graph that the codec reads; see `hpe_tasks.models.interface.find_outputs`."""
    shapes = {output.name: _shape(output) for output in model.graph.output}
    return find_outputs(shapes, config, source)


def _load(source: Path) -> onnx.ModelProto:
    model = read_complete(source)
    if not model.graph.node:
        raise CheckpointError(f"{source} is not a model in ONNX's format, or holds an empty network.")
    if not model.graph.output or not all(node.output for node in model.graph.node):
        raise CheckpointError(f"{source} is not valid ONNX: the network, or one of its nodes, has no output.")
    quantized = sorted({node.op_type for node in model.graph.node} & _QUANTIZED_OPS)
    if quantized:
        raise CheckpointError(
            f"{source} is quantized already: it holds {', '.join(quantized)}.", hint="Give the float network."
        )
    return model


def _drop_initializers_from_inputs(model: onnx.ModelProto) -> None:
    """Initializers listed as inputs (IR < 4) keep the version converter and constant folding from working."""
    constants = {t.name for t in model.graph.initializer}
    for tensor in [i for i in model.graph.input if i.name in constants]:
        model.graph.input.remove(tensor)


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    """AIMET looks for weights among the initializers; torch stores equal ones once, as copies by Identity."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type in ("Constant", "Identity") and n.domain in ("", "ai.onnx")]:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
        else:
            value = tensors.get(node.input[0]) if node.input else None
        if value is None or node.output[0] in {o.name for o in model.graph.output}:
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        tensors[tensor.name] = tensor
        model.graph.node.remove(node)


def name_nodes(model: onnx.ModelProto) -> None:
    """AIMET finds patterns by node names: without names it folds no batch norm, in silence."""
    uses = Counter(node.name for node in model.graph.node)
    taken = set(uses)
    for index, node in enumerate(model.graph.node):
        if not node.name or uses[node.name] > 1:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


def _modernize(model: onnx.ModelProto, source: Path) -> None:
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        if len(model.opset_import):
            raise CheckpointError(f"{source} does not import the standard ONNX operators.")
        model.opset_import.add(domain="", version=1)
    model.ir_version = max(model.ir_version, _MIN_IR)


def _drop_spatial(model: onnx.ModelProto) -> None:
    """Forget `spatial` of batch normalizations before opset 9, which the version converter refuses.

    Older MXNet exports have spatial=0 with parameters that are one value for each channel: that is what every later
    opset computes. Parameters for each place stay with their attribute, and the converter says why it refuses them.
    """
    ranks = {t.name: len(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and all(ranks.get(name) == 1 for name in node.input[1:]):
            for attribute in [a for a in node.attribute if a.name == "spatial"]:
                node.attribute.remove(attribute)


def _convert(model: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset >= MIN_OPSET:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, MIN_OPSET)
    except _UNCONVERTED as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{source} has opset {opset}, which cannot be converted to {MIN_OPSET}: {reason}",
            hint=f"Export the network again with opset {MIN_OPSET} or later.",
        ) from error
    return converted


def _fit_input(model: onnx.ModelProto, source: Path, config: ModelConfig) -> None:
    """Check the input against the configuration and fix its free height and width."""
    inputs = list(model.graph.input)
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise CheckpointError(f"{source} has {len(inputs)} inputs ({names}); a pose network has one image.")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        raise CheckpointError(
            f"{source}: input {inputs[0].name!r} is {_type_name(kind.elem_type)}; "
            "only float32 networks can be quantized."
        )
    width, height = config.input_size
    expected = (None, 3, height, width) if config.input_layout == "nchw" else (None, height, width, 3)
    found = [d.dim_value or None for d in kind.shape.dim]
    described = "×".join(str(d or "?") for d in found)
    both_ways = len(input_sizes(config)) > 1
    if len(found) == 4 and both_ways:
        sides = slice(2, 4) if config.input_layout == "nchw" else slice(1, 3)
        if any(found[sides]):
            raise CheckpointError(
                f"{source}: input {inputs[0].name!r} is {described}, of a fixed size; codec "
                f"{config.codec!r} presents wide and high images.",
                hint="Export the network with a free height and width.",
            )
    if len(found) != len(expected) or any(
        have is not None and want is not None and have != want for have, want in zip(found, expected, strict=False)
    ):
        raise CheckpointError(
            f"{source}: input {inputs[0].name!r} is {described}, but the configuration says "
            f"{config.input_layout.upper()} with 3 channels, {width} wide and {height} high.",
            hint="Correct model.input_width, model.input_height or model.input_layout.",
        )
    if found[0] not in (None, 1):
        raise CheckpointError(
            f"{source}: the batch is fixed to {found[0]} ({described}).", hint="Export it with batch 1 or a free batch."
        )
    if None in found[1:] and not both_ways:
        for dim, want in zip(kind.shape.dim, expected, strict=True):
            if want is not None:
                dim.dim_value = want
        # Shapes recorded for the free size no longer hold.
        del model.graph.value_info[:]
    if not found[0] and not kind.shape.dim[0].dim_param:
        kind.shape.dim[0].dim_param = "batch"


def _check_outputs(model: onnx.ModelProto, source: Path, config: ModelConfig) -> None:
    names = output_names(model, config, source)
    for output in model.graph.output:
        if output.name in names.values() and output.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise CheckpointError(f"{source}: output {output.name!r} is not float32.")


def _try_run(model: onnx.ModelProto, source: Path, config: ModelConfig) -> None:
    """Run a blank image of each size: the file loads, and its outputs are those of the codec."""
    names = output_names(model, config, source)
    try:
        session = inference_session(model.SerializeToString(), threads=1)
    except REFUSALS as error:
        raise CheckpointError(f"onnxruntime cannot run {source}: {first_line(error)}") from error
    results = []
    for width, height in input_sizes(config):
        shape = (1, height, width, 3) if config.input_layout == "nhwc" else (1, 3, height, width)
        try:
            results.append(session.run(list(names.values()), {model.graph.input[0].name: np.zeros(shape, np.float32)}))
        except REFUSALS as error:
            raise CheckpointError(
                f"onnxruntime cannot run {source} on an image {width} wide and {height} high: {first_line(error)}",
                hint=_SIZE_HINT,
            ) from error
    for arrays in results:
        check_shapes(dict(zip(names.values(), map(np.shape, arrays), strict=True)), names, config, source)


@dataclass(frozen=True)
class OnnxDescription:
    """What a file says of itself."""

    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def describe_onnx(path: Path) -> OnnxDescription:
    """Read the opset, inputs and outputs of an ONNX file."""
    model = read_complete(path)
    return OnnxDescription(
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        inputs=tuple(_tensor_spec(value) for value in model.graph.input),
        outputs=tuple(_tensor_spec(value) for value in model.graph.output),
    )


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    except KeyError as error:
        raise CheckpointError(
            f"{value.name!r} is {_type_name(value.type.tensor_type.elem_type)}, not numbers."
        ) from error
    return TensorSpec(name=value.name, dtype=np.dtype(dtype).name, shape=_shape(value))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)


def _type_name(number: int) -> str:
    names: dict[int, str] = {code: name for name, code in onnx.TensorProto.DataType.items()}
    return names.get(number, f"of type {number}, which is none of ONNX's")
