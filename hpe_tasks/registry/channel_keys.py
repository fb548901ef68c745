"""Whether a channel's pointer is one of its owner, and the signature of the next one.

With a key at hand nothing is built upon what its owner did not sign: history and counter of a pointer that was put into
the bucket by somebody else would be signed with the next move, and a rollback would follow them.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hpe_tasks.contract.channel_pointer import LARGEST_COUNTER, signed_bytes
from hpe_tasks.contract.public_keys import read_public_keys
from hpe_tasks.errors import DigestError
from hpe_tasks.registry.signing import SigningKey, open_signing_key, signer_among

if TYPE_CHECKING:
    from hpe_tasks.registry.channels import ChannelPointer, ChannelState
    from hpe_tasks.registry.stored_versions import StoredManifest

log = logging.getLogger(__name__)

Standing = Literal["absent", "unsigned", "trusted"]
"""Of a pointer that was read: there is none; nobody signed it; it was signed with a key that is accepted here."""


@dataclass(frozen=True)
class ChannelKeys:
    """What is at hand where a channel is moved.

    Attributes:
        signing_key: Signs the pointer; None leaves it unsigned, which no channel may become that was signed.
        public_keys: Whose signatures are accepted beside those of the signing key, 32 bytes each: while a key is being
            changed, those of the old one.
    """

    signing_key: SigningKey | None = None
    public_keys: tuple[bytes, ...] = ()

    @property
    def accepted(self) -> tuple[bytes, ...]:
        """The public keys whose signatures count here."""
        return (*(() if self.signing_key is None else (self.signing_key.public_bytes,)), *self.public_keys)

    def standing(self, state: ChannelState, registry: str) -> Standing:
        """What a pointer is worth here that is to be moved.

        Raises:
            ConfigError: It is signed, and there is no key to sign the next one with.
            DigestError: It is signed with another key, or was changed since.
        """
        pointer = state.pointer
        if pointer is None:
            return "absent"
        if pointer.signature is None:
            return "unsigned"
        because = f"channel {pointer.channel!r} of {pointer.name!r} is signed"
        open_signing_key(None, required_because=because if self.signing_key is None else None)
        if not signed_pointer(state.data, registry, self.accepted):
            raise DigestError(
                f"The pointer of channel {pointer.channel!r} of {pointer.name!r} in {registry} was signed with another "
                "key, or changed since.",
                hint="If the key is being changed, set HPE_PUBLIC_KEY to the old and the new one (OLD,NEW). Else "
                "see who may write to the bucket, delete the pointer, and promote the version that is to be served.",
            )
        return "trusted"

    def continued(self, state: ChannelState, registry: str) -> ChannelPointer | None:
        """The pointer whose history and counter the next one goes on from; None where it begins anew.

        Raises:
            ConfigError, DigestError: As `standing` does.
        """
        standing = self.standing(state, registry)
        return None if standing == "unsigned" and self.signing_key is not None else state.pointer

    def belongs(self, state: ChannelState, registry: str) -> bool:
        """Whether a pointer needs no other signature than it has: that of this signing key, or none without a key."""
        if self.signing_key is None:
            return True
        return signed_pointer(state.data, registry, (self.signing_key.public_bytes,))

    def signed(self, pointer: ChannelPointer, registry: str) -> ChannelPointer:
        """The pointer with the signature of this key; as it is without a key."""
        if self.signing_key is None:
            return pointer
        message = signed_bytes(json.loads(pointer.model_dump_json()), registry)
        return pointer.model_copy(update={"signature": self.signing_key.sign(message).decode("ascii")})

    def warn_of_manifest(self, stored: StoredManifest, signature: bytes | None) -> None:
        """Say where functions that require signatures will refuse a manifest, or its channel."""
        name, version = stored.manifest.name, stored.manifest.version
        if self.signing_key is None:
            if signature is not None:
                log.warning(
                    "Version %s of %r is signed, but HPE_SIGNING_KEY is not set: its channel is not. Functions with "
                    "HPE_PUBLIC_KEY will not follow it.", version, name,
                )  # fmt: skip
        elif signature is None or signer_among(self.accepted, stored.data, signature) is None:
            log.warning(
                "Version %s of %r is not signed with a key that is accepted here: functions with HPE_PUBLIC_KEY will "
                "refuse it. Publish it again with HPE_SIGNING_KEY.", version, name,
            )  # fmt: skip


NO_KEYS = ChannelKeys()


def keys_at_hand(pem: bytes | None, public_keys: str | None, *, required_because: str | None = None) -> ChannelKeys:
    """The keys that channels are moved with.

    Args:
        pem: The signing key, as `SigningKey` takes it; None without one.
        public_keys: Further keys whose signatures are accepted, as HPE_PUBLIC_KEY holds them.
        required_because: Why there must be a signing key, for the error; None where it may be missing.

    Raises:
        ConfigError: A key is required and there is none, or one of them is no key.
    """
    return ChannelKeys(open_signing_key(pem, required_because=required_because), read_public_keys(public_keys))


def signed_pointer(data: bytes, registry: str, public_keys: tuple[bytes, ...]) -> bool:
    """Whether a pointer's bytes hold a signature of one of these keys that is of this registry."""
    try:
        record: dict[str, Any] = json.loads(data)
        message = signed_bytes(record, registry)
    except (ValueError, RecursionError):
        return False
    signature = record.get("signature")
    if not isinstance(signature, str):
        return False
    return signer_among(public_keys, message, signature.encode("utf-8", "replace")) is not None


def next_counter(before: ChannelPointer | None) -> int:
    """Higher than that of the pointer before, and not lower than the milliseconds since 1970.

    So a channel that somebody has deleted, or put an earlier pointer into, still counts on from what functions have
    seen.

    Raises:
        DigestError: There is no higher one: nobody's clock has brought it there.
    """
    if before is not None and before.counter >= LARGEST_COUNTER:
        raise DigestError(
            f"The counter of channel {before.channel!r} of {before.name!r} is {before.counter}, the highest there is.",
            hint="Somebody has written it who wanted no later one: delete the pointer, and promote the version that is "
            "to be served. If it is signed, change the key.",
        )
    return max(0 if before is None else before.counter + 1, time.time_ns() // 1_000_000)
