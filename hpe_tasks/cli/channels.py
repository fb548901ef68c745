"""The `hpe channel` commands: see and move what a channel of the registry points to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_REGISTRY, JsonOption, RegistryOption

if TYPE_CHECKING:
    from hpe_tasks.registry.channel_keys import ChannelKeys
    from hpe_tasks.registry.channels import ChannelPointer
    from hpe_tasks.registry.publishing import ModelRegistry

channel_app = typer.Typer(help="See and move what a channel of the registry points to.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model in the registry.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for the registry's log.")]
ChannelOption = Annotated[str, typer.Option("--channel", help="Channel of the model.")]


def channel_keys() -> ChannelKeys:
    """The keys that channels are moved with here."""
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.registry.channel_keys import keys_at_hand

    places = Settings.from_environment()
    return keys_at_hand(places.read_signing_key(), places.public_key)


def open_registry(uri: str) -> ModelRegistry:
    """The registry, in which this user acts."""
    from hpe_tasks.pipeline.provenance import user
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    return ModelRegistry(make_client(), S3Location.parse(uri), actor=user())


def print_channel(pointer: ChannelPointer, as_json: bool) -> None:
    """Print what a channel serves, and served before."""
    if as_json:
        typer.echo(pointer.model_dump_json(indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "manifest SHA-256", "", title=f"{pointer.name}: channel {pointer.channel}")
    moved = f"served since {pointer.moved_at:%Y-%m-%d %H:%M} UTC, by {pointer.moved_by or 'unknown'} ({pointer.reason})"
    table.add_row(pointer.version, pointer.manifest_sha256[:16], moved)
    for entry in pointer.history:
        table.add_row(entry.version, entry.manifest_sha256[:16], "before")
    signed = "not signed" if pointer.signature is None else f"signed, counter {pointer.counter}"
    table.caption = f"The channel is {signed}."
    Console().print(table)


@channel_app.command("show")
def channel_show(
    name: NameArgument,
    channel: ChannelOption = DEFAULT_CHANNEL,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Show which version a channel serves, and what it served before."""
    print_channel(open_registry(registry).show(name, channel), as_json)


@channel_app.command("versions")
def channel_versions(
    name: NameArgument, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False
) -> None:
    """List the versions of a model, and the channels that serve them."""
    from hpe_tasks.errors import AccessError

    stored = open_registry(registry).versions(name)
    if not stored:
        raise AccessError(f"There is no model {name!r} in {registry}.", hint="Check the name and --registry.")
    if as_json:
        listed = [
            {"version": v.version, "published_at": v.published_at.isoformat(), "channels": v.channels} for v in stored
        ]
        typer.echo(json.dumps(listed, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("version", "published", "served by", title=name)
    for version in stored:
        table.add_row(version.version, f"{version.published_at:%Y-%m-%d %H:%M} UTC", ", ".join(version.channels))
    Console().print(table)


@channel_app.command("promote")
def channel_promote(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version to serve.")],
    channel: ChannelOption = DEFAULT_CHANNEL,
    note: NoteOption = "",
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Let a channel serve a version that is in the registry; signed, if HPE_SIGNING_KEY is set."""
    stored = open_registry(registry)
    stored.promote(name, version, channel, keys=channel_keys(), note=note)
    print_channel(stored.show(name, channel), as_json)


@channel_app.command("rollback")
def channel_rollback(
    name: NameArgument,
    channel: ChannelOption = DEFAULT_CHANNEL,
    note: NoteOption = "",
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Let a channel serve what it served before; signed, if HPE_SIGNING_KEY is set."""
    print_channel(open_registry(registry).rollback(name, channel, keys=channel_keys(), note=note), as_json)


@channel_app.command("sign")
def channel_sign(
    name: NameArgument,
    channel: ChannelOption = DEFAULT_CHANNEL,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Sign with HPE_SIGNING_KEY what a channel serves and served before, as it is; look at it first.

    For channels from before they were signed, and when the key is changed.
    """
    print_channel(open_registry(registry).sign(name, channel, channel_keys()), as_json)
