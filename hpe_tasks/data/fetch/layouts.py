"""Finding a data set's parts in the folders that its sources gave, and joining them into one root without copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from hpe_tasks.config.addresses import shown_address
from hpe_tasks.data.fetch.sources import SourceRequest
from hpe_tasks.datasets import KINDS, DatasetKind, Layout
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import digest_of, storage_errors
from hpe_tasks.storage.folders import make_folder


def find_annotations(kind: DatasetKind, folder: Path, splits: Sequence[str]) -> Path | None:
    """The folder with the annotation files of all splits: of the usual name, or `folder`, or in its only sub-folder."""
    layout = kind.layout
    places = (place for base in bases(folder) for place in (base / layout.annotation_folder, base))
    return next((place for place in places if all(_is_there(layout, place, split) for split in splits)), None)


def _is_there(layout: Layout, place: Path, split: str) -> bool:
    return any((place / name).is_file() for name in layout.annotation_names(split))


def refuse_annotations(kind: DatasetKind, folder: Path, splits: Sequence[str]) -> NoReturn:
    """Raise DatasetError for a folder without the splits' annotation files; says what is there."""
    refuse_other_kind(kind, folder)
    layout = kind.layout
    usual = (base / layout.annotation_folder for base in bases(folder))
    place = next((place for place in usual if place.is_dir()), folder)
    missing = next(split for split in splits if not _is_there(layout, place, split))
    raise DatasetError(
        f"{folder} has no {layout.annotations.format(split=missing)}. {_what_is_in(place)}",
        hint="Check dataset.source, dataset.calibration_split and dataset.evaluation_split.",
    )


def refuse_other_kind(kind: DatasetKind, folder: Path) -> None:
    """Raise DatasetError where a folder holds the layout of another kind of data set, and not of this one."""
    for base in bases(folder):
        if (base / kind.layout.annotation_folder).is_dir():
            continue
        for other in KINDS.values():
            if other.layout.annotations != kind.layout.annotations and any(
                base.glob(other.layout.annotations.format(split="*"))
            ):
                raise DatasetError(
                    f"{folder} is a data set in the layout of {other.title}, not of {kind.title}.",
                    hint=f"Set dataset.kind to {other.name}, or give another source.",
                )


def refuse_file(kind: DatasetKind, folder: Path) -> None:
    """Raise DatasetError where the source of a data set whose annotations are JSON is a .mat file."""
    if folder.is_file():
        others = [other.name for other in KINDS.values() if other.layout.originals]
        raise DatasetError(
            f"dataset.source: {folder} is a .mat file, and a {kind.title} data set has none.",
            hint=f"Set dataset.kind to {' or '.join(others)}, or give another source.",
        )


def originals(kind: DatasetKind, folder: Path) -> list[Path]:
    """Annotation files of the kind in their original form, in a folder that holds none in its layout."""
    pattern = kind.layout.originals
    return [] if pattern is None else [path for base in bases(folder) for path in base.glob(pattern)]


def image_sources(request: SourceRequest) -> dict[str, Path]:
    """The folders with the content of `dataset.image_archives`, by address."""
    return {
        address: request.sources.folder(address, option="dataset.image_archives", sha256=None)
        for address in request.config.image_archives or ()
    }


def find_images(kind: DatasetKind, folders: Iterable[Path], split: str) -> Path | None:
    """The folder with a split's images in one of the folders that archives were unpacked to."""
    names = kind.layout.image_folders(split)
    places = (base / name for folder in folders for base in bases(folder) for name in names)
    return next((place for place in places if place.is_dir()), None)


def refuse_images(kind: DatasetKind, folders: Mapping[str, Path], split: str) -> NoReturn:
    """Raise DatasetError for sources, by address, without a split's images; says what they hold."""
    for folder in folders.values():
        if folder.is_dir():
            refuse_other_kind(kind, folder)
    wanted = " or ".join(f"{name}/" for name in kind.layout.image_folders(split))
    there = " ".join(f"{shown_address(address)}: {_what_is_in(folder)}" for address, folder in folders.items())
    raise DatasetError(
        f"The images of the split {split!r} are missing: there is no folder {wanted}. {there}",
        hint="Name all archives that hold images in dataset.image_archives.",
    )


def join(parts: Mapping[str, Path], cache: Path) -> Path:
    """A folder in which each name leads to its part by a symbolic link; the same parts give the same folder."""
    targets = {name: str(path.resolve()) for name, path in parts.items()}

    def link(working: Path) -> None:
        with storage_errors(working):
            for name, target in targets.items():
                (working / name).parent.mkdir(parents=True, exist_ok=True)
                (working / name).symlink_to(target)

    root = cache / digest_of(targets)[:16]
    make_folder(root, link)
    return root


def bases(folder: Path) -> Iterator[Path]:
    """The folder, and its only sub-folder as archives often have one."""
    yield folder
    visible = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(visible) == 1 and visible[0].is_dir():
        yield visible[0]


def _what_is_in(folder: Path) -> str:
    if folder.is_file():
        return "It is a .mat file."
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    return f"It holds: {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}."
