"""Versions as the registry holds them: blobs, the manifest that describes them, and its signature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hpe_tasks.errors import (
    AccessError,
    DigestError,
)
from hpe_tasks.records.base import Artifact
from hpe_tasks.registry.layout import MANIFEST_LIMIT_BYTES, SIGNATURE_LIMIT_BYTES, RegistryLayout
from hpe_tasks.registry.manifest import ManifestFile, ModelManifest
from hpe_tasks.registry.signing import signer_among
from hpe_tasks.storage.s3_objects import get_bytes, is_stored, put_bytes, put_new_bytes, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.channel_keys import ChannelKeys
    from hpe_tasks.registry.signing import SigningKey


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as the registry holds it: the bytes that its digest and its signature are about."""

    manifest: ModelManifest
    data: bytes

    @property
    def sha256(self) -> str:
        """Digest of the bytes, as channels point to it."""
        return hashlib.sha256(self.data).hexdigest()


class StoredVersions:
    """Reads and writes versions; what a channel serves is not its concern.

    Args:
        client: Must stay usable for as long as this is.
        layout: Where everything lies.
    """

    def __init__(self, client: S3Client, layout: RegistryLayout) -> None:
        self._client = client
        self._layout = layout

    def find(self, name: str, version: str) -> StoredManifest | None:
        """Read a version's manifest and verify it; None where there is none."""
        location = self._layout.manifest(name, version)
        found = get_bytes(self._client, location, "reading the manifest", limit_bytes=MANIFEST_LIMIT_BYTES)
        if found is None:
            return None
        try:
            manifest = ModelManifest.model_validate_json(found.data)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise self.damaged(name, version, f"{where or 'content'}: {problem['msg']}") from error
        if (manifest.name, manifest.version) != (name, version):
            raise self.damaged(name, version, f"it describes {manifest.name!r} {manifest.version}")
        return StoredManifest(manifest, found.data)

    def require(self, name: str, version: str, *, sha256: str | None = None) -> StoredManifest:
        """Read a version's manifest and verify it; with `sha256`, against the digest that a channel's pointer holds.

        Raises:
            AccessError: There is no such version.
            DigestError: The manifest is damaged, or is not the one that was asked for.
        """
        stored = self.find(name, version)
        if stored is None:
            raise AccessError(
                f"Model {name!r} has no version {version!r} in {self._layout.root}.",
                hint="List its versions, or publish it first.",
            )
        if sha256 is not None and stored.sha256 != sha256:
            raise self.damaged(name, version, f"its SHA-256 is {stored.sha256}, not {sha256}")
        return stored

    def require_whole(self, name: str, version: str, *, sha256: str | None) -> StoredManifest:
        """As `require`, of a version whose files are all there and whole."""
        stored = self.require(name, version, sha256=sha256)
        for file in stored.manifest.files:
            self.store_blob(file, None)
        return stored

    def create(self, manifest: ModelManifest) -> tuple[StoredManifest, bool]:
        """Create the manifest; (the one that is there, whether it is ours)."""
        data = manifest.to_bytes()
        location = self._layout.manifest(manifest.name, manifest.version)
        created = put_new_bytes(self._client, location, data, "creating the manifest")
        stored = self.require(manifest.name, manifest.version)
        if created and stored.sha256 != hashlib.sha256(data).hexdigest():
            raise self.damaged(manifest.name, manifest.version, "it reads back differently than it was written")
        # Not created: another publisher of the same version was faster, or our own write was sent twice.
        return stored, created or stored.manifest == manifest

    def store_blob(self, file: ManifestFile, source: Path | None) -> None:
        """Make sure that a blob is there and whole; a damaged one is replaced when its content is at hand."""
        location = self._layout.root / file.blob
        if is_stored(self._client, location, file.sha256, file.size_bytes):
            return
        if source is None:
            raise DigestError(
                f"{location} is damaged or missing: it is the {file.role} of a version that is published already.",
                hint=f"Put the file with the SHA-256 {file.sha256} back under that key.",
            )
        upload(self._client, source, location, file.sha256)

    def sign(self, stored: StoredManifest, key: SigningKey) -> None:
        """Sign the bytes that are stored, unless that is done."""
        location = self._layout.signature(stored.manifest.name, stored.manifest.version)
        found = get_bytes(self._client, location, "reading the signature", limit_bytes=SIGNATURE_LIMIT_BYTES)
        if found is None or not key.signed(stored.data, found.data):
            put_bytes(self._client, location, key.sign(stored.data), "writing the signature")

    def sign_anew(self, stored: StoredManifest, keys: ChannelKeys) -> bytes | None:
        """Put the signature of this key in place of one by another that is accepted; the one that is there then."""
        found = self.signature(stored.manifest.name, stored.manifest.version)
        key = keys.signing_key
        if found is None or key is None or key.signed(stored.data, found):
            return found
        if signer_among(keys.public_keys, stored.data, found) is None:
            return found
        self.sign(stored, key)
        return key.sign(stored.data)

    def signature(self, name: str, version: str) -> bytes | None:
        """The signature file of a version's manifest, base64 text; None for a version that is not signed."""
        location = self._layout.signature(name, version)
        found = get_bytes(self._client, location, "reading the signature", limit_bytes=SIGNATURE_LIMIT_BYTES)
        return None if found is None else found.data

    def artifact(self, stored: StoredManifest) -> Artifact:
        """Where a manifest lies, with its digest."""
        location = self._layout.manifest(stored.manifest.name, stored.manifest.version)
        return Artifact(uri=str(location), sha256=stored.sha256, size_bytes=len(stored.data))

    def damaged(self, name: str, version: str, problem: str) -> DigestError:
        """The error of a manifest that is not what it should be."""
        return DigestError(
            f"The manifest {self._layout.manifest(name, version)} is corrupt: {problem}.",
            hint="Restore the earlier version of that object, or delete it and publish the model again.",
        )
