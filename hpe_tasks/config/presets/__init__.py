"""Ready-made run configurations: each is a file of this folder, NAME.yaml, and nothing else has to name it.

A file has two parts with a line `---` between them. The first says what the preset is: `description`, one sentence for
lists and forms; `needs`, the settings that its users must add; `reference`, the name of published figures that a run's
own are shown beside. The second holds settings. `--config FILE` takes the second as it stands, and a copy of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from hpe_tasks.config.base import SAMPLE, Frozen, Slug
from hpe_tasks.config.keys import close_matches, config_keys, dotted, problems_text
from hpe_tasks.errors import ConfigError

__all__ = ["PRESETS", "REQUIRED", "Preset", "describes_preset", "read_preset"]

REQUIRED = ("model.checkpoint", "dataset.source")
"""Settings that have no default: of a preset, or added by its user."""

# libyaml where PyYAML was built with it: a form that lists all presets waits for them.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Preset:
    """A named start for a run.

    Attributes:
        description: One sentence for lists and forms.
        values: Nested settings that differ from RunConfig's defaults.
        text: The same as its file has them, with comments.
        needs: Dotted keys that the user must add.
        reference: Name of published figures that a run's own are shown beside.
    """

    description: str
    values: Mapping[str, Any]
    text: str
    needs: tuple[str, ...] = ()
    reference: str | None = None


class _About(Frozen):
    """The first part of a preset's file."""

    description: str = Field(min_length=1)
    needs: tuple[str, ...] = ()
    reference: Slug | None = None


def read_preset(file: Path) -> Preset:
    """Read a preset's file.

    Raises:
        ConfigError: It is not in the form of a preset, sets what is not a setting, or leaves out what a run needs; the
            message names the file and the field. Values are left to `load_config`.
    """
    about_text, separator, text = file.read_text(encoding="utf-8").partition("\n---\n")
    if not separator:
        raise ConfigError(f"The preset {file} has no line `---` between what it is and its settings.")
    try:
        about = _About.model_validate(_mapping(about_text, file))
    except ValidationError as error:
        raise ConfigError(f"The preset {file} is not valid: {problems_text(error, _About.model_fields)}.") from error
    values = _mapping(text, file)
    _check_keys(file, about, frozenset(dotted(values)))
    return Preset(about.description, values, text, about.needs, about.reference)


def describes_preset(part: Any) -> bool:
    """Whether a part of a file, as it was read, says what a preset is, and so holds no settings."""
    try:
        _About.model_validate(part)
    except ValidationError:
        return False
    return True


def _mapping(text: str, file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The preset {file} is not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"The preset {file} holds {loaded!r} in place of settings.")
    return loaded


def _check_keys(file: Path, about: _About, given: frozenset[str]) -> None:
    known = frozenset(config_keys())
    # A recipe may come by its name.
    for key in sorted({*given, *about.needs} - known - {"recipe"}):
        near = close_matches(key, known)
        hint = f"Did you mean {near}?" if near else "`hpe presets --keys` lists the keys."
        raise ConfigError(f"The preset {file} names {key!r}, and there is no such setting.", hint=hint)
    for key in REQUIRED:
        if (key in given) == (key in about.needs):
            what = "both sets and needs" if key in given else "neither sets nor needs"
            raise ConfigError(
                f"The preset {file} {what} {key}.", hint=f"Name {key} either under `needs` or among the settings."
            )


def _in_order(file: Path) -> tuple[bool, str]:
    return file.stem != SAMPLE, file.stem


PRESETS: Mapping[str, Preset] = {
    file.stem: read_preset(file) for file in sorted(Path(__file__).parent.glob("*.yaml"), key=_in_order)
}
"""By name: the sample's first, which runs as it is, the others in the order of their names."""
