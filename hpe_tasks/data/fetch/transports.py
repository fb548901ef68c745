"""How bytes come over the network: HTTP and S3 behind one interface that can continue in the middle of a file."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

import requests

from hpe_tasks.config.addresses import public_address
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.data.fetch.addresses import PrivateAddressError, get
from hpe_tasks.errors import AccessError, TransientError
from hpe_tasks.storage.s3 import S3Location, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CHUNK = 2**20
_RETRIED = {429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Version:
    """Which bytes a server offers: equal versions with an `etag` or a `modified` date are the same bytes."""

    size: int | None
    etag: str = ""
    modified: str = ""

    @property
    def certain(self) -> bool:
        """Whether a later answer can be recognized as the same bytes; a weak ETag does not promise that."""
        return self.strong_etag != "" or self.modified != ""

    @property
    def strong_etag(self) -> str:
        """The ETag, if it stands for identical bytes."""
        return "" if self.etag.startswith("W/") else self.etag


@dataclass(frozen=True)
class Answer:
    """A server's bytes from `offset` to the end."""

    version: Version
    offset: int
    chunks: Iterator[bytes]


class Transport(Protocol):
    """One remote file. `name` is shown to users and holds no secret; `identity` is the full address."""

    name: str
    identity: str

    def open(self, *, have: Version | None, part: Version | None, offset: int) -> AbstractContextManager[Answer | None]:
        """Ask for the file.

        Args:
            have: The version of a complete local copy: None is yielded when the server still offers it.
            part: The version that an incomplete copy is of.
            offset: Size of the incomplete copy. The answer begins there if the server still offers `part` and can
                continue, otherwise at 0.

        Raises:
            AccessError: The file does not exist or is denied.
            TransientError: The network or the server failed, now or while the chunks are read.
        """


@dataclass(frozen=True)
class HttpPatience:
    """How long to wait for an HTTP server.

    Attributes:
        retries: Attempts after a 429 or 5xx answer; more is left to the caller (the DAG retries TransientError).
        longest_wait_s: A `Retry-After` beyond this ends the attempt.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    retries: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0


class HttpFile:
    """A file on a web server. Credentials come from ~/.netrc, or from the address.

    Args:
        url: The address.
        patience: Timeouts and retries.
        get: Sends one request: `addresses.get`, or the method of a session of `addresses.open_session`.
    """

    def __init__(self, url: str, patience: HttpPatience, *, get: Callable[..., requests.Response] = get) -> None:
        self.identity = url
        self.name = public_address(url)
        self._patience = patience
        self._get_once = get

    @contextmanager
    def open(self, *, have: Version | None, part: Version | None, offset: int) -> Iterator[Answer | None]:
        """See Transport.open."""
        headers = {"Accept-Encoding": "identity"}
        if have is not None and have.etag:
            headers["If-None-Match"] = have.etag
        elif have is not None and have.modified:
            headers["If-Modified-Since"] = have.modified
        if offset and part is not None:
            headers["Range"] = f"bytes={offset}-"
            if part.certain:
                headers["If-Range"] = part.strong_etag or part.modified
        response = self._get(headers)
        with response:
            if response.status_code == 304:
                yield None
                return
            start, version = _offered(response)
            if start is None and "Range" not in headers:
                raise TransientError(f"The server of {self.name} sent a part of the file unasked.", hint=_RETRY_HINT)
            if start is None or (start and (start != offset or part is None or not _continues(part, version))):
                # The range cannot be used: take the whole file instead.
                with self.open(have=None, part=None, offset=0) as answer:
                    yield answer
            elif have is not None and have.certain and version == have:
                yield None  # A server that ignores conditions.
            else:
                yield Answer(version, start, self._chunks(response))

    def _get(self, headers: dict[str, str]) -> requests.Response:
        patience = self._patience
        for attempt in range(patience.retries + 1):
            with self.errors():
                response = self._get_once(
                    self.identity,
                    headers=headers,
                    stream=True,
                    timeout=(patience.connect_timeout_s, patience.read_timeout_s),
                )
            if response.status_code in {200, 206, 304, 416}:
                return response
            response.close()
            if response.status_code not in _RETRIED:
                raise self.denied(response.status_code)
            wait = retry_after_s(response)
            wait = patience.first_wait_s * 2**attempt if wait is None else wait
            if attempt == patience.retries or wait > patience.longest_wait_s:
                break
            time.sleep(wait)
        raise TransientError(
            f"The server answered {response.status_code} {response.reason} for {self.name}.",
            hint="Try again later; the DAG retries this by itself.",
        )

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        with self.errors():
            yield from response.iter_content(_CHUNK)

    def denied(self, status: int) -> AccessError:
        """What an answer with a status of 400 to 499 says about the file."""
        if status in {401, 403, 407}:
            return AccessError(
                f"{self.name} was denied (HTTP {status}).",
                hint="Check the credentials, and whether a signed address has expired. What a run stores of an address "
                "does not hold them: give it again as it was.",
            )
        if status in {404, 410}:
            return AccessError(f"{self.name} does not exist (HTTP {status}).", hint="Check the address.")
        return AccessError(f"{self.name} was refused (HTTP {status}).", hint="Check the address.")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the errors of requests into ours, and leave them out of tracebacks: they quote the full address."""
        wrong = requests.exceptions
        try:
            yield
        except PrivateAddressError:
            # The same for each, so that nobody learns from it what listens where.
            raise AccessError(
                f"{self.name} is not fetched: it is, or its server points to, an address that is not public.",
                hint="If that server is meant, set dataset.allow_private_addresses=true.",
            ) from None
        except wrong.TooManyRedirects:
            raise AccessError(
                f"The server of {self.name} redirects without end.", hint="Check the address in a browser."
            ) from None
        except ValueError as error:  # Those of requests for addresses are, and urllib's for a redirect's.
            raise AccessError(
                f"{self.name} is not an address that leads to a file ({type(error).__name__}).", hint="Check it."
            ) from None
        except wrong.SSLError as error:
            raise AccessError(
                f"The certificate of the server of {self.name} was not accepted ({_reason(error)}).",
                hint="Set REQUESTS_CA_BUNDLE if your network uses its own certificates.",
            ) from None
        except wrong.Timeout as error:
            raise TransientError(
                f"The server of {self.name} did not answer in time ({_reason(error)}).", hint=_RETRY_HINT
            ) from None
        except wrong.RequestException as error:
            raise TransientError(
                f"The connection to the server of {self.name} failed or was cut ({_reason(error)}).",
                hint=_RETRY_HINT,
            ) from None


