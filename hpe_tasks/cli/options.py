"""Options that several `hpe` commands share, and what they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from hpe_tasks.config.run import RunConfig
    from hpe_tasks.errors import HpeError

DEFAULT_REGISTRY = "s3://hpe-models/registry"
DEFAULT_MODEL = "sample-pose"
DEFAULT_CHANNEL = "staging"

EXIT_GATE_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_OTHER = 3


def _presets() -> list[tuple[str, str]]:
    """Names of the presets with what they are, for the shell to complete."""
    from hpe_tasks.config.presets import PRESETS

    return [(name, preset.description) for name, preset in PRESETS.items()]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RegistryOption = Annotated[
    str, typer.Option("--registry", envvar="HPE_REGISTRY", help="s3://bucket/prefix of the registry.")
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="A preset; `hpe presets` lists them.", autocompletion=_presets),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML or JSON file with the run's settings.", dir_okay=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as gate.min_ap=0.6. Repeatable."),
]
RunOption = Annotated[str, typer.Option("--run", help="Name of the run: its steps find each other under it.")]
JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", help="Write the gate's checks and the steps to this file, as JUnit XML.", dir_okay=False),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Say what is done and what is reused.")]


def read_values(settings: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE settings; values are YAML, so that numbers, lists and null can be given."""
    import yaml

    from hpe_tasks.config.addresses import redacted_text
    from hpe_tasks.config.yaml_text import YamlLimitError, load_value
    from hpe_tasks.errors import ConfigError

    values: dict[str, Any] = {}
    for setting in settings or ():
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {redacted_text(setting)!r} has no value.", hint="Write it as --set KEY=VALUE.")
        try:
            values[key.strip()] = load_value(value)
        except YamlLimitError as error:
            raise ConfigError(
                f"The value of --set {key.strip()} is not one of a setting: {error}.",
                hint="`hpe presets --keys` says what each setting takes.",
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError(redacted_text(f"--set {setting!r} cannot be read: {error}")) from None
    return values


def read_config(preset: str | None, file: Path | None, settings: list[str] | None, **extra: Any) -> RunConfig:
    """The configuration that `--preset`, `--config` and `--set` ask for; `extra` are settings of other options."""
    from hpe_tasks.config.loading import load_config
    from hpe_tasks.errors import ConfigError

    overrides = {**extra, **read_values(settings)}
    if preset is None and file is None and "model.checkpoint" not in overrides:
        raise ConfigError("Nothing was asked for.", hint="Give --preset NAME or --config FILE.")
    return load_config(preset, file, overrides)


def print_json(record: BaseModel) -> None:
    """Print a record as JSON."""
    typer.echo(record.model_dump_json(indent=1))


def exit_code(error: HpeError) -> int:
    """The command's exit status for an error."""
    from hpe_tasks.errors import BadInputError, BelowFloorError

    if isinstance(error, BelowFloorError):
        return EXIT_GATE_FAILED
    return EXIT_BAD_INPUT if isinstance(error, BadInputError) else EXIT_OTHER
