"""Two clients of the registry in every order of their requests, and one that dies at each: nothing is left to luck."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.errors import BadInputError, ChannelConflictError
from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.records.release import PromotedModel
from hpe_tasks.registry import channels
from hpe_tasks.registry.channel_keys import ChannelKeys, signed_pointer
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage import s3_objects
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.interleaving import Client, KilledError, Meeting, deaths, meetings
from support.signing_keys import key_pem

WHERE = S3Location("registry", "r")
CHANNEL = "staging"
NOTHING = "nothing"

State = tuple[str | None, tuple[str, ...]]
"""What the channel serves, and what it served before; by the contents of the versions."""


@dataclass(frozen=True)
class Call:
    """What a client asks of the registry.

    Attributes:
        content: Of the version; empty where the call names none.
    """

    what: str
    content: str = ""

    def __str__(self) -> str:
        return f"{self.what}-{self.content}".rstrip("-")

    def after(self, state: State) -> State:
        """What the channel is like after it, where nobody else is there."""
        served, history = state
        if self.what == ROLLBACK:
            return history[0], history[1:]
        if self.what == SIGN:
            return state
        return state if served == self.content else (self.content, (() if served is None else (served, *history)))


PUBLISH, PROMOTE, ROLLBACK, SIGN = "publish", "promote", "rollback", "sign"

PAIRS = [
    (Call(PUBLISH, "new"), Call(PUBLISH, "other")),
    (Call(PUBLISH, "new"), Call(PROMOTE, "first")),
    (Call(PUBLISH, "new"), Call(ROLLBACK)),
    (Call(PROMOTE, "first"), Call(PROMOTE, "first")),
    (Call(PROMOTE, "first"), Call(PROMOTE, "second")),
    (Call(PROMOTE, "first"), Call(ROLLBACK)),
    (Call(PROMOTE, "third"), Call(ROLLBACK)),
    (Call(ROLLBACK), Call(ROLLBACK)),
    (Call(ROLLBACK), Call(PUBLISH, "new")),
    (Call(SIGN), Call(PROMOTE, "first")),
    (Call(SIGN), Call(ROLLBACK)),
]
MORE = [
    (Call(PUBLISH, "new"), Call(PROMOTE, "third")),
    (Call(PUBLISH, "first"), Call(ROLLBACK)),
    (Call(PROMOTE, "first"), Call(PUBLISH, "new")),
    (Call(ROLLBACK), Call(PROMOTE, "third")),
    # Every request of one is for a key that the other asks for as well: ten times as many orders.
    (Call(PUBLISH, "new"), Call(PUBLISH, "new")),
]

NEW_CHANNEL = [
    (Call(PROMOTE, "first"), Call(PROMOTE, "second")),
    (Call(PROMOTE, "first"), Call(PROMOTE, "first")),
    (Call(PUBLISH, "new"), Call(PROMOTE, "first")),
]


class Bench:
    """A registry of three versions, of which the channel has served two; its third is served now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = SigningKey(key_pem())
        self.keys = ChannelKeys(self.key)
        self.counter = 0
        self.bucket = MemoryBucket(WHERE.bucket)
        self.contents: dict[str, str] = {}
        self.files = {
            content: records.write_files(folder / content, content)
            for content in ("first", "second", "third", "new", "other")
        }
        for content, files in self.files.items():
            self.contents[records.manifest(files).version] = content
        registry = ModelRegistry(self.bucket.client(), WHERE, actor="before")
        for content in ("first", "second", "third"):
            self.store(registry, content, "before")
        self.without_channel = self.objects
        for content in ("first", "second", "third"):
            registry.promote("pose", self.version(content), CHANNEL, keys=self.keys)
        self.with_channel = self.objects
        self._whole: set[tuple[str, bytes]] = set()

    @property
    def objects(self) -> dict[str, Any]:
        """What the bucket holds."""
        return dict(self.bucket._objects)

    @objects.setter
    def objects(self, objects: dict[str, Any]) -> None:
        self.bucket._objects = dict(objects)
        self.counter = 0

    def version(self, content: str) -> str:
        return next(version for version, one in self.contents.items() if one == content)

    def store(self, registry: ModelRegistry, content: str, by: str) -> Any:
        return registry.store(self.manifest(content, by), self.files[content], self.key, channel=CHANNEL)

    @cache  # noqa: B019 - it lives as long as the module's tests
    def manifest(self, content: str, by: str) -> ModelManifest:
        """A version's; whoever publishes it leaves other bytes."""
        return records.manifest(self.files[content], created_by=by, run=f"run of {by}")

    def asked(self, client: Client, call: Call, by: str) -> Callable[[], Any]:
        """A call as a function."""
        registry = ModelRegistry(client.s3, WHERE, actor=by)

        def publish() -> PromotedModel:
            published = self.store(registry, call.content, by)
            return registry.promote("pose", published.version, CHANNEL, published=published, keys=self.keys)

        if call.what == PUBLISH:
            return publish
        if call.what == ROLLBACK:
            return lambda: registry.rollback("pose", CHANNEL, keys=self.keys)
        if call.what == SIGN:
            return lambda: registry.sign("pose", CHANNEL, self.keys)
        return lambda: registry.promote("pose", self.version(call.content), CHANNEL, keys=self.keys)

    def pointer(self) -> ChannelPointer | None:
        """What can be read of the channel: signed, and never with a lower counter than before."""
        found = self.bucket._objects.get((WHERE / f"models/pose/channels/{CHANNEL}.json").key)
        if found is None:
            return None
        pointer = ChannelPointer.model_validate_json(found.data)
        assert signed_pointer(found.data, str(WHERE), (self.key.public_bytes,))
        assert pointer.counter >= self.counter
        self.counter = pointer.counter
        return pointer

    def state(self) -> State:
        pointer = self.pointer()
        if pointer is None:
            return None, ()
        return self.contents[pointer.version], tuple(self.contents[entry.version] for entry in pointer.history)

    def check_visible(self) -> None:
        """Whatever can be read is whole, and what is served is signed; without the code that is tried."""
        pointer = self.pointer()
        for key, stored in self.bucket._objects.items():
            if key.endswith("/manifest.json") and (key, stored.data) not in self._whole:
                for file in json.loads(stored.data)["files"]:
                    blob = self.bucket._objects[(WHERE / blob_key(file["sha256"])).key]
                    assert hashlib.sha256(blob.data).hexdigest() == file["sha256"]
                self._whole.add((key, stored.data))
        for entry in () if pointer is None else (pointer.entry, *pointer.history):
            base = (WHERE / f"models/pose/versions/{entry.version}/manifest.json").key
            manifest = self.bucket._objects[base].data
            assert hashlib.sha256(manifest).hexdigest() == entry.manifest_sha256
            assert self.key.signed(manifest, self.bucket._objects[f"{base}.sig"].data)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("versions"))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a while meets nobody else here."""
    monkeypatch.setattr(channels, "_PAUSE_S", 0)
    monkeypatch.setattr(s3_objects, "_PAUSE_S", 0)


@dataclass
class Pair:
    """Two clients, and what they ask for."""

    bench: Bench
    calls: tuple[Call, Call]
    objects: dict[str, Any]

    def __post_init__(self) -> None:
        self.bench.objects = self.objects
        self.before = self.bench.state()
        self.clients = Client(self.bench.bucket), Client(self.bench.bucket)
        asked = []
        for client, call in zip(self.clients, self.bench_calls(), strict=True):
            self.bench.objects = self.objects
            client.begin(call)
            client.advance(-1)
            assert not isinstance(client.outcome, BaseException), client.outcome
            asked.append(set(client.asked))
        for client in self.clients:
            client.shared = asked[0] & asked[1]

    def bench_calls(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        self.bench.objects = self.objects
        one, other = (
            self.bench.asked(client, call, by)
            for client, call, by in zip(self.clients, self.calls, ("ada", "grace"), strict=True)
        )
        return one, other

    def check(self, meeting: Meeting) -> None:
        self.bench.check_visible()
        if meeting.ended:
            outcomes = [client.outcome for client in self.clients]
            assert any(self.explained(order, outcomes) for order in permutations(range(2))), (
                f"{meeting}: {self.before} became {self.bench.state()}, {[str(one) for one in outcomes]}"
            )

    def explained(self, order: tuple[int, ...], outcomes: list[Any]) -> bool:
        """Whether state and answers are those of the calls one after the other, where a refused one did nothing."""
        state, moved_by = self.before, "before"
        for number in order:
            call, outcome = self.calls[number], outcomes[number]
            if isinstance(outcome, (ChannelConflictError, KilledError)):
                continue
            if isinstance(outcome, BadInputError):
                if call.what != ROLLBACK or state[1]:
                    return False
                continue
            if isinstance(outcome, BaseException) or (call.what == ROLLBACK and not state[1]):
                return False
            after = call.after(state)
            if not self.answered(call, outcome, state, after):
                return False
            moved_by = moved_by if after == state and call.what != SIGN else ("ada", "grace")[number]
            state = after
        pointer = self.bench.pointer()
        assert pointer is not None
        return self.bench.state() == state and pointer.moved_by == moved_by

    def answered(self, call: Call, outcome: Any, before: State, after: State) -> bool:
        """Whether an answer is what the call has done."""
        if isinstance(outcome, ChannelPointer):
            told = self.bench.contents[outcome.version], tuple(self.bench.contents[e.version] for e in outcome.history)
            return told == after
        assert isinstance(outcome, PromotedModel)
        previous = None if outcome.previous_version is None else self.bench.contents[outcome.previous_version]
        # Where both ask for one version, who comes second learns what was served when he asked.
        return self.bench.contents[outcome.version] == after[0] and previous in {before[0], self.before[0]}


def search(pair: Pair) -> int:
    """Try every order of two calls; how many there are."""
    orders = 0
    for meeting in meetings(*pair.clients, pair.bench_calls):
        pair.check(meeting)
        if meeting.ended:
            assert sum(isinstance(client.outcome, ChannelConflictError) for client in pair.clients) <= 1, meeting
            orders += 1
    return orders


CASES = [
    *(pytest.param(pair, True, id="-and-".join(map(str, pair))) for pair in PAIRS),
    *(pytest.param(pair, True, id="-and-".join(map(str, pair)), marks=pytest.mark.long) for pair in MORE),
    *(pytest.param(pair, False, id="new-channel-" + "-and-".join(map(str, pair))) for pair in NEW_CHANNEL),
]


@pytest.mark.parametrize(("calls", "existing"), CASES)
def test_every_order_is_one_after_the_other(bench: Bench, calls: tuple[Call, Call], existing: bool) -> None:
    """The state and all answers are as of one call after the other; who was refused has moved nothing, never both."""
    pair = Pair(bench, calls, bench.with_channel if existing else bench.without_channel)
    orders = search(pair)
    print(f"{orders} orders")
    assert orders >= 9


@pytest.mark.parametrize("call", [Call(PUBLISH, "new"), Call(PROMOTE, "first"), Call(ROLLBACK)], ids=str)
def test_who_dies_anywhere_keeps_nobody_from_anything(bench: Bench, call: Call) -> None:
    """One dies at each of its requests, another does the same; then the first tries again."""
    pair = Pair(bench, (call, call), bench.with_channel)
    for client in pair.clients:
        client.shared = None
    places = 0
    for meeting in deaths(*pair.clients, pair.bench_calls):
        bench.check_visible()
        if not meeting.ended:
            assert bench.state() in {pair.before, call.after(pair.before)}
            continue
        places += 1
        dead, other = pair.clients
        assert not isinstance(other.outcome, BaseException), other.outcome
        expected = call.after(pair.before)
        # Who died after his step back has made it.
        assert bench.state() in {expected, call.after(expected)}
        dead.begin(bench.asked(dead, call, "ada"))
        dead.advance(-1)
        bench.check_visible()
        assert not isinstance(dead.outcome, BaseException) or (call.what == ROLLBACK and not bench.state()[1])
    assert places >= 4


def test_the_search_finds_a_lost_update(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the condition of the swap, it is told: this test could fail."""

    def write(*arguments: Any, **_: Any) -> str:
        s3_objects.put_bytes(*arguments)
        return "written"

    monkeypatch.setattr(channels, "put_on_condition", write)
    pair = Pair(bench, (Call(ROLLBACK), Call(PROMOTE, "first")), bench.with_channel)
    with pytest.raises(AssertionError, match="became"):
        search(pair)
