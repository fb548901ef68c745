"""What the pages read, and act on: the registry and the workspace that this API server is set up for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from hpe_airflow.connections import s3_client, signing_key
from hpe_tasks.catalogue.index import Catalogue, list_versions
from hpe_tasks.catalogue.runs import RunSummary, list_runs
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.run import DestinationConfig
from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.registry.channel_keys import ChannelKeys, keys_at_hand
from hpe_tasks.registry.operations import Operations
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import signer_among
from hpe_tasks.storage.opening import open_workspace
from hpe_tasks.storage.s3 import S3Location, s3_errors
from hpe_tasks.watching import moves

if TYPE_CHECKING:
    from hpe_tasks.registry.log import Action
    from hpe_tasks.registry.manifest import ManifestFile

PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
"""What is shown as a picture, by how files begin."""

SignatureState = Literal["not signed", "signed, not checked", "signed", "wrong signature"]
"""Of a manifest; not checked where the server knows no public key."""

_CHUNK_BYTES = 1 << 20
LARGEST_PICTURE_BYTES = 12_000_000


def registry_address() -> S3Location:
    """HPE_REGISTRY, or else what runs publish to that are not told otherwise."""
    return S3Location.parse(os.environ.get("HPE_REGISTRY") or DestinationConfig().registry)


def catalogue() -> Catalogue:
    """All versions and channels; none where the bucket is not there yet, as before the first run."""
    location = registry_address()
    try:
        return list_versions(s3_client(), location, Settings.from_environment().cache)
    except AccessError:
        client = s3_client()
        with s3_errors(location, "looking for the bucket"):
            if location.bucket in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                raise
        return Catalogue(registry=str(location), versions=(), channels=())


def runs() -> tuple[RunSummary, ...]:
    """All runs of the workspace, those that began last first."""
    places = Settings.from_environment()
    return list_runs(places.workspace, places.cache, s3_client)


def registry(actor: str = "") -> ModelRegistry:
    """The registry; who moves a channel is told by `actor`."""
    return ModelRegistry(s3_client(), registry_address(), actor=actor)


def operations(actor: str) -> Operations:
    """What is done to versions beside moving a channel."""
    return Operations(s3_client(), registry_address(), actor=actor)


def keys() -> ChannelKeys:
    """The keys that channels are moved with."""
    return keys_at_hand(signing_key(), Settings.from_environment().public_key)


def mark_told(name: str, channel: str, version: str, action: Action) -> None:
    """Remember that people were told of a channel's last such move to this version."""
    made = [
        entry.entry
        for entry in registry().log.entries(name)
        if (entry.channel, entry.version, entry.action) == (channel, version, action)
    ]
    places = Settings.from_environment()
    workspace = open_workspace(places.workspace, s3=s3_client, cache=places.cache)
    for entry in made[-1:]:
        moves.mark_told(workspace, entry)


def signature_state(manifest: bytes, signature: bytes | None) -> SignatureState:
    """What a version's signature is worth here: by this server's own key, and those of HPE_PUBLIC_KEY.

    Args:
        manifest: The manifest's bytes.
        signature: Its signature file; None without one.

    Raises:
        ConfigError: What is given for a key is none.
    """
    if signature is None:
        return "not signed"
    accepted = keys().accepted
    if not accepted:
        return "signed, not checked"
    return "signed" if signer_among(accepted, manifest, signature) is not None else "wrong signature"


def streamed(file: ManifestFile) -> Iterator[bytes]:
    """A file of a version, a piece after the other; raises before the first where it is not there.

    Whoever reads it gets the last piece only where all are those that the manifest describes.

    Raises:
        AccessError: It is missing.
        DigestError: It has another SHA-256.
    """
    location = registry_address() / file.blob
    with s3_errors(location, "reading"):
        body = s3_client().get_object(Bucket=location.bucket, Key=location.key)["Body"]
    return _verified(location, file, body.iter_chunks(_CHUNK_BYTES))


def _verified(location: S3Location, file: ManifestFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    digest, held = hashlib.sha256(), b""
    with s3_errors(location, "reading"):
        for chunk in chunks:
            digest.update(chunk)
            if held:
                yield held
            held = chunk
    if digest.hexdigest() != file.sha256:
        raise DigestError(f"{location} is damaged.", hint="Put the file with the digest that the manifest names back.")
    yield held


def picture(file: ManifestFile) -> bytes:
    """A picture of a version, whole and verified.

    Raises:
        DigestError: It is damaged, or larger than a picture.
    """
    if file.size_bytes > LARGEST_PICTURE_BYTES:
        raise DigestError(f"The {file.role} has {file.size_bytes:,} bytes.", hint="Download it.")
    return b"".join(streamed(file))
