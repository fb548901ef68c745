"""Which rungs of the ladder address what the layers of a network lose, and what these rungs came to in this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.gate.accuracy import Metric
from hpe_tasks.records.ladder import RungOutcome
from hpe_tasks.records.layers import LayerDiagnosis, LayerError
from hpe_tasks.report.ladder import STATE_WORDS, shown_name
from hpe_tasks.report.layer_advice import remedies

_ADDRESSES: Mapping[str, str] = {
    "min_max": "values that ranges cut off",
    "tf_enhanced": "ranges that rare values stretch",
    "even_channels": "channels of one range whose spreads differ",
    "joint_ranges": "ranges that cost joints",
    "equalized": "weights whose spreads differ from channel to channel",
    "seq_mse": "weights that rounding harms",
    "bias_corrected": "outputs whose mean has moved",
    "mixed": "activations that 8 bits cannot hold",
    "distilled": "what no choice of ranges or weights mends",
    "distilled_labels": "the same, with the annotations of dataset.training_split",
}


@dataclass(frozen=True)
class AddressingRung:
    """A rung and the layers it is for.

    Attributes:
        name: In words.
        addresses: What it is good against.
        layers: Ranks of the layers that lose so, as on the chart.
        came_to: What became of it in this run.
    """

    name: str
    addresses: str
    layers: str
    came_to: str


def addressing_rungs(
    diagnosis: LayerDiagnosis,
    worst: Sequence[LayerError],
    rungs: Sequence[RungOutcome],
    metric: Metric | None,
    *,
    from_file: bool,
) -> tuple[AddressingRung, ...]:
    """The rungs that address the layers that lose most, in the order of the ladder: cheapest first.

    Args:
        diagnosis: Of the recipe that was chosen: the layers of other rungs were not compared.
        worst: Its layers that lose most, first the worst.
        rungs: Of the run; empty where it searched no recipe.
        metric: Of the rungs' figures.
        from_file: Whether the network came as an ONNX file.
    """
    layers: dict[str, list[int]] = {}
    used: dict[str, bool] = {}
    for rank, layer in enumerate(worst, start=1):
        for remedy in remedies(layer, diagnosis.recipe, from_file=from_file):
            if remedy.rung:
                layers.setdefault(remedy.rung, []).append(rank)
                used[remedy.rung] = remedy.used
    outcomes = {rung.name: rung for rung in rungs}
    return tuple(
        AddressingRung(
            shown_name(rung),
            _ADDRESSES[rung],
            _listed(ranks),
            _came_to(outcomes.get(rung), metric, used=used[rung]),
        )
        for rung, ranks in ((rung.name, layers[rung.name]) for rung in RUNGS if rung.name in layers)
    )


def _listed(ranks: Sequence[int]) -> str:
    """Rising numbers, three and more in a row as a range."""
    rows = [[rank for _, rank in row] for _, row in groupby(enumerate(ranks), key=lambda one: one[1] - one[0])]
    return ", ".join(f"{row[0]}–{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def _came_to(outcome: RungOutcome | None, metric: Metric | None, *, used: bool) -> str:
    if used:
        return "this recipe does it"
    if outcome is None:
        return "not tried in this run"
    loss = None if outcome.tried is None else outcome.tried.loss
    lost = "" if loss is None or metric is None else f", {metric.name} lost {metric.text(loss)}"
    return f"{STATE_WORDS[outcome.state]}{lost}"
