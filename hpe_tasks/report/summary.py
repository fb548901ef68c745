"""What a run came to, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from hpe_tasks.gate.accuracy import Metric, megabytes_text, metric_of, sample_text
from hpe_tasks.gate.floor import next_step
from hpe_tasks.gate.references import Reference
from hpe_tasks.records.base import Record
from hpe_tasks.records.diagnosis import Diagnosis, Fp32Check
from hpe_tasks.records.evaluation import EvaluationReport, QuantizedEvaluation
from hpe_tasks.records.gate import GateCheck, GateDecision
from hpe_tasks.records.ladder import RungState
from hpe_tasks.records.preflight import Preflight
from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.commands import Launcher, command_with
from hpe_tasks.report.ladder import ladder_view
from hpe_tasks.report.preflight_table import attention_table, preflight_table
from hpe_tasks.report.records import (
    RunRecords,
    comparison_text,
    cpu_text,
    interval_text,
    measured_on,
    notes_of,
    publication_rows,
    published_text,
    quantities_of,
    short_setting,
    speed_rows,
    stat_rows,
    verdict_of,
)
from hpe_tasks.report.retraining import quantizing_command
from hpe_tasks.report.step_table import quantized_table, step_table

_STATE_STYLES: dict[RungState, str] = {
    "passed": "green",
    "inconclusive": "bold yellow",
    "refused": "bold red",
    "failed": "bold red",
}

_QUICK_LOOK = "quick look"
_MANY = 6
_MOST_ADVICE = 4


@dataclass(frozen=True)
class _Prose:
    """A sentence behind an indentation: wrapped between words on a terminal, on one line in a pipe."""

    text: Text
    indent: str = "  "

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.no_wrap and not console.is_terminal:
            yield Text.assemble(self.indent, self.text)
            return
        lead = self.indent
        for line in self.text.wrap(console, options.max_width - len(lead), overflow="fold"):
            line.rstrip()
            yield Text.assemble(lead, line)
            lead = " " * len(lead)


def summary_table(
    records: RunRecords, *, report: Path | str | None = None, launcher: Launcher = "hpe"
) -> RenderableType:
    """The verdict, accuracy, gate, sizes and addresses of a run, as far as it has come.

    Where something failed, it ends with the reason and with what to try next. Values that users gave are shown as they
    are: nothing in them is read as markup. Print it with `soft_wrap=True`, so that addresses and commands stay in one
    piece.

    Args:
        records: What the run has produced.
        report: Its HTML file.
        launcher: What starts runs here, for the command to try next.
    """
    parts: list[RenderableType] = [_headline(records)]
    if records.preflight is not None and (records.preflight.failed or records.preflight.warnings):
        parts.append(attention_table(records.preflight))
    if records.rungs:
        parts.append(ladder_table(records))
    if any(measured for _, measured in records.measurements):
        parts.append(_accuracy(records))
        parts += [Text(f"{note}\n", style="dim") for note in (*notes_of(records.metric), measured_on(records))]
        if records.reference is not None and records.compared:
            parts.append(_published(records, records.reference))
    if records.below_floor is not None and records.below_floor.diagnosis is not None:
        parts.append(_usual_mistakes(records.below_floor.diagnosis, records.metric))
    if records.decision is not None:
        parts.append(_checks(records.decision))
    parts.append(_facts(records, report))
    parts += _failures(records)
    if records.below_floor is not None:
        parts.append(_Prose(Text.assemble(("What to do: ", "bold"), next_step(records.below_floor)), indent=""))
        found = records.below_floor.diagnosis.found if records.below_floor.diagnosis else None
        if found is not None and found.settings:
            parts.append(Text("\nTry first", style="bold"))
            parts.append(Text(command_with(records.requested, found.settings, launcher), style="bold cyan"))
    if records.decision is not None and not records.decision.passed:
        parts += [*_reasons(records.decision), *_next_steps(records, launcher)]
    if records.registered is not None and records.registered.better:
        parts.append(Text("Quantize it", style="bold"))
        parts.append(Text(quantizing_command(records.requested, records.registered, launcher), style="bold cyan"))
    return Group(*parts)


def _headline(records: RunRecords) -> Text:
    verdict = verdict_of(records)
    colour = {"good": "green", "bad": "red"}.get(verdict.tone, "yellow")
    text = Text()
    text.append(verdict.title, style=f"bold {colour}")
    text.append(f"  (run {records.run})\n")
    if any(report is not None and report.fingerprint.subset for _, report in records.measurements):
        text.append("Quick look: the accuracy was measured on a subset of the evaluation split.\n", style="yellow")
    for warning in records.validation.warnings if records.validation else ():
        text.append(f"Data set: {warning.message} ({warning.count:,})\n", style="yellow")
    if verdict.kind != "failed" or not records.failures:
        text.append(f"{verdict.detail}\n")
    return text


def _failures(records: RunRecords) -> Iterator[RenderableType]:
    for failure in records.failures:
        tabled = failure.step == "preflight" and records.preflight is not None and records.preflight.failed
        if tabled or (failure.step == "check_fp32" and records.below_floor is not None):
            continue  # what stands above says it better
        yield _Prose(Text.assemble((f"{failure.step} failed: ", "bold red"), failure.message), indent="")
        if failure.hint:
            yield _Prose(Text.assemble(("What to do: ", "bold"), failure.hint), indent="")


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _accuracy(records: RunRecords) -> Table:
    headers = []
    for label, report in records.measurements:
        state = "not measured" if report is None else (_QUICK_LOOK if report.fingerprint.subset else "")
        headers.append(f"{label}\n{state}" if state else label)
    table = _table(f"Accuracy: {records.metric.title}", "", *headers)
    for row in stat_rows(records, brief=True):
        table.add_row(row.label, *row.values)
    return table


def _published(records: RunRecords, reference: Reference) -> Table:
    table = _table(f"Published: {reference.name}", records.metric.name, "Published", "Ours")
    table.add_column("")
    for row in records.compared:
        shown = comparison_text(row, reference)
        table.add_row(
            Text(row.published.label),
            published_text(row.published.value),
            published_text(row.ours),
            Text(shown, style="green" if row.within else "yellow"),
        )
    return table


def ladder_table(records: RunRecords) -> RenderableType:
    """The recipes that were tried, and which was chosen."""
    ladder = ladder_view(records)
    if ladder is None:
        return Text("No recipe was searched: recipe.search is off.")
    table = _table("Recipes that were tried", "Rung", records.metric.name, "Change", "Speed", "Size")
    table.add_column("Result", overflow="fold")
    for row in ladder.rows:
        style = _STATE_STYLES.get(row.outcome.state, "dim")
        name = Text(f"{row.label} (chosen)", style="bold") if row.outcome.chosen else Text(row.label)
        size = "–" if row.size is None else row.size.text
        told = "" if row.outcome.tried is not None and row.outcome.state != "impossible" else row.outcome.reason
        result = Text.assemble((row.state, style), f": {told}" if told else "")
        table.add_row(name, row.figure, row.change, row.speed, size, result)
    return Group(table, _Prose(Text(ladder.choice, style="dim"), indent=""), "")


def _usual_mistakes(diagnosis: Diagnosis, metric: Metric) -> Table:
    title = f"The same {diagnosis.num_persons} persons under the usual mistakes, the likeliest first"
    table = _table(title, "When", metric.name)
    table.add_column("What mends it", overflow="fold")
    table.add_row("as configured", metric.text(diagnosis.accuracy), "")
    for tried in diagnosis.tried[:_MANY]:
        style = "green" if tried == diagnosis.found else ""
        table.add_row(
            Text(tried.when, style=style),
            metric.text(tried.accuracy),
            Text("\n".join(map(short_setting, tried.settings))),
        )
    return table


def _checks(decision: GateDecision) -> Group:
    table = _table("Gate", "Check", "Observed", "Limit")
    table.add_column("Result")
    for check in decision.checks:
        observed, limit, _ = quantities_of(check)
        result = Text("passed", style="green") if check.passed else Text("FAILED", style="bold red")
        if check.inconclusive:
            result = Text("inconclusive", style="bold yellow")
        table.add_row(Text(check.title), f"{observed}{interval_text(check)}", limit, result)
    notes = dict.fromkeys(note for check in decision.checks if check.passed and (note := _note(check)))
    return Group(table, *(_Prose(Text(note, style="dim"), indent="") for note in notes), *([""] if notes else []))


def _note(check: GateCheck) -> str:
    """What a passed check says in brackets: how small the sample was, what could not be measured."""
    _, bracket, note = check.reason.partition(" (")
    said = [one for one in note.removesuffix(")").split("; ") if " % interval " not in one]
    return f"Note: {'; '.join(said)}." if bracket and said else ""


def _reasons(decision: GateDecision) -> Iterator[RenderableType]:
    yield Text("Why the gate could not tell" if decision.inconclusive else "Why the gate failed", style="bold red")
    for check in decision.failed:
        yield _Prose(Text.assemble((f"{check.title}: ", "bold"), f"{check.reason}."))


def _next_steps(records: RunRecords, launcher: Launcher) -> Iterator[RenderableType]:
    advice = next_steps(records)
    if not advice:
        return
    yield Text("\nWhat to try next", style="bold")
    for number, item in enumerate(advice[:_MOST_ADVICE], start=1):
        yield _Prose(Text(item.text), indent=f"  {number}. ")
        if item.setting:
            yield _Prose(Text(item.setting, style="cyan"), indent="     ")
    if len(advice) > _MOST_ADVICE:
        yield _Prose(Text(f"… and {len(advice) - _MOST_ADVICE} more in the report."), indent="     ")
    setting = next((item.setting for item in advice if item.setting), "")
    if setting:
        yield Text("\nTry first", style="bold")
        yield Text(command_with(records.requested, [setting], launcher), style="bold cyan")


def _facts(records: RunRecords, report: Path | str | None) -> Text:
    """One line each, however long: addresses are there to be copied."""
    rows = list(_fact_rows(records, report))
    width = max((len(label) for label, _ in rows), default=0)
    text = Text()
    for label, value in rows:
        text.append(f"{label:{width}}  ", style="bold")
        text.append(f"{value}\n")
    return text


def _fact_rows(records: RunRecords, report: Path | str | None) -> Iterator[tuple[str, str]]:
    exported = records.exported
    if exported is not None:
        before, after = exported.fp32_size_bytes, exported.model.size_bytes
        sizes = f"FP32 {megabytes_text(before)}, ONNX int8 {megabytes_text(after)}"
        yield "Size", f"{sizes} ({before / after:.1f} times smaller)"
        audit = exported.placement
        yield "In int8", f"{100 * audit.int8_mac_share:.1f} % of {audit.total_macs / 1e6:,.0f} M multiply-accumulates"
    yield from speed_rows(records.latency)
    if exported is not None:
        yield "Model file", exported.model.uri
    yield from publication_rows(records)
    if report is not None:
        yield "Report", str(report)


def record_table(step: str, record: Record) -> RenderableType:
    """What one step has left: the table of its kind where there is one, its fields otherwise."""
    if isinstance(record, EvaluationReport):
        return _measured(record)
    if isinstance(record, GateDecision):
        return Group(_checks(record), *(_reasons(record) if not record.passed else ()))
    if isinstance(record, Fp32Check):
        return Text(f"{record.reason}.")
    if isinstance(record, Preflight):
        return preflight_table(record)
    if isinstance(record, QuantizedEvaluation):
        return quantized_table(record)
    return step_table(step, record)


def _measured(report: EvaluationReport) -> Group:
    metric = metric_of(report.stats)
    quick = f" ({_QUICK_LOOK})" if report.fingerprint.subset else ""
    table = _table(metric.title, "Statistic", "Value")
    for column in metric.columns:
        table.add_row(column.label, metric.text(getattr(report.stats, column.field)))
    listed = {column.field for column in metric.columns}
    for part, value in (*report.by_group.items(), *report.by_joint.items()):
        if part not in listed:
            table.add_row(f"{metric.name} {part.replace('_', ' ')}", metric.text(value))
    parts: list[RenderableType] = [Text(f"{report.runtime}: {sample_text(report)}{quick}", style="bold"), table]
    notes = (*notes_of(metric), f"Measured on {cpu_text(report)}.")
    parts += [Text(note, style="dim") for note in notes]
    parts += [Text(f"{image.name}: {image.reason}", style="yellow") for image in report.failed_images[:_MANY]]
    if len(report.failed_images) > _MANY:
        parts.append(Text(f"… {len(report.failed_images)} images in all", style="yellow"))
    return Group(*parts)
