"""Biases corrected by the mean shift that quantization brings to what each layer gives, measured on images.

Rounded weights and cut-off activations move the mean of a layer's output channel; the next layers carry that on. The
shift is measured between the float network and the simulation on the same images, and taken off the bias. Layers are
corrected in the order in which the network runs them, each with those before it corrected: all at once, a layer would
make good once more what the layers before it have made good already.

Source: Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (2019), empirical form.
Neither AIMET package has it in the version that this project uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from hpe_tasks.models.onnx_graph import give, output_channels
from hpe_tasks.progress import track
from hpe_tasks.quantization.aimet import import_aimet, quantized_tensors, simulation_session

T = TypeVar("T")

MOST_PASSES = 64
"""Passes over the images; a network with more layers has several of them corrected in each."""

_IMAGES = 32
"""Images that means are measured on: a mean has as many values as a map has cells, of each of them."""

_BIASED = {"Conv", "ConvTranspose", "Gemm"}
_BIASED_MODULES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

Means = dict[str, NDArray[np.float64]]
"""By the layers' names the mean of each output channel."""


def correct(
    layers: Sequence[str],
    wanted: Mapping[str, NDArray[np.float64]],
    measure: Callable[[Sequence[str]], Means],
    add: Callable[[str, NDArray[np.float64]], None],
) -> None:
    """Bring the means of layers to those wanted, one after the other.

    Args:
        layers: In the order in which the network runs them.
        wanted: The float network's means.
        measure: Gives the simulation's means of some layers, with what has been added so far.
        add: Adds to the bias of a layer.
    """
    size = -(-len(layers) // MOST_PASSES) or 1
    blocks = [layers[begin : begin + size] for begin in range(0, len(layers), size)]
    for block in track(blocks, "Correcting biases", unit="passes"):
        means = measure(block)
        for name in block:
            add(name, wanted[name] - means[name])


@torch.no_grad()
def add_biases(network: nn.Module) -> None:
    """Give every convolution and linear layer of a network without a bias one of zeros."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            channels = module.out_features
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            channels = module.out_channels
        else:
            continue
        if module.bias is None:
            module.bias = nn.Parameter(torch.zeros(channels, device=module.weight.device))


@torch.no_grad()
def correct_torch(sim: Any, network: nn.Module, images: Iterable[np.ndarray]) -> None:
    """Correct the biases of a calibrated `aimet_torch` simulation.

    Args:
        sim: Every layer has a bias; see `add_biases`.
        network: The float network that it simulates; a copy of its own.
        images: N×3×H×W, all of one size.
    """
    device = next(network.parameters()).device
    batches = [torch.from_numpy(batch).to(device) for batch in _first(images, len)]
    utils = import_aimet("aimet_torch.utils")
    ordered = utils.get_ordered_list_of_modules(network, batches[0][:1], ignore_duplicates=True)
    layers = [name for name, module in ordered if isinstance(module, _BIASED_MODULES)]
    simulated = {name: sim.model.get_submodule(name) for name in layers}

    def measure(names: Sequence[str]) -> Means:
        measured = {name: simulated[name] for name in names}
        with _before_their_ranges(measured.values()):
            return _means_torch(sim.model, measured, batches)

    def add(name: str, shift: NDArray[np.float64]) -> None:
        bias = simulated[name].bias
        bias.copy_(bias + torch.from_numpy(shift).to(bias))

    wanted = _means_torch(network, {name: network.get_submodule(name) for name in layers}, batches)
    correct(layers, wanted, measure, add)


@contextmanager
def _before_their_ranges(layers: Iterable[Any]) -> Iterator[None]:
    """Let layers give what they compute: a peak that a range cuts off is no shift of the values below it."""
    kept = [(layer, layer.output_quantizers[0]) for layer in layers]
    try:
        for layer, _ in kept:
            layer.output_quantizers[0] = None
        yield
    finally:
        for layer, quantizer in kept:
            layer.output_quantizers[0] = quantizer


class _Enough(Exception):
    """All that was asked for is measured."""


def _means_torch(network: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[torch.Tensor]) -> Means:
    """Mean of each output channel over all images and places."""
    sums: Means = {}
    counts = dict.fromkeys(layers, 0)
    seen: set[str] = set()

    def hook(name: str) -> Callable[[Any, Any, torch.Tensor], None]:
        def add(_: Any, __: Any, output: torch.Tensor) -> None:
            values = output.as_subclass(torch.Tensor)
            rows = values.movedim(1, 0).flatten(1).double() if values.dim() > 2 else values.T.double()
            sums[name] = sums.get(name, 0.0) + rows.sum(1).cpu().numpy()
            counts[name] += rows.shape[1]
            seen.add(name)
            if len(seen) == len(layers):
                raise _Enough

        return add

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        for batch in batches:
            seen.clear()
            try:
                network(batch)
            except _Enough:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return {name: sums[name] / counts[name] for name in layers}


def with_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, in which every layer with constant weights has a bias; those that had none get zeros."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in _BIASED or node.input[1] not in constants or (len(node.input) > 2 and node.input[2]):
            continue
        name = f"{node.output[0]}.added_bias"
        zeros = np.zeros(output_channels(node, constants[node.input[1]]), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(zeros, name))
        del node.input[2:]
        node.input.append(name)
    return model


def correct_onnx(sim: Any, model: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Correct the biases of a calibrated `aimet_onnx` simulation, in its graph; its session is not built anew.

    Args:
        sim: Every layer has a bias; see `with_biases`.
        model: The float graph that it simulates.
        feeds: Images as its graph takes them.
    """
    given = list(_first(feeds, lambda feed: len(next(iter(feed.values())))))
    graph = sim.model.model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    source = quantized_tensors(graph)
    nodes = {node.name: node for node in graph.node if node.op_type in _BIASED and len(node.input) > 2}
    biases = {name: source.get(node.input[2], node.input[2]) for name, node in nodes.items()}
    # In the order of the float graph, which is the order in which layers run.
    layers = [node.name for node in model.graph.node if biases.get(node.name) in tensors]
    values = {biases[name]: numpy_helper.to_array(tensors[biases[name]]).astype(np.float64) for name in layers}
    run = _session_taking(sim, sorted(values), [nodes[name].output[0] for name in layers])

    def measure(names: Sequence[str]) -> Means:
        outputs = {nodes[name].output[0]: name for name in names}
        taken = {bias: value.astype(np.float32) for bias, value in values.items()}
        return _means_onnx(lambda feed: run(list(outputs), {**feed, **taken}), outputs, given)

    def add(name: str, shift: NDArray[np.float64]) -> None:
        values[biases[name]] += shift.reshape(values[biases[name]].shape)

    floats = {node.output[0]: node.name for node in model.graph.node if node.name in set(layers)}
    float_run = _float_session(model, list(floats))
    wanted = _means_onnx(lambda feed: float_run(list(floats), dict(feed)), floats, given)
    correct(layers, wanted, measure, add)
    for name, value in values.items():
        tensors[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def _means_onnx(
    run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]],
    layers: Mapping[str, str],
    feeds: Sequence[Mapping[str, np.ndarray]],
) -> Means:
    sums: Means = {}
    count: dict[str, int] = {}
    for feed in feeds:
        for name, output in zip(layers.values(), run(feed), strict=True):
            rows = np.moveaxis(output, 1, 0).reshape(output.shape[1], -1)
            sums[name] = sums.get(name, 0.0) + rows.sum(axis=1, dtype=np.float64)
            count[name] = count.get(name, 0) + rows.shape[1]
    return {name: sums[name] / count[name] for name in sums}


def _session_taking(
    sim: Any, biases: Sequence[str], outputs: Sequence[str]
) -> Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]]:
    """A session of the simulation that is given its biases with each image, and gives what the layers do."""
    model = onnx.ModelProto()
    model.CopyFrom(sim.model.model)
    graph = model.graph
    for tensor in [tensor for tensor in graph.initializer if tensor.name in set(biases)]:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        graph.initializer.remove(tensor)
    give(graph, outputs)
    run: Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]] = simulation_session(sim, model).run
    return run


def _float_session(
    model: onnx.ModelProto, outputs: Sequence[str]
) -> Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]]:
    from hpe_tasks.contract.onnx_session import inference_session

    giving = onnx.ModelProto()
    giving.CopyFrom(model)
    give(giving.graph, outputs)
    session = inference_session(giving.SerializeToString(), optimized=False)
    run: Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]] = session.run
    return run


def _first(items: Iterable[T], num_images: Callable[[T], int]) -> Iterator[T]:
    """As many of some batches as it takes for `_IMAGES`."""
    seen = 0
    for item in items:
        if seen >= _IMAGES:
            return
        seen += num_images(item)
        yield item
