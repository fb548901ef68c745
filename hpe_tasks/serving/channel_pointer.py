"""The pointer of a channel as the function reads it: what it says, who signed it, and whether it is an earlier one.

Whoever may write to the bucket can put a pointer back that the key's owner signed long ago. Each has a counter that is
higher than that of the one before, so the function keeps the highest that it has seen and follows no lower one.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpe_tasks.contract.channel_pointer import LARGEST_COUNTER, signed_bytes
from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.keys import pointer_key
from hpe_tasks.contract.names import SHA256, VERSION
from hpe_tasks.errors import DigestError
from hpe_tasks.serving.signature import raw_signature, signer_of


class PointerError(DigestError):
    """A channel's pointer that is not followed.

    Attributes:
        problem: Why, as the end of a sentence without addresses.
    """

    problem: str = ""


@frozen
class Channel:
    """A channel of a model.

    Attributes:
        registry: s3://bucket/prefix, without a slash at its end.
        model: Name of the model.
        name: Of the channel.
    """

    registry: str
    model: str
    name: str

    @property
    def command(self) -> str:
        """The arguments of `hpe channel` that name it."""
        return f"{self.model} --channel {self.name} --registry {self.registry}"

    def refusal(self, problem: str, hint: str = "Promote the version that you want to serve again.") -> PointerError:
        """The error of a pointer that is not followed."""
        address = f"{self.registry}/{pointer_key(self.model, self.name)}"
        error = PointerError(f"The channel pointer {address} is refused: {problem}.", hint=hint)
        error.problem = problem
        return error


@frozen
class FollowedPointer:
    """What a pointer says.

    Attributes:
        counter: Higher than that of the pointer before; 0 in one from before they had any.
        moved_at: When it was written, as it says; empty where it does not.
        signed_by: The public key whose signature it has; None where none is asked for.
    """

    version: str
    manifest_sha256: str
    counter: int
    moved_at: str
    signed_by: bytes | None


def read_pointer(data: bytes, channel: Channel, public_keys: tuple[bytes, ...]) -> FollowedPointer:
    """Read a pointer that is one of this channel and, if there are keys, signed with one of them.

    Raises:
        PointerError: It is not.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise channel.refusal("it is not a JSON object")
    for field, expected in (("schema_version", 1), ("name", channel.model), ("channel", channel.name)):
        if type(record.get(field)) is not type(expected) or record[field] != expected:
            raise channel.refusal(f"its {field} is not {expected!r}")
    for field, pattern in (("version", VERSION), ("manifest_sha256", SHA256)):
        if not isinstance(record.get(field), str) or not re.fullmatch(pattern, record[field]):
            raise channel.refusal(f"its {field} is not of the form {pattern}")
    counter, moved_at = record.get("counter", 0), record.get("moved_at", "")
    if not isinstance(counter, int) or isinstance(counter, bool) or not 0 <= counter <= LARGEST_COUNTER:
        raise channel.refusal(f"its counter is not a whole number from 0 to {LARGEST_COUNTER:,}")
    if not isinstance(moved_at, str):
        raise channel.refusal("its moved_at is not a time")
    signed_by = _signer(record, channel, public_keys) if public_keys else None
    return FollowedPointer(record["version"], record["manifest_sha256"], counter, moved_at[:40], signed_by)


def _signer(record: dict[str, Any], channel: Channel, public_keys: tuple[bytes, ...]) -> bytes:
    signature = record.get("signature")
    if signature is None:
        raise channel.refusal(
            "it is not signed, and HPE_PUBLIC_KEY requires it",
            f"Look at it, and sign it with the key in HPE_SIGNING_KEY: `hpe channel sign {channel.command}`.",
        )
    raw = raw_signature(signature) if isinstance(signature, str) else None
    if raw is None:
        raise channel.refusal("its signature is not one of Ed25519 in base64")
    try:
        message = signed_bytes(record, channel.registry)
    except (ValueError, RecursionError):
        raise channel.refusal("it holds what cannot be signed") from None
    signer = signer_of(message, raw, public_keys)
    if signer is None:
        raise channel.refusal(
            "its signature does not belong to it, this registry and HPE_PUBLIC_KEY",
            "It was changed, or comes from another registry, or the key is another. If the key is right, promote "
            "the version that you want to serve again, with that key in HPE_SIGNING_KEY.",
        )
    return signer


class HighestCounter:
    """The highest counter of a channel's signed pointers that was seen here.

    It is kept in a file as well, because a function's process may end before the machine that it runs on. A key that is
    no longer accepted takes its counters along: whoever stole it may have counted as high as he liked.

    Args:
        folder: Where the file is kept; of this user alone. Need not exist yet.
        channel: Whose pointers are counted.
        public_keys: Those that are accepted.
        smallest: What was seen elsewhere: HPE_CHANNEL_MIN_COUNTER.
    """

    def __init__(self, folder: Path, channel: Channel, public_keys: tuple[bytes, ...], smallest: int) -> None:
        named = "\n".join((channel.registry, channel.model, channel.name))
        self._file = folder / f"channel-{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"
        self._channel = channel
        self._keys = {hashlib.sha256(key).hexdigest() for key in public_keys}
        self._smallest = smallest
        self._seen: int | None = None

    @property
    def seen(self) -> int:
        """The highest that was seen, here or elsewhere; 0 before any was."""
        if self._seen is None:
            self._seen = self._kept()
        return max(self._seen, self._smallest)

    def check(self, pointer: FollowedPointer) -> None:
        """Refuse a pointer that is an earlier one.

        Raises:
            PointerError: Its counter is lower.
        """
        if pointer.counter < self.seen:
            asked = (
                f"HPE_CHANNEL_MIN_COUNTER asks for {self.seen}"
                if self.seen == self._smallest
                else f"one with {self.seen} was seen here before"
            )
            raise self._channel.refusal(
                f"its counter is {pointer.counter}, and {asked}",
                "An earlier pointer was put back: see who may write to the bucket. To count on from here, move the "
                f"channel with its key, or sign what it serves: `hpe channel sign {self._channel.command}`.",
            )

    def keep(self, pointer: FollowedPointer) -> OSError | None:
        """Remember a pointer; the error, if it can only be remembered by this process."""
        assert pointer.signed_by is not None
        if pointer.counter <= (self._seen or 0):
            return None
        self._seen = pointer.counter
        kept = {"counter": pointer.counter, "key": hashlib.sha256(pointer.signed_by).hexdigest()}
        partial = self._file.with_name(f"{self._file.name}.{uuid.uuid4().hex}.part")
        try:
            partial.write_text(json.dumps(kept))
            partial.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            return error
        return None

    def _kept(self) -> int:
        try:
            kept = json.loads(self._file.read_bytes())
            counter, known = kept["counter"], kept["key"] in self._keys
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return 0  # Not there, or not what is written here: nothing is known of earlier pointers.
        return counter if isinstance(counter, int) and known else 0
