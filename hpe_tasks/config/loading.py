"""How a preset, a file and single settings combine into one RunConfig, and settings or a schedule into a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hpe_tasks.config.addresses import redacted, redacted_text
from hpe_tasks.config.help import setting_schema
from hpe_tasks.config.keys import REPLACED, close_matches, config_keys, dotted, problems_text
from hpe_tasks.config.presets import PRESETS, REQUIRED, describes_preset
from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.config.training import SCHEDULES, TrainingConfig
from hpe_tasks.config.values import typed_value
from hpe_tasks.config.yaml_text import YamlLimitError, load_yaml
from hpe_tasks.errors import ConfigError

_BELONGS_TO = (
    # How images come belongs to the preset's own source: the user's may hold them.
    ("dataset.source", "dataset.images_by_url"),
    ("dataset.image_archives", "dataset.images_by_url"),
    # Weights fit one network only.
    ("model.architecture", "model.checkpoint"),
    ("model.architecture", "model.trained_on"),
    ("model.checkpoint", "model.trained_on"),
)
"""Where the user sets the first key, a preset's value of the second no longer fits."""


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Combine a preset, a configuration file and single settings; later ones win.

    Args:
        preset: A name of PRESETS. A file may name one under `preset` as well.
        file: YAML or JSON in the shape of RunConfig; or a copy of a preset's file, whose second part counts.
        overrides: Values by dotted key, such as `{"gate.min_ap": 0.6}`; `recipe` alone takes a name of RECIPES.

    Numbers, true and false, and lists may also come as the texts that JSON has for them.

    Raises:
        ConfigError: Names the unknown key or preset, the missing setting, or the value of a wrong type or out of
            bounds.
    """
    values: dict[str, Any] = {}
    from_file = _read(file) if file is not None else {}
    preset = preset or from_file.get("preset")
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(f"There is no preset {preset!r}.", hint=f"Choose one of: {', '.join(PRESETS)}.")
        _merge(values, PRESETS[preset].values)
        values["preset"] = preset
        _drop_what_no_longer_fits(values, from_file, overrides or {})
    _merge(values, {key: value for key, value in from_file.items() if key != "preset"})
    ordered = sorted(
        (overrides or {}).items(), key=lambda item: item[0].count(".")
    )  # `recipe` before `recipe.param_bw`
    for key, value in ordered:
        _set(values, key, value)
    return _validate(values, preset)


def given_keys(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[frozenset[str], frozenset[str]]:
    """The dotted keys that a user has given, by file or one by one, and those that the preset gives.

    The arguments are those of `load_config`, which has accepted them.
    """
    from_file = _read(file) if file is not None else {}
    chosen = PRESETS.get(str(preset or from_file.get("preset")))
    return frozenset([*(overrides or {}), *dotted(from_file)]), frozenset(dotted(chosen.values) if chosen else ())


def _drop_what_no_longer_fits(
    preset: dict[str, Any], from_file: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    for changed, left_behind in _BELONGS_TO:
        section, leaf = changed.split(".")
        usual = preset.get(section, {}).get(leaf)
        if overrides.get(changed, from_file.get(section, {}).get(leaf, usual)) != usual:
            section, leaf = left_behind.split(".")
            preset.get(section, {}).pop(leaf, None)


def load_training(values: Mapping[str, Any], schedule: str | None = None) -> tuple[TrainingConfig, ...]:
    """The stages of a training: those of a named schedule, by default the sample checkpoint's, or one of settings.

    Args:
        values: Settings; with a schedule they take the place of its own in all stages, but for what it starts from,
            which concerns the first.
        schedule: A key of `SCHEDULES`.

    Raises:
        ConfigError: Names the unknown schedule or setting or the value out of bounds.
    """
    name = schedule or (None if values else "sample")
    if name is None:
        return (_training(values),)
    if name not in SCHEDULES:
        raise ConfigError(f"There is no schedule {name!r}.", hint=f"Choose one of: {', '.join(SCHEDULES)}.")
    first, *others = SCHEDULES[name]
    later = {key: value for key, value in values.items() if key not in _OF_THE_FIRST_STAGE}
    return _changed(first, values), *(_changed(stage, later) for stage in others)


_OF_THE_FIRST_STAGE = ("initial_weights", "new_head")


def _changed(stage: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    return _training({**stage.model_dump(exclude_unset=True), **values}) if values else stage


def _training(values: Mapping[str, Any]) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(dict(values))
    except ValidationError as error:
        problems = problems_text(error, TrainingConfig.model_fields)
        raise ConfigError(f"The training's settings are not valid: {problems}.") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        documents = load_yaml(file.read_text(encoding="utf-8")) or [None]
    except OSError as error:
        raise ConfigError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except YamlLimitError as error:
        raise ConfigError(
            f"The configuration file {file} does not hold settings: {error}.",
            hint="Write settings as `hpe presets --show NAME` shows them.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The configuration file {file} is neither YAML nor JSON: {redacted_text(str(error))}"
        ) from None  # It quotes the file.
    *before, loaded = documents
    if before and not (len(before) == 1 and describes_preset(before[0])):
        raise ConfigError(
            f"The configuration file {file} has {len(documents)} parts, with lines `---` between them.",
            hint="Write all settings in one part; only what describes a preset may stand in one before it.",
        )
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"The configuration file {file} does not hold settings.", hint="See `hpe presets --show NAME`."
        )
    for key, hint in REPLACED.items():
        section, _, leaf = key.partition(".")
        values = loaded.get(section)
        if isinstance(values, Mapping) and leaf in values:
            raise ConfigError(f"There is no setting {key!r} any more, which is in {file}.", hint=hint)
    for name in sorted({key.partition(".")[0] for key in config_keys() if "." in key}):
        value = loaded.get(name, {})
        if not isinstance(value, Mapping) and not (name == "recipe" and isinstance(value, str)):
            first = next(key for key in config_keys() if key.startswith(f"{name}."))
            raise ConfigError(
                f"{name} in {file} holds settings, not {redacted(value)!r}.",
                hint=f"Write them below it, such as `{name}: {{{first.partition('.')[2]}: …}}`.",
            )
    return loaded


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key == "recipe" and isinstance(value, str):
            into[key] = _recipe(value)
        elif isinstance(value, Mapping) and isinstance(into.setdefault(key, {}), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    known = tuple(config_keys())
    if key == "recipe":
        # A named recipe decides how to quantize; how many images to calibrate on stays as it was.
        kept = {k: v for k, v in values.get("recipe", {}).items() if k == "calibration_images"}
        values["recipe"] = {**_recipe(value), **kept}
        return
    if any(name.startswith(f"{key}.") for name in known):
        inside = [name for name in known if name.startswith(f"{key}.")]
        raise ConfigError(f"{key!r} is a section.", hint=f"Set one of its keys: {', '.join(inside)}.")
    if key in REPLACED:
        raise ConfigError(f"There is no setting {key!r} any more.", hint=REPLACED[key])
    if key not in known:
        near = close_matches(key, known, most=3)
        hint = f"Did you mean {near}?" if near else "`hpe presets --keys` lists the keys."
        raise ConfigError(f"There is no setting {redacted(key)!r}.", hint=hint)
    *sections, leaf = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[leaf] = value


def _recipe(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError(f"There is no recipe {name!r}.", hint=f"Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name].model_dump(exclude={"calibration_images"})


def _validate(values: dict[str, Any], preset: str | None) -> RunConfig:
    missing = [key for key in REQUIRED if not _given(values, key)]
    if missing:
        asked = " ".join(f"--set {key}=…" for key in missing)
        start = f"The preset {preset!r} needs" if preset else "A run needs"
        raise ConfigError(
            f"{start} {' and '.join(missing)}.", hint=f"Add {asked}, or the same keys in the form or file."
        )
    _read_types(values)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        # Its own text quotes values as they were given.
        raise ConfigError(f"The configuration is not valid: {problems_text(error, config_keys())}.") from None
    rungs = [rung.name for rung in RUNGS]
    unknown = [name for name in config.recipe.search_rungs or () if name not in rungs]
    if unknown:
        raise ConfigError(
            f"recipe.search_rungs: there is no rung {unknown[0]!r}.", hint=f"Choose of: {', '.join(rungs)}."
        )
    return config


def _read_types(values: dict[str, Any]) -> None:
    """Give each value the type of its setting, in place; raises ConfigError that names all that cannot have it."""
    problems = []
    for key in config_keys():
        section, _, leaf = key.rpartition(".")
        place = values.get(section, {}) if section else values
        if leaf in place:
            try:
                place[leaf] = typed_value(place[leaf], setting_schema(key))
            except ValueError as error:
                problems.append(f"{key} {error}")
    if problems:
        raise ConfigError(
            "The configuration is not valid: " + "; ".join(problems) + ".",
            hint="`hpe presets --keys` says what each setting takes.",
        )


def _given(values: Mapping[str, Any], key: str) -> bool:
    section, leaf = key.split(".")
    return bool(values.get(section, {}).get(leaf))
