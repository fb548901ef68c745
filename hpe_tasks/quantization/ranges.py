"""Range estimation by percentile and by the least squared error, the same in both backends.

aimet_torch has both as encoding analyzers: `PercentileEncodingAnalyzer`, and `SqnrEncodingAnalyzer`, which with a gamma
of 1 weighs a clipped value as any other. aimet_onnx has no squared error, and calls its percentile deprecated: there
aimet_torch's analyzers are given the values that the graph computes while AIMET calibrates it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from hpe_tasks.config.recipe import QuantizationRecipe, RangeScheme
from hpe_tasks.models.onnx_graph import give
from hpe_tasks.quantization.aimet import import_aimet, quantized_tensors, simulation_session

BY_ANALYZER = ("percentile", "mse")
"""Schemes that are not one of both packages' own quantization schemes."""

_STEPS_TRIED = 65
"""Steps that `mse` tries for an asymmetric range; AIMET's own 17 leave up to 6 % between two of them."""

_VALUES = 65_536
"""Values of an image's activation that an analyzer is given, and its extremes; counting all takes minutes."""

_STRIDES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""Primes that no width, height or number of channels is a multiple of, so that values come from all over a map."""

_IMAGES_AT_A_TIME = 2
"""Images that all activations of a graph are held of."""


def encoding_analyzer(scheme: RangeScheme, recipe: QuantizationRecipe, shape: tuple[int, ...]) -> Any:
    """The `aimet_torch` analyzer of a scheme, for ranges of this shape."""
    analyzers = import_aimet("aimet_torch.quantization.encoding_analyzer")
    match scheme:
        case "min_max":
            return analyzers.MinMaxEncodingAnalyzer(shape)
        case "tf_enhanced":
            return analyzers.SqnrEncodingAnalyzer(shape)
        case "percentile":
            return analyzers.PercentileEncodingAnalyzer(shape, percentile=recipe.percentile)
        case "mse":
            return analyzers.SqnrEncodingAnalyzer(shape, gamma=1.0, asymmetric_delta_candidates=_STEPS_TRIED)


def statistics(model: torch.nn.Module) -> Callable[[], None]:
    """What the quantizers of an `aimet_torch` network have seen until now; what is given lets them forget all since.

    Of a pass that ends in the middle only some have seen its images; AIMET would count these twice.
    """
    analyzers = (getattr(quantizer, "encoding_analyzer", None) for quantizer in model.modules())
    observers: list[Any] = [analyzer.observer for analyzer in analyzers if analyzer is not None]
    # AIMET replaces what it has counted, and each histogram of a list, by new ones.
    before = [copy.copy(observer.stats) for observer in observers]

    def take_back() -> None:
        for observer, stats in zip(observers, before, strict=True):
            observer.stats = copy.copy(stats)

    return take_back


def set_analyzers(sim: Any, recipe: QuantizationRecipe) -> None:
    """Let the quantizers of an `aimet_torch` simulation estimate their ranges as the recipe asks.

    Those whose scheme is the simulation's own keep the analyzer that AIMET has given them.
    """
    for module in sim.model.modules():
        if recipe.weight_ranges != recipe.scheme or recipe.scheme in BY_ANALYZER:
            for quantizer in getattr(module, "param_quantizers", {}).values():
                _set_analyzer(quantizer, recipe.weight_ranges, recipe)
        if recipe.scheme in BY_ANALYZER:
            for kind in ("input_quantizers", "output_quantizers"):
                for quantizer in getattr(module, kind, ()):
                    _set_analyzer(quantizer, recipe.scheme, recipe)


def _set_analyzer(quantizer: Any, scheme: RangeScheme, recipe: QuantizationRecipe) -> None:
    if quantizer is not None:
        quantizer.encoding_analyzer = encoding_analyzer(scheme, recipe, tuple(quantizer.shape))


def native_scheme(scheme: RangeScheme) -> str:
    """The scheme that AIMET is asked for in place of this one; what its analyzer finds replaces it."""
    return "min_max" if scheme in BY_ANALYZER else scheme


def set_weight_ranges(sim: Any, recipe: QuantizationRecipe) -> None:
    """Estimate and freeze the ranges of all weights of an `aimet_onnx` simulation."""
    if recipe.weight_ranges in BY_ANALYZER:
        tensors = {tensor.name: tensor for tensor in sim.model.model.graph.initializer}
        for name in sim.param_names:
            quantizer = sim.qc_quantize_op_dict[name]
            if quantizer.enabled and name in tensors and not quantizer.is_encoding_frozen():
                _range_weight(quantizer, numpy_helper.to_array(tensors[name]), recipe)
    sim._compute_param_encodings(overwrite=False)
    freeze_weight_ranges(sim)


def freeze_weight_ranges(sim: Any) -> None:
    """Keep AIMET from estimating the weights' ranges of an `aimet_onnx` simulation anew when it calibrates."""
    for name in sim.param_names:
        quantizer = sim.qc_quantize_op_dict[name]
        if quantizer.enabled and quantizer.is_initialized():
            quantizer.freeze_encodings()


def release_weight_ranges(sim: Any) -> None:
    """Let the weights' ranges be set again; AIMET has no call for it, and ignores in silence what is set before."""
    for name in sim.param_names:
        sim.qc_quantize_op_dict[name]._is_encoding_frozen = False


