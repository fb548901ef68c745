"""Channel pointers: which version a channel serves, changed only by compare-and-swap.

A pointer is one small JSON object. It is created with `If-None-Match: *` and changed with `If-Match`, so of two
writers that read the same state exactly one succeeds, whatever their order and however long they took. Each move has
a name of its own, by which its caller recognizes it: two rollbacks that meet write the same otherwise.

Whoever has read a pointer can be shut out: `shut_out` writes it again as it is, with one blank line more, so that it
has another ETag. That needs no key: what is signed is the pointer's content, not how its JSON is laid out.

Whoever has a key signs the pointer, in which a counter goes up with each move: a rollback is a new pointer as well. So
an earlier one, put back by somebody who may write to the bucket, is known by whoever has seen the later one.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from hpe_tasks.config.base import Frozen, Sha256, Slug
from hpe_tasks.contract.channel_pointer import LARGEST_COUNTER
from hpe_tasks.errors import ChannelConflictError, DigestError, TransientError
from hpe_tasks.records.base import Record
from hpe_tasks.registry.channel_keys import NO_KEYS, ChannelKeys, next_counter
from hpe_tasks.registry.layout import POINTER_LIMIT_BYTES
from hpe_tasks.registry.manifest import Version
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import (
    WRITE_ATTEMPTS,
    get_bytes,
    put_on_condition,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HISTORY_LENGTH = 20
"""Versions that a pointer remembers for rollback, and moves."""

_PAUSE_S = 0.2

Reason = Literal["publish", "promote", "rollback", "sign"]


class ChannelEntry(Frozen):
    """A version, and the manifest that describes it."""

    version: Version
    manifest_sha256: Sha256


class ChannelPointer(Record):
    """What a channel serves.

    Attributes:
        history: What it served before, latest first: where a rollback goes.
        moved_by: Who moved it last; empty where that is not known.
        reason: How it was moved; with "sign" it was signed, and stayed.
        counter: Higher than that of any pointer of this channel before it; 0 in one from before they had any.
        signature: Ed25519 in base64, over what `contract.channel_pointer` says; None where there was no key.
        moves: Names of the last moves, latest first; empty in a pointer from before they had any.
    """

    name: Slug
    channel: Slug
    version: Version
    manifest_sha256: Sha256
    history: tuple[ChannelEntry, ...] = ()
    moved_at: datetime
    moved_by: str = ""
    reason: Reason
    counter: int = Field(default=0, ge=0, le=LARGEST_COUNTER)
    signature: str | None = None
    moves: tuple[str, ...] = ()

    @property
    def entry(self) -> ChannelEntry:
        """The version that the channel serves."""
        return ChannelEntry(version=self.version, manifest_sha256=self.manifest_sha256)


@dataclass(frozen=True)
class ChannelState:
    """A pointer as it was read, with the bytes that its signature is in; None for a channel that does not exist yet."""

    pointer: ChannelPointer | None
    etag: str | None
    data: bytes = b""


def read_channel(client: S3Client, location: S3Location) -> ChannelState:
    """Read a pointer and the ETag that a change must match.

    Raises:
        AccessError: The bucket does not exist or refuses to be read. A missing pointer is not an error.
        DigestError: The pointer is not one that this code wrote.
    """
    found = get_bytes(client, location, "reading the channel", limit_bytes=POINTER_LIMIT_BYTES)
    if found is None:
        return ChannelState(None, None)
    try:
        pointer = ChannelPointer.model_validate_json(found.data)
    except ValidationError as error:
        raise DigestError(
            f"The channel pointer {location} is corrupt: {error.errors()[0]['msg']}.",
            hint="Restore an earlier version of that object, or delete it and promote a version anew.",
        ) from error
    return ChannelState(pointer, found.etag, found.data)


def move_channel(
    client: S3Client,
    location: S3Location,
    state: ChannelState,
    target: ChannelEntry,
    *,
    name: str,
    channel: str,
    reason: Reason,
    moved_by: str,
    history: tuple[ChannelEntry, ...],
    registry: str = "",
    keys: ChannelKeys = NO_KEYS,
) -> ChannelPointer:
    """Point the channel to `target`, if it still is as `state` says.

    `keys` sign the pointer, for the registry at s3://bucket/prefix, and say whether the counter of the one before is to
    be believed.

    Returns:
        The pointer that this call wrote, also where its answer was lost on the way. Where another publisher pointed the
        channel to the same version meanwhile, theirs; but not for a rollback, which is one step from what was read.

    Raises:
        ChannelConflictError: Another publisher moved the channel in the meantime; it stays as they left it.
        ConfigError, DigestError: As `ChannelKeys.standing` says of the pointer that is there.
        TransientError: The server failed, and does not hold this move.
    """
    move = uuid.uuid4().hex
    unsigned = ChannelPointer(
        name=name,
        channel=channel,
        version=target.version,
        manifest_sha256=target.manifest_sha256,
        history=history[:HISTORY_LENGTH],
        moved_at=datetime.now(UTC),
        moved_by=moved_by,
        reason=reason,
        counter=next_counter(keys.continued(state, registry)),
        moves=(move, *(state.pointer.moves if state.pointer else ()))[:HISTORY_LENGTH],
    )
    pointer = keys.signed(unsigned, registry)
    data = pointer.model_dump_json(indent=2).encode() + b"\n"
    for attempt in range(WRITE_ATTEMPTS):
        time.sleep(attempt * _PAUSE_S)
        failed: TransientError | None = None
        try:
            if _swap(client, location, data, state.etag):
                return pointer
        except TransientError as error:
            failed = error
        now = read_channel(client, location)
        if now.pointer is not None and move in now.pointer.moves:
            # Our write arrived and its answer was lost; boto3 may have sent it again and found itself overtaken.
            return pointer
        if failed is not None:
            raise failed
        if now.pointer is not None and now.pointer.entry == target and _serves_as_well(now.pointer, pointer):
            return now.pointer
        if now.etag != state.etag:
            raise _conflict(location, pointer, state.pointer, now.pointer)
    raise _written_all_the_time(location)


def shut_out(client: S3Client, location: S3Location, state: ChannelState) -> bool:
    """Let nobody move a channel any more who has read its pointer before now: who tries is refused, and looks again.

    Args:
        client: Writes it.
        location: Of the pointer.
        state: As it was read.

    Returns:
        Whether the pointer has been as in `state` all the time; False, and nobody is shut out, where it was moved.

    Raises:
        ChannelConflictError: Others write it all the time.
        TransientError: The server failed.
    """
    read = state.pointer
    for attempt in range(WRITE_ATTEMPTS):
        time.sleep(attempt * _PAUSE_S)
        if state.pointer is None or state.pointer != read:
            return False
        # No two layouts of one pointer are alike, until there are thousands.
        data = state.data if len(state.data) < POINTER_LIMIT_BYTES // 2 else state.data.rstrip()
        if _swap(client, location, data + b"\n", state.etag):
            return True
        # Moved, or written again by somebody else who shuts out, or by ourselves where the answer was lost.
        state = read_channel(client, location)
    raise _written_all_the_time(location)


def _serves_as_well(theirs: ChannelPointer, ours: ChannelPointer) -> bool:
    """Whether another publisher's pointer to the same version does for what was asked of ours."""
    return ours.reason in ("publish", "promote") and (theirs.signature is not None or ours.signature is None)


