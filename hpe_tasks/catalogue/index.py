"""All models, channels and versions of a registry, as it is now, and fast with a thousand versions.

A registry is listed anew each time: one listing tells every manifest and pointer with its ETag. What a manifest says
is kept in a file of this machine's cache with the ETag that it was read under, and used only where the registry still
lists that one. So the file can save reading and nothing else: what changed is read anew, what was deleted is gone, and
a file that is damaged, or that another version of this code wrote, is made again. A machine that has no such file takes
the rows that another one left in the registry, under the same ETags (`shared_rows`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import ValidationError

from hpe_tasks.catalogue.kept_rows import KeptRow, KeptRows
from hpe_tasks.catalogue.reading import ManySmallObjects
from hpe_tasks.catalogue.shared_rows import WORTH, SharedRows
from hpe_tasks.catalogue.summaries import ChannelSummary, VersionSummary, channel_summary, summary_of
from hpe_tasks.contract.keys import MODELS, manifest_key, pointer_key, signature_key
from hpe_tasks.contract.names import MANIFEST, SLUG, VERSION
from hpe_tasks.errors import DigestError
from hpe_tasks.records.base import Record
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.log import LogEntry, LogState, parsed_entry
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.storage.s3 import S3Location, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_FORMAT = 1
"""Higher with each change of what a row says of the same manifest; new fields count by themselves."""


def _pattern(key: str, item: str) -> re.Pattern[str]:
    """What keys below `models/` match that are made as this one, of the model "NAME" and the item "ITEM"."""
    below = re.escape(key.removeprefix(f"{MODELS}/"))
    return re.compile(below.replace("NAME", f"(?P<name>{SLUG})").replace("ITEM", f"(?P<item>{item})"))


_MANIFEST_KEY = _pattern(manifest_key("NAME", "ITEM"), VERSION)
_SIGNATURE_KEY = _pattern(signature_key("NAME", "ITEM"), VERSION)
_POINTER_KEY = _pattern(pointer_key("NAME", "ITEM"), SLUG)

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
    listing = _listing(client, layout)
    which = f"{client.meta.endpoint_url} {root}"
    reading = _RowReading(client, layout.models)
    versions = reading.rows(
        listing.manifests,
        KeptRows(cache_folder, which, VersionSummary, _FORMAT),
        _Manifests(),
        SharedRows(client, root, VersionSummary, _FORMAT),
    )
    channels = reading.rows(listing.pointers, KeptRows(cache_folder, which, ChannelSummary, _FORMAT), _Pointers())
    served: dict[tuple[str, str], list[str]] = {}
    for pointer in sorted(channels.values(), key=lambda row: row.channel):
        if pointer.version is not None:
            served.setdefault((pointer.name, pointer.version), []).append(pointer.channel)
    log = {name: LogState.after(sorted(entries, key=_by_file)) for name, entries in listing.log.items()}
    nothing = LogState({}, {})
    rows = (
        row.model_copy(
            update={
                "signed": key in listing.signed,
                "channels": tuple(served.get((row.name, row.version), ())),
                # One that is served has never been retired, whatever stands there: see `registry.holds`.
                "retired": row.version in log.get(row.name, nothing).retired and (row.name, row.version) not in served,
            },
        )
        for key, row in versions.items()
    )
    moved = (
        row.model_copy(update=_pin(row, log.get(row.name, nothing).pinned.get(row.channel)))
        for row in channels.values()
    )
    return Catalogue(
        registry=str(root),
        versions=tuple(sorted(rows, key=lambda row: (row.published_at, row.version), reverse=True)),
        channels=tuple(sorted(moved, key=lambda row: (row.name, row.channel))),
        read_anew=reading.read,
    )


@dataclass(frozen=True)
class _Listing:
    """What lies below `models/`.

    Attributes:
        manifests: By their keys there.
        pointers: The same of channels.
        signed: Manifests that have a signature beside them.
        log: What the keys of the registry's log tell, by model.
    """

    manifests: dict[str, _Listed] = field(default_factory=dict)
    pointers: dict[str, _Listed] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    log: dict[str, list[LogEntry]] = field(default_factory=dict)

    def take(self, key: str, etag: str, modified: datetime) -> None:
        """Sort an object in; one that is none of these is passed over."""
        for pattern, found in ((_MANIFEST_KEY, self.manifests), (_POINTER_KEY, self.pointers)):
            if match := pattern.fullmatch(key):
                found[key] = _Listed(match["name"], match["item"], etag, modified)
        if _SIGNATURE_KEY.fullmatch(key):
            self.signed.add(f"{key.rpartition('/')[0]}/{MANIFEST}")
        name, _, item = key.partition("/log/")
        if item and (entry := parsed_entry(item)) is not None:
            self.log.setdefault(name, []).append(entry)


def _pin(row: ChannelSummary, entry: LogEntry | None) -> dict[str, object]:
    if entry is not None and row.version not in (None, entry.version):
        entry = None  # It has never held: see `registry.holds`.
    return {"pinned": entry is not None, "pinned_at": None if entry is None else entry.at}


def _by_file(entry: LogEntry) -> str:
    return entry.file


def _listing(client: S3Client, layout: RegistryLayout) -> _Listing:
    found, models = _Listing(), layout.models
    with s3_errors(models, "listing"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=models.bucket, Prefix=f"{models.key}/")
        for page in pages:
            for entry in page.get("Contents", ()):
                found.take(entry["Key"].removeprefix(f"{models.key}/"), entry["ETag"], entry["LastModified"])
    return found


class _RowReading:
    """Rows of listed objects: those that are known by their ETags, and the others read in threads."""

    def __init__(self, client: S3Client, models: S3Location) -> None:
        self._objects = ManySmallObjects(client)
        self._models = models
        self.read = 0

    def rows(
        self, listed: Mapping[str, _Listed], kept: KeptRows[R], kind: _Kind[R], shared: SharedRows[R] | None = None
    ) -> dict[str, R]:
        """The rows by key; without objects that were deleted meanwhile."""
        known = kept.read()
        rows = {key: known[key] for key, one in listed.items() if key in known and known[key].made_from == one.etag}
        missing = {key: one for key, one in listed.items() if key not in rows}
        if shared is not None and len(missing) >= WORTH:
            etags = {key: one.etag for key, one in missing.items()}
            rows.update(shared.read(etags, lambda key: self._row(key, missing[key], kind)))
        anew = {key: one for key, one in missing.items() if key not in rows}
        self.read += len(anew)
        if anew:
            with ThreadPoolExecutor(min(self._objects.threads, len(anew))) as pool:
                found = pool.map(lambda key: self._row(key, anew[key], kind), anew)
                rows.update({key: row for key, row in zip(anew, found, strict=True) if row is not None})
        whole = {key: row for key, row in rows.items() if row.made_from}
        if missing or rows.keys() != known.keys():
            kept.write(whole)
        if shared is not None and len(anew) >= WORTH:
            shared.write(whole)
        return {key: row.row for key, row in rows.items()}

    def _row(self, key: str, listed: _Listed, kind: _Kind[R]) -> KeptRow[R] | None:
        try:
            found = self._objects.read(self._models / key)
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
