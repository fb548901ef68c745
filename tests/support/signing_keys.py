"""Keys for the tests of signatures."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def key_pem(key: Any = None, encryption: Any = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """A private key as `openssl genpkey` writes it: by default a new one of Ed25519."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    pem: bytes = key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
    return pem
