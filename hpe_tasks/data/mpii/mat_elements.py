"""The elements that a MATLAB file of version 5 consists of, looked at before SciPy reads them.

SciPy takes them to be as they should: it looks up a type in a table without asking whether it stands there, and reads
on behind the end of a matrix. Then the process ends, or goes on with numbers that nobody has written, now one and now
the other. What is looked at here is what MPII's files have: numbers, texts, cells and structs.

Source: MathWorks, MAT-File Format, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 128

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_TEXTS = _NUMBERS | {16, 17, 18}
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, frozenset(range(6, 16))
_COMPLEX = 0x800
_MOST_DIMENSIONS, _DEPTH = 32, 64
_VERSION_73 = 2


class BrokenElementError(ValueError):
    """An element is not as it should be; says how."""


@dataclass(frozen=True)
class _Element:
    kind: int
    data: memoryview


def check_elements(content: bytes) -> None:
    """Look at all elements of a file.

    Args:
        content: The file. One of version 7.3 is another format (HDF5), at which nothing is looked.

    Raises:
        BrokenElementError: Says of the first that is broken what is wrong with it.
        zlib.error: One that says to be compressed is not.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER_BYTES])
    # Files of version 4 have no header, and begin with numbers.
    if order is None or 0 in content[:4]:
        raise BrokenElementError("it has no header of version 5 or later")
    if content[125 if order == "<" else 124] == _VERSION_73:
        return
    for element in _elements(memoryview(content)[HEADER_BYTES:], order):
        packed = element.kind == _COMPRESSED
        held = _elements(memoryview(zlib.decompress(element.data)), order) if packed else iter((element,))
        for matrix in held:
            _check_matrix(matrix, order, 0)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    at, tag = 0, struct.Struct(f"{order}II")
    while at < len(data):
        if len(data) - at < 8:
            raise BrokenElementError("an element is cut off")
        kind, size = tag.unpack_from(data, at)
        begins = at + 8
        if kind >> 16:
            # Up to four bytes stand in the tag itself, behind their number.
            kind, size, begins = kind & 0xFFFF, kind >> 16, at + 4
            _ask(size <= 4, f"a tag has room for 4 bytes, not for {size:,}")
            at += 8
        else:
            # What is compressed is not filled up to eight bytes.
            at = begins + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        _ask(begins + size <= len(data), f"an element of {size:,} bytes is cut off")
        yield _Element(kind, data[begins : begins + size])


def _check_matrix(matrix: _Element, order: str, depth: int) -> None:
    _ask(matrix.kind == _MATRIX, f"an element of the type {matrix.kind} stands where a matrix should")
    _ask(depth <= _DEPTH, f"matrices lie {depth} deep in others")
    if not matrix.data:
        return
    parts = list(_elements(matrix.data, order))
    _ask(len(parts) >= 3, "a matrix is cut off")
    flags, dimensions, name, *others = parts
    _ask((flags.kind, len(flags.data)) == (_UINT32, 8), "a matrix does not say of which class it is")
    (said,) = struct.unpack_from(f"{order}I", flags.data)
    count = _count(dimensions, order)
    _ask(name.kind == _INT8, "a matrix has no name")
    kind = said & 0xFF
    if kind == _CELL:
        _check_members(others, count, order, depth)
    elif kind == _STRUCT:
        _check_members(others[2:], count * _fields(others[:2], order), order, depth)
    else:
        _ask(kind in _NUMERIC or kind == _CHAR, f"a matrix is of the class {kind}, which MPII's files do not have")
        known = _TEXTS if kind == _CHAR else _NUMBERS
        _ask(len(others) == (2 if said & _COMPLEX else 1), f"a matrix has {len(others)} elements with numbers")
        for numbers in others:
            _ask(numbers.kind in known, f"numbers are of the type {numbers.kind}, which there is not")


def _count(dimensions: _Element, order: str) -> int:
    number, rest = divmod(len(dimensions.data), 4)
    _ask(dimensions.kind == _INT32 and not rest and 2 <= number <= _MOST_DIMENSIONS, "a matrix has no dimensions")
    found = struct.unpack(f"{order}{number}i", dimensions.data)
    _ask(min(found) >= 0, "a matrix has a negative dimension")
    return math.prod(found)


def _fields(named: list[_Element], order: str) -> int:
    _ask(len(named) == 2 and (named[0].kind, len(named[0].data)) == (_INT32, 4), "a struct has no field names")
    length = int.from_bytes(named[0].data, "little" if order == "<" else "big", signed=True)
    names = named[1]
    _ask(names.kind == _INT8 and length > 0 and len(names.data) % length == 0, "a struct's field names are cut off")
    return len(names.data) // length


def _check_members(members: list[_Element], count: int, order: str, depth: int) -> None:
    _ask(len(members) == count, f"{count:,} matrices should stand in another, and {len(members):,} do")
    for member in members:
        _check_matrix(member, order, depth + 1)


def _ask(right: bool, wrong: str) -> None:
    if not right:
        raise BrokenElementError(wrong)
