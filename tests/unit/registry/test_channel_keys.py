"""Channels that are signed: who may move them, what is built upon, and how a key is changed."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.contract.public_keys import read_public_keys
from hpe_tasks.errors import BadInputError, ChannelConflictError, ConfigError, DigestError
from hpe_tasks.registry.channel_keys import NO_KEYS, ChannelKeys, signed_pointer
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey, signer_among
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.played_s3 import client, moto_client
from support.signing_keys import key_pem

__all__ = ["client", "moto_client"]

LOCATION = S3Location("models", "team/registry")
POINTER = "team/registry/models/pose/channels/staging.json"


@pytest.fixture(scope="module")
def old() -> ChannelKeys:
    return ChannelKeys(SigningKey(key_pem()))


@pytest.fixture(scope="module")
def new(old: ChannelKeys) -> ChannelKeys:
    """The new key, while the old one is still accepted."""
    assert old.signing_key is not None
    return ChannelKeys(SigningKey(key_pem()), (old.signing_key.public_bytes,))


class Owner:
    """A registry, versions in it, and what somebody may do who can write to its bucket."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client = client
        self.registry = ModelRegistry(client, LOCATION, actor="ada")
        self._folder = folder

    def store(self, content: str, keys: ChannelKeys = NO_KEYS) -> str:
        files = records.write_files(self._folder / content, content)
        return self.registry.store(records.manifest(files), files, keys.signing_key).version

    def publish(self, content: str, keys: ChannelKeys = NO_KEYS) -> str:
        """Store a version and let the channel serve it, as a run does that has these keys."""
        version = self.store(content, keys)
        self.registry.promote("pose", version, "staging", keys=keys)
        return version

    @property
    def pointer(self) -> ChannelPointer:
        return self.registry.show("pose", "staging")

    def read(self, key: str = POINTER) -> bytes:
        data: bytes = self.client.get_object(Bucket="models", Key=key)["Body"].read()
        return data

    def put(self, data: bytes, key: str = POINTER) -> None:
        self.client.put_object(Bucket="models", Key=key, Body=data)

    def edit(self, **changes: Any) -> None:
        self.put(json.dumps(json.loads(self.read()) | changes).encode())

    def signed_by(self, keys: ChannelKeys) -> bool:
        """Whether a function that knows this key alone would accept the pointer's signature."""
        assert keys.signing_key is not None
        return signed_pointer(self.read(), str(LOCATION), (keys.signing_key.public_bytes,))


@pytest.fixture
def owner(client: Any, tmp_path: Path) -> Owner:
    return Owner(client, tmp_path)


def test_every_move_is_signed_and_counts_on(owner: Owner, old: ChannelKeys) -> None:
    one = owner.publish("one", old)
    pointers = [owner.pointer]
    owner.publish("two", old)
    pointers.append(owner.pointer)
    # A rollback is a move as any other.
    pointers.append(owner.registry.rollback("pose", "staging", keys=old))
    pointers.append(owner.registry.sign("pose", "staging", old))
    assert owner.pointer == pointers[-1]
    assert [pointer.reason for pointer in pointers] == ["promote", "promote", "rollback", "sign"]
    assert (pointers[-1].version, pointers[-1].history) == (one, ())
    counters = [pointer.counter for pointer in pointers]
    assert counters == sorted(set(counters))
    assert owner.signed_by(old)


def test_an_unsigned_channel_is_moved_without_a_key_as_ever(owner: Owner) -> None:
    one, two = owner.publish("one"), owner.publish("two")
    assert (owner.pointer.version, owner.pointer.signature) == (two, None)
    assert owner.registry.rollback("pose", "staging").version == one


