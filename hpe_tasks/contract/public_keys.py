"""Public keys as HPE_PUBLIC_KEY holds them, for the function and for whoever moves channels and verifies versions.

There may be two, so that a key can be changed without a moment in which functions refuse what is published: while both
are accepted, everything is signed anew, and then the old one is dropped.
"""

from __future__ import annotations

import binascii
import re

from hpe_tasks.errors import ConfigError

MOST_KEYS = 2

_KEY_BYTES = 32
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----(.*)-----END PUBLIC KEY-----", re.DOTALL)
# SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING of 32 bytes }
_ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


def read_public_keys(text: str | None, *, called: str = "HPE_PUBLIC_KEY") -> tuple[bytes, ...]:
    """The 32 bytes of one or two Ed25519 public keys, separated by a comma; none where the text is empty.

    Args:
        text: Each in base64 or in PEM (SubjectPublicKeyInfo, RFC 8410).
        called: What the text was given as, for messages.

    Raises:
        ConfigError: It holds something else, more than two keys, or one twice.
    """
    if text is None or not text.strip():
        return ()
    keys = tuple(_read(part.strip(), called) for part in text.split(","))
    if len(keys) > MOST_KEYS or len(set(keys)) < len(keys):
        held = f"{len(keys)} keys" if len(keys) > MOST_KEYS else "one key twice"
        raise ConfigError(
            f"{called} holds {held}.", hint="Give the key, or while it is being changed the old and the new one."
        )
    return keys


def _read(text: str, called: str) -> bytes:
    pem = _PEM.fullmatch(text)
    try:
        data = binascii.a2b_base64("".join((pem[1] if pem else text).split()), strict_mode=True)
    except ValueError:
        data = b""
    key = data.removeprefix(_ED25519_PREFIX) if pem else data
    if len(key) != _KEY_BYTES or (pem and not data.startswith(_ED25519_PREFIX)):
        raise ConfigError(
            f"{called} is not an Ed25519 public key.",
            hint="Give its 32 bytes in base64, as `hpe public-key` prints them, or its PEM file's text; two of them "
            "with a comma between.",
        )
    return key
