"""The registry's log: who did what to a model's versions and channels, when and why.

One object for each act below `models/<name>/log/`, created once and never changed. Its key tells when, what, the
channel and the version, so that one listing tells which versions are retired and which channels are pinned: the last
record about each says so, and nothing else does. A pin or a retirement that came to nothing is taken back by a record
of the same name, which takes back that one alone: another that was made meanwhile stays.

A record of a channel's move is named by the move's own name, so that
a second attempt writes the one that the first has not come to, and no second one.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import AwareDatetime, StringConstraints, ValidationError

from hpe_tasks.config.base import Slug
from hpe_tasks.contract.names import SLUG, VERSION
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.records.base import Record
from hpe_tasks.registry.layout import RECORD_LIMIT_BYTES
from hpe_tasks.registry.manifest import Version
from hpe_tasks.storage.s3_objects import get_bytes, list_keys, put_new_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.channels import ChannelPointer
    from hpe_tasks.registry.layout import RegistryLayout
    from hpe_tasks.storage.s3 import S3Location

Action = Literal["publish", "promote", "rollback", "sign", "retire", "unretire", "pin", "unpin", "annotate"]
"""What was done; `publish` is a promotion by the run that made the version."""

_UNDOING: dict[Action, Action] = {"pin": "unpin", "retire": "unretire"}

LONGEST_NOTE = 2000
"""Characters."""

_TIME = "%Y%m%dT%H%M%S.%fZ"
_NO_CHANNEL = "-"
_KEY = re.compile(
    rf"(\d{{8}}T\d{{6}}\.\d{{6}}Z)_({'|'.join(get_args(Action))})_({_NO_CHANNEL}|{SLUG})_({VERSION})_([0-9a-f]{{32}})\.json"
)


@dataclass(frozen=True)
class LogEntry:
    """What a record's key tells.

    Attributes:
        at: When.
        action: What was done.
        channel: Whose pointer was moved or pinned; None for an act on a version.
        version: The version that it is about, or that the channel serves since.
        entry: Name of the record, 32 hexadecimal digits.
    """

    at: datetime
    action: Action
    channel: str | None
    version: str
    entry: str

    @property
    def subject(self) -> str:
        """What a pin or a retirement is about: a channel or a version."""
        return self.channel or self.version

    @property
    def file(self) -> str:
        """Last part of the key."""
        return f"{self.at:{_TIME}}_{self.action}_{self.channel or _NO_CHANNEL}_{self.version}_{self.entry}.json"


class LogRecord(Record):
    """One act, as it is stored.

    Attributes:
        recorded_at: When.
        entry: Name of the record, 32 hexadecimal digits; of a move that of the move.
        by: Who did it; empty where that is not known.
        action: What was done.
        name: The model.
        channel: Whose pointer was moved or pinned; None for an act on a version.
        version: The version that it is about, or that the channel serves since.
        previous_version: What the channel served before; None where it served nothing, or that is not known.
        note: Why, in the words of whoever did it.
    """

    recorded_at: AwareDatetime
    entry: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    by: str = ""
    action: Action
    name: Slug
    channel: Slug | None = None
    version: Version
    previous_version: Version | None = None
    note: str = ""

    @property
    def key(self) -> LogEntry:
        """What its key tells."""
        return LogEntry(self.recorded_at.astimezone(UTC), self.action, self.channel, self.version, self.entry)

    @property
    def told(self) -> str:
        """By whom, when and why, in words."""
        by = f"by {self.by} " if self.by else ""
        return f"{by}at {self.recorded_at:%Y-%m-%d %H:%M:%S} UTC" + (f": {self.note}" if self.note else "")


@dataclass(frozen=True)
class LogState:
    """What the log says now.

    Attributes:
        retired: The record that has retired a version, by the version.
        pinned: The record that has pinned a channel, by the channel.
    """

    retired: Mapping[str, LogEntry]
    pinned: Mapping[str, LogEntry]

    @classmethod
    def after(cls, entries: Iterable[LogEntry]) -> LogState:
        """The state that records leave, in the order of their keys."""
        standing = _standing(entries)
        retired = {entry.version: entry for entry in standing.values() if entry.action == "retire"}
        pinned = {entry.channel: entry for entry in standing.values() if entry.action == "pin" and entry.channel}
        return cls(retired, pinned)


class RegistryLog:
    """Reads and writes the records of a registry's models.

    Args:
        client: Must stay usable for as long as this is.
        layout: Where everything lies.
    """

    def __init__(self, client: S3Client, layout: RegistryLayout) -> None:
        self._client = client
        self._layout = layout

    def entries(self, name: str) -> tuple[LogEntry, ...]:
        """What the keys of a model's records tell, earliest first; what is no record is passed over."""
        keys = list_keys(self._client, self._layout.log(name))
        return tuple(entry for key in sorted(keys) if (entry := parsed_entry(key)) is not None)

    def state(self, name: str) -> LogState:
        """Which versions of a model are retired, and which of its channels pinned."""
        return LogState.after(self.entries(name))

    def read(self, name: str, entry: LogEntry) -> LogRecord:
        """The record of a key.

        Raises:
            DigestError: It is damaged, or not what its key says.
        """
        location = self._layout.log(name) / entry.file
        found = get_bytes(self._client, location, "reading the log", limit_bytes=RECORD_LIMIT_BYTES)
        try:
            record = None if found is None else LogRecord.model_validate_json(found.data)
        except ValidationError as error:
            raise _damaged(location, error.errors()[0]["msg"]) from error
        if record is None or (record.name, record.key) != (name, entry):
            raise _damaged(location, "it was deleted" if record is None else "it is not what its key says")
        return record

    def records(self, name: str, *, version: str | None = None, last: int | None = None) -> tuple[LogRecord, ...]:
        """A model's records, latest first.

        Args:
            name: Of the model.
            version: Only those about this version.
            last: Only so many.

        Raises:
            DigestError: One of them is damaged.
        """
        entries = [one for one in reversed(self.entries(name)) if version is None or one.version == version]
        return tuple(self.read(name, entry) for entry in entries[:last])

    def add(
        self,
        action: Action,
        name: str,
        version: str,
        *,
        channel: str | None = None,
        by: str = "",
        note: str = "",
    ) -> LogRecord:
        """Write a record that counts as later than all that are there, whatever the clocks of their writers said."""
        return self._create(
            LogRecord(
                recorded_at=_later_than(self.entries(name)),
                entry=uuid.uuid4().hex,
                by=by,
                action=action,
                name=name,
                channel=channel,
                version=version,
                note=checked_note(note),
            )
        )

    def take_back(self, name: str, entry: LogEntry, *, by: str, note: str) -> None:
        """Let a pin or a retirement count no more, and no other than this one; where it counts still.

        Args:
            name: Of the model.
            entry: Its record.
            by: Who takes it back.
            note: Why.
        """
        entries = self.entries(name)
        if entry.entry not in _standing(entries):
            return
        self._create(
            LogRecord(
                recorded_at=_later_than(entries),
                entry=entry.entry,
                by=by,
                action=_UNDOING[entry.action],
                name=name,
                channel=entry.channel,
                version=entry.version,
                note=checked_note(note),
            )
        )

    def taken_back(self, name: str, entry: LogEntry) -> bool:
        """Whether `take_back` has taken this pin or retirement back."""
        return any(one.entry == entry.entry and one.action != entry.action for one in self.entries(name))

    def add_move(self, pointer: ChannelPointer, *, previous: str | None, note: str = "") -> None:
        """Write the record of a channel's last move, if there is none.

        A pointer from before moves had names gets none.

        Args:
            pointer: As it was written.
            previous: The version that the channel served before.
            note: Why it was moved.
        """
        if not pointer.moves:
            return
        self._create(
            LogRecord(
                recorded_at=pointer.moved_at,
                entry=pointer.moves[0],
                by=pointer.moved_by,
                action=pointer.reason,
                name=pointer.name,
                channel=pointer.channel,
                version=pointer.version,
                previous_version=previous,
                note=note,
            )
        )

    def mend(self, pointer: ChannelPointer) -> None:
        """Write the record of a channel's last move where whoever moved it has not come to it."""
        if pointer.moves and all(entry.entry != pointer.moves[0] for entry in self.entries(pointer.name)):
            went_on = pointer.reason in ("publish", "promote") and pointer.history
            self.add_move(pointer, previous=pointer.history[0].version if went_on else None)

    def _create(self, record: LogRecord) -> LogRecord:
        data = record.model_dump_json(indent=2).encode() + b"\n"
        put_new_bytes(self._client, self._layout.log(record.name) / record.key.file, data, "writing the log")
        return record


