"""`hpe selftest`: whether the guards still refuse what they are there for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hpe_tasks.cli.options import EXIT_GATE_FAILED, JsonOption, print_json

OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="FAULT", help="Plant this fault only. Repeatable.")
]


def selftest(
    only: OnlyOption = None,
    list_faults: Annotated[bool, typer.Option("--list", help="List the faults and their guards, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Plant faults on a healthy run and try whether each is refused by its guard; exits with 1 when one is not.

    It takes a few minutes at most, draws its own people, and asks neither the network nor the registry.
    """
    if list_faults:
        _print_faults()
        return
    from hpe_tasks.cli.run_summary import StderrWatch
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.records.selftest import GuardTrial
    from hpe_tasks.selftest.running import keep_selftest, run_selftest
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import make_client

    def tell(trial: GuardTrial) -> None:
        print(f"  {trial.name:28}{trial.outcome:12}{trial.seconds:6.1f} s", flush=True, file=sys.stderr)

    places = Settings.from_environment()
    shown = None if as_json else (tell, StderrWatch())
    record = run_selftest(places.cache, only=only or (), on_trial=shown and shown[0], watch=shown and shown[1])
    page = keep_selftest(record, open_workspace(places.workspace, s3=make_client, cache=places.cache))
    if as_json:
        print_json(record)
    else:
        from rich.console import Console

        from hpe_tasks.report.selftest_page import selftest_table

        console = Console()
        console.print(selftest_table(record))
        console.print(f"Report: {page}", soft_wrap=True)
    if not record.passed:
        raise typer.Exit(EXIT_GATE_FAILED)


def _print_faults() -> None:
    from rich.console import Console
    from rich.table import Table

    from hpe_tasks.selftest.faults import FAULTS

    table = Table("fault", "what is wrong", "its guard")
    for fault in FAULTS:
        table.add_row(fault.name, fault.planted, fault.guard)
    Console().print(table)
