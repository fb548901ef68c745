"""Rows that are kept with what they were made from, so that they are made again only where that has changed.

A file of them that is lost, damaged, or of another version of the code costs time and nothing else: its first line has
the SHA-256 of the rest.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

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


class _Header(Frozen):
    made_by: str
    sha256: str


class _Rows(Frozen, Generic[R]):
    rows: dict[str, KeptRow[R]]


class RowsFormat(Generic[R]):
    """Rows by their keys as bytes, and back.

    Args:
        kind: Type of the rows.
        made_by: What tells these rows from those of other code, or of another registry.
    """

    def __init__(self, kind: type[R], made_by: str) -> None:
        self._type = _Rows[kind]  # type: ignore[valid-type]
        self._made_by = made_by

    def dump(self, rows: Mapping[str, KeptRow[R]]) -> bytes:
        """The bytes that hold these rows."""
        body = self._type(rows=dict(rows)).model_dump_json(exclude_defaults=True).encode()
        header = _Header(made_by=self._made_by, sha256=hashlib.sha256(body).hexdigest())
        return header.model_dump_json().encode() + b"\n" + body

    def parse(self, data: bytes) -> dict[str, KeptRow[R]]:
        """The rows; none where other code made them.

        Raises:
            ValueError: They are not as they were written.
        """
        first, _, body = data.partition(b"\n")
        header = _Header.model_validate_json(first)
        if header.made_by != self._made_by:
            return {}
        if hashlib.sha256(body).hexdigest() != header.sha256:
            raise ValueError("the rows do not have the digest that they were kept with")
        rows: _Rows[R] = self._type.model_validate_json(body)
        return rows.rows


def fields_digest(kind: type[Record], version: int, *more: str) -> str:
    """What tells rows of this code from those of another version of it."""
    return digest_of([version, *more, json.dumps(kind.model_json_schema(), sort_keys=True)])


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
        self._format = RowsFormat(kind, fields_digest(kind, version, name))

    def read(self) -> dict[str, KeptRow[R]]:
        """What is kept; nothing where that does not count."""
        try:
            return self._format.parse(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            state = "not readable" if isinstance(error, OSError) else "damaged"
            log.warning("The index %s is %s, and is made again.", self.file, state)
            return {}

    def write(self, rows: Mapping[str, KeptRow[R]]) -> None:
        """Keep these rows and no others; where that is not possible, the log says so."""
        try:
            write_atomically(self.file, self._format.dump(rows))
        except StorageError as error:
            log.warning("%s The next listing reads everything again.", error.message)
