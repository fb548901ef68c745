"""Which pointers of a channel the function follows: signed with its key, for its registry, and no earlier ones."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.contract.channel_pointer import LARGEST_COUNTER, signed_bytes
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.serving.channel_pointer import Channel, HighestCounter, PointerError, read_pointer
from support.signing_keys import key_pem

CHANNEL = Channel("s3://models/team/registry", "pose", "staging")
FIELDS: dict[str, Any] = {
    "schema_version": 1,
    "name": "pose",
    "channel": "staging",
    "version": "0" * 16,
    "manifest_sha256": "1" * 64,
    "history": [{"version": "2" * 16, "manifest_sha256": "3" * 64}],
    "moved_at": "2026-11-22T10:00:00Z",
    "reason": "promote",
    "counter": 7,
}


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(key_pem())


@pytest.fixture(scope="module")
def other() -> SigningKey:
    return SigningKey(key_pem())


def pointer(key: SigningKey, registry: str = CHANNEL.registry, **changes: Any) -> dict[str, Any]:
    """A pointer that is signed as it is."""
    fields = FIELDS | changes
    return fields | {"signature": key.sign(signed_bytes(fields, registry)).decode()}


def stored(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=2).encode()


def test_what_the_owner_signed_is_read(key: SigningKey, other: SigningKey) -> None:
    data = stored(pointer(key))
    for keys in ((key.public_bytes,), (other.public_bytes, key.public_bytes)):
        read = read_pointer(data, CHANNEL, keys)
        assert (read.version, read.manifest_sha256, read.counter) == ("0" * 16, "1" * 64, 7)
        assert (read.moved_at, read.signed_by) == (FIELDS["moved_at"], key.public_bytes)


def test_without_a_key_nothing_is_asked(key: SigningKey) -> None:
    old = {name: value for name, value in FIELDS.items() if name != "counter"}
    for fields in (FIELDS, old, pointer(key, "s3://elsewhere"), FIELDS | {"signature": "x"}):
        assert read_pointer(stored(fields), CHANNEL, ()).signed_by is None
    assert read_pointer(stored(old), CHANNEL, ()).counter == 0


Change = Callable[[SigningKey, SigningKey], dict[str, Any]]
REFUSED: dict[str, tuple[Change, str]] = {
    "not signed": (lambda key, other: FIELDS, "is not signed, and HPE_PUBLIC_KEY requires it"),
    "of another key": (lambda key, other: pointer(other), "does not belong to it"),
    "of another registry": (lambda key, other: pointer(key, "s3://models/other"), "does not belong to it"),
    "another version": (lambda key, other: pointer(key) | {"version": "4" * 16}, "does not belong to it"),
    "another manifest": (lambda key, other: pointer(key) | {"manifest_sha256": "4" * 64}, "does not belong to it"),
    "another history": (lambda key, other: pointer(key) | {"history": []}, "does not belong to it"),
    "a higher counter": (lambda key, other: pointer(key) | {"counter": 8}, "does not belong to it"),
    "without its counter": (
        lambda key, other: {name: value for name, value in pointer(key).items() if name != "counter"},
        "does not belong to it",
    ),
    "another time": (lambda key, other: pointer(key) | {"moved_at": "2027"}, "does not belong to it"),
    "something more": (lambda key, other: pointer(key) | {"more": 1}, "does not belong to it"),
    "of another channel": (lambda key, other: pointer(key, channel="production"), "its channel is not 'staging'"),
    "of another model": (lambda key, other: pointer(key, name="hands"), "its name is not 'pose'"),
    "no base64": (lambda key, other: pointer(key) | {"signature": "!"}, "is not one of Ed25519"),
    "no text": (lambda key, other: pointer(key) | {"signature": 7}, "is not one of Ed25519"),
    "text beyond ASCII": (lambda key, other: pointer(key) | {"signature": "ü" * 88}, "is not one of Ed25519"),
    "half a character": (lambda key, other: pointer(key) | {"more": "\ud800"}, "what cannot be signed"),
    "no number": (lambda key, other: pointer(key) | {"more": float("nan")}, "what cannot be signed"),
    "counter a text": (lambda key, other: pointer(key, counter="7"), "its counter is not"),
    "counter a flag": (lambda key, other: pointer(key, counter=True), "its counter is not"),
    "counter below 0": (lambda key, other: pointer(key, counter=-1), "its counter is not"),
    "counter too large": (lambda key, other: pointer(key, counter=LARGEST_COUNTER + 1), "its counter is not"),
    "time a number": (lambda key, other: pointer(key, moved_at=7), "its moved_at is not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_owner_did_not_sign_for_this_channel_is_refused(key: SigningKey, other: SigningKey, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(PointerError, match=f"staging.json is refused: .*{message}") as caught:
        read_pointer(stored(change(key, other)), CHANNEL, (key.public_bytes,))
    assert caught.value.hint
    # What anybody may be told names no address.
    assert caught.value.problem
    assert "s3://" not in caught.value.problem


def test_an_unsigned_pointer_names_the_command_that_signs_it(key: SigningKey) -> None:
    with pytest.raises(PointerError, match="`hpe channel sign pose --channel staging --registry s3://models/team"):
        read_pointer(stored(FIELDS), CHANNEL, (key.public_bytes,))


def test_a_signature_of_a_manifest_is_none_of_a_pointer(key: SigningKey) -> None:
    # Whatever a pointer holds: what is signed of it begins with a line that no manifest begins with.
    manifest = stored({name: value for name, value in FIELDS.items() if name != "signature"})
    fields = FIELDS | {"signature": key.sign(manifest).decode()}
    with pytest.raises(PointerError, match="does not belong to it"):
        read_pointer(stored(fields), CHANNEL, (key.public_bytes,))
    assert not signed_bytes(FIELDS, CHANNEL.registry).lstrip().startswith(b"{")


@pytest.fixture
def seen(tmp_path: Path, key: SigningKey, other: SigningKey) -> Callable[..., HighestCounter]:
    """What an execution environment knows that starts now; both keys are accepted unless said otherwise."""

    def _seen(keys: tuple[SigningKey, ...] = (key, other), channel: Channel = CHANNEL, smallest: int = 0) -> Any:
        return HighestCounter(tmp_path, channel, tuple(one.public_bytes for one in keys), smallest)

    return _seen


def follow(counter: HighestCounter, key: SigningKey, value: int) -> OSError | None:
    read = read_pointer(stored(pointer(key, counter=value)), CHANNEL, (key.public_bytes,))
    counter.check(read)
    return counter.keep(read)


def test_a_lower_counter_is_refused_by_this_process_and_the_next(
    seen: Callable[..., HighestCounter], key: SigningKey
) -> None:
    now = seen()
    for value in (5, 9, 9):
        assert follow(now, key, value) is None
    for counter in (now, seen()):
        with pytest.raises(PointerError, match="its counter is 8, and one with 9 was seen here before"):
            follow(counter, key, 8)
        follow(counter, key, 9)
    follow(seen(), key, 10)
    with pytest.raises(PointerError, match="one with 10 was seen"):
        follow(seen(), key, 9)
    # Another channel has counters of its own.
    follow(seen(channel=Channel(CHANNEL.registry, "pose", "production")), key, 1)


def test_a_counter_is_asked_for_by_whoever_starts_the_function(
    seen: Callable[..., HighestCounter], key: SigningKey
) -> None:
    with pytest.raises(PointerError, match="its counter is 4, and HPE_CHANNEL_MIN_COUNTER asks for 5"):
        follow(seen(smallest=5), key, 4)
    counter = seen(smallest=5)
    follow(counter, key, 5)
    follow(counter, key, 6)
    with pytest.raises(PointerError, match="one with 6 was seen here"):
        follow(counter, key, 5)


def test_a_key_that_is_dropped_takes_its_counters_along(
    seen: Callable[..., HighestCounter], key: SigningKey, other: SigningKey
) -> None:
    # Whoever stole it counted as high as he could, so that nothing else would be followed.
    follow(seen(), key, LARGEST_COUNTER)
    with pytest.raises(PointerError, match="was seen here before"):
        follow(seen(), other, 8)
    follow(seen(keys=(other,)), other, 8)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"7", b"{}", b'{"counter": "9", "key": "x"}', b'{"counter": 9, "key": []}', b"\xff", b"[" * 99_999],
    ids=["empty", "list", "number", "nothing", "text", "no key", "no text", "nested"],
)
def test_a_damaged_memory_is_none(
    seen: Callable[..., HighestCounter], key: SigningKey, tmp_path: Path, content: bytes
) -> None:
    follow(seen(), key, 9)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(content)
    follow(seen(), key, 3)


def test_a_full_disk_leaves_the_memory_of_the_process(
    key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, os.strerror(28))

    counter = HighestCounter(tmp_path, CHANNEL, (key.public_bytes,), 0)
    monkeypatch.setattr(Path, "write_text", full)
    unkept = follow(counter, key, 9)
    assert unkept is not None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PointerError, match="one with 9"):
        follow(counter, key, 8)


def test_signatures_are_of_the_bytes_that_the_contract_says(key: SigningKey) -> None:
    from nacl.signing import VerifyKey

    message = (
        b"hpe-tasks: pointer of a channel, 1\n"
        b'{"pointer":{"channel":"staging","counter":7,"history":[{"manifest_sha256":"' + b"3" * 64 + b'","version":"'
        + b"2" * 16 + b'"}],"manifest_sha256":"' + b"1" * 64 + b'","moved_at":"2026-11-22T10:00:00Z","name":"pose",'
        b'"reason":"promote","schema_version":1,"version":"' + b"0" * 16 + b'"},"registry":"s3://models/team/registry"}'
    )  # fmt: skip
    raw = base64.b64decode(pointer(key)["signature"])
    assert VerifyKey(key.public_bytes).verify(message, raw) == message
