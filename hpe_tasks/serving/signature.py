"""Whether something was signed by the holder of a key that the function was told."""

from __future__ import annotations

import base64

from hpe_tasks.errors import DigestError

_SIGNATURE_BYTES = 64


def raw_signature(signature: bytes | str) -> bytes | None:
    """The 64 bytes of an Ed25519 signature in base64; None for what is none."""
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except ValueError:
        return None
    return raw if len(raw) == _SIGNATURE_BYTES else None


def signer_of(message: bytes, raw: bytes, public_keys: tuple[bytes, ...]) -> bytes | None:
    """Which of the keys a signature of 64 bytes belongs to; None where it is none of them."""
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    for key in public_keys:
        try:
            VerifyKey(key).verify(message, raw)
        except BadSignatureError:
            continue
        return key
    return None


def check_signature(manifest: bytes, signature: bytes | None, public_keys: tuple[bytes, ...], origin: str) -> None:
    """Accept a manifest's signature, or raise.

    Args:
        manifest: The manifest's bytes.
        signature: What stands in the signature file, base64 of the 64 bytes of Ed25519; None when there is no file.
        public_keys: 32 bytes each; the signature must belong to one of them.
        origin: Where the manifest lies, for messages.

    Raises:
        DigestError: There is no signature, or it does not belong to this manifest and one of these keys.
    """
    if signature is None:
        raise DigestError(
            f"{origin} is not signed, and HPE_PUBLIC_KEY requires it.",
            hint="Publish the model again with the signing key, or serve it without HPE_PUBLIC_KEY.",
        )
    raw = raw_signature(signature)
    if raw is None:
        raise DigestError(
            f"The signature of {origin} is not one of Ed25519 in base64.",
            hint="Publish the model again with the signing key.",
        )
    if signer_of(manifest, raw, public_keys) is None:
        raise DigestError(
            f"The signature of {origin} does not belong to this manifest and HPE_PUBLIC_KEY.",
            hint="One of the three was changed. If the key is right, publish the model again.",
        )
