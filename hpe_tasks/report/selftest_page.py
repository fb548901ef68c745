"""What the self-test found, as one HTML file without network access and as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpe_tasks.records.selftest import GuardOutcome, SelfTest
from hpe_tasks.report.templating import templates_for

if TYPE_CHECKING:
    from rich.table import Table

OUTCOMES: dict[GuardOutcome, str] = {
    "passed": "passed",
    "refused": "refused",
    "let_through": "let through",
    "broke": "broke off",
}
"""In words."""


def selftest_page(record: SelfTest) -> str:
    """The page: the verdict, and a row for each fault with its guard and what that said."""
    template = templates_for().get_template("selftest.html.j2")
    return template.render(record=record, title=selftest_title(record), outcomes=OUTCOMES)


def selftest_title(record: SelfTest) -> str:
    """The outcome in a few words."""
    if not record.faults:
        return "The healthy run did not pass: nothing could be planted"
    refused = sum(trial.good for trial in record.faults)
    if record.passed:
        return f"All {refused} faults were refused by their guards"
    return f"{len(record.faults) - refused} of {len(record.faults)} faults got past their guards"


def selftest_table(record: SelfTest) -> Table:
    """The same rows for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, title=selftest_title(record), title_justify="left", title_style="bold", pad_edge=False
    )
    table.add_column("Fault", overflow="fold", ratio=3)
    table.add_column("Guard", overflow="fold", ratio=3)
    table.add_column("Outcome", no_wrap=True)
    table.add_column("What the guard said", overflow="fold", ratio=5)
    table.add_column("s", justify="right", no_wrap=True)
    for trial in record.trials:
        fault = Text(trial.planted)
        fault.append(f"\n{trial.name}", style="dim")
        outcome = Text(OUTCOMES[trial.outcome], style="green" if trial.good else "bold red")
        table.add_row(fault, Text(trial.guard), outcome, Text(trial.message), f"{trial.seconds:.1f}")
    return table
