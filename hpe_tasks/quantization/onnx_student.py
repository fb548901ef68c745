"""What learns in a simulation of aimet_onnx: its quantizers as aimet_torch's, around the graph as torch modules."""

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

from hpe_tasks.quantization.aimet import import_aimet
from hpe_tasks.quantization.distillation import Learnt
from hpe_tasks.quantization.grid_limit import GridLimit
from hpe_tasks.quantization.onnx_as_torch import OnnxAsTorch
from hpe_tasks.quantization.torch_student import range_of, weight_unit


@dataclass(frozen=True, eq=False)
class LearntState:
    """What has been learnt, by the names of the graph's tensors.

    Attributes:
        weights: Of layers, and their biases.
        ranges: Step and offset of activations.
    """

    weights: Mapping[str, NDArray[np.float32]]
    ranges: Mapping[str, tuple[float, float]]


def quantizers_of(sim: Any, device: str) -> dict[str, Any]:
    """The simulation's quantizers that are on, by the names of their tensors, as modules that can learn."""
    affine = import_aimet("aimet_torch.quantization.affine")
    found = {}
    for name, quantizer in sim.qc_quantize_op_dict.items():
        encodings = quantizer.get_encodings() if quantizer.enabled else None
        if not encodings:
            continue
        shape: tuple[int, ...] = ()
        if len(encodings) > 1:
            about = quantizer.tensor_quantizer_params
            shape = tuple(
                len(encodings) if axis == about.channel_axis % len(about.tensor_shape) else 1
                for axis in range(len(about.tensor_shape))
            )
        # aimet_onnx counts codes from 0 and moves them by the offset, symmetric ones as well.
        module = affine.QuantizeDequantize(shape, 0, 2 ** encodings[0].bw - 1, False)
        low, high = (
            torch.tensor([getattr(one, end) for one in encodings], dtype=torch.float32).reshape(shape)
            for end in ("min", "max")
        )
        module.set_range(low, high)
        found[name] = module.to(device)
    return found


def learnt_tensors(student: OnnxAsTorch, limits: Mapping[str, GridLimit]) -> list[Learnt]:
    """The tensors that learn, as in the torch backend; the steps of weights and the input's range stay.

    Args:
        student: The graph in torch, with its quantizers.
        limits: Where the weights of these names may be.
    """
    learnt = []
    quantizers = student.quantizers
    for name, parameter in student.weights().items():
        if name in quantizers:
            span = (quantizers[name].get_max() - quantizers[name].get_min()).detach()
            learnt.append(Learnt(parameter, weight_unit(span, tuple(parameter.shape)), limits.get(name)))
        else:
            largest = parameter.detach().abs().max()
            learnt.append(Learnt(parameter, largest if largest > 0 else torch.ones_like(largest)))
    for quantizer in quantizers.values():
        quantizer.requires_grad_(False)
    for name in sorted(student.activations() & quantizers.keys()):
        ends = range_of(quantizers[name])
        for end in ends:
            end.parameter.requires_grad_(True)
        learnt += ends
    return learnt


def state_of(student: OnnxAsTorch) -> LearntState:
    """Weights, biases and ranges as they are now."""
    ranges = {name: student.quantizers[name] for name in student.activations() & student.quantizers.keys()}
    return LearntState(
        {name: tensor.detach().cpu().numpy().copy() for name, tensor in student.weights().items()},
        {name: (float(one.get_scale()), float(one.get_offset())) for name, one in ranges.items()},
    )


def write_back(sim: Any, prepared: Path, state: LearntState) -> None:
    """Put what has been learnt into the simulation and into the float graph that it simulates, by name."""
    float_model = onnx.load(prepared)
    for graph in (sim.model.model.graph, float_model.graph):
        for tensor in graph.initializer:
            if tensor.name in state.weights:
                tensor.CopyFrom(numpy_helper.from_array(state.weights[tensor.name], tensor.name))
    for name, (step, offset) in state.ranges.items():
        quantizer = sim.qc_quantize_op_dict[name]
        encodings = quantizer.get_encodings()
        for encoding in encodings:
            encoding.delta, encoding.offset = step, offset
            encoding.min, encoding.max = offset * step, (offset + 2**encoding.bw - 1) * step
        quantizer.load_encodings(encodings)
    sim._rebuild_session()
    onnx.save(float_model, prepared)
