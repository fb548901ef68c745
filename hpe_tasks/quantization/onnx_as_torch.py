"""An ONNX graph as torch modules, run under the graph's own names, so that its tensors can learn there.

onnx2torch makes a module of each operator. Weights and biases are kept as the graph has them, by the names of its
initializers, so that what has been learnt is written back by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from torch.func import functional_call

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.models.onnx_model import output_names
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.quantization.normal_form import LARGEST_DIFFERENCE

_REFUSALS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What onnx2torch, and the modules that it makes, raise for an operator that they cannot work with."""

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}

_HINT = "This network cannot be distilled: leave distillation out (recipe.distillation_steps 0)."


@dataclass(frozen=True, eq=False)
class _Operator:
    """One operator of the graph.

    Attributes:
        inputs: Tensors that the module is given, in order; empty names where one is left out.
        weights: For a layer with weights: the module's name of each of them, the initializer's, and whether the module
            has it transposed.
    """

    node: onnx.NodeProto
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[str, str, bool], ...] = ()


class OnnxAsTorch(nn.Module):
    """A graph that runs in torch, from images N×3×H×W to the arrays that the codec reads.

    Args:
        model: A float graph.
        config: Layouts, and which outputs are read.

    Attributes:
        quantizers: What is done to a tensor of the graph, by its name, before others read it.

    Raises:
        QuantizationError: onnx2torch does not know an operator; says which.
    """

    def __init__(self, model: onnx.ModelProto, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self._input = model.graph.input[0].name
        self._names = tuple(output_names(model, config, Path(config.checkpoint)).values())
        self._alone = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
        self.quantizers: Mapping[str, Any] = {}
        self._operators = _converted(model)
        self._modules_of_operators = nn.ModuleList(operator.module for operator in self._operators)
        learnt = {name for operator in self._operators for _, name, _ in operator.weights}
        self._places: dict[str, str] = {}
        for number, tensor in enumerate(model.graph.initializer):
            values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self._places[tensor.name] = f"tensor{number}"
            if tensor.name in learnt:
                self.register_parameter(f"tensor{number}", nn.Parameter(values))
            else:
                self.register_buffer(f"tensor{number}", values)

    def weights(self) -> dict[str, nn.Parameter]:
        """Weights and biases of layers, by the names of their initializers."""
        return {name: self._parameters[place] for name, place in self._places.items() if place in self._parameters}  # type: ignore[misc]

    def activations(self) -> frozenset[str]:
        """Names of the tensors that operators give."""
        return frozenset(name for operator in self._operators for name in operator.outputs if name)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs that the codec reads, in its order, maps with their channels second."""
        shown = images if self._config.input_layout == "nchw" else images.permute(0, 2, 3, 1)
        pieces = torch.split(shown, 1) if self._alone else (shown,)
        parts = [self._run(piece) for piece in pieces]
        found = [torch.cat(tensors) if len(parts) > 1 else tensors[0] for tensors in zip(*parts, strict=True)]
        last = self._config.output_layout == "nhwc"
        return tuple(t.permute(0, 3, 1, 2) if last and t.ndim == 4 else t for t in found)

    def _run(self, images: torch.Tensor) -> list[torch.Tensor]:
        tensors: dict[str, Any] = {"": None}
        # A weight is quantized once, however many layers have it.
        constants: dict[str, torch.Tensor] = {}

        def quantized(name: str, tensor: Any) -> Any:
            quantizer = self.quantizers.get(name)
            # AIMET's tensors remember their codes; here they are numbers.
            return tensor if quantizer is None else quantizer(tensor).as_subclass(torch.Tensor)

        def constant(name: str) -> torch.Tensor:
            if name not in constants:
                constants[name] = quantized(name, getattr(self, self._places[name]))
            return constants[name]

        tensors[self._input] = quantized(self._input, images)
        for operator in self._operators:
            given = [tensors[name] if name in tensors else constant(name) for name in operator.inputs]
            while given and given[-1] is None:
                given.pop()
            if operator.weights:
                weights = {place: _laid(constant(name), flip=flip) for place, name, flip in operator.weights}
                result = functional_call(operator.module, weights, tuple(given))
            else:
                result = operator.module(*given)
            results = (result,) if isinstance(result, torch.Tensor) else tuple(result)
            for name, tensor in zip(operator.outputs, results, strict=False):
                tensors[name] = quantized(name, tensor)
        return [tensors[name] for name in self._names]


def _laid(tensor: torch.Tensor, *, flip: bool) -> torch.Tensor:
    return tensor.T if flip else tensor


def _converted(model: onnx.ModelProto) -> list[_Operator]:
    """Every operator as a module, in the graph's order."""
    from onnx2torch.node_converters import get_converter
    from onnx2torch.onnx_graph import OnnxGraph
    from onnx2torch.utils.safe_shape_inference import safe_shape_inference

    opsets = {opset.domain: opset.version for opset in model.opset_import}
    graph = OnnxGraph(safe_shape_inference(model).graph)
    operators = []
    for (name, described), node in zip(graph.nodes.items(), model.graph.node, strict=True):
        try:
            converter = get_converter(
                domain=described.domain, operation_type=described.operation_type, version=opsets[described.domain]
            )
            module, mapping = converter(described, graph)
            weights = _weights_of(node, module)
        except _REFUSALS as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise QuantizationError(
                f"onnx2torch cannot convert the operator {node.op_type} ({name}) to torch: {reason}.", hint=_HINT
            ) from error
        operators.append(_Operator(node, module.eval(), tuple(mapping.inputs), tuple(mapping.outputs), weights))
    return operators


def _weights_of(node: onnx.NodeProto, module: nn.Module) -> tuple[tuple[str, str, bool], ...]:
    """Where a layer's weights and bias are in its module; nothing for an operator that is given all its inputs."""
    if node.op_type not in _WEIGHTED or not any(True for _ in module.parameters()):
        return ()
    attributes = attributes_of(node)
    if node.op_type == "Gemm" and {attributes.get("alpha", 1.0), attributes.get("beta", 1.0)} != {1.0}:
        raise NotImplementedError("its terms are scaled")
    # A Linear has its weight as `transB` has it.
    flip = node.op_type == "Gemm" and not attributes.get("transB", 0)
    # Behind a padding of its own a convolution is a part of its module.
    places = {name.rpartition(".")[2]: name for name, _ in module.named_parameters()}
    bias = ((places["bias"], node.input[2], False),) if "bias" in places else ()
    return ((places["weight"], node.input[1], flip), *bias)


@torch.no_grad()
def prove_equal(network: OnnxAsTorch, images: NDArray[np.float32], wanted: Arrays) -> None:
    """Raise QuantizationError unless a network without quantizers gives what its graph gives in onnxruntime.

    Args:
        network: The graph in torch, on the CPU.
        images: N×3×H×W, real ones.
        wanted: What the graph gives for them, as the codec takes it.
    """
    try:
        found = network(torch.from_numpy(images))
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise QuantizationError(f"The network does not run in torch: {reason}.", hint=_HINT) from error
    for (name, other), one in zip(wanted.items(), found, strict=True):
        same = one.shape == other.shape
        difference = float(np.abs(one.numpy() - other).max()) / (float(np.abs(other).max()) or 1.0) if same else np.nan
        if not difference <= LARGEST_DIFFERENCE:
            raise QuantizationError(
                f"The network computes something else in torch than in onnxruntime: its output {name!r} differs by "
                f"{difference:.1e} of the largest value, where {LARGEST_DIFFERENCE:.0e} is allowed.",
                hint=_HINT,
            )
