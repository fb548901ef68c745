"""The commands `hpe models card` and `hpe models export-mlflow`: a published version outside of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_REGISTRY, JsonOption, RegistryOption

if TYPE_CHECKING:
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.registry.stored_versions import StoredManifest

VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="VERSION, MODEL, MODEL@CHANNEL or MODEL@VERSION.")
]


def add_export_commands(app: typer.Typer) -> None:
    """Add both commands to `hpe models`."""
    app.command("card")(card)
    app.command("export-mlflow")(export_mlflow)


def card(
    named: VersionArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to this file, README.md for a hub.", dir_okay=False)
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Print the model card of a published version: Markdown with the metadata of Hugging Face's hub."""
    from hpe_tasks.report.model_card import model_card
    from hpe_tasks.storage.files import write_atomically

    opened, stored = _find(registry, named)
    text = model_card(stored.manifest, channels=_channels(opened, stored))
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())


def export_mlflow(
    named: VersionArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Send the weights that it was made of as well.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a published version in the MLflow registry of MLFLOW_TRACKING_URI: files, figures, card, channels.

    A version that MLflow has already gets its aliases anew: an alias for each channel that serves it.
    """
    import json
    import os
    from dataclasses import asdict

    from hpe_tasks.release.mlflow_registry import EXPERIMENT, export_version, tracking_server

    server = tracking_server(os.environ)
    opened, stored = _find(registry, named)
    told = export_version(
        opened,
        stored.manifest,
        manifest_sha256=stored.sha256,
        channels=_channels(opened, stored),
        where=registry,
        server=server,
        experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT,
        checkpoint=checkpoint,
    )
    if as_json:
        typer.echo(json.dumps(asdict(told), indent=1))
        return
    there = "is" if told.created else "was there already as"
    aliases = (
        f", with the alias{'es' if len(told.aliases) > 1 else ''} {', '.join(told.aliases)}" if told.aliases else ""
    )
    typer.echo(f"{told.name} {told.version} {there} version {told.mlflow_version} of {told.name} in MLflow{aliases}.")


def _find(registry: str, named: str) -> tuple[ModelRegistry, StoredManifest]:
    from hpe_tasks.registry.named_versions import find_version
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    opened = ModelRegistry(make_client(), S3Location.parse(registry))
    return opened, find_version(opened, named, channel=DEFAULT_CHANNEL)


def _channels(registry: ModelRegistry, stored: StoredManifest) -> tuple[str, ...]:
    """Channels that serve a version now."""
    name, version = stored.manifest.name, stored.manifest.version
    return tuple(one for one in registry.channels(name) if registry.show(name, one).version == version)