def _swap(client: S3Client, location: S3Location, data: bytes, etag: str | None) -> bool:
    """Write the pointer on the condition that it is unchanged; False when the server refused the condition."""
    return put_on_condition(client, location, data, "moving the channel", etag=etag) == "written"


def _written_all_the_time(location: S3Location) -> ChannelConflictError:
    return ChannelConflictError(
        f"The channel {location} is being changed by others all the time.", hint="Try again in a minute."
    )


def _conflict(
    location: S3Location, wanted: ChannelPointer, before: ChannelPointer | None, now: ChannelPointer | None
) -> ChannelConflictError:
    was = f"version {before.version}" if before else "not there"
    if now is None:
        found = "it has been deleted"
    else:
        by = f" by {now.moved_by}" if now.moved_by else ""
        found = f"it now serves version {now.version} ({now.reason}{by} at {now.moved_at:%Y-%m-%d %H:%M:%S %Z})"
    return ChannelConflictError(
        f"The channel {location} was changed while version {wanted.version} was on its way: it was {was}, {found}.",
        hint="It was not signed. Look at it again, and sign it if it is right."
        if wanted.reason == "sign"
        else f"This rollback moved nothing. See `hpe channel show {wanted.name} --channel {wanted.channel}`, and roll "
        "back again if the channel is to go further back."
        if wanted.reason == "rollback"
        else "Compare the two versions; to serve yours all the same, promote it: it is in the registry.",
    )
