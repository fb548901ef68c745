"""Values of settings as people write them: what JSON has as a type may also come as its text.

A form, a command line and a JSON file have `true` or `"true"`, `0.5` or `"0.5"` for the same thing. What is something
else than the setting takes is refused with the setting's name and what it takes: RunConfig alone would read `true` as
the number 1 and `"no"` as false.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpe_tasks.config.addresses import redacted

NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
"""Texts that are read as a number."""

INTEGER = r"^\s*[+-]?\d+\s*$"
"""Texts that are read as a whole number."""

BOOLEANS = {"true": True, "false": False, "True": True, "False": False}
"""Texts that are read as true or false: JSON's, and Python's."""

JSON_ARRAY = r"^\s*\[[\s\S]*\]\s*$"
"""Texts that are read as a list: JSON."""

_NAMES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "object": "an object",
}


def typed_value(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value in the type that a setting's schema names; None, which every setting takes, stays.

    Args:
        value: What was given.
        schema: The setting's JSON schema; bounds and choices are left to RunConfig.

    Raises:
        ValueError: The value is of another type; the message says what the setting takes and what was given.
    """
    if value is None:
        return None
    reader = _READERS.get(schema.get("type", ""))
    if reader is None:
        return value
    try:
        return reader(value, schema)
    except _WrongType as error:
        raise ValueError(f"takes {expected_text(schema)}, not {shown(value)}") from error


def expected_text(schema: Mapping[str, Any]) -> str:
    """What a setting of this schema takes, in words, such as "a list of 3 numbers"."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if schema.get("type") != "array":
        return _NAMES.get(schema.get("type", ""), "another value")
    inner = {"number": "numbers", "integer": "whole numbers", "string": "texts"}.get(_items(schema).get("type", ""), "")
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = f"{least} " if least is not None and least == most else ""
    return f"a list of {count}{inner or 'values'}"


def shown(value: Any) -> str:
    """A value as it stands in JSON, shortened, and without the secrets of addresses."""
    try:
        value = redacted(value)
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "values that lie within too many others"
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


class _WrongType(Exception):
    """The value is not of the type, nor a text of it."""


def _boolean(value: Any, _: Mapping[str, Any]) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip() in BOOLEANS:
        return BOOLEANS[value.strip()]
    raise _WrongType


def _number(value: Any, _: Mapping[str, Any]) -> int | float:
    if isinstance(value, str) and re.match(NUMBER, value):
        value = int(value) if re.match(INTEGER, value) else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _WrongType
    return value


def _integer(value: Any, schema: Mapping[str, Any]) -> int:
    if isinstance(value, str) and not re.match(INTEGER, value):
        raise _WrongType
    number = _number(value, schema)
    if number != int(number):
        raise _WrongType
    return int(number)


def _string(value: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(value, bool):
        # YAML reads some words as true and false.
        words = ("on", "yes") if value else ("off", "no")
        value = next((word for word in words if word in schema.get("enum", ())), value)
    if not isinstance(value, str):
        raise _WrongType
    return value


def _array(value: Any, schema: Mapping[str, Any]) -> list[Any]:
    values = _from_json(value, "[") if isinstance(value, str) else value
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise _WrongType
    if not schema.get("minItems", 0) <= len(values) <= schema.get("maxItems", math.inf):
        raise _WrongType
    items = _items(schema)
    if None in values:
        raise _WrongType
    try:
        return [typed_value(item, items) for item in values]
    except ValueError as error:
        raise _WrongType from error


def _object(value: Any, _: Mapping[str, Any]) -> Mapping[str, Any]:
    values = _from_json(value, "{") if isinstance(value, str) else value
    if not isinstance(values, Mapping):
        raise _WrongType
    return values


def _from_json(text: str, start: str) -> Any:
    if not text.lstrip().startswith(start):
        raise _WrongType
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # brackets within brackets end Python's stack
        raise _WrongType from error


def _items(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a list's values; where each place has its own, they are alike."""
    items: Mapping[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
    return items


_READERS = {
    "boolean": _boolean,
    "number": _number,
    "integer": _integer,
    "string": _string,
    "array": _array,
    "object": _object,
}
