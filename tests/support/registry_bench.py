"""A registry of three versions whose channel two clients act upon, and what their calls come to one after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.errors import BadInputError, ChannelConflictError
from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.records.release import PromotedModel
from hpe_tasks.registry.channel_keys import ChannelKeys, signed_pointer
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.log import LogRecord, RegistryLog
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.operations import Operations
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.interleaving import TO_THE_END, Client, KilledError, Meeting, meetings
from support.signing_keys import key_pem

WHERE = S3Location("registry", "r")
CHANNEL = "staging"
PUBLISH, PROMOTE, ROLLBACK, SIGN = "publish", "promote", "rollback", "sign"
PIN, UNPIN, RETIRE, UNRETIRE = "pin", "unpin", "retire", "unretire"


@dataclass(frozen=True)
class State:
    """What follows from pointer and log; versions by their contents.

    Attributes:
        served: What the channel serves; None where there is none.
        history: What it served before, latest first.
        pinned: Whether the channel stays with that.
        retired: Versions that nobody may promote.
    """

    served: str | None
    history: tuple[str, ...]
    pinned: bool = False
    retired: frozenset[str] = frozenset()


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

    def refused(self, state: State) -> bool:
        """Whether nobody may do it then."""
        if self.what in (PUBLISH, PROMOTE):
            return state.served != self.content and (state.pinned or self.content in state.retired)
        if self.what == ROLLBACK:
            return state.pinned or not state.history or state.history[0] in state.retired
        if self.what == RETIRE:
            return state.served == self.content
        return (self.what == UNPIN and not state.pinned) or (
            self.what == UNRETIRE and self.content not in state.retired
        )

    def after(self, state: State) -> State:
        """What is so after it, where nobody else is there."""
        if self.what in (PIN, UNPIN):
            return replace(state, pinned=self.what == PIN)
        if self.what in (RETIRE, UNRETIRE):
            only = frozenset({self.content})
            return replace(state, retired=state.retired | only if self.what == RETIRE else state.retired - only)
        if self.what == ROLLBACK:
            return replace(state, served=state.history[0], history=state.history[1:])
        if self.what == SIGN or state.served == self.content:
            return state
        before = () if state.served is None else (state.served, *state.history)
        return replace(state, served=self.content, history=before)


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
        self.log = RegistryLog(self.bucket.client(), RegistryLayout(WHERE))
        self._whole: set[tuple[str, bytes]] = set()

    @property
    def objects(self) -> dict[str, Any]:
        """What the bucket holds."""
        return dict(self.bucket._objects)

    @objects.setter
    def objects(self, objects: dict[str, Any]) -> None:
        self.bucket._objects = dict(objects)
        self.counter = 0

    def after(self, *acts: Call) -> dict[str, Any]:
        """What the bucket holds where these were done to the channel."""
        self.objects = self.with_channel
        for act in acts:
            self.asked(Client(self.bucket, shared=set()), act, "before")()
        return self.objects

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
        operations = Operations(client.s3, WHERE, actor=by)
        if call.what in (PIN, UNPIN):
            return lambda: getattr(operations, call.what)("pose", CHANNEL)
        if call.what in (RETIRE, UNRETIRE):
            return lambda: getattr(operations, call.what)("pose", self.version(call.content))

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
        """What follows from pointer and log; a pin to another version than is served is none, nor is its retirement."""
        pointer, log = self.pointer(), self.log.state("pose")
        if pointer is None:
            return State(None, ())
        pinned = log.pinned.get(CHANNEL)
        return State(
            self.contents[pointer.version],
            tuple(self.contents[entry.version] for entry in pointer.history),
            pinned is not None and pinned.version == pointer.version,
            frozenset(self.contents[version] for version in log.retired if version != pointer.version),
        )

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


@dataclass
class Pair:
    """Two clients, and what they ask for."""

    bench: Bench
    calls: tuple[Call, Call]
    objects: dict[str, Any]
    shared: set[str] | None = None

    def __post_init__(self) -> None:
        self.bench.objects = self.objects
        self.before = self.bench.state()
        self.clients = Client(self.bench.bucket), Client(self.bench.bucket)
        asked = []
        for client, asked_for, call in zip(self.clients, self.bench_calls(), self.calls, strict=True):
            self.bench.objects = self.objects
            client.begin(asked_for)
            client.advance(TO_THE_END)
            refused = isinstance(client.outcome, BadInputError)
            assert refused == call.refused(self.before), client.outcome
            assert refused or not isinstance(client.outcome, BaseException), client.outcome
            asked.append(set(client.asked))
        for client in self.clients:
            client.shared = asked[0] & asked[1] if self.shared is None else self.shared

    def bench_calls(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        self.bench.objects = self.objects
        one, other = (
            self.bench.asked(client, call, by)
            for client, call, by in zip(self.clients, self.calls, ("ada", "grace"), strict=True)
        )
        return one, other

    def check(self, meeting: Meeting) -> None:
        """Look at what can be read now, and at the end of both at what they came to."""
        self.bench.check_visible()
        if meeting.ended:
            outcomes = [client.outcome for client in self.clients]
            orders = permutations(range(2))
            assert any(self._explained(self.before, "before", order, outcomes) for order in orders), (
                f"{meeting}: {self.before} became {self.bench.state()}, {[str(one) for one in outcomes]}"
            )

    def _explained(self, state: State, moved_by: str, order: tuple[int, ...], outcomes: list[Any]) -> bool:
        """Whether state and answers are those of the calls one after the other.

        One that met the other and was told so did nothing; one that was killed did nothing, or all.
        """
        if not order:
            pointer = self.bench.pointer()
            assert pointer is not None
            return self.bench.state() == state and pointer.moved_by == moved_by
        number, *rest = order
        call, outcome = self.calls[number], outcomes[number]
        refused = call.refused(state)
        done = False
        if not refused:
            after = call.after(state)
            moved = (after.served, after.history) != (state.served, state.history) or call.what == SIGN
            by = ("ada", "grace")[number] if moved else moved_by
            done = self._explained(after, by, tuple(rest), outcomes)
            if not isinstance(outcome, BaseException):
                return done and self.answered(call, outcome, state, after)
        not_done = self._explained(state, moved_by, tuple(rest), outcomes)
        if isinstance(outcome, KilledError):
            return done or not_done
        if isinstance(outcome, BadInputError):
            return refused and not_done
        # Of two who take back the same, each is told that it is taken back.
        again = call.what in (UNPIN, UNRETIRE) and self.calls[0] == self.calls[1]
        return not_done and (isinstance(outcome, ChannelConflictError) or (again and isinstance(outcome, LogRecord)))

    def answered(self, call: Call, outcome: Any, before: State, after: State) -> bool:
        """Whether an answer is what the call has done."""
        if isinstance(outcome, LogRecord):
            about = before.served if call.what in (PIN, UNPIN) else call.content
            return (outcome.action, self.bench.contents[outcome.version]) == (call.what, about)
        if isinstance(outcome, ChannelPointer):
            told = self.bench.contents[outcome.version], tuple(self.bench.contents[e.version] for e in outcome.history)
            return told == (after.served, after.history)
        assert isinstance(outcome, PromotedModel)
        previous = None if outcome.previous_version is None else self.bench.contents[outcome.previous_version]
        # Where both ask for one version, who comes second learns what was served when he asked.
        return self.bench.contents[outcome.version] == after.served and previous in {before.served, self.before.served}


class Decisive(set[str]):
    """Keys of pointers, of the log's records and of listings: among reads of blobs it makes no difference where one is.

    A record has a key of its own, but whoever lists them sees it or does not.
    """

    def __contains__(self, key: object) -> bool:
        return key == "" or "/log/" in str(key) or "/channels/" in str(key)


def search(pair: Pair) -> int:
    """Try every order of two calls; how many there are."""
    orders = 0
    for meeting in meetings(*pair.clients, pair.bench_calls):
        pair.check(meeting)
        if meeting.ended:
            assert sum(isinstance(client.outcome, ChannelConflictError) for client in pair.clients) <= 1, meeting
            orders += 1
    return orders
