"""The model registry in S3: content-addressed blobs, immutable versions, and channels that point to them.

Layout below the registry's prefix::

    blobs/sha256/<hex>                                 files, stored once whatever their number of versions
    models/<name>/versions/<version>/manifest.json     created once, never changed
    models/<name>/versions/<version>/manifest.json.sig Ed25519 signature over those bytes, if it was signed
    models/<name>/channels/<channel>.json              pointer, changed by compare-and-swap, with its signature in it
    models/<name>/log/<time>_<action>_….json           who did what, when and why; each created once, never changed

Storing a version writes blobs, then the manifest, then its signature: what is signed is what was created, also when
two publishers meet. Moving a channel to it is a step of its own. A crash between any two of them leaves every channel
as it was, and what was written already is found and kept when the publication is tried again.

Needs s3:GetObject and s3:PutObject below the prefix, and s3:ListBucket on the bucket: without the latter AWS answers
"access denied" for an object that does not exist yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.errors import (
    BadInputError,
    DigestError,
    NotApprovedError,
)
from hpe_tasks.records.release import PromotedModel, PublishedModel
from hpe_tasks.registry.channel_keys import NO_KEYS, ChannelKeys
from hpe_tasks.registry.channels import ChannelPointer, ChannelState
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.log import RegistryLog
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.moves import ChannelMoves
from hpe_tasks.registry.stored_versions import StoredManifest, StoredVersions
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.s3 import S3Location, s3_errors
from hpe_tasks.storage.s3_objects import download, list_keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.signing import SigningKey


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

    Attributes:
        log: Who did what to the models' versions and channels.
    """

    def __init__(self, client: S3Client, location: S3Location, *, actor: str = "") -> None:
        self._client = client
        self._layout = RegistryLayout(location)
        self._versions = StoredVersions(client, self._layout)
        self._moves = ChannelMoves(client, self._layout, self._versions, actor)
        self.log = RegistryLog(client, self._layout)

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
        before = None if channel is None else self._moves.served_before(manifest.name, channel)
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
        return self._moves.require(name, channel)[0]

    def state(self, name: str, channel: str) -> ChannelState:
        """A channel's pointer with its ETag, for `promote` and `rollback`; both None where there is no such channel."""
        return self._moves.state(name, channel)

    def is_signed(self, name: str, channel: str) -> bool:
        """Whether a channel's pointer has a signature, so that it can only be moved with a key."""
        pointer = self.state(name, channel).pointer
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
        return self._moves.names(name)

    def versions(self, name: str) -> tuple[StoredVersion, ...]:
        """The model's versions, latest first."""
        served: dict[str, list[str]] = {}
        for channel in self.channels(name):
            served.setdefault(self.show(name, channel).version, []).append(channel)
        found = list_keys(self._client, self._layout.versions(name))
        versions = (
            StoredVersion(version, at, tuple(served.get(version, ())))
            for version, at in (
                (key.removesuffix(f"/{MANIFEST}"), at) for key, at in found.items() if key.endswith(MANIFEST)
            )
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
        seen: str | None = None,
        note: str = "",
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
            seen: ETag of the pointer that whoever asks was shown, empty for a channel that did not exist: the channel
                must still be so. None moves it from where it is.
            note: Why, for the log.

        Raises:
            AccessError: There is no such version.
            BadInputError: The channel is pinned to another version, or the version is retired.
            ConfigError: The channel is signed, and there is no key.
            DigestError: The version's manifest or one of its files is damaged or missing.
            ChannelConflictError: Another publisher moved the channel since this call began, or since `published`.
                Theirs is served; the version is in the registry all the same, and can be promoted.
        """
        return self._moves.promote(name, version, channel, published=published, keys=keys, seen=seen, note=note)

    def rollback(
        self, name: str, channel: str, *, keys: ChannelKeys = NO_KEYS, seen: str | None = None, note: str = ""
    ) -> ChannelPointer:
        """Point a channel back to the version before; again, and it goes back one further.

        Of several at the same time each goes back one step of its own, or is told that it did not. `seen` and `note`
        are as those of `promote`.

        Returns:
            The pointer that this call wrote.

        Raises:
            BadInputError: The channel served nothing before, or is pinned; what it served before is retired; or it is
                not signed, and there is a key.
            ChannelConflictError: Another publisher moved the channel meanwhile, back or on; this call moved nothing.
            ConfigError: The channel is signed, and there is no key.
        """
        return self._moves.rollback(name, channel, keys=keys, seen=seen, note=note)

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
        return self._moves.sign(name, channel, keys)


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
