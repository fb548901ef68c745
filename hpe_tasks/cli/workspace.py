"""The `hpe workspace` commands: verify what is stored, and drop what nobody needs any more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.storage.workspace import Workspace
    from hpe_tasks.upkeep.cache import CacheUse
    from hpe_tasks.upkeep.checking import WorkspaceCheck
    from hpe_tasks.upkeep.collecting import Collection

EXIT_BROKEN = 1

workspace_app = typer.Typer(
    help="Verify what is stored in HPE_WORKSPACE, and drop what nobody needs any more.", no_args_is_help=True
)


@workspace_app.command("check")
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Drop what is broken: the next run makes it again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read everything that is stored and compare it with its digests; exits with 1 when something broken is left."""
    from hpe_tasks.upkeep.checking import check_workspace

    found = check_workspace(_open(_places()), repair=repair)
    if as_json:
        print_json(found)
    else:
        _print_check(found)
    if not found.intact:
        raise typer.Exit(EXIT_BROKEN)


@workspace_app.command("gc")
def gc(
    keep_days: Annotated[
        int, typer.Option("--keep-days", min=1, help="Keep what runs of so many days point to; two days at least.")
    ] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it. Otherwise only say what would go.")] = False,
    drop_runs: Annotated[
        bool, typer.Option("--runs", help="Drop records and reports of older runs as well; `hpe show` forgets them.")
    ] = False,
    cache_max_gb: Annotated[
        float | None,
        typer.Option("--cache-max-gb", min=0.0, help="Most GB of HPE_CACHE; by default HPE_CACHE_MAX_GB, or no limit."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Drop results that no run of the last days points to, and what the cache holds beyond its size; runs may go on."""
    from hpe_tasks.upkeep.cache import trim_cache
    from hpe_tasks.upkeep.collecting import collect

    places = _places()
    collected = collect(_open(places), keep_days, delete=delete, drop_runs=drop_runs)
    most_gb = places.cache_max_gb if cache_max_gb is None else cache_max_gb
    cache = trim_cache(places.cache, most_gb, delete=delete)
    if as_json:
        typer.echo(f'{{"workspace": {collected.model_dump_json()}, "cache": {cache.model_dump_json()}}}')
    else:
        _print_collection(collected)
        _print_cache(cache, deleted=delete)
        if not delete:
            typer.echo("Nothing was deleted: add --delete.")


def _places() -> Settings:
    from hpe_tasks.config.environment import Settings

    return Settings.from_environment()


def _open(places: Settings) -> Workspace:
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import make_client

    logging.getLogger("hpe_tasks.progress").setLevel(logging.INFO)
    return open_workspace(places.workspace, s3=make_client, cache=places.cache)


def _print_check(found: WorkspaceCheck) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from hpe_tasks.storage.files import megabytes

    if found.broken:
        table = Table(Column("file", overflow="fold"), "is", "step", "runs", "", title=found.workspace)
        for one in found.broken:
            table.add_row(one.name, one.problem, one.step, "\n".join(one.runs), "dropped" if one.repaired else "")
        Console().print(table)
    typer.echo(
        f"{found.files:,} files, {megabytes(found.size_bytes)}: "
        + (f"{len(found.broken)} broken." if found.broken else "all as they were stored.")
    )
    if found.broken and found.intact:
        typer.echo("What was broken is dropped: the next run makes it again.")
    elif not found.intact:
        typer.echo("`hpe workspace check --repair` drops it, but for files in trusted/, which are yours to delete.")


def _print_collection(collected: Collection) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from hpe_tasks.storage.files import megabytes

    if collected.dropped:
        table = Table("what", Column(overflow="fold"), "files", "size", title=collected.workspace)
        for one in collected.dropped:
            table.add_row(one.kind, one.name, f"{one.files:,}", megabytes(one.size_bytes))
        Console().print(table)
    done = "dropped" if collected.deleted else "would go"
    typer.echo(
        f"{megabytes(collected.size_bytes)} of the workspace {done}; {collected.kept_results} results stay, which "
        f"{collected.recent_runs} of {collected.runs} runs point to or which are new."
    )


def _print_cache(cache: CacheUse, *, deleted: bool) -> None:
    from hpe_tasks.storage.files import megabytes

    limit = "no limit" if cache.max_bytes is None else f"at most {megabytes(cache.max_bytes)}"
    typer.echo(f"The cache {cache.folder} holds {megabytes(cache.size_bytes)} ({limit}).")
    for one in cache.dropped:
        typer.echo(f"  {'dropped' if deleted else 'would go'}: {one.name}, {megabytes(one.size_bytes)}")
    if cache.in_use_bytes and cache.max_bytes is not None and cache.left_bytes > cache.max_bytes:
        typer.echo(f"  {megabytes(cache.in_use_bytes)} stay because they are in use.")
