"""Rows that a machine keeps with what they were made from, so that they are made again only where that has changed.

A file of the cache that is lost, damaged, or of another version of the code costs time and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from hpe_tasks.config.base import Frozen
from hpe_tasks.errors import StorageError
from hpe_tasks.records.base import Record
from hpe_tasks.storage.files import digest_of, write_atomically

FOLDER = "catalogue"
"""Of the cache, for these files."""

R = TypeVar("R", bound=Record)

log = logging.getLogger(__name__)


class KeptRow(Frozen, Generic[R]):
    """A row, and what the thing that it describes was when it was made: an ETag, or a digest."""

    made_from: str
    row: R


class _File(Frozen, Generic[R]):
    made_by: str
    rows: dict[str, KeptRow[R]]


class KeptRows(Generic[R]):
    """A file of rows by their keys.

    Args:
        cache: As HPE_CACHE names it.
        name: What tells this file from others: of which registry or workspace it is.
        kind: Type of the rows.
        version: Higher with each change of what a row says of the same thing. New fields count by themselves.
    """

    def __init__(self, cache: Path, name: str, kind: type[R], version: int) -> None:
        self.file = cache / FOLDER / f"{kind.__name__}-{digest_of(name)[:16]}.json"
        self._type = _File[kind]  # type: ignore[valid-type]
        self._made_by = digest_of([version, name, list(kind.model_fields)])

    def read(self) -> dict[str, KeptRow[R]]:
        """What is kept; nothing where that does not count."""
        try:
            kept: _File[R] = self._type.model_validate_json(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            state = "damaged" if isinstance(error, ValidationError) else "not readable"
            log.warning("The index %s is %s, and is made again.", self.file, state)
            return {}
        return kept.rows if kept.made_by == self._made_by else {}

    def write(self, rows: Mapping[str, KeptRow[R]]) -> None:
        """Keep these rows and no others; where that is not possible, the log says so."""
        kept = self._type(made_by=self._made_by, rows=dict(rows))
        try:
            write_atomically(self.file, kept.model_dump_json(exclude_defaults=True).encode())
        except StorageError as error:
            log.warning("%s The next listing reads everything again.", error.message)
