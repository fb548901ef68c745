"""The dotted keys of a run's settings, and what is said of a setting that is not one or cannot be as it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from hpe_tasks.config.addresses import redacted
from hpe_tasks.config.base import Frozen
from hpe_tasks.config.run import RunConfig

REPLACED = {
    "gate.metric": "Leave it out: dataset.kind says what is judged, PCKh of `mpii` and AP of all others.",
    "recipe.four_phase_deconvolution": "Write recipe.subpixel_deconvolution, which is its name now.",
    "recipe.reduce_range": "Leave it out: recipe.saturation_free, on by default, keeps sums in range and costs less.",
}
"""Settings that users may still have in their files, and what does their work now."""


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a run may set, in the order of the configuration."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            yield from config_keys(field.annotation, f"{prefix}{name}.")
        elif name not in {"schema_version", "preset"}:
            yield f"{prefix}{name}"


def dotted(values: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys of nested settings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in dotted(value))
        else:
            yield key


def close_matches(key: str, known: Iterable[str], *, most: int = 1) -> str:
    """The known keys that this one was perhaps meant to be, such as "a or b"; empty without any."""
    return " or ".join(difflib.get_close_matches(key, tuple(known), n=most))


def problems_text(error: ValidationError, known: Iterable[str]) -> str:
    """Every problem that pydantic found, by its key, in one sentence without its end."""
    names = tuple(known)
    return "; ".join(_problem(item, names) for item in error.errors(include_url=False))


def _problem(item: Any, known: tuple[str, ...]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = close_matches(where, known)
        return f"there is no setting {redacted(where)!r}" + (f" (did you mean {near}?)" if near else "")
    given = "" if isinstance(item["input"], (dict, BaseModel)) else f" (given: {redacted(item['input'])!r})"
    return f"{where + ': ' if where else ''}{text}{given}"
