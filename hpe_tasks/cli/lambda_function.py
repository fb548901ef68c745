"""The `hpe lambda` commands: build the function's package and deploy it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hpe_tasks.cli.options import DEFAULT_MODEL, DEFAULT_REGISTRY, JsonOption, RegistryOption

if TYPE_CHECKING:
    from hpe_tasks.packaging import Architecture, Package, PackagedModel

lambda_app = typer.Typer(help="Build and deploy the AWS Lambda function that serves a model.", no_args_is_help=True)


@lambda_app.command("build")
def lambda_build(
    architecture: Annotated[
        Literal["x86_64", "arm64"], typer.Option("--arch", help="Processor of the function.")
    ] = "x86_64",
    version: Annotated[
        str | None,
        typer.Option("--with-model", metavar="VERSION", help="Put this version of a model into the package."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="MODEL", help="Name of that model in the registry.", show_default=DEFAULT_MODEL),
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Package to write.", dir_okay=False, show_default="hpe-lambda-ARCH.zip"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the function's package; the same input gives the same bytes.

    Without --with-model the function reads its model from the registry and follows a channel there.
    """
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.packaging import build_package

    if name is not None and version is None:
        raise ConfigError(
            "--name needs --with-model.", hint=f"`hpe channel versions {name}` lists the versions of the model."
        )
    with tempfile.TemporaryDirectory() as folder:
        model = (
            None if version is None else _fetch(registry, name or DEFAULT_MODEL, version, architecture, Path(folder))
        )
        package = build_package(out or Path(f"hpe-lambda-{architecture}.zip"), architecture=architecture, model=model)
    _print_package(package, as_json)


@lambda_app.command("deploy", context_settings={"allow_extra_args": True})
def lambda_deploy(
    context: typer.Context,
    package: Annotated[Path, typer.Option("--package", help="Package of `hpe lambda build`.", dir_okay=False)],
    stack: Annotated[str, typer.Option("--stack", help="Name of the CloudFormation stack.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the template, such as MemoryMb=3538."),
    ] = None,
) -> None:
    """Deploy a package with `sam deploy`; what follows `--` goes to SAM as it is, such as -- --region eu-central-1."""
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.packaging.deployment import deploy_package

    parameters: dict[str, str] = {}
    for setting in settings or ():
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r} has no value.", hint="Write it as --set KEY=VALUE.")
        parameters[key.strip()] = value
    status = deploy_package(package, stack, parameters, context.args)
    if status != 0:
        raise typer.Exit(status)


def _fetch(registry: str, name: str, version: str, architecture: Architecture, folder: Path) -> PackagedModel:
    from hpe_tasks.packaging import PackagedModel, packaged_graph_role
    from hpe_tasks.registry.manifest import MODEL_ROLE
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    models = ModelRegistry(make_client(), S3Location.parse(registry))
    stored = models.stored(name, version)
    model = models.download(stored.manifest, MODEL_ROLE, folder / "model.onnx")
    role = packaged_graph_role(stored.manifest.file(MODEL_ROLE).sha256, architecture)
    graph = models.download_graph(stored.manifest, role, folder / "graph.onnx")
    return PackagedModel(manifest=stored.data, signature=models.signature(name, version), model=model, graph=graph)


def _print_package(package: Package, as_json: bool) -> None:
    from hpe_tasks.packaging.build import DIRECT_UPLOAD_LIMIT_BYTES, UNZIPPED_LIMIT_BYTES

    if as_json:
        import dataclasses

        told = {**dataclasses.asdict(package), "path": str(package.path), "needs_s3": package.needs_s3}
        typer.echo(json.dumps(told, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("part", title=str(package.path), show_footer=True)
    table.columns[0].footer = "all"
    table.add_column("unzipped MB", f"{package.unzipped_bytes / 1e6:.1f}", justify="right")
    table.add_column("zipped MB", f"{package.zipped_bytes / 1e6:.1f}", justify="right")
    for part in package.parts:
        table.add_row(part.name, f"{part.unzipped_bytes / 1e6:.1f}", f"{part.zipped_bytes / 1e6:.1f}")
    Console().print(table)
    typer.echo(f"SHA-256 {package.sha256}")
    typer.echo(f"SHA-256 {package.contents_sha256} of what is in it, but for bytecode and compression")
    typer.echo(
        f"Lambda takes {UNZIPPED_LIMIT_BYTES / 1e6:.1f} MB unzipped, "
        f"and {DIRECT_UPLOAD_LIMIT_BYTES / 1e6:.1f} MB zipped without S3."
    )
    if package.needs_s3:
        typer.echo("The upload must go through S3, as that of `hpe lambda deploy` does.")
