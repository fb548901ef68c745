"""Lambda events of every form as one kind of request.

Payload formats: API Gateway REST (1.0), API Gateway HTTP and function URLs (2.0), and direct invocations, whose event
is the JSON document itself.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from typing import Any, Literal

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.serving.errors import RequestError, too_large

EventForm = Literal["1.0", "2.0", "direct"]

# What a body holds besides the image: options, and the boundaries of multipart/form-data.
_BESIDES_IMAGE_BYTES = 64 * 1024


@frozen
class Request:
    """A request, whatever form it came in.

    Attributes:
        form: Payload format of the event.
        method: In upper case; `POST` for a direct invocation.
        headers: By name in lower case; values of a repeated header are joined by commas.
        query: Query parameters, decoded; the last value of a repeated one.
        body: Bytes, or text where the event says that it is not base64.
        document: Event of a direct invocation; None for an HTTP request.
    """

    form: EventForm
    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes | str
    document: Mapping[str, Any] | None = None

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case; empty where none is given."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_event(event: Any, max_image_bytes: int) -> Request:
    """Read an event.

    Args:
        event: As Lambda gives it.
        max_image_bytes: Bodies that could only hold a larger image are not decoded.

    Raises:
        RequestError: It has none of the known forms (400), its body is not the base64 that it claims (400), or too
            large (413).
    """
    if not isinstance(event, Mapping):
        raise RequestError(400, "The event is not a JSON object.", hint='Send {"image": "<base64>"}, for example.')
    if "requestContext" not in event and "httpMethod" not in event:
        return Request("direct", "POST", {}, {}, b"", document=event)
    http = event.get("requestContext")
    http = http.get("http") if isinstance(http, Mapping) else None
    form: EventForm = "2.0" if isinstance(http, Mapping) else "1.0"
    method = http.get("method") if isinstance(http, Mapping) else event.get("httpMethod")
    if not isinstance(method, str):
        raise RequestError(400, "The event names no HTTP method.")
    return Request(
        form=form,
        method=method.upper(),
        headers=_texts(event, "multiValueHeaders", "headers", lower=True),
        query=_texts(event, "multiValueQueryStringParameters", "queryStringParameters"),
        body=_body(event, max_image_bytes),
    )


def _texts(event: Mapping[str, Any], many: str, single: str, *, lower: bool = False) -> dict[str, str]:
    """Named values of an event; a repeated header (`lower`) is joined, of a repeated parameter the last counts."""
    found: dict[str, str] = {}
    for member in (single, many):
        values = event.get(member) or {}
        if not isinstance(values, Mapping):
            raise RequestError(400, f"{member} of the event is not an object.")
        for name, value in values.items():
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            if texts:
                found[str(name).lower() if lower else str(name)] = ", ".join(texts) if lower else texts[-1]
    return found


def _body(event: Mapping[str, Any], max_image_bytes: int) -> bytes | str:
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise RequestError(400, "body of the event is not text.")
    # A JSON document holds its image in base64, which takes four bytes for three.
    limit = math.ceil(max_image_bytes / 3) * 4 + _BESIDES_IMAGE_BYTES
    encoded = event.get("isBase64Encoded") is True
    if (len(body) // 4 * 3 if encoded else len(body)) > limit:
        raise too_large("body", limit)
    if not encoded:
        return body
    try:
        return binascii.a2b_base64(body, strict_mode=True)
    except ValueError:
        raise RequestError(400, "The body is not valid base64, although isBase64Encoded is true.") from None
