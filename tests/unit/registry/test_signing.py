from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PublicFormat
from nacl.signing import VerifyKey
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.registry.signing import SigningKey, open_signing_key
from hpe_tasks.serving.signature import check_signature
from support.signing_keys import key_pem

MANIFEST = b'{\n  "name": "pose"\n}\n'


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(key_pem())


def test_the_function_accepts_what_the_key_signed(key: SigningKey) -> None:
    signature = key.sign(MANIFEST)
    assert len(base64.b64decode(signature, validate=True)) == 64
    assert key.signed(MANIFEST, signature)
    check_signature(MANIFEST, signature, (key.public_bytes,), "model/manifest.json")
    # With a line end, as `openssl base64` writes it.
    check_signature(MANIFEST, signature + b"\n", (key.public_bytes,), "model/manifest.json")
    assert key.signed(MANIFEST, signature + b"\n")
    assert VerifyKey(key.public_bytes).verify(MANIFEST, base64.b64decode(signature)) == MANIFEST
    assert key.public_sha256 == hashlib.sha256(key.public_bytes).hexdigest()


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_changed_bit_of_the_manifest_is_noticed(key: SigningKey) -> None:
    signature = key.sign(MANIFEST)
    for bit in range(8 * len(MANIFEST)):
        with pytest.raises(DigestError, match="does not belong to"):
            check_signature(flipped(MANIFEST, bit), signature, (key.public_bytes,), "x/manifest.json")
        assert not key.signed(flipped(MANIFEST, bit), signature)


def test_every_changed_bit_of_the_signature_is_noticed(key: SigningKey) -> None:
    raw = base64.b64decode(key.sign(MANIFEST))
    for bit in range(8 * len(raw)):
        with pytest.raises(DigestError, match="does not belong to"):
            check_signature(MANIFEST, base64.b64encode(flipped(raw, bit)), (key.public_bytes,), "x/manifest.json")


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        pytest.param(None, "is not signed", id="missing"),
        pytest.param(b"", "is not one of Ed25519", id="empty"),
        pytest.param(b"not base64!", "is not one of Ed25519", id="text"),
        pytest.param(b"\xff" * 64, "is not one of Ed25519", id="raw bytes"),
        pytest.param(base64.b64encode(bytes(63)), "is not one of Ed25519", id="too short"),
        pytest.param(base64.b64encode(bytes(65)), "is not one of Ed25519", id="too long"),
        pytest.param(base64.b64encode(bytes(64)), "does not belong to", id="zeros"),
    ],
)
def test_what_is_no_signature_is_refused(key: SigningKey, signature: bytes | None, message: str) -> None:
    with pytest.raises(DigestError, match=rf"x/manifest\.json.* {message}") as caught:
        check_signature(MANIFEST, signature, (key.public_bytes,), "x/manifest.json")
    assert caught.value.hint
    assert signature is None or not key.signed(MANIFEST, signature)


def test_a_signature_of_another_key_is_refused(key: SigningKey) -> None:
    other = SigningKey(key_pem())
    with pytest.raises(DigestError, match="does not belong to"):
        check_signature(MANIFEST, other.sign(MANIFEST), (key.public_bytes,), "x/manifest.json")
    assert not key.signed(MANIFEST, other.sign(MANIFEST))


def public_pem() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        pytest.param(lambda: key_pem(rsa.generate_private_key(65537, 2048)), "of type RSA, not Ed25519", id="rsa"),
        pytest.param(lambda: key_pem(ec.generate_private_key(ec.SECP256R1())), "not Ed25519", id="elliptic curve"),
        pytest.param(lambda: key_pem(encryption=BestAvailableEncryption(b"x")), "is encrypted", id="encrypted"),
        pytest.param(public_pem, "is not a private key in PEM", id="public key"),
        pytest.param(lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "in PEM", id="damaged"),
        pytest.param(lambda: b"", "in PEM", id="empty"),
        pytest.param(lambda: bytes(32), "in PEM", id="raw bytes"),
    ],
)
def test_a_key_that_cannot_sign_is_named(pem: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SigningKey(pem())
    assert "openssl" in caught.value.hint


def test_a_required_signature_needs_a_key() -> None:
    assert open_signing_key(None, required_because=None) is None
    assert open_signing_key(key_pem(), required_because="the test wants one") is not None
    with pytest.raises(ConfigError, match=r"no signing key, but the test wants one\..*HPE_SIGNING_KEY"):
        open_signing_key(None, required_because="the test wants one")


def test_the_key_comes_from_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HPE_SIGNING_KEY", raising=False)
    assert Settings.from_environment().read_signing_key() is None
    monkeypatch.setenv("HPE_SIGNING_KEY", str(tmp_path / "key.pem"))
    with pytest.raises(ConfigError, match=r"key\.pem cannot be read: No such file"):
        Settings.from_environment().read_signing_key()
    pem = key_pem()
    (tmp_path / "key.pem").write_bytes(pem)
    assert Settings.from_environment().read_signing_key() == pem


def test_the_command_prints_the_public_key_of_a_key_made_with_openssl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "signing-key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True, capture_output=True)
    spki = subprocess.run(
        ["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"], check=True, capture_output=True
    )
    monkeypatch.setenv("HPE_SIGNING_KEY", str(file))
    printed = CliRunner().invoke(app, ["public-key"])
    assert printed.exit_code == 0, printed.output
    # The raw key stands at the end of its SubjectPublicKeyInfo.
    assert base64.b64decode(printed.output.strip(), validate=True) == spki.stdout[-32:]
    monkeypatch.delenv("HPE_SIGNING_KEY")
    refused = CliRunner().invoke(app, ["public-key"])
    assert isinstance(refused.exception, ConfigError)
