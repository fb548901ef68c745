"""Two clients of one bucket in every order of their requests: a scheduler that stops one where it is told to.

What clients share is the bucket alone, so the order of their requests is all that matters of how they meet. Of these,
one for a key that only its own client asks for can be exchanged with all of the other's: points are the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from hpe_tasks.local.memory_bucket import MemoryBucket

TO_THE_END = -1


class KilledError(BaseException):
    """The client goes no further: nothing may catch it."""


@dataclass
class Client:
    """One client, in a thread of its own, which goes on only when it is told to.

    Attributes:
        s3: Its boto3 client.
        shared: Keys at which it can be stopped; None for all.
        asked: The keys that it has asked for.
        outcome: What its call has returned, or the error that it has raised; None before it ends.
    """

    bucket: MemoryBucket
    shared: set[str] | None = None
    asked: list[str] = field(default_factory=list)
    outcome: Any = None

    def __post_init__(self) -> None:
        self.s3 = self.bucket.client()
        self.s3.meta.events.register_first("before-send.s3", self._stop)
        self._left = 0
        self._killed = self._ended = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

    def begin(self, call: Callable[[], Any]) -> None:
        """Let it stand before its first request."""
        self.outcome, self.asked = None, []
        self._killed = self._ended = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

        def work() -> None:
            self._go.acquire()
            try:
                self.outcome = call()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.outcome = error
            self._ended = True
            self._stopped.release()

        threading.Thread(target=work, daemon=True).start()

    def advance(self, points: int) -> bool:
        """Let it go past so many points, and up to the next; whether it has ended."""
        if not self._ended:
            self._left = points
            self._go.release()
            assert self._stopped.acquire(timeout=60), "a client waits for something else than its turn"
        return self._ended

    def heir(self) -> Client:
        """Another client of the same bucket, which nothing stops."""
        return Client(self.bucket, shared=set())

    def kill(self) -> None:
        """Let it end where it stands."""
        self._killed = True
        self.advance(TO_THE_END)

    def _stop(self, request: Any, **_: Any) -> None:
        key = unquote(urlsplit(request.url).path).lstrip("/").partition("/")[2]
        self.asked.append(key)
        if self.shared is not None and key not in self.shared:
            return
        while self._left == 0:
            self._stopped.release()
            self._go.acquire()
        if self._killed:
            raise KilledError
        self._left -= 1


@dataclass(frozen=True)
class Meeting:
    """Where two clients stand after one of them has gone past `first` points, and the other past `second`."""

    first: int
    second: int
    ended: bool


def meetings(
    one: Client, other: Client, begin: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
) -> Iterator[Meeting]:
    """Every way in which one client is stopped at a point, the other goes on to one of its own, and then both end.

    The one that was stopped goes on first. What is yielded is the moment between, and the end of each.

    Args:
        one: Is stopped.
        other: Goes on meanwhile.
        begin: Restores the bucket, and gives the calls of both.
    """
    first = 0
    while True:
        second = 0
        while True:
            mine, theirs = begin()
            one.begin(mine)
            other.begin(theirs)
            one_ended = one.advance(first)
            other_ended = other.advance(second)
            yield Meeting(first, second, ended=False)
            one.advance(TO_THE_END)
            other.advance(TO_THE_END)
            yield Meeting(first, second, ended=True)
            if other_ended:
                break
            second += 1
        if one_ended:
            return
        first += 1


def deaths(
    one: Client, other: Client, begin: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
) -> Iterator[Meeting]:
    """Every way in which one client dies at a point, after which the other does all of its own; as `meetings`."""
    first = 0
    while True:
        mine, theirs = begin()
        one.begin(mine)
        ended = one.advance(first)
        one.kill()
        yield Meeting(first, 0, ended=False)
        other.begin(theirs)
        other.advance(TO_THE_END)
        yield Meeting(first, TO_THE_END, ended=True)
        if ended:
            return
        first += 1


def deaths_between(
    one: Client, other: Client, begin: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
) -> Iterator[Meeting]:
    """Every way in which one stands at a point while the other does all of its own, goes on to a later one, and dies.

    Yielded is the moment when the other has ended, and the death.

    Args:
        one: Dies.
        other: Does not.
        begin: As of `meetings`.
    """
    first = 0
    while True:
        further = 0
        while True:
            mine, theirs = begin()
            one.begin(mine)
            other.begin(theirs)
            one_ended = one.advance(first)
            other.advance(TO_THE_END)
            yield Meeting(first, further, ended=False)
            ended = one.advance(further)
            one.kill()
            yield Meeting(first, further, ended=True)
            if ended:
                break
            further += 1
        if one_ended:
            return
        first += 1
