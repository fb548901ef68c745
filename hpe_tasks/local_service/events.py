"""HTTP requests as events of a Lambda function URL (payload format 2.0), and results as HTTP responses.

Source: "Invoking Lambda function URLs" in the AWS Lambda developer guide.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

# Lambda's limit of a synchronous invocation's payload.
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024

_TEXT_TYPES = ("application/json", "application/javascript", "application/xml", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class PageRequest:
    """One HTTP request.

    Attributes:
        target: Path and query as they were sent.
        headers: In the order they were sent.
        client: Address of the caller.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    client: str


@dataclass(frozen=True)
class Response:
    """What goes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Context:
    """What a function may ask of its invocation, as Lambda's own context has it."""

    function_name: str = "hpe-serve"
    function_version: str = "$LATEST"
    memory_limit_in_mb: str = "1769"
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: float = field(default_factory=time.monotonic)
    timeout_s: float = 30.0

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end the invocation."""
        return max(0, int(1000 * (self.started + self.timeout_s - time.monotonic())))


def function_url_event(request: PageRequest, request_id: str) -> dict[str, Any]:
    """The event that a function URL makes of a request: repeated headers and parameters are joined by commas."""
    path, _, query = request.target.partition("?")
    headers = _joined((name.lower(), value) for name, value in request.headers)
    now = time.time()
    text = _as_text(headers.get("content-type", ""), request.body)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": headers.get("host", ""),
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.client,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": text is None,
    }
    if parameters := _joined(parse_qsl(query, keep_blank_values=True)):
        event["queryStringParameters"] = parameters
    if request.body:
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    return event


def _joined(pairs: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _as_text(content_type: str, body: bytes) -> str | None:
    """The body where a function URL passes it on as text; None where it uses base64."""
    kind = content_type.partition(";")[0].strip().lower()
    if body and not (kind.startswith("text/") or kind in _TEXT_TYPES):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def response_of(result: Mapping[str, Any]) -> Response:
    """The HTTP response that a function URL makes of a function's result."""
    body = result.get("body", "")
    data = base64.b64decode(body) if result.get("isBase64Encoded") else str(body).encode()
    return Response(int(result["statusCode"]), dict(result.get("headers", {})), data)
