"""The `hpe` command: the pipeline without Airflow, step by step or as a whole.

Exit codes: 0 when the model passed (or the command did its work), 1 when the gate failed, the checkpoint is below its
floor or `hpe watch` found a reason to quantize again, 2 for bad input, 3 for anything else. Only Typer is imported
before a command is chosen, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hpe_tasks.cli.channels import channel_app
from hpe_tasks.cli.lambda_function import lambda_app
from hpe_tasks.cli.model_exports import add_export_commands
from hpe_tasks.cli.models import models_app
from hpe_tasks.cli.options import (
    DEFAULT_CHANNEL,
    DEFAULT_REGISTRY,
    EXIT_GATE_FAILED,
    EXIT_OTHER,
    ConfigOption,
    JsonOption,
    JunitOption,
    PresetOption,
    RegistryOption,
    SetOption,
    exit_code,
    print_json,
    read_config,
    read_values,
)
from hpe_tasks.cli.pipelines import add_pipeline_commands
from hpe_tasks.cli.run_summary import print_summary
from hpe_tasks.cli.runs import runs_app
from hpe_tasks.cli.selftest import selftest
from hpe_tasks.cli.serve import serve
from hpe_tasks.cli.verify import verify
from hpe_tasks.cli.watch import watch
from hpe_tasks.cli.workspace import workspace_app

if TYPE_CHECKING:
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.config.training import TrainingConfig

_LONGEST_TRACE = 50_000

app = typer.Typer(
    help="Turn a pose checkpoint into an int8 ONNX model that has proved itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        typer.echo(importlib.metadata.version("hpe-tasks"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


app.add_typer(channel_app, name="channel")
app.add_typer(lambda_app, name="lambda")
add_export_commands(models_app)
app.add_typer(models_app, name="models")
app.add_typer(runs_app, name="runs")
app.add_typer(workspace_app, name="workspace")
add_pipeline_commands(app)


@app.command()
def check(
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything that a run would need, in seconds; exits with 2 when it could not end well."""
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.errors import HpeError
    from hpe_tasks.preflight import preflight, refuse_failed
    from hpe_tasks.storage.opening import open_workspace
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    asked = read_config(preset, config, settings)
    record = preflight(
        asked,
        workspace=open_workspace(places.workspace, s3=make_client, cache=places.cache),
        cache=places.cache,
        s3=make_client,
        signing_key=places.read_signing_key,
    )
    if as_json:
        print_json(record)
    else:
        from rich.console import Console

        from hpe_tasks.report.preflight_table import preflight_table

        Console().print(preflight_table(record))
    try:
        refuse_failed(record)
    except HpeError as error:
        # The table has said it.
        raise typer.Exit(exit_code(error)) from error


@app.command()
def show(
    name: Annotated[str | None, typer.Option("--run", help="Name or folder of the run; by default the last.")] = None,
    as_json: JsonOption = False,
    junit: JunitOption = None,
) -> None:
    """Print what a run has come to; exits with 1 unless it passed its gate, or is done where nothing is judged."""
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.pipeline.runs import find_run
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    run = find_run(name, workspace=places.workspace, cache=places.cache, s3=make_client)
    if not print_summary(run, as_json=as_json, looking_back=True, junit=junit):
        raise typer.Exit(EXIT_GATE_FAILED)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option("--model", help="A checkpoint or ONNX file, or its address.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="Data set: a folder, an archive, its address, or `sample`.")
    ],
    split: Annotated[str | None, typer.Option("--split", help="Split to measure on.")] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Keep the predictions in this file: for AP a COCO results file. By default it lies in HPE_CACHE.",
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure one model file as the pipeline would: AP or PCKh, by the kind of data set (--set dataset.kind=…).

    Of an ONNX file, input size and layouts are read from the file where it states them.
    """
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.config.loading import given_keys
    from hpe_tasks.networks import OWN_FILE
    from hpe_tasks.pipeline.standalone import evaluate_file
    from hpe_tasks.storage.s3 import make_client

    extra: dict[str, Any] = {"model.checkpoint": model, "dataset.source": dataset}
    if model.endswith(".onnx"):
        extra["model.architecture"] = OWN_FILE
    given = read_values(settings)
    asked = read_config(preset, config, settings, **extra)
    by_user, by_preset = given_keys(preset, config, given)
    split = split or ("val" if dataset == "sample" else None)
    if split is not None:
        chosen = asked.dataset.model_copy(update={"evaluation_split": split})
        asked = asked.model_copy(update={"dataset": chosen})
    cache = Settings.from_environment().cache
    record = evaluate_file(asked, cache, make_client, predictions, asked=by_user, usual=by_preset)
    if as_json:
        print_json(record)
    else:
        from rich.console import Console

        from hpe_tasks.report.summary import record_table

        Console().print(record_table("evaluate", record))


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="File to write, *.safetensors.", dir_okay=False)],
    dataset: Annotated[
        str, typer.Option("--dataset", help="COCO-layout folder, archive or address; or `sample`.")
    ] = "sample",
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule", help="A built-in schedule, such as aimet_pose_sample; settings count for all of its stages."
        ),
    ] = None,
    from_version: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="VERSION",
            help="Train on from a published version: VERSION, MODEL, MODEL@CHANNEL or MODEL@VERSION. Its network and "
            "checkpoint are taken, with careful settings; --set changes them.",
        ),
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    settings: SetOption = None,
    allow_private_addresses: Annotated[
        bool,
        typer.Option(
            "--allow-private-addresses", help="Fetch --dataset also from a web server that not everybody can reach."
        ),
    ] = False,
    curves: Annotated[
        Path | None,
        typer.Option("--curves", help="Folder for the curves; by default beside --out.", file_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network on its ideal maps; without --from, --schedule or --set, as the sample checkpoint was trained."""
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.config.loading import load_training
    from hpe_tasks.pipeline.standalone import train_network
    from hpe_tasks.storage.s3 import make_client

    logging.getLogger("hpe_tasks").setLevel(logging.INFO)
    places = Settings.from_environment()
    if from_version is None:
        stages = load_training(read_values(settings), schedule)
    else:
        stages = _fine_tuning(from_version, registry, schedule, settings, places)
    result = train_network(
        stages,
        dataset,
        places.cache,
        make_client,
        out,
        curves=curves,
        allow_private_addresses=allow_private_addresses,
    )
    told = {"checkpoint": str(result.checkpoint), "ap": result.ap, "persons": result.persons, "seconds": result.seconds}
    if as_json:
        typer.echo(json.dumps({**told, "losses": result.losses}, indent=1))
    else:
        measured = "" if result.ap is None else f", COCO AP {result.ap:.3f} on the validation split"
        typer.echo(f"{result.checkpoint}: {result.persons:,} persons, {result.seconds / 60:.1f} minutes{measured}")


