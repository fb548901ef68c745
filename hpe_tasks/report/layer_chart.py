"""The picture of where accuracy is lost: signal-to-noise ratio layer by layer, and the layers that lose most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpe_tasks.gate.accuracy import Metric
from hpe_tasks.records.ladder import RungOutcome
from hpe_tasks.records.layers import LayerDiagnosis, LayerError
from hpe_tasks.report.charts import Tick
from hpe_tasks.report.layer_advice import Remedy, layer_advice
from hpe_tasks.report.layer_rungs import AddressingRung, addressing_rungs

_NAMED = 10
"""Layers that are named in the table, by what they lose of themselves."""

_STEP_DB = 10
_LEAST_CLIPPED = 1e-4
_LEAST_SHOWN = 1e-5

Segment = tuple[float, float, float, float]
"""From x and y to x and y, in percent of the chart."""


@dataclass(frozen=True)
class LayerDot:
    """One layer alone; `rank` counts those that lose most from 1, and is 0 for all others."""

    x: float
    y: float
    rank: int


@dataclass(frozen=True)
class LayerRow:
    """A layer in words.

    Attributes:
        rank: As on the chart; 0 for none.
        clipped: Share of FP32's values beyond the range.
        parted: In how far QuantSim and file differ there; empty where they do not.
        ranges: The range and FP32's values on one line: begin and width of each in percent; None without a range.
        saturated: Share of QuantSim's codes at an end of the range, and of the file's; empty where there are none.
        remedy: What to try; None where the layer is not among those that lose most.
    """

    rank: int
    name: str
    operator: str
    held: str
    seen: str
    clipped: str
    range_db: str
    alone_db: str
    quantsim_db: str
    file_db: str
    parted: str
    ranges: tuple[float, float, float, float] | None
    saturated: tuple[str, str]
    remedy: Remedy | None


@dataclass(frozen=True)
class LayerChart:
    """All layers from left to right, decibels upwards.

    Attributes:
        dots: Each layer alone.
        quantsim: QuantSim's line, and `file` the exported file's: errors that have gathered.
        clipped: Bars of the shares of values beyond the range: middle, width and height in percent of their strip.
        most_clipped: What a full bar stands for; empty where nothing is clipped.
        saturated: Bars of the shares of codes at an end of the range, QuantSim's upwards and the file's downwards:
            left end, width and the two heights, each in percent of half their strip.
        most_saturated: What a full bar stands for; empty where nothing is saturated.
        parted_x: Where QuantSim and the file part; None where they do not.
    """

    dots: tuple[LayerDot, ...]
    quantsim: tuple[Segment, ...]
    file: tuple[Segment, ...]
    ticks: tuple[Tick, ...]
    clipped: tuple[tuple[float, float, float], ...]
    most_clipped: str
    saturated: tuple[tuple[float, float, float, float], ...]
    most_saturated: str
    parted_x: float | None
    rows: tuple[LayerRow, ...]
    every: tuple[LayerRow, ...]
    lead: str
    parted: str
    rungs: tuple[AddressingRung, ...]


def layer_chart(
    diagnosis: LayerDiagnosis | None,
    *,
    from_file: bool = False,
    rungs: Sequence[RungOutcome] = (),
    metric: Metric | None = None,
) -> LayerChart | None:
    """Lay out a diagnosis; None where no layer was compared.

    Args:
        diagnosis: Of the run.
        from_file: Whether the network came as an ONNX file, for which other settings can be tried.
        rungs: Of the run's ladder, if it has one.
        metric: Of their figures.
    """
    if diagnosis is None or not diagnosis.layers:
        return None
    layers = diagnosis.layers
    low, high = _axis(layers)
    worst = diagnosis.worst[:_NAMED]
    ranks = {layer.name: rank for rank, layer in enumerate(worst, start=1)}

    def across(place: int) -> float:
        return round(100 * (place + 0.5) / len(layers), 3)

    def up(decibels: float) -> float:
        return round(100 * (high - min(max(decibels, low), high)) / (high - low), 2)

    def line(values: Sequence[float]) -> tuple[Segment, ...]:
        points = [(across(place), up(value)) for place, value in enumerate(values)]
        return tuple((*one, *other) for one, other in pairwise(points))

    def rank(layer: LayerError) -> int:
        return ranks.get(layer.name, 0) if layer.low is not None else 0

    most = max(layer.clipped for layer in layers)
    most_saturated = max(max(layer.saturated_quantsim, layer.saturated_file) for layer in layers)
    parted = diagnosis.first_parted
    return LayerChart(
        dots=tuple(LayerDot(across(place), up(layer.alone_db), rank(layer)) for place, layer in enumerate(layers)),
        quantsim=line([layer.quantsim_db for layer in layers]),
        file=line([layer.file_db for layer in layers]),
        ticks=tuple(Tick(f"{value:g} dB", up(value)) for value in range(low, high + 1, _STEP_DB)),
        clipped=tuple(_bars(layers, most)) if most >= _LEAST_CLIPPED else (),
        most_clipped=_percent(most) if most >= _LEAST_CLIPPED else "",
        saturated=tuple(_saturation(layers, most_saturated)) if most_saturated >= _LEAST_CLIPPED else (),
        most_saturated=_percent(most_saturated) if most_saturated >= _LEAST_CLIPPED else "",
        parted_x=None if parted is None else across(layers.index(parted)),
        rows=tuple(
            _row(layer, rank(layer), layer_advice(layer, diagnosis.recipe, from_file=from_file)) for layer in worst
        ),
        every=tuple(_row(layer, rank(layer)) for layer in layers),
        lead=_lead(diagnosis),
        parted=_parted(diagnosis),
        rungs=addressing_rungs(diagnosis, worst, rungs, metric, from_file=from_file),
    )


def _axis(layers: Sequence[LayerError]) -> tuple[int, int]:
    """From a round ratio below all that matter to one above most; what lies outside is drawn at the edge."""
    values = [value for layer in layers for value in (layer.alone_db, layer.quantsim_db, layer.file_db)]
    low = max(-_STEP_DB, _STEP_DB * math.floor(min(values) / _STEP_DB))
    high = min(70, _STEP_DB * math.ceil(max(values) / _STEP_DB))
    return low, max(high, low + 2 * _STEP_DB)


def _bars(layers: Sequence[LayerError], most: float) -> Iterator[tuple[float, float, float]]:
    width = 100 / len(layers)
    for place, layer in enumerate(layers):
        if layer.clipped > 0:
            yield round(place * width, 3), round(width, 3), round(100 * layer.clipped / most, 2)


def _saturation(layers: Sequence[LayerError], most: float) -> Iterator[tuple[float, float, float, float]]:
    width = 100 / len(layers)
    for place, layer in enumerate(layers):
        if layer.saturated_quantsim > 0 or layer.saturated_file > 0:
            quantsim, file = (round(50 * share / most, 2) for share in (layer.saturated_quantsim, layer.saturated_file))
            yield round(place * width, 3), round(width, 3), quantsim, file


def _row(layer: LayerError, rank: int, remedy: Remedy | None = None) -> LayerRow:
    held = "float" if layer.low is None or layer.high is None else f"{_number(layer.low)} to {_number(layer.high)}"
    parted = ""
    if layer.parted:
        parted = f"codes differ by up to {layer.parted_codes}, {_percent(layer.parted_share)} by more than one"
    return LayerRow(
        rank=rank,
        name=layer.name,
        operator=layer.operator,
        held=held,
        seen=f"{_number(layer.float_low)} to {_number(layer.float_high)}",
        clipped=_percent(layer.clipped) if layer.clipped else "none",
        range_db="–" if layer.range_db is None else f"{layer.range_db:.1f}",
        alone_db=f"{layer.alone_db:.1f}",
        quantsim_db=f"{layer.quantsim_db:.1f}",
        file_db=f"{layer.file_db:.1f}",
        parted=parted,
        ranges=_ranges(layer),
        saturated=(_share(layer.saturated_quantsim), _share(layer.saturated_file)),
        remedy=remedy,
    )


def _ranges(layer: LayerError) -> tuple[float, float, float, float] | None:
    """The range and FP32's values, as long as the longer of both."""
    if layer.low is None or layer.high is None:
        return None
    begin, end = min(layer.low, layer.float_low), max(layer.high, layer.float_high)
    if not end > begin:
        return None

    def percent(value: float) -> float:
        return round(100 * (value - begin) / (end - begin), 2)

    held, seen = percent(layer.high) - percent(layer.low), percent(layer.float_high) - percent(layer.float_low)
    return percent(layer.low), round(held, 2), percent(layer.float_low), round(seen, 2)


