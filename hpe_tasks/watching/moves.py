"""Channels that were moved by hand, and whether people were told of it.

A command moves a channel on the registry, with no way to tell anybody. Each look compares the registry's log with the
moves that earlier looks have seen; whoever tells of a move at once leaves a mark, so that it is not told twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from hpe_tasks.config.base import Frozen
from hpe_tasks.registry.log import Action, LogEntry, LogRecord, RegistryLog
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import WATCHING, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable

MOVED_BY_HAND: dict[Action, str] = {"promote": "promoted", "rollback": "rolled back"}
"""Moves that no run has made, and what they have done to the version."""


class SeenMoves(Frozen):
    """Names of the moves that a look has seen, and told where that was to be done."""

    entries: frozenset[str]


def untold_moves(log: RegistryLog, registry: str, name: str, workspace: Workspace) -> tuple[LogRecord, ...]:
    """Moves by hand of a model's channels that nobody was told of, earliest first.

    The first look at a model finds none: what happened before anybody wanted to be told is no news.

    Args:
        log: Of the registry.
        registry: Its address.
        name: The model.
        workspace: Remembers what was seen.

    Raises:
        DigestError: A record of the log is damaged.
    """
    moves = _moves(log, name)
    seen = _seen(workspace, registry, name)
    if seen is None:
        remember_moves(workspace, registry, name, (move.entry for move in moves))
        return ()
    new = [move for move in moves if move.entry not in seen and workspace.read(_mark(move.entry)) is None]
    records = (log.read(name, move) for move in new)
    return tuple(record for record in records if record.previous_version != record.version)


def remember_moves(workspace: Workspace, registry: str, name: str, entries: Iterable[str]) -> None:
    """Take moves as told, beside those that were before."""
    seen = (_seen(workspace, registry, name) or frozenset()) | frozenset(entries)
    data = SeenMoves(entries=seen).model_dump_json(indent=1).encode()
    workspace.write(_file(registry, name), data)


def mark_told(workspace: Workspace, entry: str) -> None:
    """Leave a mark that people were told of a move when it was made."""
    workspace.create(_mark(entry), b"")


def _moves(log: RegistryLog, name: str) -> tuple[LogEntry, ...]:
    return tuple(entry for entry in log.entries(name) if entry.action in MOVED_BY_HAND)


def _seen(workspace: Workspace, registry: str, name: str) -> frozenset[str] | None:
    """What earlier looks have seen; None where there was none, or what it has left cannot be read."""
    data = workspace.read(_file(registry, name))
    try:
        return None if data is None else SeenMoves.model_validate_json(data).entries
    except ValidationError:
        return None


def _file(registry: str, name: str) -> str:
    return f"{WATCHING}/moves/{name}-{digest_of([registry, name])[:8]}.json"


def _mark(entry: str) -> str:
    return f"{WATCHING}/moves/told/{entry}"