def _standing(entries: Iterable[LogEntry]) -> dict[str, LogEntry]:
    """Pins and retirements that nothing has taken back, by their names; of several of one subject, all that stand."""
    standing: dict[str, LogEntry] = {}
    made: set[str] = set()
    for entry in entries:
        if entry.action in _UNDOING:
            standing[entry.entry] = entry
            made.add(entry.entry)
        elif entry.entry in made:
            standing.pop(entry.entry, None)
        elif entry.action in _UNDOING.values():
            undone = (entry.action, entry.subject)
            standing = {name: one for name, one in standing.items() if (_UNDOING[one.action], one.subject) != undone}
    return standing


def _later_than(entries: Iterable[LogEntry]) -> datetime:
    last, now = max((entry.at for entry in entries), default=None), datetime.now(UTC)
    return now if last is None else max(now, last + timedelta(microseconds=1))


def checked_note(note: str) -> str:
    """A note as it is kept; raises ConfigError for one that is too long, or holds control characters."""
    note = note.strip()
    if len(note) > LONGEST_NOTE:
        raise ConfigError(
            f"The note has {len(note):,} characters.", hint=f"At most {LONGEST_NOTE:,} are kept: link to the rest."
        )
    if any(ord(character) < 32 and character not in "\n\t" for character in note.replace("\r\n", "\n")):
        raise ConfigError("The note holds control characters.", hint="Write plain text.")
    return note.replace("\r\n", "\n")


def parsed_entry(file: str) -> LogEntry | None:
    """What the last part of a record's key tells; None for what is no record."""
    found = _KEY.fullmatch(file)
    if found is None:
        return None
    time, action, channel, version, entry = found.groups()
    try:
        at = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    known = next(one for one in get_args(Action) if one == action)
    return LogEntry(at, known, None if channel == _NO_CHANNEL else channel, version, entry)


def _damaged(location: S3Location, problem: str) -> DigestError:
    return DigestError(
        f"The record {location} of the registry's log is damaged: {problem}.",
        hint="Restore that object: nothing of this project changes or deletes a record.",
    )
