"""The trigger form of the DAG, generated from RunConfig, and the way back from the form's values to a RunConfig.

The form's keys are those of `hpe run --set`. Every setting may stay empty, which means: as the preset has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from airflow.sdk import Param

from hpe_tasks.config.help import describe_setting, setting_schema
from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.values import BOOLEANS, INTEGER, JSON_ARRAY, NUMBER, typed_value
from hpe_tasks.errors import ConfigError

DEFAULT_PRESET = "sample"

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

_AS_IN_THE_PRESET = "as in the preset"

_WORDS = {
    "ap": "AP",
    "ar": "AR",
    "aimet": "AIMET",
    "bw": "bits",
    "db": "dB",
    "ema": "EMA",
    "fp32": "FP32",
    "int8": "int8",
    "mac": "MAC",
    "mb": "MB",
    "nms": "NMS",
    "num": "number of",
    "oks": "OKS",
    "param": "parameter",
    "pckh": "PCKh",
    "quantsim": "QuantSim",
    "s": "seconds",
    "sha256": "SHA-256",
    "sqnr": "SQNR",
    "url": "URL",
}
"""How words of keys are written in labels."""

_SECTIONS = {
    "model": "Model",
    "dataset": "Data set",
    "recipe": "Quantization recipe",
    "evaluation": "Evaluation",
    "gate": "Gate",
    "destination": "Destination",
    "training": "Training",
    "seed": "Reproducibility",
}


def form_params(defaults: str | None = None, *, without: Collection[str] = ("training",)) -> dict[str, Param]:
    """The DAG's parameters: the preset, what presets need, a named recipe, then RunConfig's settings in its order.

    All of the form's sections but the first, which holds what presets need, are folded.

    Args:
        defaults: What fields hold at first, and scheduled runs use, as a JSON object by key; nothing by default.
        without: Settings, and sections of them, that change nothing in the DAG's runs.

    Raises:
        ConfigError: The defaults are not a JSON object, or do not make a valid configuration.
    """
    needed = dict.fromkeys(key for preset in PRESETS.values() for key in preset.needs)
    settings = [key for key in config_keys() if not {key, key.partition(".")[0]} & {*without}]
    params = {
        "preset": _preset_param(),
        **{key: _setting_param(key, first=True) for key in needed if key in settings},
        **({} if "recipe" in without else {"recipe": _recipe_param()}),
        **{key: _setting_param(key) for key in settings if key not in needed},
    }
    for key, value in _checked(defaults).items():
        if key not in params:
            raise ConfigError(
                f"The DAG's default parameters hold {key}, which changes nothing in its runs.", hint="Leave it out."
            )
        params[key].value = value if key in {"preset", "recipe"} else _as_shown(key, value)
    return params


def _as_shown(key: str, value: Any) -> Any:
    """A value as the form's field of this setting holds it."""
    typed = typed_value(value, setting_schema(key))
    return str(typed).lower() if isinstance(typed, bool) else typed


def _checked(defaults: str | None) -> dict[str, Any]:
    if not defaults:
        return {}
    try:
        values = json.loads(defaults)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The DAG's default parameters are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError("The DAG's default parameters are not a JSON object.", hint='Write {"preset": "NAME"}.')
    config_from_params(values)
    return values


def config_from_params(params: Mapping[str, Any]) -> RunConfig:
    """The run configuration that the form's values ask for.

    Args:
        params: Values by the form's keys; None or a missing key means as in the preset.

    Raises:
        ConfigError: Names the unknown key, the missing setting or the values that do not go together.
    """
    given = {key: value for key, value in params.items() if value is not None}
    return load_config(given.pop("preset", DEFAULT_PRESET), overrides=given)


