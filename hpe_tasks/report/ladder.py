"""The ladder of recipes as it is shown: each rung with its accuracy, its speed, its size and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpe_tasks.gate.accuracy import UNITS, Metric, megabytes_text
from hpe_tasks.progress import duration_text
from hpe_tasks.records.ladder import RungOutcome, RungState, TriedRung
from hpe_tasks.report.interval_chart import IntervalPlot, IntervalRow, plot_of
from hpe_tasks.report.records import RunRecords, milliseconds_text, threads_text

STATE_WORDS: dict[RungState, str] = {
    "passed": "passed",
    "inconclusive": "inconclusive",
    "refused": "refused",
    "impossible": "could not be tried",
    "skipped": "skipped",
    "failed": "failed",
    "not_run": "not run",
}


@dataclass(frozen=True)
class Bar:
    """A length in percent of the chart's width, with its text."""

    share: float
    text: str


@dataclass(frozen=True)
class LadderRow:
    """One rung; what was not measured is a dash or None.

    Attributes:
        recipe: Name of its recipe; empty where it was not tried.
        figure: Accuracy of the exported file.
        change: Against FP32, with its sign.
        between: The interval of the change; empty without one.
        speed: Times as fast as FP32.
        int8: Share of the multiply-accumulates in int8.
        spent: Time and memory that trying it took.
        floats: Layers that were left in float for what they win; else the first operators that stayed float.
        plot: Its change on the chart's axis.
    """

    outcome: RungOutcome
    label: str
    state: str
    recipe: str = ""
    quantsim: str = "–"
    figure: str = "–"
    change: str = "–"
    between: str = ""
    speed: str = "–"
    int8: str = "–"
    spent: str = "–"
    floats: tuple[str, ...] = ()
    plot: IntervalRow | None = None
    latency: Bar | None = None
    size: Bar | None = None


@dataclass(frozen=True)
class LadderView:
    """All rungs, on common axes.

    Attributes:
        choice: Which one was taken, and why.
        plot: The axis of changes; None where nothing was measured.
        fp32: FP32's figure, latency and size: the first row of the chart.
        threads: What latencies were measured with.
    """

    rows: tuple[LadderRow, ...]
    choice: str
    plot: IntervalPlot | None
    fp32: LadderRow | None
    threads: str
    limit: str


def ladder_view(records: RunRecords) -> LadderView | None:
    """Lay out the rungs of a run; None where no recipe is searched."""
    if not records.rungs:
        return None
    metric = records.metric
    tried = [rung.tried for rung in records.rungs if rung.tried is not None]
    changes = [(one.rung, one.change) for one in tried if one.change is not None and one.change.drop is not None]
    confidence = records.requested.gate.confidence
    sure = "" if confidence is None else f", with {100 * confidence:g} % intervals"
    plot = plot_of(changes, metric, f"Change of {metric.name} against FP32{sure}.") if changes else None
    placed = {} if plot is None else {row.label: row for row in plot.rows}
    rows = [_row(rung, metric, placed.get(rung.name)) for rung in records.rungs]
    slowest = max((time for one in tried for time in _times(one)), default=None)
    largest = max((size for one in tried for size in (one.size_bytes, one.fp32_size_bytes) if size), default=None)
    rows = [_with_bars(row, row.outcome.tried, slowest, largest) for row in rows]
    limit = next((change.limit for _, change in changes if change.limit is not None), None)
    return LadderView(
        rows=tuple(rows),
        choice=choice_text(records),
        plot=plot,
        fp32=_fp32(tried, metric, slowest, largest),
        threads=next((threads_text(one.latency.one_thread.threads) for one in tried if one.latency), ""),
        limit="" if limit is None else metric.text(limit),
    )


def choice_text(records: RunRecords) -> str:
    """Which rung was taken, and why; or that none is yet."""
    choice = records.choice
    return "No rung is chosen yet." if choice is None else f"The run takes {shown_name(choice.rung)}: {choice.reason}"


def shown_name(rung: str) -> str:
    """A rung's name in words."""
    return rung.replace("_", " ")


def _row(rung: RungOutcome, metric: Metric, plot: IntervalRow | None) -> LadderRow:
    row = LadderRow(rung, shown_name(rung.name), STATE_WORDS[rung.state], plot=plot)
    tried = rung.tried
    if tried is None:
        return row
    row = replace(row, recipe=tried.recipe.name, spent=_spent(tried))
    if tried.state == "impossible":
        return row
    return replace(
        row,
        quantsim=metric.text(tried.quantsim),
        figure=metric.text(tried.onnx),
        change="–" if plot is None else plot.change,
        between="" if plot is None else plot.between,
        speed="–" if tried.latency is None else UNITS["times"].text(tried.latency.one_thread.ratio),
        int8=UNITS["share"].text(tried.int8_mac_share),
        floats=tried.float_tensors or tried.float_operators,
    )


def _spent(tried: TriedRung) -> str:
    memory = "" if tried.peak_memory_bytes is None else f", {tried.peak_memory_bytes / 1e9:.1f} GB"
    reused = f", {len(tried.reused)} steps reused" if tried.reused else ""
    return f"{duration_text(tried.seconds)}{memory}{reused}"


def _times(tried: TriedRung) -> tuple[float, ...]:
    if tried.latency is None:
        return ()
    one = tried.latency.one_thread
    return one.fp32.median_ms, one.onnx.median_ms


def _with_bars(row: LadderRow, tried: TriedRung | None, slowest: float | None, largest: int | None) -> LadderRow:
    if tried is None or tried.size_bytes is None:
        return row
    times = _times(tried)
    return replace(
        row,
        latency=_bar(times[1], slowest, milliseconds_text(times[1])) if times else None,
        size=_bar(tried.size_bytes, largest, megabytes_text(tried.size_bytes)),
    )


def _fp32(tried: list[TriedRung], metric: Metric, slowest: float | None, largest: int | None) -> LadderRow | None:
    """FP32, as it was measured beside the first rung that tells it."""
    first = next((one for one in tried if one.fp32 is not None), None)
    if first is None:
        return None
    outcome = RungOutcome(name="fp32", summary="The checkpoint as it came.", state="passed")
    times, size = _times(first), first.fp32_size_bytes
    return LadderRow(
        outcome,
        "FP32",
        "",
        figure=metric.text(first.fp32),
        latency=_bar(times[0], slowest, milliseconds_text(times[0])) if times else None,
        size=None if size is None else _bar(size, largest, megabytes_text(size)),
    )


def _bar(value: float, largest: float | None, text: str) -> Bar:
    return Bar(0.0 if not largest else round(100 * value / largest, 2), text)
