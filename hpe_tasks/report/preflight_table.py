"""The preflight for the terminal: every check with its state, what was found and what to do, in lines that wrap."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from hpe_tasks.records.preflight import Preflight, PreflightCheck

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


def preflight_table(record: Preflight) -> Table:
    """All checks, and in the title how many failed or warn."""
    return _table(record.checks, title=preflight_title(record))


def attention_table(record: Preflight) -> Table:
    """The checks that failed or warn."""
    return _table((*record.failed, *record.warnings), title=preflight_title(record))


def preflight_title(record: Preflight) -> str:
    """The outcome in a few words."""
    counted = ((len(record.failed), "failed"), (len(record.warnings), "to look at"))
    told = [f"{count} {what}" for count, what in counted if count]
    return f"Preflight: {', '.join(told)} of {len(record.checks)} checks" if told else "Preflight: all is well"


def _table(checks: Iterable[PreflightCheck], *, title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("Check", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Found", overflow="fold", ratio=1)
    for check in checks:
        found = Text(check.found)
        if check.advice:
            found.append("\nWhat to do: ", style="bold")
            found.append(check.advice)
        table.add_row(Text(check.title), Text(check.state, style=_STYLES[check.state]), found)
    return table
