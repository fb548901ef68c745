"""Changes to MATLAB files of version 5, which are trees of elements: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from support.fuzzing.json_values import broken_bytes

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_AS_IT_IS = -1
"""An element whose tag is in its data."""

_TYPES = [*range(20), 255, 2**15, 2**31]
_WORDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 16, 17, 255, 0x0800, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


@dataclass
class Element:
    """A tag and what it holds.

    Attributes:
        said_bytes: What its tag says of its length, where that is not so.
    """

    type: int
    data: bytes = b""
    children: list[Element] = field(default_factory=list)
    said_bytes: int | None = None


def parsed(data: bytes) -> tuple[bytes, list[Element]]:
    """The header and the elements of a real file."""
    return data[:_HEADER_BYTES], _elements(data[_HEADER_BYTES:])


def _elements(data: bytes) -> list[Element]:
    found, at = [], 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # The short form, with up to four bytes in the tag.
            found.append(Element(kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]))
            at += 8
            continue
        content = data[at + 8 : at + 8 + size]
        at += 8 + size
        if kind == _COMPRESSED:
            found.append(Element(kind, children=_elements(zlib.decompress(content))))
            continue
        at += -size % 8
        inner = _elements(content) if kind == _MATRIX else []
        found.append(Element(kind, b"" if kind == _MATRIX else content, inner))
    return found


def written(header: bytes, elements: list[Element]) -> bytes:
    """The file of a header and elements."""
    return header + b"".join(map(_bytes, elements))


def _bytes(element: Element) -> bytes:
    if element.type == _AS_IT_IS:
        return element.data
    data = element.data + b"".join(map(_bytes, element.children))
    if element.type == _COMPRESSED:
        data = zlib.compress(data)
    size = len(data) if element.said_bytes is None else element.said_bytes
    padding = b"" if element.type == _COMPRESSED else bytes(-len(data) % 8)
    return struct.pack("<II", element.type & 0xFFFFFFFF, size & 0xFFFFFFFF) + data + padding


@st.composite
def changed_mat(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with one to three of its elements changed; now and then its bytes as well."""
    header, elements = parsed(data)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        _change(draw, elements)
    if draw(st.integers(0, 15)) == 0:
        header = draw(broken_bytes(header))
    result = written(header, elements)
    return draw(broken_bytes(result)) if draw(st.integers(0, 9)) == 0 else result


def _change(draw: st.DrawFn, elements: list[Element]) -> None:
    siblings = elements
    if not siblings:
        siblings.append(Element(_MATRIX))
    while True:
        index = draw(st.integers(0, len(siblings) - 1))
        element = siblings[index]
        if not element.children or draw(st.integers(0, 6)) == 0:
            break
        siblings = element.children
    match draw(
        st.sampled_from(["word", "word", "word", "type", "length", "bytes", "without", "twice", "swap", "nest"])
    ):
        case "word" if element.data:
            _set_word(draw, element)
        case "type":
            element.type = draw(st.sampled_from(_TYPES))
        case "length":
            element.said_bytes = draw(st.sampled_from([*_WORDS, len(element.data) + 1, max(len(element.data) - 1, 0)]))
        case "without":
            del siblings[index]
        case "twice":
            siblings.insert(index, element)
        case "swap":
            other = draw(st.integers(0, len(siblings) - 1))
            siblings[index], siblings[other] = siblings[other], element
        case "nest":
            siblings[index] = _in_cells(element, draw(st.sampled_from([1, 2, 3, 10, 50, 200, 400, 900] * 8 + [3000])))
        case _:
            element.data = draw(broken_bytes(element.data))


def _set_word(draw: st.DrawFn, element: Element) -> None:
    """A number of array flags, of dimensions, of a length or of the data itself."""
    form, width = draw(st.sampled_from([("<I", 4), ("<H", 2), ("<B", 1), ("<d", 8)]))
    place = draw(st.integers(0, max(len(element.data) // width - 1, 0))) * width
    value: Any = draw(st.sampled_from(_WORDS))
    packed = struct.pack(form, value % 256**width if form != "<d" else float(value))
    element.data = element.data[:place] + packed + element.data[place + width :]


def _in_cells(element: Element, depth: int) -> Element:
    """The element within so many cells, each in the next."""
    data = _bytes(element)
    before = _bytes(Element(6, struct.pack("<II", 1, 0))) + _bytes(Element(5, struct.pack("<ii", 1, 1)))
    before += _bytes(Element(1))
    for _ in range(depth):
        data = _bytes(Element(_MATRIX, before + data))
    return Element(_AS_IT_IS, data)