def test_a_signed_channel_is_moved_with_its_key_only(owner: Owner, old: ChannelKeys) -> None:
    one, _ = owner.publish("one", old), owner.publish("two", old)
    before = owner.read()
    for move in (
        lambda: owner.registry.promote("pose", one, "staging"),
        lambda: owner.registry.rollback("pose", "staging"),
        lambda: owner.registry.sign("pose", "staging", NO_KEYS),
    ):
        with pytest.raises(ConfigError, match=r"no signing key, but .*signed.*HPE_SIGNING_KEY"):
            move()
    stranger = ChannelKeys(SigningKey(key_pem()))
    for move in (
        lambda: owner.registry.promote("pose", one, "staging", keys=stranger),
        lambda: owner.registry.rollback("pose", "staging", keys=stranger),
        lambda: owner.registry.sign("pose", "staging", stranger),
    ):
        with pytest.raises(DigestError, match=r"signed with another key, or changed since.*OLD,NEW"):
            move()
    assert owner.read() == before


@pytest.mark.parametrize(
    "change",
    [{"history": []}, {"version": "0" * 16}, {"counter": 2**53 - 1}, {"moved_by": "eve"}, {"signature": "!"}],
    ids=["history", "version", "counter", "person", "signature"],
)
def test_nothing_is_built_upon_a_pointer_that_was_changed(
    owner: Owner, old: ChannelKeys, change: dict[str, Any]
) -> None:
    one, _ = owner.publish("one", old), owner.publish("two", old)
    owner.edit(**change)
    with pytest.raises(DigestError, match="or changed since"):
        owner.registry.rollback("pose", "staging", keys=old)
    with pytest.raises(DigestError, match="or changed since"):
        owner.registry.promote("pose", one, "staging", keys=old)


def test_what_a_stranger_wrote_without_a_signature_is_not_signed_along(
    owner: Owner, old: ChannelKeys, caplog: pytest.LogCaptureFixture
) -> None:
    evil, _, three = owner.publish("evil", old), owner.publish("two", old), owner.store("three", old)
    # He takes the signature off, and makes up what was served before.
    made_up = [{"version": evil, "manifest_sha256": owner.pointer.history[0].manifest_sha256}] * 2
    owner.edit(signature=None, history=made_up, counter=2**53 - 1)
    with pytest.raises(BadInputError, match=r"is not signed: .*made up.*`hpe channel sign pose --channel staging`"):
        owner.registry.rollback("pose", "staging", keys=old)
    with caplog.at_level(logging.WARNING):
        owner.registry.promote("pose", three, "staging", keys=old)
    assert "is not taken over" in caplog.text
    assert (owner.pointer.version, owner.pointer.history) == (three, ())
    assert owner.pointer.counter < 2**52
    assert owner.signed_by(old)


def test_a_channel_from_before_is_signed_with_what_it_served(owner: Owner, old: ChannelKeys) -> None:
    one, two = owner.publish("one"), owner.publish("two")
    fields = json.loads(owner.read())
    del fields["counter"], fields["signature"]
    owner.put(json.dumps(fields).encode())
    assert (owner.pointer.counter, owner.pointer.signature) == (0, None)
    signed = owner.registry.sign("pose", "staging", old)
    assert (signed.version, [entry.version for entry in signed.history]) == (two, [one])
    assert owner.registry.rollback("pose", "staging", keys=old).version == one


def test_promoting_what_is_served_signs_it_once(owner: Owner, old: ChannelKeys) -> None:
    one = owner.publish("one")
    owner.registry.promote("pose", one, "staging", keys=old)
    assert owner.signed_by(old)
    before = owner.read()
    owner.registry.promote("pose", one, "staging", keys=old)
    assert owner.read() == before


def test_a_channel_that_was_deleted_or_put_back_counts_on(owner: Owner, old: ChannelKeys) -> None:
    one, first = owner.publish("one", old), owner.read()
    owner.publish("two", old)
    seen = owner.pointer.counter
    owner.put(first)
    owner.registry.promote("pose", owner.store("three", old), "staging", keys=old)
    assert owner.pointer.counter > seen
    seen = owner.pointer.counter
    owner.client.delete_object(Bucket="models", Key=POINTER)
    owner.registry.promote("pose", one, "staging", keys=old)
    assert owner.pointer.counter > seen


