"""What a request asks for: the bytes of an image, and options, out of every kind of body."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.serving.errors import RequestError, too_large
from hpe_tasks.serving.events import Request
from hpe_tasks.serving.multipart import read_parts

MAX_BOXES = 64

# Coordinates beyond that are a mistake in any image, and would overflow float32 arithmetic.
_MAX_COORDINATE = 1e6
_OPTIONS = ("boxes", "draw", "threshold")
_ACCEPTED = "Send an image, multipart/form-data or application/json."
_WHITESPACE = re.compile(r"\s")
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


@frozen(eq=False)
class PoseRequest:
    """An image, and what is to be done with it.

    Attributes:
        image: The file's bytes.
        boxes: N×4 float64, (x, y, w, h) in pixels of the upright image; None without any.
        draw: Whether a picture is wanted.
        threshold: Joints with lower scores are not drawn; None where the function's own threshold counts.
    """

    image: bytes
    boxes: npt.NDArray[np.float64] | None
    draw: bool
    threshold: float | None


def read_request(request: Request, max_image_bytes: int, read_stored: Callable[[str], bytes]) -> PoseRequest:
    """Read the image and the options of a request; options of the body go before query parameters.

    Args:
        request: A POST, or a direct invocation.
        max_image_bytes: Size of the largest image file in a request.
        read_stored: Gets the bytes of an `s3://` address, within a limit of its own.

    Raises:
        RequestError: The body is malformed (400), the image too large (413), its type is not accepted (415), or there
            is not an image or an option cannot be used (422).
    """
    image, fields = _contents(request)
    stored = isinstance(image, str) and image.startswith("s3://")
    if isinstance(image, str):
        image = read_stored(image) if stored else _decoded(image, max_image_bytes)
    if not image:
        raise RequestError(422, "The request holds no image.", hint=_ACCEPTED)
    if len(image) > max_image_bytes and not stored:
        raise too_large("image", max_image_bytes)
    options = {**request.query, **fields}
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        names = ", ".join(repr(name[:40]) for name in unknown[:4])
        raise RequestError(
            422,
            "The request has options that are not known.",
            hint=f"Not known: {names}. Known: {', '.join(_OPTIONS)}.",
        )
    return PoseRequest(
        image=image,
        boxes=_boxes(options.get("boxes")),
        draw=_switch(options.get("draw")),
        threshold=_threshold(options.get("threshold")),
    )


def _contents(request: Request) -> tuple[bytes | str | None, Mapping[str, Any]]:
    """The image, as bytes or as text that stands for it, and the options beside it."""
    if request.document is not None:
        return _from_document(request.document)
    kind = request.content_type
    if kind == "application/json":
        return _from_document(_json(request.body))
    # Bytes that a gateway took for text are characters up to U+00FF, one for each.
    body = request.body if isinstance(request.body, bytes) else _bytes(request.body)
    if kind == "multipart/form-data":
        return _from_form(body, request.headers["content-type"])
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        return body, {}
    raise RequestError(415, "The request's Content-Type is not accepted.", hint=_ACCEPTED)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise RequestError(
            400,
            "The body arrived as text that stands for no bytes.",
            hint="API Gateway must list image/* and multipart/form-data among its binary media types.",
        ) from None


def _json(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "The body is not valid JSON.") from None


def _from_document(document: Any) -> tuple[str | None, Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        raise RequestError(400, "The document is not a JSON object.", hint='Send {"image": "<base64>"}.')
    image = document.get("image")
    if image is not None and not isinstance(image, str):
        raise RequestError(422, "image is not text.", hint="Send base64, or an s3:// address.")
    return image, {name: value for name, value in document.items() if name != "image" and value is not None}


def _from_form(body: bytes, content_type: str) -> tuple[bytes | None, Mapping[str, Any]]:
    parts = read_parts(body, content_type)
    files = [part for part in parts if part.is_file]
    image = next((part for part in parts if part.name == "image"), files[0] if files else None)
    fields = [part for part in parts if part is not image and not part.is_file]
    return image.content if image else None, {part.name: part.content.decode("utf-8", "replace") for part in fields}


def _decoded(text: str, max_image_bytes: int) -> bytes:
    if text[:5].lower() == "data:":
        opening = _DATA_URL.match(text)
        if opening is None:
            raise RequestError(422, "image is a data: URL that is not base64.")
        text = text[opening.end() :]
    if len(text) // 4 * 3 > max_image_bytes * 1.1:  # base64 may be broken into lines
        raise too_large("image", max_image_bytes)
    try:
        return binascii.a2b_base64(_WHITESPACE.sub("", text), strict_mode=True)
    except ValueError:
        raise RequestError(400, "image is not valid base64.") from None


def _boxes(value: Any) -> npt.NDArray[np.float64] | None:
    if value is None:
        return None
    boxes = _parsed(value, "boxes")
    shape = "boxes is not a list of [x, y, width, height]."
    if not isinstance(boxes, list) or not boxes:
        raise RequestError(422, shape, hint="Leave it out where there are none.")
    if len(boxes) > MAX_BOXES:
        raise RequestError(422, f"boxes holds {len(boxes)} boxes; at most {MAX_BOXES} are accepted.")
    for i, box in enumerate(boxes):
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(number) for number in box):
            raise RequestError(422, shape, hint=f"Number {i} is not four numbers.")
        if not all(abs(number) <= _MAX_COORDINATE for number in box):  # nor for NaN
            raise RequestError(422, f"Box {i} holds a number that is not finite, or beyond {_MAX_COORDINATE:g}.")
        if box[2] <= 0 or box[3] <= 0:
            raise RequestError(422, f"Box {i} has no positive width and height.")
    return np.array(boxes, dtype=np.float64)


def _switch(value: Any) -> bool:
    if value is None:
        return True
    value = value.strip().lower() if isinstance(value, str) else value
    if value is True or value == "true":
        return True
    if value is False or value == "false":
        return False
    raise RequestError(422, "draw is neither true nor false.")


def _threshold(value: Any) -> float | None:
    if value is None:
        return None
    number = _parsed(value, "threshold")
    if not _is_number(number) or not 0 <= number <= 1:  # nor for NaN
        raise RequestError(422, "threshold is not a number from 0 to 1.")
    return float(number)


def _parsed(value: Any, name: str) -> Any:
    """The JSON that a query parameter or a form's field holds."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RequestError(422, f"{name} is not valid JSON.") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
