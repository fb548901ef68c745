"""Moving a model's channels: promote, roll back, sign. Each move is by compare-and-swap, and stands in the log.

A channel that is pinned stays, and none serves a version that is retired: who moves it looks into the log between
reading its pointer and swapping it, and whoever pins or retires shuts out who has read it before; see `holds`. Nobody
is shut out of a channel that is not there yet: who makes it looks into the log afterwards as well, and takes a
retirement of what it serves back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hpe_tasks.contract.keys import POINTER_SUFFIX
from hpe_tasks.errors import AccessError, BadInputError, ChannelConflictError
from hpe_tasks.records.release import PromotedModel, PublishedModel, ServedBefore
from hpe_tasks.registry.channel_keys import NO_KEYS, ChannelKeys
from hpe_tasks.registry.channels import ChannelEntry, ChannelPointer, ChannelState, Reason, move_channel, read_channel
from hpe_tasks.registry.holds import Holds
from hpe_tasks.registry.log import RegistryLog, checked_note
from hpe_tasks.registry.signing import open_signing_key
from hpe_tasks.storage.s3_objects import list_keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.layout import RegistryLayout
    from hpe_tasks.registry.stored_versions import StoredManifest, StoredVersions

log = logging.getLogger(__name__)


class ChannelMoves:
    """Reads and moves the channels of a registry's models.

    Args:
        client: Must stay usable for as long as this is.
        layout: Where everything lies.
        versions: What channels point to.
        actor: Who moves channels, as their pointers and the log will say.
    """

    def __init__(self, client: S3Client, layout: RegistryLayout, versions: StoredVersions, actor: str) -> None:
        self._client = client
        self._layout = layout
        self._versions = versions
        self._actor = actor
        self._log = RegistryLog(client, layout)
        self._holds = Holds(client, layout, actor)

    def names(self, name: str) -> tuple[str, ...]:
        """Names of the model's channels, sorted."""
        keys = list_keys(self._client, self._layout.channels(name))
        return tuple(sorted(key.removesuffix(POINTER_SUFFIX) for key in keys if key.endswith(POINTER_SUFFIX)))

    def state(self, name: str, channel: str) -> ChannelState:
        """A channel's pointer with its ETag, as a move can be conditioned on; both None where there is no channel."""
        return read_channel(self._client, self._layout.pointer(name, channel))

    def require(self, name: str, channel: str) -> tuple[ChannelPointer, ChannelState]:
        """A channel's pointer, and the state that it was read in; raises AccessError when there is no such channel."""
        state = self.state(name, channel)
        if state.pointer is None:
            known = ", ".join(self.names(name)) or "none"
            raise AccessError(
                f"Model {name!r} has no channel {channel!r} in {self._layout.root}.", hint=f"Its channels: {known}."
            )
        return state.pointer, state

    def served_before(self, name: str, channel: str) -> ServedBefore:
        """What a channel serves before a version is stored, and whether it is pinned to it."""
        state = self.state(name, channel)
        pointer, pinned = state.pointer, self._holds.state(name, channel, state).pinned.get(channel)
        why = "" if pinned is None else self._log.read(name, pinned).told
        return ServedBefore(channel=channel, version=pointer.version if pointer else None, pinned=why)

    def promote(
        self,
        name: str,
        version: str,
        channel: str,
        *,
        published: PublishedModel | None = None,
        keys: ChannelKeys = NO_KEYS,
        seen: str | None = None,
        note: str = "",
    ) -> PromotedModel:
        """Point a channel, new or not, to a version that is in the registry and whole; see `ModelRegistry.promote`."""
        note = checked_note(note)
        # The state that the swap is later conditioned on: whoever moves the channel from here on wins over us.
        before = self.state(name, channel)
        refuse_unseen(before, name, channel, seen)
        if published is not None and before.pointer is not None:
            _refuse_to_go_back(before.pointer, published)
        stored = self._versions.require_whole(name, version, sha256=published.manifest.sha256 if published else None)
        self._point(before, stored, channel, published, keys, note)
        return PromotedModel(
            registry=self._root,
            name=name,
            version=version,
            channel=channel,
            previous_version=before.pointer.version if before.pointer else None,
        )

    def rollback(
        self, name: str, channel: str, *, keys: ChannelKeys = NO_KEYS, seen: str | None = None, note: str = ""
    ) -> ChannelPointer:
        """Point a channel back to the version before; see `ModelRegistry.rollback`."""
        note = checked_note(note)
        pointer, before = self.require(name, channel)
        refuse_unseen(before, name, channel, seen)
        if keys.continued(before, self._root) is None:
            raise BadInputError(
                f"Channel {channel!r} of {name!r} is not signed: whoever may write to the bucket could have made up "
                "what it served before.",
                hint=f"Look at it with `hpe channel show {name} --channel {channel}`, and if it is right sign it with "
                f"`hpe channel sign {name} --channel {channel}`; or promote the version that you want.",
            )
        if not pointer.history:
            raise BadInputError(
                f"Channel {channel!r} of {name!r} served nothing before: there is no version to go back to.",
                hint="Promote the version that you want.",
            )
        target, *older = pointer.history
        stored = self._versions.require_whole(name, target.version, sha256=target.manifest_sha256)
        self._sign_anew(stored, keys)
        return self._move(before, target, name, channel, "rollback", tuple(older), keys, note)

    def sign(self, name: str, channel: str, keys: ChannelKeys) -> ChannelPointer:
        """Sign what a channel serves, and served before, as it is; see `ModelRegistry.sign`."""
        pointer, before = self.require(name, channel)
        open_signing_key(None, required_because=None if keys.signing_key else "a channel is to be signed")
        keys.standing(before, self._root)
        self._sign_anew(self._versions.require_whole(name, pointer.version, sha256=pointer.manifest_sha256), keys)
        for entry in pointer.history:
            earlier = self._versions.find(name, entry.version)
            if earlier is not None and earlier.sha256 == entry.manifest_sha256:
                self._versions.sign_anew(earlier, keys)
        return self._move(before, pointer.entry, name, channel, "sign", pointer.history, keys)

    @property
    def _root(self) -> str:
        return str(self._layout.root)

    def _sign_anew(self, stored: StoredManifest, keys: ChannelKeys) -> None:
        keys.warn_of_manifest(stored, self._versions.sign_anew(stored, keys))

    def _point(
        self,
        before: ChannelState,
        stored: StoredManifest,
        channel: str,
        published: PublishedModel | None,
        keys: ChannelKeys,
        note: str,
    ) -> None:
        manifest = stored.manifest
        target = ChannelEntry(version=manifest.version, manifest_sha256=stored.sha256)
        begins_anew = keys.continued(before, self._root) is None
        self._sign_anew(stored, keys)
        if before.pointer is None:
            history: tuple[ChannelEntry, ...] = ()
        elif before.pointer.version != target.version:
            history = (before.pointer.entry, *before.pointer.history)
        elif before.pointer.entry == target:
            if keys.belongs(before, self._root):
                self._log.mend(before.pointer)
                self._holds.state(manifest.name, channel, before)
                return
            history = before.pointer.history
        elif published is not None and published.created:
            # The manifest was deleted from the registry, and this publication mended it.
            history = before.pointer.history
        else:
            raise self._versions.damaged(
                manifest.name, manifest.version, "its SHA-256 is not the one that the channel points to"
            )
        if begins_anew and history:
            log.warning(
                "Channel %r of %r was not signed: what it served before is not taken over, and a rollback does not go "
                "there. `hpe channel sign`, before anything is promoted, would keep it.",
                channel,
                manifest.name,
            )
            history = ()
        reason: Reason = "promote" if published is None else "publish"
        by = self._actor or ("" if published is None else manifest.provenance.created_by)
        self._move(before, target, manifest.name, channel, reason, history, keys, note, by=by)

    def _move(
        self,
        before: ChannelState,
        target: ChannelEntry,
        name: str,
        channel: str,
        reason: Reason,
        history: tuple[ChannelEntry, ...],
        keys: ChannelKeys,
        note: str = "",
        *,
        by: str = "",
    ) -> ChannelPointer:
        """Move a channel and write that into the log, if neither pin nor retirement is against it."""
        served = before.pointer.version if before.pointer else None
        if served != target.version:
            self._refuse_pinned_or_retired(name, channel, before, target.version)
        try:
            pointer = move_channel(
                self._client,
                self._layout.pointer(name, channel),
                before,
                target,
                name=name,
                channel=channel,
                reason=reason,
                moved_by=by or self._actor,
                history=history,
                registry=self._root,
                keys=keys,
            )
        except ChannelConflictError:
            now = self.state(name, channel)
            if now.pointer is None or now.pointer != before.pointer or now.etag == before.etag:
                raise
            # It was not moved: somebody has shut us out, who has pinned or retired something.
            return self._move(now, target, name, channel, reason, history, keys, note, by=by)
        self._log.add_move(pointer, previous=served, note=note)
        if before.pointer is None:
            self._holds.state(name, channel, ChannelState(pointer, None))
        return pointer

    def _refuse_pinned_or_retired(self, name: str, channel: str, before: ChannelState, version: str) -> None:
        state = self._holds.state(name, channel, before)
        if (pinned := state.pinned.get(channel)) is not None:
            raise BadInputError(
                f"Channel {channel!r} of {name!r} is pinned to version {pinned.version} "
                f"({self._log.read(name, pinned).told}): it stays as it is.",
                hint=f"Unpin it first, if version {version} is to be served.",
            )
        if (retired := state.retired.get(version)) is not None:
            raise BadInputError(
                f"Version {version} of {name!r} is retired ({self._log.read(name, retired).told}): no channel may "
                "serve it.",
                hint="Promote another version; or take the retirement back first, if it is to be served all the same.",
            )


