"""All models, channels and versions of a registry, as it is now, and fast with a thousand versions.

A registry is listed anew each time: one listing tells every manifest and pointer with its ETag. What a manifest says
is kept in a file of this machine's cache with the ETag that it was read under, and used only where the registry still
lists that one. So the file can save reading and nothing else: what changed is read anew, what was deleted is gone, and
a file that is damaged, or that another version of this code wrote, is made again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import ValidationError

from hpe_tasks.catalogue.kept_rows import KeptRow, KeptRows
from hpe_tasks.catalogue.summaries import ChannelSummary, VersionSummary, channel_summary, summary_of
from hpe_tasks.contract.keys import POINTER_SUFFIX
from hpe_tasks.contract.names import MANIFEST, SIGNATURE, SLUG, VERSION
from hpe_tasks.errors import DigestError
from hpe_tasks.records.base import Record
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.storage.s3 import S3Location, s3_errors
from hpe_tasks.storage.s3_objects import get_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_FORMAT = 1
"""Higher with each change of what a row says of the same manifest; new fields count by themselves."""

_THREADS = 8
"""Fewer than a client keeps connections."""

_MANIFEST_KEY = re.compile(rf"(?P<name>{SLUG})/versions/(?P<item>{VERSION})/{re.escape(MANIFEST)}")
_SIGNATURE_KEY = re.compile(rf"(?P<name>{SLUG})/versions/(?P<item>{VERSION})/{re.escape(SIGNATURE)}")
_POINTER_KEY = re.compile(rf"(?P<name>{SLUG})/channels/(?P<item>{SLUG}){re.escape(POINTER_SUFFIX)}")

R = TypeVar("R", bound=VersionSummary | ChannelSummary)
Row_co = TypeVar("Row_co", bound=VersionSummary | ChannelSummary, covariant=True)


class Catalogue(Record):
    """What a registry holds.

    Attributes:
        registry: s3://bucket/prefix.
        versions: Of all models, latest first.
        channels: Of all models, by model and name.
        read_anew: How many manifests and pointers were read; the others are known from before, by their ETags.
    """

    registry: str
    versions: tuple[VersionSummary, ...]
    channels: tuple[ChannelSummary, ...]
    read_anew: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that have a version or a channel, sorted."""
        return tuple(sorted({row.name for row in self.versions} | {row.name for row in self.channels}))


@dataclass(frozen=True)
class _Listed:
    """An object as the registry lists it."""

    name: str
    item: str
    etag: str
    modified: datetime


def list_versions(client: S3Client, root: S3Location, cache_folder: Path) -> Catalogue:
    """All models, channels and versions of a registry; none where there is nothing below its prefix.

    A manifest or pointer that is damaged has a row that says so.

    Args:
        client: May be shared between threads, as boto3's are.
        root: Bucket and prefix.
        cache_folder: As HPE_CACHE names it. Where nothing can be written there, each call reads everything.

    Raises:
        AccessError: The bucket does not exist, or refuses the credentials.
        TransientError: The server cannot be reached, or failed.
    """
    layout = RegistryLayout(root)
    manifests, pointers, signed = _listing(client, layout)
    which = f"{client.meta.endpoint_url} {root}"
    reading = _Reading(client, layout.models)
    versions = reading.rows(manifests, KeptRows(cache_folder, which, VersionSummary, _FORMAT), _Manifests())
    channels = reading.rows(pointers, KeptRows(cache_folder, which, ChannelSummary, _FORMAT), _Pointers())
    served: dict[tuple[str, str], list[str]] = {}
    for pointer in sorted(channels.values(), key=lambda row: row.channel):
        if pointer.version is not None:
            served.setdefault((pointer.name, pointer.version), []).append(pointer.channel)
    rows = (
        row.model_copy(
            update={"signed": key in signed, "channels": tuple(served.get((row.name, row.version), ()))},
        )
        for key, row in versions.items()
    )
    return Catalogue(
        registry=str(root),
        versions=tuple(sorted(rows, key=lambda row: (row.published_at, row.version), reverse=True)),
        channels=tuple(sorted(channels.values(), key=lambda row: (row.name, row.channel))),
        read_anew=reading.read,
    )


