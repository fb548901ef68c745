"""What holds a model's channels: pins, and retired versions; and the order of writes by which they meet with moves.

Whoever pins a channel or retires a version writes that into the log first, and then shuts out whoever has read the
channel's pointer before. Whoever moves a channel reads the pointer first, then the log, and then swaps the pointer if
it is still so. So of two that meet one comes first: whoever holds sees a move that was made before he could shut it
out, and takes his record back; and a move that comes after has seen the record. Nobody undoes a move, so a process that
is killed leaves nothing half undone.

A record whose maker did not come to shutting others out stands all the same, as long as no move has come through that
looked before it was there. Where one has, the record has never held: it pins a channel to another version than that
serves, or retires one that is served. It counts no more, and the next who acts upon that channel takes it back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hpe_tasks.registry.channels import ChannelState, read_channel, shut_out
from hpe_tasks.registry.log import LogState, RegistryLog

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.channels import ChannelPointer
    from hpe_tasks.registry.layout import RegistryLayout
    from hpe_tasks.registry.log import LogEntry

log = logging.getLogger(__name__)


class Holds:
    """Pins and retirements of a registry's models.

    Args:
        client: Must stay usable for as long as this is.
        layout: Where everything lies.
        actor: Who takes back what does not hold, as the log will say.
    """

    def __init__(self, client: S3Client, layout: RegistryLayout, actor: str) -> None:
        self._client = client
        self._layout = layout
        self._actor = actor
        self._log = RegistryLog(client, layout)

    def state(self, name: str, channel: str, seen: ChannelState) -> LogState:
        """What the log says, without what has never held, as a channel shows: that is taken back.

        Args:
            name: Of the model.
            channel: Of the model.
            seen: The channel, read before this call. Where it has moved since, it may count as not pinned.
        """
        while True:
            state = self._log.state(name)
            void = None if seen.pointer is None else _never_held(state, seen.pointer)
            if seen.pointer is None or void is None:
                return state
            if read_channel(self._client, self._layout.pointer(name, channel)).pointer != seen.pointer:
                return LogState(state.retired, {other: pin for other, pin in state.pinned.items() if other != channel})
            done = "pinned to" if void.action == "pin" else "retired:"
            why = f"Channel {channel} was moved to version {seen.pointer.version} before it was {done} {void.version}."
            self._log.take_back(name, void, by=self._actor, note=why)
            log.warning("Of %r: %s That does not hold.", name, why)

    def shut_out(self, name: str, channel: str, seen: ChannelState) -> bool:
        """Let nobody move a channel who has read it before now; False where it was moved since it was seen."""
        return shut_out(self._client, self._layout.pointer(name, channel), seen)

    def served_by(self, name: str, version: str, channels: tuple[str, ...]) -> tuple[str, ...]:
        """Those of these channels that serve a version; of the others, those who have read them are shut out."""
        return tuple(channel for channel in channels if not self._kept_from(name, channel, version))

    def _kept_from(self, name: str, channel: str, version: str) -> bool:
        while True:
            seen = read_channel(self._client, self._layout.pointer(name, channel))
            if seen.pointer is not None and seen.pointer.version == version:
                return False
            if seen.pointer is None or self.shut_out(name, channel, seen):
                return True


def _never_held(state: LogState, pointer: ChannelPointer) -> LogEntry | None:
    """A record that is not so, where a channel serves this."""
    pinned = state.pinned.get(pointer.channel)
    if pinned is not None and pinned.version != pointer.version:
        return pinned
    return state.retired.get(pointer.version)
