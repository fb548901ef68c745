"""What each setting of a run may hold, in words: for `hpe presets --keys` and for the form in Airflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hpe_tasks.config.run import RunConfig

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def setting_schema(key: str) -> Mapping[str, Any]:
    """The JSON schema of one setting, such as `gate.min_ap`, with the alternative `null` taken away."""
    schema = _run_schema()
    here: Mapping[str, Any] = schema
    for name in key.split("."):
        here = here["properties"][name]
        if "$ref" in here:
            here = {**schema["$defs"][here["$ref"].rpartition("/")[2]], **here}
    options = [option for option in here.get("anyOf", ()) if option.get("type") != "null"]
    return {**here, **options[0]} if options else here


def describe_setting(key: str, *, choices: bool = False) -> str:
    """The setting's meaning, its bounds and RunConfig's own default; with `choices` also what it may be one of."""
    field = setting_schema(key)
    listed = [f"one of {', '.join(map(str, field['enum']))}"] if choices and "enum" in field else []
    said = ", ".join([*listed, *_limits(field)])
    return f"{field['description']} ({said})" if said else str(field["description"])


def _limits(field: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{words} {field[key]:g}" for key, words in _BOUNDS.items() if key in field)
    default = field.get("default")
    if default is not None:
        shown = str(default).lower() if isinstance(default, bool) else default
        yield f"default `{shown}`"


@cache
def _run_schema() -> Mapping[str, Any]:
    return RunConfig.model_json_schema()