def _listing(client: S3Client, layout: RegistryLayout) -> tuple[dict[str, _Listed], dict[str, _Listed], set[str]]:
    """Manifests and pointers by their keys below `models/`, and the manifests that have a signature beside them."""
    manifests: dict[str, _Listed] = {}
    pointers: dict[str, _Listed] = {}
    signed: set[str] = set()
    models = layout.models
    with s3_errors(models, "listing"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=models.bucket, Prefix=f"{models.key}/")
        for page in pages:
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(f"{models.key}/")
                for pattern, found in ((_MANIFEST_KEY, manifests), (_POINTER_KEY, pointers)):
                    if match := pattern.fullmatch(key):
                        found[key] = _Listed(match["name"], match["item"], entry["ETag"], entry["LastModified"])
                if _SIGNATURE_KEY.fullmatch(key):
                    signed.add(f"{key.rpartition('/')[0]}/{MANIFEST}")
    return manifests, pointers, signed


class _Reading:
    """Rows of listed objects: those that are known by their ETags, and the others read in threads."""

    def __init__(self, client: S3Client, models: S3Location) -> None:
        self._client = client
        self._models = models
        self.read = 0

    def rows(self, listed: Mapping[str, _Listed], kept: KeptRows[R], kind: _Kind[R]) -> dict[str, R]:
        """The rows by key; without objects that were deleted meanwhile."""
        known = kept.read()
        rows = {key: known[key] for key, one in listed.items() if key in known and known[key].made_from == one.etag}
        missing = {key: one for key, one in listed.items() if key not in rows}
        self.read += len(missing)
        if missing:
            with ThreadPoolExecutor(min(_THREADS, len(missing))) as pool:
                found = pool.map(lambda key: self._row(key, missing[key], kind), missing)
                rows.update({key: row for key, row in zip(missing, found, strict=True) if row is not None})
        if missing or rows.keys() != known.keys():
            kept.write({key: row for key, row in rows.items() if row.made_from})
        return {key: row.row for key, row in rows.items()}

    def _row(self, key: str, listed: _Listed, kind: _Kind[R]) -> KeptRow[R] | None:
        try:
            found = get_bytes(self._client, self._models / key, "reading")
        except DigestError:
            # Row_co from nothing that is known: the next time it may arrive whole.
            row = kind.damaged(listed, "it does not have the checksum that it was stored with")
            return KeptRow[R](made_from="", row=row)
        if found is None:
            return None
        try:
            row = kind.read(listed, found.data)
        except ValidationError as error:
            row = kind.damaged(listed, _problem(error))
        except DigestError as error:
            row = kind.damaged(listed, error.message)
        return KeptRow[R](made_from=found.etag, row=row)


class _Kind(Protocol[Row_co]):
    """What the rows of some objects are made of."""

    def read(self, listed: _Listed, data: bytes) -> Row_co:
        """The row; raises ValidationError or DigestError where the object is damaged."""

    def damaged(self, listed: _Listed, problem: str) -> Row_co:
        """The row of a damaged one."""


class _Manifests:
    def read(self, listed: _Listed, data: bytes) -> VersionSummary:
        manifest = ModelManifest.model_validate_json(data)
        if (manifest.name, manifest.version) != (listed.name, listed.item):
            raise DigestError(f"it describes {manifest.name!r} {manifest.version}")
        return summary_of(manifest)

    def damaged(self, listed: _Listed, problem: str) -> VersionSummary:
        said = f"The manifest is damaged: {problem}."
        return VersionSummary(name=listed.name, version=listed.item, published_at=listed.modified, problem=said)


class _Pointers:
    def read(self, listed: _Listed, data: bytes) -> ChannelSummary:
        pointer = ChannelPointer.model_validate_json(data)
        if (pointer.name, pointer.channel) != (listed.name, listed.item):
            raise DigestError(f"it is of the channel {pointer.channel!r} of {pointer.name!r}")
        return channel_summary(pointer)

    def damaged(self, listed: _Listed, problem: str) -> ChannelSummary:
        said = f"The channel's pointer is damaged: {problem}."
        return ChannelSummary(name=listed.name, channel=listed.item, moved_at=listed.modified, problem=said)


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where or 'content'}: {first['msg']}"
