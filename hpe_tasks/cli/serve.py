"""The command `hpe serve`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import DEFAULT_CHANNEL, DEFAULT_MODEL, DEFAULT_REGISTRY, RegistryOption

if TYPE_CHECKING:
    from hpe_tasks.local_service.versions import VersionFiles, Versions
    from hpe_tasks.serving.service import PoseService
    from hpe_tasks.serving.settings import ServingSettings

_CHOICES = ("HPE_REGISTRY", "HPE_MODEL", "HPE_CHANNEL", "HPE_VERSION", "HPE_MODEL_DIR")


def serve(
    name: Annotated[
        str, typer.Argument(metavar="[MODEL]", show_default=True, help="Name of the model in the registry.")
    ] = DEFAULT_MODEL,
    channel: Annotated[
        str, typer.Option("--channel", help="Channel of the model; followed when it moves.")
    ] = DEFAULT_CHANNEL,
    version: Annotated[
        str | None, typer.Option("--version", help="Serve this version, whatever the channel says.")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    package: Annotated[
        Path | None,
        typer.Option(
            "--package",
            help="Unpacked package, or any folder with model/manifest.json and model/model.onnx, in place of the "
            "registry.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes any free one.", min=0, max=65535)] = 0,
) -> None:
    """Serve a model on this machine: the Lambda function at /pose, and a page to drop pictures on.

    The page says what the model was trained and measured on, and offers its golden images.
    """
    from hpe_tasks.local_service.server import LocalServer

    chosen: dict[str, str] = {}
    if package is None:
        chosen = {"HPE_REGISTRY": registry, "HPE_MODEL": name}
        chosen |= {"HPE_VERSION": version} if version else {"HPE_CHANNEL": channel}
    service, versions = _load(chosen, package)
    with LocalServer(service, host, port, versions=versions) as server:
        typer.echo(f"Drop pictures at {server.url} (Ctrl-C stops it)")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            typer.echo("Stopped.")


def _load(chosen: dict[str, str], package: Path | None) -> tuple[PoseService, Versions]:
    """The function with its model, and what can be said of it.

    The other HPE_* variables of the environment hold as they do in Lambda.
    """
    from hpe_tasks.errors import AccessError
    from hpe_tasks.local_service.versions import Versions
    from hpe_tasks.serving.service import PoseService
    from hpe_tasks.serving.settings import ServingSettings
    from hpe_tasks.serving.sources import open_source

    environment = {name: value for name, value in os.environ.items() if name not in _CHOICES} | chosen
    settings = ServingSettings.from_environment(environment, package or Path.cwd())
    try:
        service = PoseService(settings, open_source(settings))
    except AccessError as error:
        if package is not None:
            raise
        raise AccessError(
            f"{chosen['HPE_REGISTRY']} has nothing to serve yet: {error.message}",
            hint="Publish a model first (`make run`), or name another one: MODEL, --channel, --registry or --package.",
        ) from error
    files, origin = _files(settings)
    versions = Versions(
        lambda: service.served,
        files,
        origin=origin,
        threshold=settings.threshold,
        channel=lambda: service.channel,
    )
    return service, versions


def _files(settings: ServingSettings) -> tuple[VersionFiles, str]:
    """Where manifests and golden images are, and the same in words."""
    from hpe_tasks.local_service.versions import FolderFiles, RegistryFiles
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    if settings.registry is None:
        return FolderFiles(settings.model_dir), f"the folder {settings.model_dir}"
    kept = f"channel {settings.channel}" if settings.channel else "this version, whatever a channel says"
    registry = ModelRegistry(make_client(), S3Location.parse(settings.registry))
    return RegistryFiles(registry), f"{settings.registry}, {kept}"
