"""What a look at a channel has found, as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpe_tasks.records.watch import DriftReport, Histogram, WatchReport

if TYPE_CHECKING:
    from rich.console import RenderableType

_BLOCKS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 24


def watch_tables(report: WatchReport) -> list[RenderableType]:
    """The verdict, what fired, how requests look beside those of the golden period, and what was not compared."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    served = f"version {report.version}" if report.version else "nothing"
    found: list[RenderableType] = [Text(f"{report.name}, channel {report.channel}, serves {served}.")]
    found.append(Text(watch_title(report), style="bold"))
    if report.triggers:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("Trigger", no_wrap=True)
        table.add_column("Reason", overflow="fold")
        for trigger in report.triggers:
            table.add_row(trigger.kind, Text(trigger.reason))
        found.append(table)
    if report.model:
        found.append(
            Text(f"A run goes on from the served checkpoint, --set model.checkpoint={report.model['checkpoint']}.")
        )
    if report.claimed is not None:
        found.append(Text(f"Run {report.claimed.run_id} was started by {report.claimed.by}."))
    if report.drift is not None:
        found += _drift(report.drift)
    found += [Text(f"Not compared: {text}.") for text in report.not_compared]
    return found


def watch_title(report: WatchReport) -> str:
    """The verdict in a few words."""
    if not report.triggers:
        return "Nothing to do: no trigger fired"
    if report.claimed is not None:
        return f"Nothing to do: a run was started for this on {report.claimed.at:%Y-%m-%d at %H:%M} UTC"
    return f"Quantize again: {len(report.triggers)} trigger{'s' if len(report.triggers) > 1 else ''} fired"


def _drift(drift: DriftReport) -> list[RenderableType]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if drift.not_judged:
        return [Text(f"Drift is not judged: {drift.not_judged}.")]
    title = (
        f"Drift: {drift.images:,} images of {drift.since:%Y-%m-%d %H:%M} to {drift.until:%Y-%m-%d %H:%M}, and "
        f"{drift.golden_images:,} of the golden period."
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Statistic", no_wrap=True)
    table.add_column("Golden period", no_wrap=True)
    table.add_column("Now", no_wrap=True)
    table.add_column("Median", no_wrap=True)
    table.add_column("PSI", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in drift.statistics:
        first, last = _range(one.golden, one.now)
        medians = " → ".join("–" if m is None else f"{m:.3g}" for m in (one.golden.median, one.now.median))
        psi = "–" if one.psi is None else f"{one.psi:.2f}"
        p_value = "–" if one.p_value is None else f"{one.p_value:.2g}"
        verdict = Text("drifted", style="bold red") if one.drifted else Text("too few" if one.psi is None else "")
        drawn = [Text(bars(histogram, first, last), style="cyan") for histogram in (one.golden, one.now)]
        table.add_row(one.name, *drawn, medians, psi, p_value, verdict)
    limits = f"A statistic has drifted with PSI > {drift.max_psi:g} and p < {drift.alpha:g} (chi-square, Holm)."
    unread = [Text(f"{drift.unreadable_lines:,} lines of the log could not be read.")] if drift.unreadable_lines else []
    return [Text(title), table, Text(limits), *unread]


def _range(*histograms: Histogram) -> tuple[int, int]:
    """The first and the last bin that any of them has something in."""
    used = [index for one in histograms for index, count in enumerate(one.counts) if count]
    return (min(used), max(used)) if used else (0, 0)


def bars(histogram: Histogram, first: int, last: int) -> str:
    """The bins from one to another as a row of bars of at most 24 characters."""
    counts = histogram.counts[first : last + 1]
    width = max(1, -(-len(counts) // _COLUMNS))
    joined = [sum(counts[begin : begin + width]) for begin in range(0, len(counts), width)]
    most = max(joined, default=0)
    return "".join(_BLOCKS[-(-8 * count // most)] if most else " " for count in joined)
