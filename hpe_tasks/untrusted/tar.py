"""Members of .tar archives whose headers cannot take more memory than a name needs."""

from __future__ import annotations

import tarfile
from typing import NoReturn, Self

MAX_HEADER_BYTES = 2**18
"""Largest header of its own kind, with a long name or extended attributes; Linux knows paths of 4096 bytes."""

_WITH_CONTENT = {
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
}


class PlainTarInfo(tarfile.TarInfo):
    """A member of an archive: for `tarfile.open(…, tarinfo=PlainTarInfo)`.

    tarfile reads the content of headers that hold a name, attributes or a map of holes whole and at once, whatever
    size they say, before anybody sees the member. Here such a header raises tarfile.ReadError first.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one block of 512 bytes; raises tarfile.ReadError where a header says that more of it follows."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _WITH_CONTENT and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header with a name or attributes of {member.size:,} bytes, where {MAX_HEADER_BYTES:,} are the most"
            )
        if member.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse()
        return member

    def _proc_gnusparse_10(self, *_: object) -> NoReturn:
        """The newer form of sparse files, which is known only once its attributes are read."""
        _refuse_sparse()


def _refuse_sparse() -> NoReturn:
    raise tarfile.ReadError("a sparse file, whose map of holes may be of any size")
