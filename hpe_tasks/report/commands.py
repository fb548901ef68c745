"""The command that starts a run again with one setting changed: what a person copies from the console."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any, Literal

import yaml

from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.yaml_text import load_value
from hpe_tasks.errors import ConfigError

Launcher = Literal["hpe", "make"]
"""What starts runs: the command `hpe run`, or `make run`, which runs the DAG."""

_NEEDED = ("model.checkpoint", "dataset.source")
_MAKE_PRESET = "sample"


def command_with(config: RunConfig, settings: Iterable[str], launcher: Launcher) -> str:
    """The shell command for a run like this one with other values of some settings.

    Args:
        config: What the run was asked.
        settings: The changes as `--set` takes them, such as `recipe.scheme=min_max`.
        launcher: What starts the run.
    """
    preset = config.preset if config.preset in PRESETS else None
    changes = {key: load_value(text) for key, _, text in (setting.partition("=") for setting in settings)}
    asked = _asked(config, preset) | changes
    usual = _values(_usual(preset))
    for key in changes.keys() - set(_needs(preset)):
        if asked[key] == usual.get(key):
            del asked[key]
    return _make(preset, asked) if launcher == "make" and preset else _hpe(preset, asked)


def _asked(config: RunConfig, preset: str | None) -> dict[str, Any]:
    """The settings that make this configuration of its preset; all of them where less does not."""
    usual, values = _values(_usual(preset)), _values(config)
    changed = {k: v for k, v in values.items() if v != usual[k] or k in _needs(preset)}
    try:
        complete = load_config(preset, overrides=changed).model_copy(update={"preset": config.preset}) == config
    except ConfigError:
        complete = False
    return changed if complete else {k: v for k, v in values.items() if v is not None}


def _needs(preset: str | None) -> tuple[str, ...]:
    return PRESETS[preset].needs if preset else _NEEDED


def _usual(preset: str | None) -> RunConfig:
    """The preset as it is, with something in the place of what the user must add."""
    return load_config(preset, overrides=dict.fromkeys(_needs(preset), "-"))


def _values(config: RunConfig) -> dict[str, Any]:
    # A training that nobody has asked for is not stored.
    stored = {"training": config.training.model_dump(mode="json")} | config.model_dump(mode="json")
    values = {}
    for key in config_keys():
        value: Any = stored
        for name in key.split("."):
            value = value[name]
        values[key] = value
    return values


def _hpe(preset: str | None, asked: dict[str, Any]) -> str:
    words = ["hpe", "run", *(("--preset", preset) if preset else ())]
    for key, value in asked.items():
        words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """A value as `--set` reads it: YAML, in which most texts need no quotes."""
    if isinstance(value, str):
        try:
            plain = load_value(value) == value
        except yaml.YAMLError:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _make(preset: str, asked: dict[str, Any]) -> str:
    words = ["make", "run"]
    if preset != _MAKE_PRESET:
        words.append(f"PRESET={preset}")
    # Nothing is what the DAG takes for "as in the preset".
    given = {key: value for key, value in asked.items() if value is not None}
    if given:
        # make reads a dollar sign as the start of a variable's name.
        words.append(f"CONF={shlex.quote(json.dumps(given, ensure_ascii=False).replace('$', '$$'))}")
    return " ".join(words)