def _fine_tuning(
    named: str, registry: str, schedule: str | None, settings: list[str] | None, places: Settings
) -> tuple[TrainingConfig, ...]:
    """The stages that a published version is trained on with; says on standard error which it is."""
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.pipeline.fine_tuning import starting_point
    from hpe_tasks.registry.named_versions import find_version
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location, make_client

    if schedule is not None:
        raise ConfigError(
            "A training begins with a version or follows a schedule, not both.", hint="Leave --schedule or --from out."
        )
    opened = ModelRegistry(make_client(), S3Location.parse(registry))
    manifest = find_version(opened, named, channel=DEFAULT_CHANNEL).manifest
    start = starting_point(
        manifest,
        opened,
        read_values(settings),
        workspace=places.workspace,
        cache=places.cache,
        s3=make_client,
    )
    typer.echo(f"From {start.name} {start.version}: {start.checkpoint.name}", err=True)
    return start.stages


@app.command()
def presets(
    show_one: Annotated[
        str | None, typer.Option("--show", metavar="NAME", help="Print one preset as a file to copy from.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List the keys that --set takes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the ready-made configurations."""
    from hpe_tasks.config.keys import config_keys
    from hpe_tasks.config.presets import PRESETS
    from hpe_tasks.errors import ConfigError

    if keys:
        from hpe_tasks.config.help import describe_setting

        described = {key: describe_setting(key, choices=True) for key in config_keys()}
        typer.echo(json.dumps(described, indent=1) if as_json else "\n".join(f"{k}  {d}" for k, d in described.items()))
    elif show_one is not None:
        if show_one not in PRESETS:
            raise ConfigError(f"There is no preset {show_one!r}.", hint=f"Choose one of: {', '.join(PRESETS)}.")
        shown = PRESETS[show_one]
        if shown.needs:
            typer.echo(f"# Add {' and '.join(shown.needs)}.")
        typer.echo(f"preset: {show_one}\n{shown.text}", nl=False)
    elif as_json:
        listed = {name: {"description": p.description, "needs": p.needs} for name, p in PRESETS.items()}
        typer.echo(json.dumps(listed, indent=1))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("preset", "what it is", "settings that you add")
        for name, preset in PRESETS.items():
            table.add_row(name, preset.description, "\n".join(preset.needs) or "none")
        Console().print(table)


@app.command("public-key")
def public_key() -> None:
    """Print the public key of HPE_SIGNING_KEY, as the Lambda function's HPE_PUBLIC_KEY takes it."""
    import base64

    from hpe_tasks.config.environment import Settings
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.registry.signing import SigningKey

    pem = Settings.from_environment().read_signing_key()
    if pem is None:
        raise ConfigError("HPE_SIGNING_KEY is not set.", hint="Set it to the file of the private key.")
    typer.echo(base64.b64encode(SigningKey(pem).public_bytes).decode())


app.command()(serve)
app.command()(verify)
app.command()(watch)
app.command()(selftest)


def _fail(message: str, code: int) -> NoReturn:
    typer.secho(message, fg=typer.colors.RED, err=True)
    sys.exit(code)


def main() -> None:
    """Entry point of the `hpe` command."""
    from hpe_tasks.config.addresses import redacted_text
    from hpe_tasks.errors import HpeError, shortened

    # Threads that wait by spinning slow a busy machine down tenfold; read when torch and onnxruntime are imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # On a terminal a running step's line stands there without an end.
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    logging.basicConfig(level=logging.WARNING, format=f"{clear}%(message)s")
    logging.getLogger("hpe_tasks.progress").setLevel(logging.INFO)

    try:
        app()
    except HpeError as error:
        _fail(f"Error: {error}", exit_code(error))
    except Exception as error:  # noqa: BLE001 - the program's edge: shown whole, and told apart by its exit code
        import traceback

        sys.stderr.write(shortened(redacted_text(traceback.format_exc()), longest=_LONGEST_TRACE))
        told = shortened(redacted_text(repr(error)))
        _fail(f"Error: {told} was not foreseen: the trace above belongs in a bug report.", EXIT_OTHER)
