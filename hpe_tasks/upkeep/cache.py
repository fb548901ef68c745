"""Keeping a machine's cache within a size: what was used longest ago goes first, and never what is in use."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.config.base import Frozen
from hpe_tasks.storage.files import megabytes
from hpe_tasks.storage.folders import unused, use_mark
from hpe_tasks.storage.scratch import ABANDONED_S, drop, sweep

_FOLDERS = ("archives", "converted", "files", "fp32", "joined", "s3", "samples", "selections", "tried")
"""What they hold are data sets in some form, copies of files of a workspace on S3, and versions that were tried with a
picture: each a folder."""

_BY_ADDRESS = ("checkpoints", "downloads")
"""A folder for each address, with a file and what is known of it."""

_FILES = ("catalogue", "lambda", "predictions", "taken_in")
"""Single files: rows of versions and runs, the function's libraries, predictions of `hpe evaluate`, what was read."""

_POOL = "images"
"""Images by their address, with other names in `selections`."""

_SCRATCH = "scratch"
_UNFINISHED = (".making", ".extracting")
_BUILDING = ".building-"

_GB = 10**9

log = logging.getLogger(__name__)


class DroppedEntry(Frozen):
    """Something of the cache that was dropped, or would be: its name there."""

    name: str
    size_bytes: int


class CacheUse(Frozen):
    """What a cache holds, and what was dropped of it.

    Attributes:
        size_bytes: Of all its files before; several names of one file count once.
        max_bytes: What it may hold; None without a limit.
        in_use_bytes: Of what would have gone but is in use.
        dropped: What has gone; without `deleted`, what would go.
    """

    folder: str
    size_bytes: int
    max_bytes: int | None
    in_use_bytes: int
    dropped: tuple[DroppedEntry, ...]
    deleted: bool

    @property
    def left_bytes(self) -> int:
        """What it holds afterwards."""
        return self.size_bytes - sum(one.size_bytes for one in self.dropped)


@dataclass(frozen=True)
class _Inode:
    """A file on the disk, whatever its names."""

    device: int
    number: int
    size_bytes: int


@dataclass(frozen=True)
class _Entry:
    """Something that goes as a whole.

    Attributes:
        path: What is held while it is in use.
        parts: All that goes with it.
    """

    path: Path
    parts: tuple[Path, ...]
    last_used: float


def trim_cache(cache: Path, most_gb: float | None, *, delete: bool = True) -> CacheUse:
    """Drop of a cache what was used longest ago, until it is within its size; and what killed processes left in it.

    Runs may be under way: each holds what it uses, and fetches anew what it comes to use later.

    Args:
        cache: HPE_CACHE.
        most_gb: What it may hold, in GB of 10⁹ bytes; None for all that there is.
        delete: Drop it; otherwise only say what would go.
    """
    if delete:
        _remove_unfinished(cache)
    trim = _Trim(cache, delete)
    size, limit = trim.left_bytes, None if most_gb is None else round(most_gb * _GB)
    if limit is not None:
        trim.down_to(limit)
    return CacheUse(
        folder=str(cache),
        size_bytes=size,
        max_bytes=limit,
        in_use_bytes=trim.in_use_bytes,
        dropped=tuple(trim.dropped),
        deleted=delete,
    )


def trim_after_run(cache: Path, most_gb: float | None) -> None:
    """Keep a cache within its size at the end of a run, whatever the run has come to; says in the log what it did."""
    if most_gb is None:
        return
    try:
        use = trim_cache(cache, most_gb)
    except OSError as error:
        log.warning("The cache %s could not be kept within HPE_CACHE_MAX_GB: %s", cache, error)
        return
    for one in use.dropped:
        log.info("%s was dropped from the cache: %s", one.name, megabytes(one.size_bytes))
    if use.left_bytes > most_gb * _GB:
        log.warning(
            "The cache %s holds %s, more than HPE_CACHE_MAX_GB allows: the rest is in use, or no copy.",
            cache,
            megabytes(use.left_bytes),
        )


