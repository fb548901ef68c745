"""Settings as YAML texts, within limits that are checked before anything is built from them.

A text of a hundred thousand brackets ends Python's stack, and one of ten lines, each of which names the line before
ten times, becomes ten billion values as soon as somebody walks over them.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 250_000
"""Of a text, and of what it stands for with every alias written out; the longest preset has some thousand."""
MAX_DEPTH = 100


class YamlLimitError(yaml.YAMLError):
    """The text is not like settings: too long, too deep, or much more than it looks like."""


def load_yaml(text: str) -> list[Any]:
    """The documents of a YAML text, with plain values only.

    Raises:
        YamlLimitError: The text goes beyond the limits.
        YAMLError: It is not YAML, or holds a date or number that does not exist.
    """
    _refuse_bombs(text)
    try:
        return list(yaml.safe_load_all(text))
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error


def load_value(text: str) -> Any:
    """The value of a YAML text of one document, None for an empty one; raises as `load_yaml`."""
    documents = load_yaml(text)
    if len(documents) > 1:
        raise yaml.YAMLError("expected one value, but found a line `---` and another one")
    return documents[0] if documents else None


def _refuse_bombs(text: str) -> None:
    """Walk over the text's events, which nothing is built from; anchored parts count again at each of their aliases."""
    _refuse_long(len(text))
    anchored: dict[str | None, int] = {}
    within: list[tuple[str | None, int]] = []  # collections that are open: anchor, and characters before them
    written_out = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        match event:
            case yaml.DocumentStartEvent():
                anchored.clear()
            case yaml.CollectionStartEvent():
                within.append((event.anchor, written_out))
                if len(within) > MAX_DEPTH:
                    raise YamlLimitError(f"its values lie within more than {MAX_DEPTH} others")
                written_out += 1
            case yaml.CollectionEndEvent():
                anchor, before = within.pop()
                anchored[anchor] = written_out - before
            case yaml.ScalarEvent():
                length = 1 + len(event.value)
                written_out += length
                anchored[event.anchor] = length
            case yaml.AliasEvent():
                if any(anchor == event.anchor for anchor, _ in within):
                    raise YamlLimitError(f"*{event.anchor} stands within what it names")
                written_out += anchored.get(str(event.anchor), 0)  # one that names nothing is refused by the loader
        _refuse_long(written_out)


def _refuse_long(characters: int) -> None:
    if characters > MAX_CHARACTERS:
        raise YamlLimitError(f"it has, or stands for, more than {MAX_CHARACTERS:,} characters")
