"""`hpe watch`: whether there is a reason to quantize again."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Annotated

import typer

from hpe_tasks.cli.options import ConfigOption, JsonOption, PresetOption, SetOption, print_json, read_config

EXIT_FIRED = 1


def watch(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    telemetry: Annotated[
        str | None,
        typer.Option(
            "--telemetry",
            metavar="PLACE",
            help="Where the function's log is: a file or folder, s3://bucket/prefix, or logs:// and a log group; by "
            "default HPE_WATCH_TELEMETRY, or no look at drift.",
        ),
    ] = None,
    golden: Annotated[
        str | None,
        typer.Option(
            "--golden",
            metavar="PERIOD",
            help="Requests that were good: 7d or 2000 requests after the version was promoted, or "
            "2026-11-01/2026-11-08; by default HPE_WATCH_GOLDEN, or 7d.",
        ),
    ] = None,
    window_days: Annotated[
        float | None,
        typer.Option("--window-days", help="Compare requests of so many days; by default HPE_WATCH_WINDOW_DAYS, or 7."),
    ] = None,
    claim: Annotated[
        bool,
        typer.Option("--claim", help="Take what fired upon this caller: nobody is told it again, nor starts it."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether there is a reason to quantize again, and which: exits with 1 when a trigger fired.

    Compared is what a run would be made of now (checkpoint, data, recipe, tools) with the version that its channel
    serves, and how the function's requests look with how they did. A reason that a run was started for already counts
    as none. Starts nothing itself.
    """
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.report.watch_table import watch_tables
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import make_client
    from hpe_tasks.watching.claims import claim_start
    from hpe_tasks.watching.looking import look
    from hpe_tasks.watching.settings import WatchSettings

    places = Settings.from_environment()
    asked = read_config(preset, config, settings)
    watched = WatchSettings.from_environment(telemetry=telemetry, golden=golden, window_days=window_days)
    workspace = open_workspace(places.workspace, s3=make_client, cache=places.cache)
    report = look(asked, workspace=workspace, cache=places.cache, s3=make_client, settings=watched)
    if as_json:
        print_json(report)
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console()
        for part in watch_tables(report):
            console.print(part, soft_wrap=isinstance(part, Text))
    if not report.due:
        return
    if claim and claim_start(workspace, report, _caller(), datetime.now(UTC)) is None:
        typer.echo("Somebody else has just started a run for this.", err=True)
        return
    raise typer.Exit(EXIT_FIRED)


def _caller() -> str:
    """A name that no other process has: who claims twice under one name gets the claim twice."""
    from hpe_tasks.pipeline.provenance import user

    return f"{user()} on {socket.gethostname()}, process {os.getpid()}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
