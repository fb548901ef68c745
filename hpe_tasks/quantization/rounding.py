"""Codes of weights chosen by what each layer gives for calibration images: AIMET's SeqMSE and AdaRound.

Both packages have both. Each looks at one layer after the other, with the layers before it quantized and activations in
float. SeqMSE chooses ranges, of which the nearest codes follow; AdaRound keeps the ranges and chooses codes.

Where weights must also keep the int8 kernels' sums in range (`hpe_tasks.quantization.weight_grid`), the two meet here:
AdaRound gets the steps that the grid asks for, on weights whose pairs have already given way, and what it then rounds
up beyond a pair's limit goes back by a code. So the grid that is laid over every simulation at the end finds nothing to
do, and leaves every code where AdaRound has put it. SeqMSE chooses its ranges first; the grid is fitted to weights that
are clipped to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.refusals import REFUSALS as ORT_REFUSALS
from hpe_tasks.contract.refusals import first_line
from hpe_tasks.errors import QuantizationError
from hpe_tasks.progress import track
from hpe_tasks.quantization.aimet import REFUSALS, import_aimet, quantized_tensors
from hpe_tasks.quantization.ranges import release_weight_ranges
from hpe_tasks.quantization.weight_grid import Grid, LayerWeights

LOOKED_AT_PIXELS = 64 * 256 * 192
"""Pixels of the images that codes and biases are chosen by: 64 crops of 256×192, or 17 whole images of 496×368."""

_IMAGES_AT_A_TIME = 8
"""Images of each step of optimization; AIMET's 32 take four times as long."""

_LEARNING_RATE = 3e-2
"""Of AdaRound; with AIMET's 1e-3 it takes twenty times the steps."""

_CANDIDATES = 20
"""Ranges that SeqMSE tries for each channel: AIMET's default."""

_HINT = "Choose another recipe.rounding; `nearest` asks nothing of the network."

Weights = Callable[[], Iterable[LayerWeights]]
"""The quantized weights of a simulation as they are now, where they must keep sums in range."""


