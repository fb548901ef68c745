"""Answers in the form that API Gateway and function URLs expect, within Lambda's limit of 6 MB."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

from hpe_tasks.pose.skeletons import Skeleton
from hpe_tasks.serving.pose_finder import FoundPeople

MAX_RESPONSE_BYTES = 6_291_556
"""Payload of a synchronous invocation's answer, the envelope and its base64 included."""

METHODS = "GET, POST, OPTIONS"

# The envelope around a body: status, headers and their names.
_ENVELOPE_BYTES = 4096

Response = dict[str, Any]


def json_response(
    status: int, document: Mapping[str, Any], headers: Mapping[str, str], picture: str | None = None
) -> Response:
    """An answer that holds a JSON document; a picture in base64 takes the place of its empty text `hpe`."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False)
    if picture is not None:
        # Only now: to look for something to escape in base64, where there is nothing, takes longer than to make it.
        # Quotation marks within a text are escaped, so this can be nothing but the member.
        body = body.replace('"hpe":""', f'"hpe":"{picture}"', 1)
    return _response(status, body, {"Content-Type": "application/json", **headers}, encoded=False)


def jpeg_response(data: bytes, headers: Mapping[str, str]) -> Response:
    """An answer that is a picture."""
    body = base64.b64encode(data).decode("ascii")
    return _response(200, body, {"Content-Type": "image/jpeg", **headers}, encoded=True)


def preflight_response(headers: Mapping[str, str]) -> Response:
    """The answer to a browser that asks whether it may call."""
    allowed = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": "Content-Type, Accept",
        "Access-Control-Max-Age": "3600",
    }
    return _response(
        204, "", {**headers, **(allowed if "Access-Control-Allow-Origin" in headers else {})}, encoded=False
    )


def error_response(status: int, message: str, request_id: str, headers: Mapping[str, str]) -> Response:
    """An answer that says what was wrong."""
    allow = {"Allow": METHODS} if status == 405 else {}
    document = {"error": {"code": status, "message": message, "request_id": request_id}}
    return json_response(status, document, {**headers, **allow})


def _response(status: int, body: str, headers: Mapping[str, str], *, encoded: bool) -> Response:
    return {"statusCode": status, "headers": dict(headers), "body": body, "isBase64Encoded": encoded}


def cors_headers(origin: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    """Headers that let a browser's page from `origin` read the answer; none where it is not allowed."""
    # A picture's only word about its request.
    exposed = {"Access-Control-Expose-Headers": "X-Request-Id"}
    if "*" in allowed:
        return {"Access-Control-Allow-Origin": "*", **exposed}
    # Caches must keep answers for different origins apart.
    vary = {"Vary": "Origin"} if allowed else {}
    if origin is None or origin not in allowed:
        return vary
    return {**vary, "Access-Control-Allow-Origin": origin, **exposed}


def prefers_jpeg(accept: str) -> bool:
    """Whether an Accept header asks for image/jpeg rather than JSON (RFC 9110, section 12.5.1); a tie gives JSON."""
    return _quality(accept, "image", "jpeg") > _quality(accept, "application", "json")


def _quality(accept: str, kind: str, subtype: str) -> float:
    """Weight in [0, 1] of a media type: that of the most specific range which holds it; 0 where none does."""
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        media_range, *parameters = (text.strip().lower() for text in entry.split(";"))
        weights[media_range] = next((_weight(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
    ranges = (f"{kind}/{subtype}", f"{kind}/*", "*/*")
    return next((weights[name] for name in ranges if name in weights), 0.0)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def people_document(found: FoundPeople, skeleton: Skeleton) -> list[dict[str, Any]]:
    """People as the answer lists them: coordinates to a hundredth of a pixel, without the joints they do not have."""
    people = []
    for i, (score, box) in enumerate(zip(found.scores.tolist(), found.boxes.tolist(), strict=True)):
        joints = zip(skeleton.joints, found.joints[i].tolist(), found.joint_scores[i].tolist(), strict=True)
        people.append(
            {
                "score": round(score, 4),
                "box": [round(number, 2) for number in box],
                "joints": [
                    {"name": name, "x": round(x, 2), "y": round(y, 2), "score": round(joint_score, 4)}
                    for name, (x, y), joint_score in joints
                    if math.isfinite(x) and math.isfinite(y)
                ],
            }
        )
    return people


def room_for_picture(document: Mapping[str, Any]) -> int:
    """Bytes that a JPEG beside this document may have, so that Lambda accepts the answer."""
    # The body is a JSON text within a JSON text: at worst each of its characters is escaped.
    besides = 2 * len(json.dumps(document)) + _ENVELOPE_BYTES
    return (MAX_RESPONSE_BYTES - besides) // 4 * 3