def described(pointer: ChannelPointer | None) -> str:
    """What a channel serves, in words that follow "it" or its name."""
    if pointer is None:
        return "does not exist"
    by = f" by {pointer.moved_by}" if pointer.moved_by else ""
    return f"serves version {pointer.version} ({pointer.reason}{by} at {pointer.moved_at:%Y-%m-%d %H:%M:%S %Z})"


def refuse_unseen(now: ChannelState, name: str, channel: str, seen: str | None) -> None:
    """Refuse to act on a channel that is not as whoever asks for it was shown.

    Args:
        now: The channel as it is.
        name: Its model.
        channel: Its name.
        seen: ETag of what was shown; empty where it did not exist, None where nobody says what was shown.

    Raises:
        ChannelConflictError: It is another.
    """
    if seen is not None and seen != (now.etag or ""):
        raise ChannelConflictError(
            f"Channel {channel!r} of {name!r} was changed since it was looked at: it {described(now.pointer)}.",
            hint="Nothing was done. Look at it again, and decide anew.",
        )


def _refuse_to_go_back(now: ChannelPointer, published: PublishedModel) -> None:
    """Refuse to complete a publication in a channel that has gone on to a version that it did not see."""
    seen = published.before
    if seen is None or seen.channel != now.channel or now.version in (seen.version, published.version):
        return
    raise ChannelConflictError(
        f"Channel {now.channel!r} of {now.name!r} {described(now)}: it was moved after version {published.version} was "
        "published, and stays where it is.",
        hint=f"To serve {published.version} all the same: "
        f"`hpe channel promote {now.name} {published.version} --channel {now.channel}`.",
    )