def calibrate(sim: Any, feeds: Iterable[Mapping[str, np.ndarray]], recipe: QuantizationRecipe) -> None:
    """Estimate the ranges of an `aimet_onnx` simulation; those of weights that are frozen stay as they are.

    Args:
        sim: The simulation, built with the `native_scheme` of activations.
        feeds: Calibration images as its graph takes them.
        recipe: Schemes of activations and of weights.
    """
    if recipe.weight_ranges in BY_ANALYZER:
        set_weight_ranges(sim, recipe)
    if recipe.scheme in BY_ANALYZER:
        _calibrate_by_analyzers(sim, feeds, recipe)
    else:
        sim.compute_encodings(feeds)


def _calibrate_by_analyzers(sim: Any, feeds: Iterable[Mapping[str, np.ndarray]], recipe: QuantizationRecipe) -> None:
    quantizers = activation_quantizers(sim)
    # Of tensors that share a quantizer all count.
    analyzers = {id(q): encoding_analyzer(recipe.scheme, recipe, ()) for q in quantizers.values()}
    compute_encodings = import_aimet("aimet_onnx").compute_encodings
    run = _giving(sim, list(quantizers))
    with compute_encodings(sim):
        for feed in feeds:
            for piece in _pieces(feed):
                for name, values in run(piece).items():
                    analyzers[id(quantizers[name])].update_stats(torch.from_numpy(spread_sample(values)))
    for quantizer in quantizers.values():
        analyzer = analyzers.pop(id(quantizer), None)
        if analyzer is not None:
            steps = 2**quantizer.bitwidth - 1
            low, high = analyzer.compute_encodings(steps, quantizer.use_symmetric_encodings)
            load_range(quantizer, low.reshape(1).numpy(), high.reshape(1).numpy())


def spread_sample(values: np.ndarray) -> np.ndarray:
    """At most some `_VALUES` of an array, from all over it, and its extremes; all in one dimension."""
    flat = values.ravel()
    if flat.size <= _VALUES:
        return flat
    wanted = flat.size / _VALUES
    stride = next((prime for prime in _STRIDES if prime >= wanted), int(wanted) // 2 * 2 + 1)
    return np.concatenate([flat[::stride], [flat.min(), flat.max()]])


def activation_quantizers(sim: Any) -> dict[str, Any]:
    """The enabled quantizers of an `aimet_onnx` simulation, by the tensor that each of them takes."""
    taken = quantized_tensors(sim.model.model.graph).values()
    found = {name: sim.qc_quantize_op_dict.get(name) for name in taken if name in sim.activation_names}
    return {name: quantizer for name, quantizer in found.items() if quantizer is not None and quantizer.enabled}


def _giving(sim: Any, names: list[str]) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that runs the simulation's graph on a feed, with its quantizers as they stand, and gives tensors.

    Args:
        sim: An `aimet_onnx` simulation.
        names: Tensors of its graph that the function gives, by name; the graph's inputs may be among them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(sim.model.model)
    inputs = {tensor.name for tensor in model.graph.input}
    wanted = [name for name in names if name not in inputs]
    give(model.graph, wanted)
    # Quantizers are addresses in the graph: the copy has the simulation's own.
    session = simulation_session(sim, model)

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True)) if wanted else {}
        return {name: feed[name] if name in inputs else values[name] for name in names}

    return run


def _pieces(feed: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    count = len(next(iter(feed.values())))
    for begin in range(0, count, _IMAGES_AT_A_TIME):
        yield {name: values[begin : begin + _IMAGES_AT_A_TIME] for name, values in feed.items()}


def _range_weight(quantizer: Any, weight: np.ndarray, recipe: QuantizationRecipe) -> None:
    shape = [1] * weight.ndim
    if quantizer.quant_info.usePerChannelMode:
        axis = quantizer.quant_info.channelAxis
        shape[axis] = weight.shape[axis]
    analyzer = encoding_analyzer(recipe.weight_ranges, recipe, tuple(shape))
    analyzer.update_stats(torch.from_numpy(weight.copy()))
    low, high = analyzer.compute_encodings(2**quantizer.bitwidth - 1, quantizer.use_symmetric_encodings)
    load_range(quantizer, low.reshape(-1).numpy(), high.reshape(-1).numpy())


def load_range(quantizer: Any, low: np.ndarray, high: np.ndarray) -> None:
    """Set the ranges of an `aimet_onnx` quantizer, one for each of its channels; moved so that 0 has a code."""
    encoding_type = import_aimet("aimet_onnx.common.libpymo").TfEncoding
    steps = 2**quantizer.bitwidth - 1
    encodings = []
    for bottom, top in zip(low.astype(np.float64), high.astype(np.float64), strict=True):
        encoding = encoding_type()
        encoding.bw = quantizer.bitwidth
        encoding.delta = float((top - bottom) / steps)
        encoding.offset = float(np.rint(bottom / encoding.delta))
        encoding.min = encoding.offset * encoding.delta
        encoding.max = encoding.min + steps * encoding.delta
        encodings.append(encoding)
    quantizer.load_encodings(encodings)
