"""The `hpe models` commands: see what is published, compare it, and act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.catalogue.orders import VersionOrder
from hpe_tasks.cli.channels import ChannelOption, NameArgument, NoteOption, channel_promote, channel_rollback
from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_REGISTRY, JsonOption, RegistryOption, print_json
from hpe_tasks.cli.output import CsvOption, print_csv, print_rows, refuse_both

if TYPE_CHECKING:
    from hpe_tasks.registry.log import LogRecord
    from hpe_tasks.registry.operations import Operations

models_app = typer.Typer(
    help="See what is published: models, versions and what they can do; compare, promote and retire them.",
    no_args_is_help=True,
)

VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="The version that is meant.")]
NAMED = "A version, a model, MODEL@CHANNEL or MODEL@VERSION."
SearchOption = Annotated[
    str | None, typer.Option("--search", metavar="TEXT", help="Only rows that hold this text somewhere.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only so many rows.")]
ReverseOption = Annotated[bool, typer.Option("--reverse", help="The other way round.")]


@models_app.command("list")
def list_models(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.")] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="Only what this channel serves.")] = None,
    served: Annotated[bool, typer.Option("--served", help="Only versions that a channel serves.")] = False,
    retired: Annotated[bool, typer.Option("--retired", help="Those that are retired, too.")] = False,
    search: SearchOption = None,
    sort: Annotated[VersionOrder, typer.Option("--sort", help="Latest, or best first.")] = "published",
    reverse: ReverseOption = False,
    limit: LimitOption = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """List the versions of all models with accuracy, size, speed, and the channels that serve them."""
    from hpe_tasks.catalogue.index import list_versions
    from hpe_tasks.catalogue.rows import VERSION_COLUMNS, chosen_versions, version_record
    from hpe_tasks.cli.catalogue_tables import versions_table
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.errors import AccessError
    from hpe_tasks.storage.s3 import S3Location, make_client

    catalogue = list_versions(make_client(), S3Location.parse(registry), Settings.from_environment().cache)
    if model is not None and model not in catalogue.models:
        known = ", ".join(catalogue.models) or "none"
        raise AccessError(f"There is no model {model!r} in {registry}.", hint=f"Its models: {known}.")
    rows = chosen_versions(
        catalogue.versions,
        model=model,
        channel=channel,
        search=search,
        served=served,
        retired=retired,
        order=sort,
        reverse=reverse,
    )[:limit]
    print_rows(
        [version_record(row) for row in rows],
        lambda width: versions_table(rows, catalogue, width),
        as_json=as_json,
        as_csv=as_csv,
        columns=VERSION_COLUMNS,
    )


@models_app.command("show")
def show_version(
    named: Annotated[str, typer.Argument(metavar="VERSION", help=NAMED)],
    channel: ChannelOption = DEFAULT_CHANNEL,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Show a version: figures, gate, recipe, data, where it came from, and its files.

    --json prints its manifest, --csv its line of the list.
    """
    from hpe_tasks.cli.channels import open_registry
    from hpe_tasks.registry.named_versions import find_version

    refuse_both(as_json, as_csv)
    opened = open_registry(registry)
    stored = find_version(opened, named, channel=channel)
    if as_json:
        print_json(stored.manifest)
        return
    from rich.console import Console

    from hpe_tasks.catalogue.rows import VERSION_COLUMNS, version_record
    from hpe_tasks.catalogue.summaries import summary_of
    from hpe_tasks.cli.catalogue_tables import version_tables

    manifest = stored.manifest
    serving = next(one for one in opened.versions(manifest.name) if one.version == manifest.version).channels
    signed = opened.signature(manifest.name, manifest.version) is not None
    retired = manifest.version in opened.log.state(manifest.name).retired
    summary = summary_of(manifest, signed=signed, channels=serving).model_copy(update={"retired": retired})
    if as_csv:
        print_csv([version_record(summary)], VERSION_COLUMNS)
    else:
        Console().print(version_tables(manifest, summary))


@models_app.command("compare")
def compare_versions(
    named: Annotated[list[str], typer.Argument(metavar="VERSION...", help=f"Two or more. {NAMED}")],
    everything: Annotated[bool, typer.Option("--all", help="Settings that are alike, too.")] = False,
    channel: ChannelOption = DEFAULT_CHANNEL,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Compare versions: figures, joints, gate, and what their recipes, settings and data differ in."""
    from hpe_tasks.catalogue.comparing import compare
    from hpe_tasks.catalogue.subjects import subject_of_version
    from hpe_tasks.cli.channels import open_registry
    from hpe_tasks.cli.comparison_table import print_comparison
    from hpe_tasks.registry.named_versions import find_version

    opened = open_registry(registry)
    subjects = [subject_of_version(find_version(opened, one, channel=channel).manifest) for one in named]
    print_comparison(compare(subjects, everything=everything), as_json=as_json, as_csv=as_csv)


models_app.command("promote")(channel_promote)
models_app.command("rollback")(channel_rollback)


@models_app.command("retire")
def retire(
    name: NameArgument,
    version: VersionArgument,
    note: NoteOption = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let channels serve it again.")] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Let no channel serve a version any more; one that is served is not retired. Its files stay."""
    acts = _operations(registry)
    record = acts.unretire(name, version, note=note) if undo else acts.retire(name, version, note=note)
    _print_record(record, as_json)


@models_app.command("pin")
def pin(
    name: NameArgument,
    channel: ChannelOption = DEFAULT_CHANNEL,
    note: NoteOption = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let it be moved again.")] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Let a channel stay with what it serves: runs leave it alone, and people are refused."""
    acts = _operations(registry)
    record = acts.unpin(name, channel, note=note) if undo else acts.pin(name, channel, note=note)
    _print_record(record, as_json)


@models_app.command("annotate")
def annotate(
    name: NameArgument,
    version: VersionArgument,
    note: Annotated[str, typer.Argument(metavar="NOTE", help="What is to be remembered of the version.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Keep a remark about a version in the registry's log."""
    _print_record(_operations(registry).annotate(name, version, note=note), as_json)


@models_app.command("log")
def show_log(
    name: NameArgument,
    version: Annotated[str | None, typer.Option("--version", help="Only what is about this version.")] = None,
    limit: LimitOption = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Show who published, promoted, rolled back, retired, pinned or annotated what, when and why; latest first."""
    from hpe_tasks.cli.catalogue_tables import log_table
    from hpe_tasks.cli.channels import open_registry
    from hpe_tasks.registry.log import LogRecord

    records = open_registry(registry).log.records(name, version=version, last=limit)
    print_rows(
        [record.model_dump(mode="json", exclude={"schema_version"}) for record in records],
        lambda _: log_table(name, records),
        as_json=as_json,
        as_csv=as_csv,
        columns=[field for field in LogRecord.model_fields if field != "schema_version"],
    )


def _operations(registry: str) -> Operations:
    from hpe_tasks.pipeline.provenance import user
    from hpe_tasks.registry.operations import Operations
    from hpe_tasks.storage.s3 import S3Location, make_client

    return Operations(make_client(), S3Location.parse(registry), actor=user())


def _print_record(record: LogRecord, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    what = f"channel {record.channel} of {record.name}" if record.channel else f"version {record.version}"
    typer.echo(f"{record.action}: {what}, {record.told}")