def _reason(error: BaseException) -> str:
    """The class of an error and what the system said; the texts of requests and urllib3 quote the full address."""
    reason, inner = type(error).__name__, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            reason = f"{type(error).__name__}: {inner.strerror}"
        inner = inner.__cause__ or inner.__context__
    return reason


_RETRY_HINT = "Try again: a download continues where it stopped. The DAG retries this by itself."


def _offered(response: requests.Response) -> tuple[int | None, Version]:
    """Where the body starts (None for a range that makes no sense) and the version of the whole file."""
    etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            # Bytes are counted after decoding, and no range of them can be asked for.
            return 0, Version(None)
        return 0, Version(int(length) if length.isdigit() else None, etag, modified)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not found:
        return None, Version(None)
    start, last, size = (int(group) for group in found.groups())
    return (start if last == size - 1 else None), Version(size, etag, modified)


def _continues(part: Version, now: Version) -> bool:
    """Whether a partial answer belongs to the same bytes; a server may leave out what it said before."""
    return (
        part.size in {None, now.size}
        and (not part.etag or now.etag in {"", part.etag})
        and (not part.modified or now.modified in {"", part.modified})
    )


def retry_after_s(response: requests.Response) -> float | None:
    """How long the server asks to wait; None when it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())


class S3File:
    """An object in a bucket."""

    def __init__(self, location: S3Location, client: S3Client) -> None:
        self.identity = f"{client.meta.endpoint_url}|{location}"
        self.name = str(location)
        self._location = location
        self._client = client

    @contextmanager
    def open(self, *, have: Version | None, part: Version | None, offset: int) -> Iterator[Answer | None]:
        """See Transport.open."""
        bucket, key = self._location.bucket, self._location.key
        with s3_errors(self._location, "reading"):
            head = self._client.head_object(Bucket=bucket, Key=key)
            version = Version(head["ContentLength"], head["ETag"])
            if version == have:
                yield None
                return
            start = offset if part == version else 0
            wanted: dict[str, Any] = {"Range": f"bytes={start}-"} if start else {}
            body = self._get(wanted | {"Bucket": bucket, "Key": key, "IfMatch": head["ETag"]})
        with body:
            yield Answer(version, start, self._chunks(body))

    def _get(self, wanted: dict[str, Any]) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.get_object(**wanted)["Body"]
        except ClientError as error:
            if error_code(error) in {"PreconditionFailed", "412"}:
                raise TransientError(f"{self.name} was replaced while it was read.", hint=_RETRY_HINT) from error
            raise

    def _chunks(self, body: Any) -> Iterator[bytes]:
        with s3_errors(self._location, "reading"):
            yield from body.iter_chunks(_CHUNK)
