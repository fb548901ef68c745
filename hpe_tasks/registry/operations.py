"""What is done to versions and channels without moving a pointer: retire, pin, annotate, and taking it back.

Each is a record of the log: see `hpe_tasks.registry.log`. Whoever pins or retires shuts out those who are about to move
a channel, so that they look into the log again: see `hpe_tasks.registry.holds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpe_tasks.errors import AccessError, BadInputError, ChannelConflictError, ConfigError
from hpe_tasks.registry.holds import Holds
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.log import LogEntry, LogRecord, RegistryLog, checked_note
from hpe_tasks.registry.moves import refuse_unseen
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3_objects import WRITE_ATTEMPTS, get_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.channels import ChannelPointer
    from hpe_tasks.storage.s3 import S3Location


class Operations:
    """Acts on the versions and channels of a registry.

    Args:
        client: Must stay usable for as long as this is.
        location: Bucket and prefix.
        actor: Who acts, as the log will say.
    """

    def __init__(self, client: S3Client, location: S3Location, *, actor: str) -> None:
        self._client = client
        self._layout = RegistryLayout(location)
        self._registry = ModelRegistry(client, location, actor=actor)
        self._log = RegistryLog(client, self._layout)
        self._holds = Holds(client, self._layout, actor)
        self._actor = actor

    def retire(self, name: str, version: str, *, stands: str | None = None, note: str = "") -> LogRecord:
        """Let no channel serve a version any more: nobody can promote it, or roll back to it.

        Its files stay. A version that is retired stays so, with the record that has retired it.

        Args:
            name: The model.
            version: One of its versions.
            stands: Entry of the record that retires it, as it was shown to who decides, empty where none did: where
                somebody else has retired it since, nothing is done. None goes by what stands now.
            note: Why.

        Raises:
            AccessError: There is no such version.
            BadInputError: A channel serves it.
            ChannelConflictError: A channel was moved to it meanwhile: it is not retired. Or another record stands.
        """
        note = checked_note(note)
        self._require(name, version)
        retired = self._log.state(name).retired.get(version)
        self._refuse_unseen_record(name, f"Version {version} of {name!r}", retired, stands)
        if serving := self._serving(name, version):
            raise BadInputError(
                f"Version {version} of {name!r} cannot be retired: {_channels(serving)} it.",
                hint="Promote another version there, or roll back, and retire this one then.",
            )
        while True:
            retired = self._log.state(name).retired.get(version)
            retired = retired or self._log.add("retire", name, version, by=self._actor, note=note).key
            if serving := self._holds.served_by(name, version, self._registry.channels(name)):
                why = f"{_channels(serving)} it since it was being retired."
                self._log.take_back(name, retired, by=self._actor, note=why)
                raise ChannelConflictError(
                    f"Version {version} of {name!r} is not retired: {_channels(serving)} it by now.",
                    hint="Look at the channel, and decide anew.",
                )
            if not self._log.taken_back(name, retired):
                return self._log.read(name, retired)
            # It was served for a moment, and whoever saw that let the record count no more.

    def unretire(self, name: str, version: str, *, stands: str | None = None, note: str = "") -> LogRecord:
        """Let channels serve a version again; arguments as of `retire`.

        Raises:
            AccessError: There is no such version.
            BadInputError: It is not retired.
            ChannelConflictError: It was retired anew since it was looked at: it stays so.
        """
        note = checked_note(note)
        self._require(name, version)
        retired = self._log.state(name).retired.get(version)
        self._refuse_unseen_record(name, f"Version {version} of {name!r}", retired, stands)
        if retired is None:
            raise BadInputError(f"Version {version} of {name!r} is not retired.", hint="There is nothing to take back.")
        return self._log.add("unretire", name, version, by=self._actor, note=note)

    def pin(
        self, name: str, channel: str, *, seen: str | None = None, stands: str | None = None, note: str = ""
    ) -> LogRecord:
        """Let a channel stay with what it serves until it is unpinned: runs leave it alone, people are refused.

        A channel that is pinned stays so, with the record that has pinned it.

        Args:
            name: The model.
            channel: Its channel.
            seen: ETag of the channel as it was shown to who decides, as of `ModelRegistry.state`: one that was moved
                since is not pinned. None pins what it serves now.
            stands: Entry of the record that pins it, as it was shown; as of `retire`.
            note: Why.

        Raises:
            AccessError: There is no such channel.
            ChannelConflictError: It was moved since it was looked at, or meanwhile: it is not pinned. Or somebody else
                has pinned it since.
        """
        note = checked_note(note)
        before, _ = self._as_seen(name, channel, seen, stands)
        for _ in range(WRITE_ATTEMPTS):
            state = self._registry.state(name, channel)
            if state.pointer is None or state.pointer.version != before.version:
                break
            if (pinned := self._holds.state(name, channel, state).pinned.get(channel)) is not None:
                if self._holds.shut_out(name, channel, state):
                    return self._log.read(name, pinned)
                continue
            record = self._log.add("pin", name, before.version, channel=channel, by=self._actor, note=note)
            if self._holds.shut_out(name, channel, state):
                return record
            self._log.take_back(name, record.key, by=self._actor, note="It was moved while it was being pinned.")
        now = self._registry.show(name, channel)
        raise ChannelConflictError(
            f"Channel {channel!r} of {name!r} is not pinned: it was moved meanwhile, and serves version {now.version}.",
            hint="Look at it, and decide anew.",
        )

    def unpin(
        self, name: str, channel: str, *, seen: str | None = None, stands: str | None = None, note: str = ""
    ) -> LogRecord:
        """Let a channel be moved again; arguments as of `pin`.

        Raises:
            AccessError: There is no such channel.
            BadInputError: It is not pinned.
            ChannelConflictError: It was moved, or pinned anew, since it was looked at: it stays pinned.
        """
        note = checked_note(note)
        pointer, pinned = self._as_seen(name, channel, seen, stands)
        if pinned is None:
            raise BadInputError(
                f"Channel {channel!r} of {name!r} is not pinned.", hint="There is nothing to take back."
            )
        return self._log.add("unpin", name, pointer.version, channel=channel, by=self._actor, note=note)

    def annotate(self, name: str, version: str, *, note: str) -> LogRecord:
        """Keep a remark about a version; each stays, and none changes an earlier one.

        Raises:
            AccessError: There is no such version.
            ConfigError: The remark is empty, or too long.
        """
        note = checked_note(note)
        if not note:
            raise ConfigError("The note is empty.", hint="Say what is to be remembered of the version.")
        self._require(name, version)
        return self._log.add("annotate", name, version, by=self._actor, note=note)

    def _as_seen(
        self, name: str, channel: str, seen: str | None, stands: str | None
    ) -> tuple[ChannelPointer, LogEntry | None]:
        """What a channel serves and which record pins it, which are what whoever decides was shown."""
        state = self._registry.state(name, channel)
        pinned = self._holds.state(name, channel, state).pinned.get(channel)
        # First: who pins changes what a channel's ETag is, too, and the record says why.
        self._refuse_unseen_record(name, f"Channel {channel!r} of {name!r}", pinned, stands)
        refuse_unseen(state, name, channel, seen)
        # Where there is none, showing it says which there are.
        return state.pointer or self._registry.show(name, channel), pinned

    def _refuse_unseen_record(self, name: str, what: str, now: LogEntry | None, stands: str | None) -> None:
        """Refuse to act on what another record holds than the one that was shown.

        What no record holds any more the acts themselves refuse, or do anew.
        """
        if stands is None or now is None or now.entry == stands:
            return
        record = self._log.read(name, now)
        raise ChannelConflictError(
            f"{what} was {'retired' if record.action == 'retire' else 'pinned'} since it was looked at: {record.told}.",
            hint="Nothing was done. Look at it again, and decide anew.",
        )

    def _require(self, name: str, version: str) -> None:
        """Raise where there is no such version; one whose manifest is damaged is there."""
        if get_bytes(self._client, self._layout.manifest(name, version), "reading the manifest") is None:
            raise AccessError(
                f"Model {name!r} has no version {version!r} in {self._layout.root}.",
                hint="List its versions with `hpe channel versions`.",
            )

    def _serving(self, name: str, version: str) -> tuple[str, ...]:
        """Channels that serve a version now."""
        states = ((channel, self._registry.state(name, channel).pointer) for channel in self._registry.channels(name))
        return tuple(channel for channel, pointer in states if pointer is not None and pointer.version == version)


def _channels(names: tuple[str, ...]) -> str:
    return f"channel {names[0]} serves" if len(names) == 1 else f"channels {', '.join(names)} serve"
