"""Signatures of published manifests: Ed25519, so that a function serves only what the holder of the key published.

A signature is the raw 64 bytes over the manifest's exact bytes, kept as base64 text beside it. The function checks it
with `hpe_tasks.serving.signature`, which needs no cryptography library of this size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hpe_tasks.errors import ConfigError

_MAKE_ONE = "Make one with `openssl genpkey -algorithm ed25519 -out signing-key.pem`."


class SigningKey:
    """A private key.

    Args:
        pem: PEM (PKCS#8), not encrypted.

    Raises:
        ConfigError: It is not such a key.
    """

    def __init__(self, pem: bytes) -> None:
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError as error:
            raise ConfigError(
                "The signing key is encrypted.",
                hint="Take its passphrase off: `openssl pkey -in KEY -out signing-key.pem`, and keep that file safe.",
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError("The signing key is not a private key in PEM (PKCS#8).", hint=_MAKE_ONE) from error
        if not isinstance(key, Ed25519PrivateKey):
            kind = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
            raise ConfigError(f"The signing key is of type {kind}, not Ed25519.", hint=_MAKE_ONE)
        self._key = key

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes: in base64, what the function's HPE_PUBLIC_KEY takes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public_sha256(self) -> str:
        """Digest of the public key: tells keys apart in records."""
        return hashlib.sha256(self.public_bytes).hexdigest()

    def sign(self, data: bytes) -> bytes:
        """The signature file of these bytes: base64 text."""
        return base64.b64encode(self._key.sign(data))

    def signed(self, data: bytes, signature: bytes) -> bool:
        """Whether a signature file is one of these bytes by this key."""
        return _belongs(self._key.public_key(), data, signature)


def signer_among(public_keys: Iterable[bytes], data: bytes, signature: bytes) -> bytes | None:
    """Whose signature a signature file is: which of these public keys, 32 bytes each; None where it is none of theirs.

    Args:
        public_keys: As `read_public_keys` reads them from HPE_PUBLIC_KEY.
        data: What was signed.
        signature: Content of the signature file.
    """
    keys = ((raw, Ed25519PublicKey.from_public_bytes(raw)) for raw in public_keys)
    return next((raw for raw, key in keys if _belongs(key, data, signature)), None)


def _belongs(key: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), data)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def open_signing_key(pem: bytes | None, *, required_because: str | None) -> SigningKey | None:
    """The key to sign with; None where there is none and none is required.

    Args:
        pem: As `SigningKey` takes it; None without a key.
        required_because: Why there must be a key, for the error; None where it may be missing.

    Raises:
        ConfigError: A key is required and there is none, or it is not a private Ed25519 key.
    """
    if pem is not None:
        return SigningKey(pem)
    if required_because is not None:
        raise ConfigError(
            f"There is no signing key, but {required_because}.",
            hint="Name its file in HPE_SIGNING_KEY, or put it into the Airflow connection `hpe_signing`.",
        )
    return None