def test_a_counter_that_nothing_can_follow_is_not_followed_up(owner: Owner, old: ChannelKeys) -> None:
    owner.publish("one")
    owner.edit(counter=2**53 - 1)
    with pytest.raises(DigestError, match="the highest there is"):
        owner.registry.promote("pose", owner.store("two"), "staging")
    # With a key an unsigned counter is not believed.
    owner.registry.promote("pose", owner.store("two"), "staging", keys=old)
    assert owner.signed_by(old)


def test_a_key_is_changed_with_what_it_signed(owner: Owner, old: ChannelKeys, new: ChannelKeys) -> None:
    assert new.signing_key is not None
    one, two = owner.publish("one", old), owner.publish("two", old)
    owner.registry.sign("pose", "staging", new)
    assert owner.signed_by(new)
    assert not owner.signed_by(old)
    alone = ChannelKeys(new.signing_key)
    for version in (one, two):
        manifest = owner.registry.stored("pose", version).data
        signature = owner.registry.signature("pose", version)
        assert signature is not None
        assert signer_among(alone.accepted, manifest, signature) == new.signing_key.public_bytes
    # From here on nobody needs the old one.
    assert owner.registry.rollback("pose", "staging", keys=alone).version == one


def test_a_move_with_the_new_key_signs_the_version_anew(owner: Owner, old: ChannelKeys, new: ChannelKeys) -> None:
    assert new.signing_key is not None
    one, two = owner.publish("one", old), owner.publish("two", old)
    for version, move in (
        (one, lambda: owner.registry.rollback("pose", "staging", keys=new)),
        (two, lambda: owner.registry.promote("pose", two, "staging", keys=new)),
    ):
        move()
        assert owner.signed_by(new)
        signature = owner.registry.signature("pose", version)
        assert signature == new.signing_key.sign(owner.registry.stored("pose", version).data)


def test_a_manifest_that_a_stranger_signed_is_not_signed_anew(
    owner: Owner, old: ChannelKeys, new: ChannelKeys, caplog: pytest.LogCaptureFixture
) -> None:
    one = owner.store("one", ChannelKeys(SigningKey(key_pem())))
    before = owner.registry.signature("pose", one)
    with caplog.at_level(logging.WARNING):
        owner.registry.promote("pose", one, "staging", keys=new)
    assert owner.registry.signature("pose", one) == before
    assert "will refuse it" in caplog.text


def test_a_signed_version_in_an_unsigned_channel_is_told_of(
    owner: Owner, old: ChannelKeys, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        owner.registry.promote("pose", owner.store("one"), "staging")
        assert caplog.text == ""
        owner.registry.promote("pose", owner.store("two", old), "staging")
    assert "HPE_SIGNING_KEY is not set: its channel is not" in caplog.text


def test_a_channel_that_moves_while_it_is_signed_is_not_signed(
    owner: Owner, old: ChannelKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.publish("one")
    two = owner.store("two")
    original = owner.client.put_object
    rival = ModelRegistry(owner.client, LOCATION)

    def overtaken(**arguments: Any) -> Any:
        if arguments["Key"] == POINTER:
            monkeypatch.setattr(owner.client, "put_object", original)
            rival.promote("pose", two, "staging")
        return original(**arguments)

    monkeypatch.setattr(owner.client, "put_object", overtaken)
    with pytest.raises(ChannelConflictError, match="It was not signed"):
        owner.registry.sign("pose", "staging", old)
    assert (owner.pointer.version, owner.pointer.signature) == (two, None)


def test_keys_are_read_from_their_variables(old: ChannelKeys) -> None:
    assert old.signing_key is not None
    text = base64.b64encode(old.signing_key.public_bytes).decode()
    assert read_public_keys(text) == (old.signing_key.public_bytes,)
    assert read_public_keys(None) == read_public_keys(" ") == ()