class _Trim:
    def __init__(self, cache: Path, delete: bool) -> None:
        self._cache, self._delete = cache, delete
        self._names = Counter(_inode(path) for path in _files_in(cache))
        self.left_bytes = sum(inode.size_bytes for inode in self._names if inode is not None)
        self.in_use_bytes = 0
        self.dropped: list[DroppedEntry] = []

    def down_to(self, limit: int) -> None:
        for entry in sorted(_entries(self._cache), key=lambda entry: entry.last_used):
            if self.left_bytes <= limit:
                return
            with unused(entry.path) as free:
                if free:
                    self._drop(entry.path, entry.parts)
                else:
                    self.in_use_bytes += self._size(entry.parts)
        pool = self._cache / _POOL
        if self.left_bytes > limit and pool.is_dir():
            with unused(pool) as free:
                # Others have a second name in a selection.
                single = [path for path in _files_in(pool) if self._names[_inode(path)] == 1] if free else []
                if single:
                    self._drop(pool, single)

    def _drop(self, path: Path, parts: Iterable[Path]) -> None:
        parts = list(parts)
        freed = self._size(parts)
        for file in (file for part in parts for file in _files_in(part)):
            self._names[_inode(file)] -= 1
        if self._delete:
            for part in parts:
                drop(part, _scratch(self._cache))
        self.left_bytes -= freed
        self.dropped.append(DroppedEntry(name=path.relative_to(self._cache).as_posix(), size_bytes=freed))

    def _size(self, parts: Iterable[Path]) -> int:
        """What is freed with these: files that have no other name."""
        names = Counter(_inode(file) for part in parts for file in _files_in(part))
        return sum(
            inode.size_bytes for inode, count in names.items() if inode is not None and self._names[inode] <= count
        )


def _entries(cache: Path) -> Iterator[_Entry]:
    for name in _FOLDERS:
        for path in _shown(cache / name):
            yield _Entry(path, (path,), _last_used(path))
    for name in _BY_ADDRESS:
        for folder in _shown(cache / name):
            for path in _downloads(folder):
                parts = (path, *(path.with_name(path.name + end) for end in (".json", ".part", ".part.json")))
                yield _Entry(path, tuple(part for part in parts if part.exists()), _last_used(path))
    for name in _FILES:
        for path in _shown(cache / name):
            yield _Entry(path, (path,), _last_used(path))


def _downloads(folder: Path) -> list[Path]:
    """The files that downloads into a folder have or will have."""
    names = {path.name for path in _shown(folder)}
    bases = {name.removesuffix(".json").removesuffix(".part") for name in names}
    return [folder / base for base in sorted(bases)]


def _shown(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name[0] != "."] if folder.is_dir() else []


def _last_used(path: Path) -> float:
    """When a use began last; of what an older version left, when it was made."""
    for told in (use_mark(path), path.with_name(f".{path.name}.lock"), path):
        with suppress(FileNotFoundError):
            return told.lstat().st_mtime
    return 0.0


def _remove_unfinished(cache: Path) -> None:
    if (cache / _SCRATCH).is_dir():
        sweep(cache / _SCRATCH)
    for folder in (cache / name for name in _FOLDERS):
        for leftover in folder.glob(".*") if folder.is_dir() else ():
            if leftover.suffix in _UNFINISHED:
                # `.<name>.<random>.making`: whoever makes it holds the name.
                base = leftover.name[1:].rsplit(".", 2)[0]
                with unused(folder / base) as free:
                    if free:
                        drop(leftover, _scratch(cache))
    for leftover in (cache / "lambda").glob(f"{_BUILDING}*"):
        if time.time() - leftover.stat().st_mtime > ABANDONED_S:
            drop(leftover, _scratch(cache))


def _scratch(cache: Path) -> Path:
    parent = cache / _SCRATCH
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _files_in(path: Path) -> Iterator[Path]:
    """A file, or all files in a folder; links are what they are and lead nowhere."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for inner in path.rglob("*"):
        if inner.is_symlink() or not inner.is_dir():
            yield inner


def _inode(path: Path) -> _Inode | None:
    """Which file on the disk a name is of; None where it has just gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return _Inode(found.st_dev, found.st_ino, found.st_size)