def _lead(diagnosis: LayerDiagnosis) -> str:
    one = diagnosis.num_images == 1
    recipe = diagnosis.recipe
    text = (
        f"Recipe {recipe.name} ({recipe.ranges.replace('_', ' ')}) on {diagnosis.num_images} calibration "
        f"image{'' if one else 's'}, in the order of the graph. FP32's values are the signal, what quantization "
        "changes is the noise. A layer alone is given FP32's values in the codes of its inputs."
    )
    if diagnosis.unmatched:
        text += f" {diagnosis.unmatched} quantized activations of the file could not be found in QuantSim."
    return text


def _parted(diagnosis: LayerDiagnosis) -> str:
    first = diagnosis.first_parted
    if first is None:
        return "Given the same input, no layer of the file differs from QuantSim by more than one code."
    all_parted = sum(layer.parted for layer in diagnosis.layers)
    rest = f"; {all_parted - 1} more do so" if all_parted > 1 else ""
    return (
        f"QuantSim and the file part at {first.name} ({first.operator}): given the same input, codes differ by up to "
        f"{first.parted_codes}, {_percent(first.parted_share)} of them by more than one{rest}."
    )


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")


def _share(share: float) -> str:
    return _percent(share) if share else ""


def _percent(share: float) -> str:
    if 0 < share < _LEAST_SHOWN:
        return f"< {100 * _LEAST_SHOWN:g} %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
