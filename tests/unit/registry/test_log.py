"""The registry's log: what it keeps of each act, what follows from it, and that a served version is never retired."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import (
    AccessError,
    BadInputError,
    ChannelConflictError,
    ConfigError,
    DigestError,
)
from hpe_tasks.registry.log import LogRecord, LogState
from hpe_tasks.registry.operations import Operations
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.played_s3 import client, moto_client

__all__ = ["client", "moto_client"]

LOCATION = S3Location("models", "team/registry")
LOG = "team/registry/models/pose/log/"


def stored(registry: ModelRegistry, folder: Path, content: str) -> str:
    files = records.write_files(folder / content, content)
    return registry.store(records.manifest(files), files).version


@pytest.fixture
def registry(client: Any) -> ModelRegistry:
    return ModelRegistry(client, LOCATION, actor="ada")


@pytest.fixture
def operations(client: Any) -> Operations:
    return Operations(client, LOCATION, actor="grace")


@pytest.fixture
def one(registry: ModelRegistry, tmp_path: Path) -> str:
    """A version that the channel staging serves."""
    version = stored(registry, tmp_path, "one")
    registry.promote("pose", version, "staging")
    return version


@pytest.fixture
def two(registry: ModelRegistry, tmp_path: Path) -> str:
    """A version that is published only."""
    return stored(registry, tmp_path, "two")


def acts(registry: ModelRegistry) -> list[tuple[str, str, str | None, str, str | None]]:
    """All that the log tells, earliest first."""
    told = reversed(registry.log.records("pose"))
    return [(one.action, one.by, one.channel, one.version, one.previous_version) for one in told]


def test_every_act_leaves_one_record_that_is_never_changed(
    registry: ModelRegistry, operations: Operations, client: Any, one: str, two: str
) -> None:
    registry.promote("pose", two, "staging", note="better on small people")
    registry.rollback("pose", "staging", note="slower on the old machines")
    operations.annotate("pose", two, note="  drops left ankles\r\nin side views ")
    operations.retire("pose", two, note="see the report")
    operations.unretire("pose", two)
    operations.pin("pose", "staging", note="until the release")
    operations.unpin("pose", "staging")
    assert acts(registry) == [
        ("promote", "ada", "staging", one, None),
        ("promote", "ada", "staging", two, one),
        ("rollback", "ada", "staging", one, two),
        ("annotate", "grace", None, two, None),
        ("retire", "grace", None, two, None),
        ("unretire", "grace", None, two, None),
        ("pin", "grace", "staging", one, None),
        ("unpin", "grace", "staging", one, None),
    ]
    notes = [record.note for record in reversed(registry.log.records("pose"))][:4]
    assert notes == ["", "better on small people", "slower on the old machines", "drops left ankles\nin side views"]
    versions = client.list_object_versions(Bucket="models", Prefix=LOG)["Versions"]
    assert len({version["Key"] for version in versions}) == len(versions) == 8
    assert [record.action for record in registry.log.records("pose", version=two, last=2)] == ["unretire", "retire"]


def test_a_retired_version_is_not_promoted_until_that_is_taken_back(
    registry: ModelRegistry, operations: Operations, one: str, two: str
) -> None:
    operations.retire("pose", two, note="wrong joints")
    with pytest.raises(BadInputError, match=r"is retired \(by grace at .* UTC: wrong joints\)") as caught:
        registry.promote("pose", two, "staging")
    assert "take the retirement back" in caught.value.hint
    assert registry.show("pose", "staging").version == one
    assert operations.retire("pose", two, note="again").note == "wrong joints", "twice is the same as once"
    operations.unretire("pose", two)
    assert registry.promote("pose", two, "staging").version == two
    with pytest.raises(BadInputError, match="is not retired"):
        operations.unretire("pose", two)


def test_a_channel_does_not_go_back_to_a_retired_version(
    registry: ModelRegistry, operations: Operations, one: str, two: str
) -> None:
    registry.promote("pose", two, "staging")
    operations.retire("pose", one)
    with pytest.raises(BadInputError, match=f"{one} of 'pose' is retired"):
        registry.rollback("pose", "staging")
    assert registry.show("pose", "staging").version == two


def test_a_served_version_is_not_retired(registry: ModelRegistry, operations: Operations, one: str, two: str) -> None:
    registry.promote("pose", one, "production")
    with pytest.raises(BadInputError, match="channels production, staging serve it") as caught:
        operations.retire("pose", one)
    assert "Promote another version" in caught.value.hint
    assert registry.log.state("pose").retired == {}


def test_a_pinned_channel_stays(registry: ModelRegistry, operations: Operations, one: str, two: str) -> None:
    operations.pin("pose", "staging", note="until the release")
    with pytest.raises(BadInputError, match=rf"is pinned to version {one} \(by grace at .*: until the release\)"):
        registry.promote("pose", two, "staging")
    assert registry.promote("pose", one, "staging").previous_version == one, "it serves that already"
    assert registry.promote("pose", two, "production").version == two, "of another channel nothing was said"
    assert operations.pin("pose", "staging", note="again").note == "until the release"
    operations.unpin("pose", "staging")
    registry.promote("pose", two, "staging")
    operations.pin("pose", "staging")
    with pytest.raises(BadInputError, match="is pinned"):
        registry.rollback("pose", "staging")
    operations.unpin("pose", "staging")
    with pytest.raises(BadInputError, match="is not pinned"):
        operations.unpin("pose", "staging")


def test_a_channel_that_moved_since_it_was_looked_at_is_left_alone(
    registry: ModelRegistry, operations: Operations, one: str, two: str
) -> None:
    shown = registry.state("pose", "staging").etag
    registry.promote("pose", two, "staging")
    for act in (
        lambda: registry.promote("pose", one, "staging", seen=shown),
        lambda: registry.rollback("pose", "staging", seen=shown),
        lambda: registry.promote("pose", one, "staging", seen=""),
        lambda: operations.pin("pose", "staging", seen=shown),
        lambda: operations.unpin("pose", "staging", seen=shown),
    ):
        with pytest.raises(ChannelConflictError, match=f"serves version {two} \\(promote by ada at"):
            act()
    assert registry.log.state("pose").pinned == {}
    operations.pin("pose", "staging", seen=registry.state("pose", "staging").etag)
    operations.unpin("pose", "staging", seen=registry.state("pose", "staging").etag)
    registry.promote("pose", one, "production", seen="")
    registry.rollback("pose", "staging", seen=registry.state("pose", "staging").etag)
    assert registry.show("pose", "staging").version == one


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda o: o.retire("pose", "0" * 16), AccessError, "has no version '0000000000000000'"),
        (lambda o: o.retire("pose", "../../../x"), ConfigError, "is not a version"),
        (lambda o: o.retire("x" * 300, "0" * 16), ConfigError, "is not a model name"),
        (lambda o: o.pin("pose", "elsewhere"), AccessError, "has no channel 'elsewhere'"),
        (lambda o: o.pin("pose", "a/b"), ConfigError, "is not a channel"),
        (lambda o: o.annotate("pose", "0" * 16, note=" \n"), ConfigError, "The note is empty"),
        (lambda o: o.annotate("pose", "0" * 16, note="x" * 2001), ConfigError, "The note has 2,001 characters"),
        (lambda o: o.annotate("pose", "0" * 16, note="a\x1b[31m"), ConfigError, "control characters"),
    ],
)
def test_what_is_wrong_is_told_and_leaves_no_record(
    operations: Operations, registry: ModelRegistry, one: str, act: Callable[[Operations], Any], error: Any, text: str
) -> None:
    before = registry.log.entries("pose")
    with pytest.raises(error, match=text):
        act(operations)
    assert registry.log.entries("pose") == before


def test_a_move_whose_record_is_missing_gets_it_when_it_is_tried_again(
    registry: ModelRegistry, client: Any, one: str, two: str
) -> None:
    registry.promote("pose", two, "staging")
    last = registry.log.entries("pose")[-1]
    whole = registry.log.read("pose", last)
    client.delete_object(Bucket="models", Key=LOG + last.file)
    registry.promote("pose", two, "staging")
    registry.promote("pose", two, "staging")
    assert registry.log.entries("pose")[-1] == last
    assert registry.log.read("pose", last) == whole
    assert len(registry.log.entries("pose")) == 2


def test_a_record_counts_as_later_than_those_there_whatever_the_clock_says(
    registry: ModelRegistry, operations: Operations, client: Any, one: str, two: str
) -> None:
    operations.retire("pose", two)
    ahead = registry.log.records("pose")[0].model_copy(
        update={"recorded_at": datetime.now(UTC) + timedelta(days=2), "entry": "f" * 32}
    )
    client.put_object(Bucket="models", Key=LOG + ahead.key.file, Body=ahead.model_dump_json().encode())
    operations.unretire("pose", two)
    assert registry.log.state("pose") == LogState({}, {})


def test_a_record_is_as_its_key_says_or_refused(registry: ModelRegistry, client: Any, one: str, two: str) -> None:
    (entry,) = registry.log.entries("pose")
    key = LOG + entry.file
    data = client.get_object(Bucket="models", Key=key)["Body"].read()
    assert LogRecord.model_validate_json(data).key == entry
    for changed in (
        json.dumps(json.loads(data) | {"version": two}).encode(),
        json.dumps(json.loads(data) | {"name": "other"}).encode(),
        b"{",
    ):
        client.put_object(Bucket="models", Key=key, Body=changed)
        with pytest.raises(DigestError, match="of the registry's log is damaged"):
            registry.log.records("pose")
    # What is no record's key is nobody's record.
    for name in ("notes.txt", "x.json", entry.file.replace("_promote_", "_delete_"), "99999999" + entry.file[8:]):
        client.put_object(Bucket="models", Key=LOG + name, Body=b"{}")
    assert registry.log.entries("pose") == (entry,)
