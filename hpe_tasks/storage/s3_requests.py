"""How many requests this process sends to S3: what S3 bounds by the second, and what it is paid by."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_lock = threading.Lock()
_calls: Counter[str] = Counter()
_attempts: Counter[str] = Counter()


@dataclass
class S3Requests:
    """What was sent, once the work has ended.

    Attributes:
        attempts: Requests by operation, as `GetObject`; one that was tried again counts once for each time.
        calls: What was asked for, however often it was tried.
    """

    attempts: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """All requests."""
        return self.attempts.total()

    @property
    def repeated(self) -> int:
        """Those that were sent because one before had failed: with many workers, most often `SlowDown`."""
        return self.total - self.calls.total()

    def __str__(self) -> str:
        """As `5 S3 requests (3 GetObject, 2 PutObject; 1 of them again after a failure)`."""
        parts = ", ".join(f"{count} {operation}" for operation, count in self.attempts.most_common())
        again = f"; {self.repeated} of them again after a failure" if self.repeated else ""
        return f"{self.total} S3 request{'' if self.total == 1 else 's'}" + (f" ({parts}{again})" if parts else "")


def count_requests(client: S3Client) -> None:
    """Let the requests of a client be counted; those that it makes in threads of its own, too."""
    events = client.meta.events
    # botocore tells the first once for each call, the second once for each time that it sends it.
    events.register("before-call.s3", _count_call, unique_id="hpe-count-call")
    events.register("before-send.s3", _count_attempt, unique_id="hpe-count-attempt")


@contextmanager
def counting_requests() -> Iterator[S3Requests]:
    """Count what this process sends inside, also when it ends with an error."""
    requests = S3Requests()
    with _lock:
        calls, attempts = _calls.copy(), _attempts.copy()
    try:
        yield requests
    finally:
        with _lock:
            requests.calls, requests.attempts = _calls - calls, _attempts - attempts


def _count_call(event_name: str, **_: Any) -> None:
    with _lock:
        _calls[event_name.rpartition(".")[2]] += 1


def _count_attempt(event_name: str, **_: Any) -> None:
    with _lock:
        _attempts[event_name.rpartition(".")[2]] += 1