def looked_at(batches: Iterator[np.ndarray]) -> tuple[list[np.ndarray], Iterator[np.ndarray]]:
    """The first images that share one size, in batches of one length, and all batches again.

    AIMET stacks what a layer gives for them, so wide and high images cannot be among them together.
    """
    read: list[np.ndarray] = []
    pixels = 0
    for batch in batches:
        read.append(batch)
        if batch.shape[1:] == read[0].shape[1:]:
            pixels += batch.shape[0] * batch.shape[2] * batch.shape[3]
        if pixels >= LOOKED_AT_PIXELS:
            break
    alike = np.concatenate([batch for batch in read if batch.shape[1:] == read[0].shape[1:]])
    most = max(LOOKED_AT_PIXELS // (alike.shape[2] * alike.shape[3]), _IMAGES_AT_A_TIME)
    count = min(len(alike), most)
    size = min(_IMAGES_AT_A_TIME, count)
    kept = [alike[begin : begin + size] for begin in range(0, count - size + 1, size)]
    return kept, chain(read, batches)


def round_torch(
    sim: Any, network: nn.Module, images: list[np.ndarray], recipe: QuantizationRecipe, weights: Weights | None
) -> None:
    """Choose ranges and codes of the weights of an `aimet_torch` simulation, and freeze the ranges.

    Args:
        sim: Not calibrated yet.
        network: The float network that it simulates; a copy of its own.
        images: From `looked_at`.
        recipe: Its `rounding`.
        weights: The simulation's weights, where they must keep sums in range.

    Raises:
        QuantizationError: AIMET cannot work with the network.
    """
    device = next(network.parameters()).device
    batches = [torch.from_numpy(batch).to(device) for batch in images]
    with _told(recipe), torch.random.fork_rng():
        torch.manual_seed(0)
        if recipe.rounding == "seq_mse":
            _seq_mse_torch(sim, network, batches, recipe)
            _estimate_weight_ranges(sim)
            _fit_clipped(weights)
        elif recipe.rounding == "adaround":
            _estimate_weight_ranges(sim)
            _give_way(weights)
            _adaround_torch(sim, network, batches, recipe)
            _settle(weights)
        else:
            _estimate_weight_ranges(sim)
            _fit(weights)
    for quantizer in _weight_quantizers(sim):
        quantizer.allow_overwrite(False)


def release_torch(sim: Any) -> None:
    """Let ranges of weights that were frozen be set again."""
    for quantizer in _weight_quantizers(sim):
        quantizer.allow_overwrite(True)


def round_onnx(
    sim: Any, feeds: list[Mapping[str, np.ndarray]], recipe: QuantizationRecipe, weights: Weights | None
) -> None:
    """Choose ranges and codes of the weights of an `aimet_onnx` simulation, whose ranges are estimated.

    Args:
        sim: With the ranges of its weights, but not calibrated yet.
        feeds: Images from `looked_at` as the graph takes them.
        recipe: Its `rounding`.
        weights: The simulation's weights, where they must keep sums in range.

    Raises:
        QuantizationError: AIMET cannot work with the network.
    """
    with _told(recipe), torch.random.fork_rng():
        torch.manual_seed(0)
        if recipe.rounding == "seq_mse":
            _seq_mse_onnx(sim, feeds)
            release_weight_ranges(sim)
            _fit_clipped(weights)
        elif recipe.rounding == "adaround":
            _give_way(weights)
            _adaround_onnx(sim, feeds, recipe)
            release_weight_ranges(sim)
            _settle(weights)
        else:
            _fit(weights)


def _fit(weights: Weights | None) -> None:
    for each in weights() if weights is not None else ():
        each.store(each.fitted())


def _fit_clipped(weights: Weights | None) -> None:
    """Fit the grid to weights clipped to their ranges: otherwise it would widen those that were narrowed on purpose."""
    for each in weights() if weights is not None else ():
        step, zero = each.along_channels(each.scale), each.along_channels(each.zero_point)
        clipped = np.clip(each.weight, (-128 - zero) * step, (127 - zero) * step).astype(np.float32)
        each.store(LayerWeights(each.name, clipped, each.scale, each.zero_point, each.layer, each.store).fitted())


def _give_way(weights: Weights | None) -> None:
    """Take the grid's steps and what its pairs had to give; leave all other weights for AdaRound to round."""
    for each in weights() if weights is not None else ():
        grid = each.fitted()
        rounded = np.abs(grid.values - each.weight) <= 0.5001 * each.along_channels(grid.scale)
        values = np.where(rounded, each.weight, grid.values).astype(np.float32)
        each.store(Grid(values, grid.scale, grid.zero_point))


def _settle(weights: Weights | None) -> None:
    """Take back what was rounded up beyond a pair's limit, at the steps that stand."""
    for each in weights() if weights is not None else ():
        each.store(each.fitted(np.ones(1)))


def _seq_mse_torch(sim: Any, network: nn.Module, batches: list[torch.Tensor], recipe: QuantizationRecipe) -> None:
    package = import_aimet("aimet_torch.seq_mse")
    base = import_aimet("aimet_torch._base.seq_mse")
    utils = import_aimet("aimet_torch.utils")
    method, forward = package.SequentialMse, utils.default_forward_fn
    params = package.SeqMseParams(num_batches=None, num_candidates=_CANDIDATES, forward_fn=forward)
    ordered = utils.get_ordered_list_of_modules(network, batches[0], fwd_func=forward, ignore_duplicates=True)
    layers = [(name, module) for name, module in ordered if isinstance(module, base.SUPPORTED_MODULES)]
    with (
        TemporaryDirectory(prefix="hpe-seq-mse-") as folder,
        method.temporarily_disable_quantizers(network, sim, []),
        # AIMET leaves out weights of more than 4 bits, where it expects little of it.
        _replaced(base, progress_bar=_NoBar, SUPPORTED_PARAM_BW=recipe.param_bw),
        _by_extremes(sim),
    ):
        method.compute_all_param_encodings(sim)
        cached = utils.CachedDataset(batches, None, folder)
        for layer in track(layers, "Choosing ranges of weights", unit="layers"):
            method.run_seq_mse([layer], network, sim.model, params, forward, cached)


@contextmanager
def _by_extremes(sim: Any) -> Iterator[None]:
    """SeqMSE tries shares of a range: all of them are within the extremes."""
    analyzers = import_aimet("aimet_torch.quantization.encoding_analyzer")
    kept = [(quantizer, quantizer.encoding_analyzer) for quantizer in _weight_quantizers(sim)]
    try:
        for quantizer, _ in kept:
            quantizer.encoding_analyzer = analyzers.MinMaxEncodingAnalyzer(tuple(quantizer.shape))
        yield
    finally:
        for quantizer, analyzer in kept:
            quantizer.encoding_analyzer = analyzer


def _adaround_torch(sim: Any, network: nn.Module, batches: list[torch.Tensor], recipe: QuantizationRecipe) -> None:
    method = import_aimet("aimet_torch.adaround.adaround_weight").Adaround
    base = import_aimet("aimet_torch._base.adaround.adaround_weight")
    optimizer = import_aimet("aimet_torch._base.adaround.adaround_optimizer")
    utils = import_aimet("aimet_torch.utils")
    hyper = import_aimet("aimet_torch._base.adaround.adaround_loss").AdaroundHyperParameters
    # Weight of the rounding's own loss, its course and its start are AIMET's defaults.
    options = hyper(recipe.adaround_iterations, 0.01, (20, 2), 0.2)
    example = batches[0][:1]
    graph = import_aimet("aimet_torch.meta.connectedgraph_utils")
    activations = graph.get_module_act_func_pair(network, example)
    rounded = {name for name, module in _quantized_layers(sim) if isinstance(module, base.AdaroundSupportedModules)}
    ordered = utils.get_ordered_list_of_modules(network, example, ignore_duplicates=True)
    layers = [(name, module) for name, module in ordered if name in rounded]
    forward = utils.default_forward_fn
    with (
        TemporaryDirectory(prefix="hpe-adaround-") as folder,
        utils.remove_activation_quantizers(sim.model),
        _replaced(base, progress_bar=_NoBar),
        _replaced(optimizer, BATCH_SIZE=_IMAGES_AT_A_TIME),
        _replaced(torch.optim, Adam=partial(torch.optim.Adam, lr=_LEARNING_RATE)),
    ):
        cached = utils.CachedDataset(batches, None, folder)
        for layer in track(layers, "Rounding weights", unit="layers"):
            method._run_adaround_model([layer], network, sim.model, activations, options, forward, cached)


def _seq_mse_onnx(sim: Any, feeds: list[Mapping[str, np.ndarray]]) -> None:
    package = import_aimet("aimet_onnx.sequential_mse.seq_mse")
    scheme = import_aimet("aimet_onnx.common.defs").QuantScheme
    chosen = import_aimet("aimet_onnx.sequential_mse.dependency_graph").SUPPORTED_MODULES
    graph = sim.model.model.graph
    source = quantized_tensors(graph)
    for name in (source.get(node.input[1], node.input[1]) for node in graph.node if node.op_type in chosen):
        quantizer = sim.qc_quantize_op_dict.get(name)
        if name in sim.param_names and quantizer is not None and quantizer.enabled:
            # It tries shares of a range, all of them within the extremes.
            quantizer.set_quant_scheme(scheme.min_max)
    with _replaced(package, progress_bar=_NoBar), _replaced(sim, _quant_scheme=scheme.min_max):
        method = package.SequentialMse(None, sim, package.SeqMseParams(num_batches=None), feeds)
        levels = sum(
            any(method.dependency_graph.is_supported_op(node.cg_op) for node in nodes)
            for nodes in method.dependency_graph.get_topologically_sorted_nodes().values()
        )
        shown = iter(track(range(levels), "Choosing ranges of weights", unit="groups of layers"))
        run = method._run_seq_mse

        def counted(nodes: Any) -> None:
            next(shown, None)
            run(nodes)

        method._run_seq_mse = counted
        method.apply_seq_mse_algo()
        next(shown, None)


def _adaround_onnx(sim: Any, feeds: list[Mapping[str, np.ndarray]], recipe: QuantizationRecipe) -> None:
    module = import_aimet("aimet_onnx.adaround.adaround_weight")
    utils = import_aimet("aimet_onnx.utils")

    def shown(operators: Any, **_: Any) -> Iterator[Any]:
        return track(list(operators), "Rounding weights", unit="operators")

    # AIMET means to switch the activations' quantizers off itself, but enters another context in place of that one.
    with (
        utils.disable_quantizers(sim, set(sim.activation_names)),
        _replaced(module, progress_bar=shown),
        _replaced(torch.optim, Adam=partial(torch.optim.Adam, lr=_LEARNING_RATE)),
    ):
        module.Adaround.apply_adaround(sim, feeds, num_iterations=recipe.adaround_iterations)


def _estimate_weight_ranges(sim: Any) -> None:
    """Estimate ranges of weights that have none."""
    for _, module in _quantized_layers(sim):
        module._compute_param_encodings(overwrite=False)


def _quantized_layers(sim: Any) -> Iterator[tuple[str, Any]]:
    for name, module in sim.model.named_modules():
        quantizers = getattr(module, "param_quantizers", {})
        if "weight" in quantizers and quantizers["weight"] is not None:
            yield name, module


def _weight_quantizers(sim: Any) -> Iterator[Any]:
    for _, module in _quantized_layers(sim):
        yield module.param_quantizers["weight"]


class _NoBar:
    """Stands in for AIMET's progress bar, which writes to the terminal beside ours."""

    def __init__(self, items: Iterable[Any] = (), **_: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def update(self, _: int) -> None:
        """Count nothing."""

    def close(self) -> None:
        """Show nothing."""


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give AIMET's modules other constants for a while: what they offer no argument for."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def _told(recipe: QuantizationRecipe) -> Iterator[None]:
    """Turn what AIMET raises for a network that it cannot work with into an error that says what to do."""
    try:
        yield
    except (*REFUSALS, *ORT_REFUSALS) as error:
        reason = first_line(error) or type(error).__name__
        raise QuantizationError(
            f"AIMET's {recipe.rounding} cannot work with this network: {reason}", hint=_HINT
        ) from error