def typed_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The form's values in the types that JSON has for their settings, so that any schema takes them.

    Raises:
        ConfigError: As `config_from_params`.
    """
    config_from_params(params)
    plain = {"preset", "recipe"}
    return {key: value if key in plain else typed_value(value, setting_schema(key)) for key, value in params.items()}


def _preset_param() -> Param:
    needs = dict.fromkeys(preset.needs for preset in PRESETS.values())
    listed = "\n".join(f"- {_needed(keys)}: {', '.join(_presets_that_need(keys))}" for keys in sorted(needs, key=len))
    start = "Where the run starts from. Every setting below that stays empty is as the preset has it."
    return Param(
        DEFAULT_PRESET,
        type="string",
        enum=list(PRESETS),
        values_display={name: f"{name}: {_line(preset.description)}" for name, preset in PRESETS.items()},
        title="Preset",
        description_md=_markdown(f"{start}\n\n{listed}"),
    )


def _line(description: str) -> str:
    """What a choice list has room for: the description up to its first full stop, colon or semicolon."""
    return re.split(r"[.:;](?:\s|$)", description, maxsplit=1)[0].replace("`", "")


def _presets_that_need(keys: tuple[str, ...]) -> list[str]:
    return [f"`{name}`" for name, preset in PRESETS.items() if preset.needs == keys]


def _needed(keys: tuple[str, ...]) -> str:
    return f"Needs {' and '.join(f'`{key}`' for key in keys)}" if keys else "Needs nothing"


def _recipe_param() -> Param:
    return Param(
        None,
        type=["string", "null"],
        enum=[None, *RECIPES],
        values_display={"null": _AS_IN_THE_PRESET},
        title="Recipe",
        description_md="How to quantize, by name: **auto** looks for the cheapest recipe that passes the gate, "
        "**auto_best** for the best of all. Single settings of the recipe are further down.",
    )


def _setting_param(key: str, *, first: bool = False) -> Param:
    section, _, name = key.rpartition(".")
    # The first section has no name here: Airflow's form gives it one, and opens it.
    placed: dict[str, Any] = {} if first else {"section": _SECTIONS[key.partition(".")[0]]}
    return Param(
        None,
        **_value_schema(setting_schema(key)),
        **placed,
        # A key has no place where a narrow column could break it; the words of it do.
        title=_words(f"{section} {name}" if first else name),
        # Airflow's form shows neither bounds nor defaults by itself.
        description_md=_markdown(f"`{key}`: {describe_setting(key)}"),
    )


def _words(name: str) -> str:
    """A key's name as a label, such as "Min AP" of `min_ap`."""
    words = " ".join(_WORDS.get(word, word) for word in name.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def _markdown(text: str) -> str:
    """Bold where a description has code: the form's boxes around code hide the line above them."""
    return re.sub(r"`([^`]+)`", r"**\1**", text)


def _value_schema(field: Mapping[str, Any]) -> dict[str, Any]:
    """What Airflow checks a value against, and what its form makes an input field of.

    The form knows one type for a field, but a value may come as JSON has it or as its text: by file, REST or command
    line. So the field's schema holds both: its own keywords for the form, and behind `$ref`, which by draft 7 stands
    in place of all keywords beside it, what a value may be.
    """
    form = _form_schema(field)
    kind = field["type"]
    if kind == "string":
        return form
    texts = {
        "boolean": {"enum": list(BOOLEANS)},
        "integer": {"enum": [str(v) for v in field["enum"]]} if "enum" in field else {"pattern": INTEGER},
        "number": {"pattern": NUMBER},
        "array": {"pattern": JSON_ARRAY},
    }
    # The form would change a number that is out of bounds to the next one within, and not say so: bounds are refused.
    values = {"type": ["boolean", "null"]} if kind == "boolean" else form | {k: field[k] for k in _BOUNDS if k in field}
    if kind == "array":
        items = form["items"]
        values = form | {"items": items if items["type"] == "string" else _either(items, texts[items["type"]])}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$ref": "#/definitions/value",
        "definitions": {"value": _either(values, texts[kind])},
        **form,
    }


def _either(values: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a type, or texts of them; with "if", a refusal names the bound that was missed."""
    return {"if": {"type": "string"}, "then": texts, "else": values}


def _form_schema(field: Mapping[str, Any]) -> dict[str, Any]:
    kind = field["type"]
    if kind == "boolean":
        # A switch could not show the third state, and Airflow's choice list keeps only texts and numbers.
        return _choice("string", ["true", "false"])
    if "enum" in field:
        return _choice(kind, field["enum"])
    if kind == "array":
        return {"type": ["array", "null"], **_array(field)}
    kept = ("minLength", "maxLength", "pattern")
    return {"type": [kind, "null"], **{key: field[key] for key in kept if key in field}}


def _choice(kind: str, values: list[Any]) -> dict[str, Any]:
    return {"type": [kind, "null"], "enum": [None, *values], "values_display": {"null": _AS_IN_THE_PRESET}}


def _array(field: Mapping[str, Any]) -> dict[str, Any]:
    items = field.get("items") or field["prefixItems"][0]
    return {"items": items, **{key: field[key] for key in ("minItems", "maxItems") if key in field}}
