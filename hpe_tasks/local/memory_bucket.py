"""An S3 bucket in the memory of this process, for what must work without any server: the self-test.

The client is boto3's own, with its checksums, its retries and its errors; its requests are answered before they leave.
Known are the requests that a registry makes: GET, HEAD and conditional PUT of whole objects, and a list of keys.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from hpe_tasks.storage.s3 import make_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENDPOINT = "http://memory.invalid"


@dataclass(frozen=True)
class _Stored:
    data: bytes
    at: datetime

    @property
    def sha256(self) -> str:
        return base64.b64encode(hashlib.sha256(self.data).digest()).decode()

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Content-Length": str(len(self.data)),
            "ETag": self.etag,
            "Last-Modified": format_datetime(self.at, usegmt=True),
            "x-amz-checksum-sha256": self.sha256,
            "x-amz-checksum-type": "FULL_OBJECT",
        }

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


class MemoryBucket:
    """One bucket.

    Args:
        name: Of the bucket.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, _Stored] = {}
        self._writing = threading.Lock()

    def client(self) -> S3Client:
        """A new client of this bucket; it never reaches the network."""
        client = make_client(
            endpoint_url=ENDPOINT,
            aws_access_key_id="in-memory",
            aws_secret_access_key="in-memory",
            region_name="us-east-1",
        )
        client.meta.events.register("before-send.s3", self._answer)
        return client

    def _answer(self, request: Any, **_: Any) -> Any:
        """The response to a prepared request of botocore's."""
        from botocore.awsrequest import AWSResponse
        from botocore.compat import HTTPHeaders

        status, own, body = self._respond(request)
        headers = HTTPHeaders()
        for name, value in {"Content-Length": str(len(body)), **own}.items():
            headers[name] = value
        return AWSResponse(request.url, status, headers, _Raw(b"" if request.method == "HEAD" else body))

    def _respond(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        address = urlsplit(request.url)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        if bucket != self.name:
            return _error(404, "NoSuchBucket")
        if request.method == "GET" and not key:
            return 200, {"Content-Type": "application/xml"}, self._listed(parse_qs(address.query))
        if request.method == "PUT" and key:
            return self._put(key, request)
        found = self._objects.get(key)
        if request.method in ("GET", "HEAD") and key:
            return _error(404, "NoSuchKey") if found is None else (200, found.headers, found.data)
        return _error(501, "NotImplemented")

    def _put(self, key: str, request: Any) -> tuple[int, dict[str, str], bytes]:
        body = request.body
        data = body if isinstance(body, bytes) else body.read()
        new = _Stored(data, datetime.now(UTC).replace(microsecond=0))
        if _header(request, "x-amz-checksum-sha256") not in (None, new.sha256):
            return _error(400, "BadDigest")
        wanted = _header(request, "If-Match")
        with self._writing:
            found = self._objects.get(key)
            if _header(request, "If-None-Match") == "*" and found is not None:
                return _error(412, "PreconditionFailed")
            if wanted is not None and found is None:
                return _error(404, "NoSuchKey")
            if wanted is not None and found is not None and found.etag != wanted:
                return _error(412, "PreconditionFailed")
            self._objects[key] = new
        return 200, {"ETag": new.etag, "x-amz-checksum-sha256": new.sha256}, b""

    def _listed(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        entries: list[str] = []
        folders: set[str] = set()
        for key, stored in sorted(self._objects.items()):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            facts = f"<Key>{escape(key)}</Key><ETag>{stored.etag}</ETag><Size>{len(stored.data)}</Size>"
            entries.append(f"<Contents>{facts}<LastModified>{stored.at:%Y-%m-%dT%H:%M:%SZ}</LastModified></Contents>")
        entries += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        body = f"<Name>{self.name}</Name><IsTruncated>false</IsTruncated>{''.join(entries)}"
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</ListBucketResult>'.encode()


class _Raw(io.BytesIO):
    """A body as botocore reads it."""

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """All of it at once."""
        if data := self.read():
            yield data


def _header(request: Any, name: str) -> str | None:
    value = request.headers.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    body = f"<Error><Code>{code}</Code><Message>As S3 would say.</Message></Error>".encode()
    return status, {"Content-Type": "application/xml"}, body
