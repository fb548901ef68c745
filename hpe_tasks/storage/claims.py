"""What is in use in a workspace, and who is deleting there: steps and the collector keep out of each other's way.

A step first says what it is about to use and then looks whether a collector is at work; a collector first says that it
is, and then looks what is in use. Whatever the order, one of them sees the other: the step waits, or the collector
leaves alone what the step uses. This needs no locks, which a workspace on S3 does not have, and no machine's clock: for
how long a collector that was killed counts is told by the workspace, which dates what is written there.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from hpe_tasks.errors import SupersededError
from hpe_tasks.storage.files import digest_of

if TYPE_CHECKING:
    from hpe_tasks.storage.workspace import Workspace

CLAIMS = "used"
COLLECTING = "collecting"
CLOCK = "clock"

_PROMISED_S = 180.0
"""A collector that has not renewed its announcement for so long was killed."""
_MARGIN_S = 120.0
"""It deletes nothing with less of that time left: so long may what it deletes next take."""
_POLL_S = 1.0

log = logging.getLogger(__name__)


def claim_file(prefix: str) -> str:
    """The file that says, by the time it was last written, when a folder of the workspace was last in use."""
    return f"{CLAIMS}/{digest_of(prefix)[:32]}.json"


def claim(workspace: Workspace, prefix: str) -> None:
    """Say that a folder of the workspace is in use from now on; waits until no collector is at work."""
    told = False
    while True:
        # Anew after each wait: a collector may have taken an older claim for one that says nothing any more.
        workspace.write(claim_file(prefix), json.dumps({"used": prefix}).encode())
        if not _collectors(workspace):
            return
        if not told:
            log.warning("Waiting for `hpe workspace gc`, which is deleting in %s", workspace.uri)
            told = True
        time.sleep(_POLL_S)


def begin_attempt(workspace: Workspace, prefix: str) -> Callable[[], None]:
    """Say that an attempt at something which others will see begins, and that those before it are over.

    A scheduler that has lost sight of a worker starts the step again elsewhere, and what it has given up may go on:
    behind a cut connection, or without anyone above it. Here each of them learns of the one after it, through the
    workspace, which is all that they share.

    Args:
        workspace: That of the run.
        prefix: Folder of the step in the run.

    Returns:
        What the attempt calls before each thing that others will see; raises SupersededError once another has begun.
    """
    name, mine = claim_file(prefix), uuid.uuid4().hex
    workspace.write(name, json.dumps({"used": prefix, "attempt": mine}).encode())

    def require() -> None:
        last = _field(workspace.read(name), "attempt")
        if last != mine:
            raise SupersededError(
                f"Another attempt at {prefix} has begun: this one ends here.",
                hint="Nothing is lost: the other one goes on. If there is none, run the step again.",
            )

    return require


@contextmanager
def collecting(workspace: Workspace) -> Iterator[Callable[[], None]]:
    """Announce a collector; gives what it calls before each thing that it deletes."""
    name = f"{COLLECTING}/{uuid.uuid4().hex}.json"
    announced = -_PROMISED_S

    def announce() -> None:
        nonlocal announced
        if time.monotonic() - announced > _PROMISED_S - _MARGIN_S:
            announced = time.monotonic()
            # Versions before this one go by a time in the file, and by their clock.
            workspace.write(name, json.dumps({"until": time.time() + _PROMISED_S}).encode())

    announce()
    try:
        yield announce
    finally:
        workspace.remove(name)


def _collectors(workspace: Workspace) -> bool:
    announced = [file.modified for file in workspace.files(COLLECTING)]
    return bool(announced) and (_now(workspace) - max(announced)).total_seconds() < _PROMISED_S


def _now(workspace: Workspace) -> datetime:
    """The time by the clock that dates what is written to a workspace: the same one for all machines."""
    name = f"{CLOCK}/{uuid.uuid4().hex}.json"
    workspace.write(name, b"{}")
    try:
        return next(file.modified for file in workspace.files(CLOCK) if file.name == name)
    finally:
        workspace.remove(name)


def _field(data: bytes | None, name: str) -> object:
    """A field of a small file in JSON; None where it has none, or is no such file."""
    try:
        return json.loads(data or b"{}").get(name)
    except (ValueError, AttributeError):
        return None
