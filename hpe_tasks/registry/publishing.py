"""The model registry in S3: content-addressed blobs, immutable versions, and channels that point to them.

Layout below the registry's prefix::

    blobs/sha256/<hex>                                 files, stored once whatever their number of versions
    models/<name>/versions/<version>/manifest.json     created once, never changed
    models/<name>/versions/<version>/manifest.json.sig Ed25519 signature over those bytes, if it was signed
    models/<name>/channels/<channel>.json              pointer, changed by compare-and-swap, with its signature in it

Storing a version writes blobs, then the manifest, then its signature: what is signed is what was created, also when
two publishers meet. Moving a channel to it is a step of its own. A crash between any two of them leaves every channel
as it was, and what was written already is found and kept when the publication is tried again.

Needs s3:GetObject and s3:PutObject below the prefix, and s3:ListBucket on the bucket: without the latter AWS answers
"access denied" for an object that does not exist yet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.contract.keys import POINTER_SUFFIX
from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.errors import (
    AccessError,
    BadInputError,
    ChannelConflictError,
    DigestError,
    NotApprovedError,
)
from hpe_tasks.records.release import PromotedModel, PublishedModel, ServedBefore
from hpe_tasks.registry.channel_keys import NO_KEYS, ChannelKeys
from hpe_tasks.registry.channels import ChannelEntry, ChannelPointer, ChannelState, move_channel, read_channel
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.signing import open_signing_key
from hpe_tasks.registry.stored_versions import StoredManifest, StoredVersions
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.s3 import S3Location, s3_errors
from hpe_tasks.storage.s3_objects import download

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.signing import SigningKey


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredVersion:
    """A version in the registry.

    Attributes:
        published_at: When its manifest was created.
        channels: Channels that serve it now.
    """

    version: str
    published_at: datetime
    channels: tuple[str, ...]


class ModelRegistry:
    """Models in one bucket and prefix.

    Args:
        client: Must stay usable for the registry's lifetime; a boto3 client may be shared between threads.
        location: Bucket and prefix.
        actor: Who moves channels, as their pointers will say; by default the publisher that the manifest names.
    """

    def __init__(self, client: S3Client, location: S3Location, *, actor: str = "") -> None:
        self._client = client
        self._layout = RegistryLayout(location)
        self._versions = StoredVersions(client, self._layout)
        self._actor = actor

    def store(
        self,
        manifest: ModelManifest,
        files: Mapping[str, Path],
        signing_key: SigningKey | None = None,
        *,
        channel: str | None = None,
    ) -> PublishedModel:
        """Store a version; no channel points to it yet.

        Doing it twice is the same as doing it once: blobs that are there are not uploaded again, and the manifest that
        was published first stays. With a key that manifest is signed, unless a signature of this key is there already;
        a signature that does not belong to this key is replaced.

        Args:
            manifest: What is published.
            files: Where each of the manifest's files lies on this machine, by role.
            signing_key: Signs the manifest; without one, a signature that is there stays.
            channel: The channel that is to serve the version: what it serves now goes into the record.

        Raises:
            NotApprovedError: The manifest holds a gate that did not pass.
            DigestError: A file is not the one that the manifest describes, or the registry is corrupt.
            AccessError: The bucket does not exist, or it refuses the credentials.
            TransientError: The server cannot be reached, or failed.
        """
        if not manifest.gate.passed:
            raise NotApprovedError(
                f"Version {manifest.version} of {manifest.name!r} did not pass its gate: {manifest.gate.reason}.",
                hint="Improve the model, or change the limits in the run's configuration.",
            )
        sources = _local_sources(manifest, files)
        before = None if channel is None else self._served_before(manifest.name, channel)
        stored = self._versions.find(manifest.name, manifest.version)
        for file in (stored.manifest if stored else manifest).files:
            self._versions.store_blob(file, sources.get(file.sha256))
        created = stored is None
        if stored is None:
            stored, created = self._versions.create(manifest)
        if signing_key is not None:
            self._versions.sign(stored, signing_key)
        return PublishedModel(
            registry=str(self._layout.root),
            name=manifest.name,
            version=manifest.version,
            manifest=self._versions.artifact(stored),
            created=created,
            signed_by=signing_key.public_sha256 if signing_key else None,
            before=before,
        )

    def show(self, name: str, channel: str) -> ChannelPointer:
        """What a channel serves, and what it served before; raises AccessError when there is no such channel."""
        return self._require_channel(name, channel)[0]

    def is_signed(self, name: str, channel: str) -> bool:
        """Whether a channel's pointer has a signature, so that it can only be moved with a key."""
        pointer = read_channel(self._client, self._layout.pointer(name, channel)).pointer
        return pointer is not None and pointer.signature is not None

    def models(self) -> tuple[str, ...]:
        """Names of the models, sorted."""
        root = self._layout.models
        with s3_errors(root, "listing"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=root.bucket, Prefix=f"{root.key}/", Delimiter="/"
            )
            folders = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
        return tuple(sorted(folder.rstrip("/").rpartition("/")[2] for folder in folders))

    def verify(self, name: str, version: str, *, sha256: str | None = None) -> StoredManifest:
        """The manifest of a version of which every file is in the registry and whole.

        Raises:
            AccessError: There is no such version.
            DigestError: Its manifest or one of its files is damaged or missing.
        """
        return self._versions.require_whole(name, version, sha256=sha256)

    def channels(self, name: str) -> tuple[str, ...]:
        """Names of the model's channels, sorted."""
        return tuple(sorted(key.removesuffix(POINTER_SUFFIX) for key in self._list(self._layout.channels(name))))

    def versions(self, name: str) -> tuple[StoredVersion, ...]:
        """The model's versions, latest first."""
        served: dict[str, list[str]] = {}
        for channel in self.channels(name):
            served.setdefault(self.show(name, channel).version, []).append(channel)
        found = self._list(self._layout.versions(name))
        versions = (
            StoredVersion(version, at, tuple(served.get(version, ())))
            for version, at in ((key.removesuffix(f"/{MANIFEST}"), at) for key, at in found.items())
        )
        return tuple(sorted(versions, key=lambda v: (v.published_at, v.version), reverse=True))

    def stored(self, name: str, version: str, *, sha256: str | None = None) -> StoredManifest:
        """Read a version's manifest and verify it; with `sha256`, against the digest that a channel's pointer holds.

        Raises:
            AccessError: There is no such version.
            DigestError: The manifest is damaged, or is not the one that was asked for.
        """
        return self._versions.require(name, version, sha256=sha256)

    def signature(self, name: str, version: str) -> bytes | None:
        """The signature file of a version's manifest, base64 text; None for a version that is not signed."""
        return self._versions.signature(name, version)

    def served(self, name: str, channel: str) -> ModelManifest:
        """The verified manifest of the version that a channel serves."""
        pointer = self.show(name, channel)
        return self.stored(name, pointer.version, sha256=pointer.manifest_sha256).manifest

    def download(self, manifest: ModelManifest, role: str, destination: Path) -> Path:
        """Fetch one file of a version; it appears at `destination` whole and verified, or not at all.

        Raises:
            BadInputError: The version has no such file.
            DigestError: The blob is damaged.
            StorageError: The file cannot be written here.
        """
        file = manifest.file(role)
        download(self._client, self._layout.root / file.blob, destination, file.sha256)
        return destination

    def download_graph(self, manifest: ModelManifest, role: str, destination: Path) -> Path | None:
        """Fetch the graph of a role as `download` does; None where the version has none, as older ones have."""
        has = any(file.role == role for file in manifest.files)
        return self.download(manifest, role, destination) if has else None

    def promote(
        self,
        name: str,
        version: str,
        channel: str,
        *,
        published: PublishedModel | None = None,
        keys: ChannelKeys = NO_KEYS,
    ) -> PromotedModel:
        """Point a channel, new or not, to a version that is in the registry and whole.

        With a key its pointer is signed, and so is a manifest that the key before this one has signed. A channel that
        nobody has signed yet begins anew then: its history is not taken over.

        Args:
            name: Name of the model.
            version: The version to serve.
            channel: The channel to move.
            published: What `store` returned, where the move completes a publication. The manifest must still be the
                one that it stored, and the channel must not have gone on to a version that `store` did not see; a
                channel that points to a manifest that was lost, and that this publication created anew, is mended.
            keys: Of the channel. One that is signed is moved with its key only.

        Raises:
            AccessError: There is no such version.
            ConfigError: The channel is signed, and there is no key.
            DigestError: The version's manifest or one of its files is damaged or missing.
            ChannelConflictError: Another publisher moved the channel since this call began, or since `published`.
                Theirs is served; the version is in the registry all the same, and can be promoted.
        """
        # The state that the swap is later conditioned on: whoever moves the channel from here on wins over us.
        before = read_channel(self._client, self._layout.pointer(name, channel))
        if published is not None and before.pointer is not None:
            _refuse_to_go_back(before.pointer, published)
        stored = self._versions.require_whole(name, version, sha256=published.manifest.sha256 if published else None)
        self._point(before, stored, channel, published, keys)
        return PromotedModel(
            registry=str(self._layout.root),
            name=name,
            version=version,
            channel=channel,
            previous_version=before.pointer.version if before.pointer else None,
        )

    def rollback(self, name: str, channel: str, *, keys: ChannelKeys = NO_KEYS) -> ChannelPointer:
        """Point a channel back to the version before; again, and it goes back one further.

        Of several at the same time each goes back one step of its own, or is told that it did not.

        Returns:
            The pointer that this call wrote.

        Raises:
            BadInputError: The channel served nothing before; or it is not signed, and there is a key.
            ChannelConflictError: Another publisher moved the channel meanwhile, back or on; this call moved nothing.
            ConfigError: The channel is signed, and there is no key.
        """
        pointer, before = self._require_channel(name, channel)
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
        return move_channel(
            self._client,
            self._layout.pointer(name, channel),
            before,
            target,
            name=name,
            channel=channel,
            reason="rollback",
            moved_by=self._actor,
            history=tuple(older),
            registry=self._root,
            keys=keys,
        )

    def sign(self, name: str, channel: str, keys: ChannelKeys) -> ChannelPointer:
        """Sign what a channel serves, and served before, as it is: its pointer, and manifests that were signed before.

        A manifest is signed anew only where the key that signed it is accepted.

        Returns:
            The pointer that this call wrote.

        Raises:
            ChannelConflictError: Another publisher moved the channel meanwhile; nothing was signed.
            ConfigError: There is no key.
            DigestError: It is signed with another key; or the version that it serves is damaged.
        """
        pointer, before = self._require_channel(name, channel)
        open_signing_key(None, required_because=None if keys.signing_key else "a channel is to be signed")
        keys.standing(before, self._root)
        self._sign_anew(self._versions.require_whole(name, pointer.version, sha256=pointer.manifest_sha256), keys)
        for entry in pointer.history:
            earlier = self._versions.find(name, entry.version)
            if earlier is not None and earlier.sha256 == entry.manifest_sha256:
                self._versions.sign_anew(earlier, keys)
        return move_channel(
            self._client,
            self._layout.pointer(name, channel),
            before,
            pointer.entry,
            name=name,
            channel=channel,
            reason="sign",
            moved_by=self._actor,
            history=pointer.history,
            registry=self._root,
            keys=keys,
        )

    @property
    def _root(self) -> str:
        return str(self._layout.root)

    def _sign_anew(self, stored: StoredManifest, keys: ChannelKeys) -> None:
        keys.warn_of_manifest(stored, self._versions.sign_anew(stored, keys))

    def _served_before(self, name: str, channel: str) -> ServedBefore:
        pointer = read_channel(self._client, self._layout.pointer(name, channel)).pointer
        return ServedBefore(channel=channel, version=pointer.version if pointer else None)

    def _require_channel(self, name: str, channel: str) -> tuple[ChannelPointer, ChannelState]:
        state = read_channel(self._client, self._layout.pointer(name, channel))
        if state.pointer is None:
            known = ", ".join(self.channels(name)) or "none"
            raise AccessError(
                f"Model {name!r} has no channel {channel!r} in {self._layout.root}.", hint=f"Its channels: {known}."
            )
        return state.pointer, state

    def _point(
        self,
        before: ChannelState,
        stored: StoredManifest,
        channel: str,
        published: PublishedModel | None,
        keys: ChannelKeys,
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
        move_channel(
            self._client,
            self._layout.pointer(manifest.name, channel),
            before,
            target,
            name=manifest.name,
            channel=channel,
            reason="promote" if published is None else "publish",
            moved_by=self._actor or ("" if published is None else manifest.provenance.created_by),
            history=history,
            registry=self._root,
            keys=keys,
        )

    def _list(self, prefix: S3Location) -> dict[str, datetime]:
        """Keys below a prefix, relative to it, with the time of their last change."""
        root = f"{prefix.key}/"
        with s3_errors(prefix, "listing"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=root)
            return {
                entry["Key"].removeprefix(root): entry["LastModified"]
                for page in pages
                for entry in page.get("Contents", ())
                if entry["Key"].endswith(".json")
            }


def _refuse_to_go_back(now: ChannelPointer, published: PublishedModel) -> None:
    """Refuse to complete a publication in a channel that has gone on to a version that it did not see."""
    seen = published.before
    if seen is None or seen.channel != now.channel or now.version in (seen.version, published.version):
        return
    by = f" by {now.moved_by}" if now.moved_by else ""
    raise ChannelConflictError(
        f"Channel {now.channel!r} of {now.name!r} serves version {now.version} ({now.reason}{by} at "
        f"{now.moved_at:%Y-%m-%d %H:%M:%S %Z}): it was moved after version {published.version} was "
        "published, and stays where it is.",
        hint=f"To serve {published.version} all the same: "
        f"`hpe channel promote {now.name} {published.version} --channel {now.channel}`.",
    )


def _local_sources(manifest: ModelManifest, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files by digest, after checking that they are those that the manifest describes."""
    expected = {file.role for file in manifest.files}
    if set(files) != expected:
        raise BadInputError(
            f"The manifest describes the files {sorted(expected)}, but {sorted(files)} were given.",
            hint="Give the path of each file, by its role.",
        )
    sources: dict[str, Path] = {}
    for file in manifest.files:
        path = files[file.role]
        if not path.is_file():
            raise BadInputError(
                f"The {file.role} file {path} does not exist.", hint="Run the step that makes it again."
            )
        actual = sha256_file(path)
        if actual != file.sha256:
            raise DigestError(
                f"The {file.role} file {path} has the SHA-256 {actual}, the manifest says {file.sha256}.",
                hint="The file was changed after it was measured: run the steps again.",
            )
        sources[file.sha256] = path
    return sources
