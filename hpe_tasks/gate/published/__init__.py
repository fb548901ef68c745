"""Published figures: each publication is a file of this folder, which presets name under `reference`.

A file holds the fields of `Reference`, its rows under `figures`, and the protocol's fields as a fingerprint has them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError, create_model

from hpe_tasks.config.keys import problems_text
from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.references import PublishedFigure, Reference
from hpe_tasks.records.evaluation import ProtocolFingerprint

__all__ = ["published_figures", "published_names", "read_reference"]

_REFERENCE = TypeAdapter(Reference)
_FIELDS = (*Reference.__dataclass_fields__, *PublishedFigure.__dataclass_fields__)
_FOLDER = Path(__file__).parent


def published_names() -> tuple[str, ...]:
    """Names of all published figures."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


@cache
def published_figures(name: str) -> Reference:
    """The published figures of this name; raises ConfigError where there are none."""
    if name not in published_names():
        raise ConfigError(f"There are no published figures {name!r}.", hint=f"Known: {', '.join(published_names())}.")
    return read_reference(_FOLDER / f"{name}.yaml")


def read_reference(file: Path) -> Reference:
    """Read a file of published figures.

    Raises:
        ConfigError: It has an unknown field, lacks one, or holds a value that cannot be; the message names the file
            and the field.
    """
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"The published figures {file} are not YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"The published figures {file} hold {loaded!r} in place of fields.")
    fields = {"rows" if key == "figures" else key: value for key, value in loaded.items()}
    try:
        _with_typed_protocol(fields)
        return _REFERENCE.validate_python(fields)
    except ValidationError as error:
        raise ConfigError(f"The published figures {file} are not valid: {problems_text(error, _FIELDS)}.") from error


def _with_typed_protocol(fields: dict[str, Any]) -> None:
    """Give a protocol's values the types that a fingerprint has, in place: they are compared with one."""
    for holder in (fields, *fields.get("rows", ())):
        protocol = holder.get("protocol", {}) if isinstance(holder, dict) else {}
        for name in protocol if isinstance(protocol, dict) else ():
            if name in ProtocolFingerprint.model_fields:
                protocol[name] = _typed(name, protocol[name])


def _typed(name: str, value: Any) -> Any:
    field: dict[str, Any] = {name: (ProtocolFingerprint.model_fields[name].annotation, ...)}
    # A model of this field alone: its error names it.
    return getattr(create_model("protocol", **field)(**{name: value}), name)
