"""The rows of a registry, kept in the registry itself for machines that have not read it yet.

Whoever has read many manifests leaves what they say in one object beside them. Another machine takes of it the rows
whose ETags the registry lists now, and reads a few of their manifests to see that they say the same: where one does
not, it takes none. Who acts on a version reads its manifest, always.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from hpe_tasks.catalogue.kept_rows import KeptRow, RowsFormat, fields_digest
from hpe_tasks.errors import HpeError
from hpe_tasks.records.base import Record
from hpe_tasks.storage.s3_objects import get_bytes, put_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.storage.s3 import S3Location

WORTH = 50
"""Manifests to read from which on the object is asked for, and written."""

_READ_AGAIN = 8
"""Rows whose manifests are read to see whether the object tells the truth."""

R = TypeVar("R", bound=Record)

log = logging.getLogger(__name__)


class SharedRows(Generic[R]):
    """The rows of one kind below a registry's prefix.

    Args:
        client: May read the registry; whether it may write there is found out.
        root: Bucket and prefix of the registry.
        kind: Type of the rows.
        version: As of the rows that a machine keeps.
    """

    def __init__(self, client: S3Client, root: S3Location, kind: type[R], version: int) -> None:
        made_by = fields_digest(kind, version)
        self._client = client
        self.location = root / "catalogue" / f"{kind.__name__}-{made_by[:16]}.json"
        self._format = RowsFormat(kind, made_by)

    def read(self, etags: Mapping[str, str], again: Callable[[str], KeptRow[R] | None]) -> dict[str, KeptRow[R]]:
        """The rows of objects that are wanted; none where the object is not there, damaged, or tells something else.

        Args:
            etags: Of the objects that are wanted, as the registry lists them, by their keys.
            again: Reads one of them; None where it was deleted meanwhile.
        """
        try:
            found = get_bytes(self._client, self.location, "reading the index")
            kept = {} if found is None else self._format.parse(found.data)
        except (HpeError, ValueError) as error:
            log.warning("The index %s cannot be used, and the manifests are read: %s", self.location, error)
            return {}
        rows = {key: row for key, row in kept.items() if row.made_from == etags.get(key)}
        for key in random.sample(sorted(rows), min(_READ_AGAIN, len(rows))):
            read = again(key)
            if read is not None and read.made_from == rows[key].made_from and read.row != rows[key].row:
                log.warning("The index %s does not say of %s what is there: it is not used.", self.location, key)
                return {}
        return rows

    def write(self, rows: Mapping[str, KeptRow[R]]) -> None:
        """Leave these rows for others; where that is not possible, they read for themselves."""
        try:
            put_bytes(self._client, self.location, self._format.dump(rows), "writing the index")
        except HpeError as error:
            log.info("The index %s could not be written: %s", self.location, error.message)
