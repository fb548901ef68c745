"""Whether a manifest was signed by the holder of the key that the function was told."""

from __future__ import annotations

import base64
import binascii

from hpe_tasks.errors import DigestError

_SIGNATURE_BYTES = 64


def check_signature(manifest: bytes, signature: bytes | None, public_key: bytes, origin: str) -> None:
    """Accept a manifest's signature, or raise.

    Args:
        manifest: The manifest's bytes.
        signature: What stands in the signature file, base64 of the 64 bytes of Ed25519; None when there is no file.
        public_key: 32 bytes.
        origin: Where the manifest lies, for messages.

    Raises:
        DigestError: There is no signature, or it does not belong to this manifest and this key.
    """
    if signature is None:
        raise DigestError(
            f"{origin} is not signed, and HPE_PUBLIC_KEY requires it.",
            hint="Publish the model again with the signing key, or serve it without HPE_PUBLIC_KEY.",
        )
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != _SIGNATURE_BYTES:
        raise DigestError(
            f"The signature of {origin} is not one of Ed25519 in base64.",
            hint="Publish the model again with the signing key.",
        )
    try:
        VerifyKey(public_key).verify(manifest, raw)
    except BadSignatureError as error:
        raise DigestError(
            f"The signature of {origin} does not belong to this manifest and HPE_PUBLIC_KEY.",
            hint="One of the three was changed. If the key is right, publish the model again.",
        ) from error
