"""The parts of a multipart/form-data body (RFC 7578), strictly and within limits.

The standard library's `email` parser splits a body into lines and keeps what it cannot read as a "defect": for some
megabytes of an image that is slow, and a cut-off upload would pass for a whole one.
"""

from __future__ import annotations

import re

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.serving.errors import RequestError

_MAX_PARTS = 32
_MAX_HEADER_BYTES = 8 * 1024

_BOUNDARY = re.compile(r""";\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s";,]{1,70}))""", re.IGNORECASE)
_PARAMETER = re.compile(r""";\s*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))""")


@frozen
class Part:
    """A field of a form.

    Attributes:
        is_file: Whether the field names a file.
    """

    name: str
    is_file: bool
    content: bytes


def read_parts(body: bytes, content_type: str) -> list[Part]:
    """Read a body's parts.

    Args:
        body: As it was sent.
        content_type: The header's value, with the boundary.

    Raises:
        RequestError: 400: no boundary, a part without a name, more than 32 parts, or a body that is cut off.
    """
    named = _BOUNDARY.search(content_type)
    if named is None:
        raise RequestError(400, "Content-Type multipart/form-data names no boundary.")
    delimiter = b"--" + (named[1] or named[2]).encode("utf-8", "replace")
    # The first delimiter may follow a preamble, which is to be ignored.
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter) + 2
    if start == 1:
        raise RequestError(400, "The form has no part: its boundary is not in the body.")
    position = start + len(delimiter)
    parts: list[Part] = []
    while body[position : position + 2] != b"--":
        if len(parts) == _MAX_PARTS:
            raise RequestError(400, f"The form has more than {_MAX_PARTS} parts.")
        part, position = _part(body, position, b"\r\n" + delimiter)
        parts.append(part)
    return parts


def _part(body: bytes, position: int, delimiter: bytes) -> tuple[Part, int]:
    """The part whose delimiter ends at `position`, and where the next delimiter ends."""
    first = body.find(b"\r\n", position, position + _MAX_HEADER_BYTES)
    blank = body.find(b"\r\n\r\n", first, position + _MAX_HEADER_BYTES) if first >= 0 else -1
    if blank < 0 or body[position:first].strip(b" \t"):
        raise RequestError(400, f"The form is cut off, or headers of a part exceed {_MAX_HEADER_BYTES} bytes.")
    end = body.find(delimiter, blank + 2)
    if end < 0:
        raise RequestError(400, "The form is cut off: the boundary that closes it is missing.")
    fields = _disposition(body[first:blank].decode("utf-8", "replace"))
    if "name" not in fields:
        raise RequestError(400, "A part of the form has no name.")
    is_file = "filename" in fields or "filename*" in fields
    return Part(fields["name"], is_file, body[blank + 4 : end]), end + len(delimiter)


def _disposition(headers: str) -> dict[str, str]:
    """Parameters of a part's Content-Disposition: `name`, and `filename` for a file."""
    for header in headers.split("\r\n"):
        name, _, value = header.partition(":")
        if name.strip().lower() == "content-disposition":
            found = _PARAMETER.findall(value)
            return {key.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for key, quoted, plain in found}
    return {}
