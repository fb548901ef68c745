"""The digest that stands for a data set's content, the same on every machine and for every way it came."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.data import mpii
from hpe_tasks.data.annotation_files import is_safe_file_name, read_annotations
from hpe_tasks.datasets import COCO, DatasetKind
from hpe_tasks.errors import DatasetError
from hpe_tasks.progress import track
from hpe_tasks.storage.files import sha256_file, write_atomically

_THREADS = 4
_RACY_NS = 2 * 10**9


@dataclass(frozen=True)
class Content:
    """Digest, number and total size of the files of a data set's splits."""

    digest: str
    num_files: int
    size_bytes: int


class DigestCache:
    """SHA-256 of files, remembered by path, size and modification time in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)
        self._changed = False

    def sha256(self, path: Path) -> str:
        """The file's digest; raises DatasetError when it cannot be read."""
        try:
            status = path.stat()
            known = self._known.get(str(path))
            if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
                return known[2]
            found = sha256_file(path)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}.", hint="Check it and its rights.") from error
        # A file that was written just now may change again within one tick of the clock: do not remember it yet.
        if time.time_ns() - status.st_mtime_ns > _RACY_NS:
            self._known[str(path)] = (status.st_size, status.st_mtime_ns, found)
            self._changed = True
        return found

    def save(self) -> None:
        """Store what was learned."""
        if not self._changed:
            return
        write_atomically(self._file, json.dumps(self._known).encode())


def _read(file: Path) -> dict[str, tuple[int, int, str]]:
    try:
        return {path: (entry[0], entry[1], entry[2]) for path, entry in json.loads(file.read_text()).items()}
    except (FileNotFoundError, ValueError, TypeError, IndexError, AttributeError):
        return {}  # Only a cache: a damaged one is made anew.


def digest_content(root: Path, files: Iterable[tuple[str, Path]], cache: Path) -> Content:
    """Digest of a data set's files, under the names of the usual layout.

    Args:
        root: Folder of the data set, resolved.
        files: Name and path of each file; see coco_files and mpii_files.
        cache: Folder for remembered digests of single files.

    Raises:
        DatasetError: A file cannot be read.
    """
    files = sorted(files)
    remembered = DigestCache(cache / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json")
    whole = hashlib.sha256()
    size = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda entry: remembered.sha256(entry[1]), files)
        for (name, path), digest in zip(files, track(digests, "Hashing", total=len(files), unit="files"), strict=True):
            whole.update(f"{digest} {name}\n".encode())
            size += path.stat().st_size
    remembered.save()
    return Content(whole.hexdigest(), len(files), size)


def coco_files(root: Path, splits: Iterable[str], kind: DatasetKind = COCO) -> Iterator[tuple[str, Path]]:
    """The annotation files and images of the splits.

    Hidden files are left out: file managers and archive programs leave them behind. Of a folder that splits share,
    only the images that they name count.

    Raises:
        DatasetError: The annotation file of a split that shares its folder cannot be read.
    """
    layout, splits = kind.layout, list(splits)
    if layout.sigmas is not None and (root / layout.sigmas).is_file():
        yield layout.sigmas, root / layout.sigmas
    if len({layout.image_folder(root, split) for split in splits}) < len(splits):
        yield from _shared_images(root, splits, kind)
        return
    for split in splits:
        yield layout.annotations.format(split=split), layout.annotation_path(root, split)
        images = layout.image_folder(root, split)
        for folder, subfolders, names in os.walk(images):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    yield f"{layout.image_folders(split)[0]}/{path.relative_to(images).as_posix()}", path


def _shared_images(root: Path, splits: Iterable[str], kind: DatasetKind) -> Iterator[tuple[str, Path]]:
    images: dict[str, Path] = {}
    for split in splits:
        annotations = kind.layout.annotation_path(root, split)
        yield kind.layout.annotations.format(split=split), annotations
        folder = kind.layout.image_folder(root, split)
        names = (row.get("file_name") for row in read_annotations(annotations, kind)["images"])
        images |= {
            (folder / name).relative_to(root).as_posix(): folder / name for name in names if is_safe_file_name(name)
        }
    # Files that are missing are left out: the data set's validation lists them.
    yield from ((name, path) for name, path in images.items() if path.is_file())


def mpii_files(root: Path, splits: Iterable[str], evaluation: str) -> Iterator[tuple[str, Path]]:
    """The annotation files of the splits, the truth of the evaluation split, and the images that the splits name.

    Files that are missing are left out: the data set's validation lists them.

    Raises:
        DatasetError: An annotation file cannot be read.
    """
    images: set[str] = set()
    for split in splits:
        annotations = mpii.annotation_path(root, split)
        yield f"annot/{annotations.name}", annotations
        rows = (row for row in mpii.read_records(annotations) if isinstance(row, dict))
        images.update(str(row["image"]) for row in rows if is_safe_file_name(row.get("image")))
    truth = mpii.truth_path(root, evaluation)
    if truth.is_file():
        yield f"annot/{truth.name}", truth
    for name in images:
        if (root / "images" / name).is_file():
            yield f"images/{name}", root / "images" / name
