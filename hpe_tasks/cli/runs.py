"""The `hpe runs` commands: see what runs have come to, compare them, and take their results elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.catalogue.orders import RunOrder, Verdict
from hpe_tasks.cli.models import LimitOption, ReverseOption, SearchOption
from hpe_tasks.cli.options import EXIT_GATE_FAILED, JsonOption
from hpe_tasks.cli.output import CsvOption, print_csv, print_rows, refuse_both
from hpe_tasks.cli.run_summary import print_summary

if TYPE_CHECKING:
    from hpe_tasks.pipeline.runs import Run

runs_app = typer.Typer(help="See what the runs of HPE_WORKSPACE have come to, and compare them.", no_args_is_help=True)

RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Name or folder of the run; by default the last that reported.")
]


@runs_app.command("list")
def list_all(
    model: Annotated[str | None, typer.Option("--model", help="Only runs for this model.")] = None,
    verdict: Annotated[Verdict | None, typer.Option("--verdict", help="Only runs that came to this.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Only runs of this pipeline.")] = None,
    search: SearchOption = None,
    sort: Annotated[RunOrder, typer.Option("--sort", help="Latest, or best first.")] = "started",
    reverse: ReverseOption = False,
    limit: LimitOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """List all runs with what they came to; refused ones with the check that failed."""
    from hpe_tasks.catalogue.rows import RUN_COLUMNS, chosen_runs, run_record
    from hpe_tasks.catalogue.runs import list_runs
    from hpe_tasks.cli.catalogue_tables import runs_table
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    rows = chosen_runs(
        list_runs(places.workspace, places.cache, make_client),
        model=model,
        verdict=verdict,
        pipeline=pipeline,
        search=search,
        order=sort,
        reverse=reverse,
    )[:limit]
    print_rows(
        [run_record(row) for row in rows],
        lambda _: runs_table(rows, places.workspace),
        as_json=as_json,
        as_csv=as_csv,
        columns=RUN_COLUMNS,
    )


@runs_app.command("show")
def show(name: RunArgument = None, as_json: JsonOption = False, as_csv: CsvOption = False) -> None:
    """Print what a run has come to, as `hpe show`; exits with 1 unless it passed its gate, or is done.

    --json prints all records of it, --csv its line of the list.
    """
    refuse_both(as_json, as_csv)
    run = _run(name)
    good = _print_row(run) if as_csv else print_summary(run, as_json=as_json, looking_back=True)
    if not good:
        raise typer.Exit(EXIT_GATE_FAILED)


@runs_app.command("compare")
def compare_runs(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names or folders of two or more runs.")],
    everything: Annotated[bool, typer.Option("--all", help="Settings that are alike, too.")] = False,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Compare runs: figures, joints, gate, and what their recipes, settings and data differ in."""
    from hpe_tasks.catalogue.comparing import compare
    from hpe_tasks.catalogue.subjects import subject_of_run
    from hpe_tasks.cli.comparison_table import print_comparison
    from hpe_tasks.pipeline.collected import records_of

    subjects = [subject_of_run(records_of(_run(name), looking_back=True, with_commit=False)) for name in names]
    print_comparison(compare(subjects, everything=everything), as_json=as_json, as_csv=as_csv)


@runs_app.command("images")
def images(
    name: RunArgument = None,
    part: Annotated[
        str, typer.Option("--part", help="What is counted: all, or group/…, joint/…, size/… or crowd/….")
    ] = "all",
    limit: LimitOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Print the figure of each image alone, before and after quantization; those first that lost most."""
    from hpe_tasks.catalogue.images import IMAGE_COLUMNS, image_record, image_results, tables_of_run
    from hpe_tasks.cli.catalogue_tables import images_table
    from hpe_tasks.pipeline.collected import records_of

    run = _run(name)
    records = records_of(run, looking_back=True, with_commit=False)
    results = image_results(tables_of_run(records, run.workspace), part=part)[:limit]
    print_rows(
        [image_record(one) for one in results],
        lambda _: images_table(run.name, records.metric, part, results),
        as_json=as_json,
        as_csv=as_csv,
        columns=IMAGE_COLUMNS,
    )


def _print_row(run: Run) -> bool:
    from hpe_tasks.catalogue.rows import RUN_COLUMNS, run_record
    from hpe_tasks.catalogue.runs import summary_of_run
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.records import verdict_of

    records = records_of(run, looking_back=True, with_commit=False)
    print_csv([run_record(summary_of_run(run, records))], RUN_COLUMNS)
    return verdict_of(records).good


def _run(name: str | None) -> Run:
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.pipeline.runs import find_run
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    return find_run(name, workspace=places.workspace, cache=places.cache, s3=make_client)
