"""Finding a data set's parts in the folders that its sources gave, and joining them into one root without copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from hpe_tasks.config.run import DatasetKind
from hpe_tasks.data.coco import annotation_path
from hpe_tasks.data.fetch.transports import shown_address
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import digest_of, storage_errors
from hpe_tasks.storage.folders import make_folder

_MPII_ORIGINAL = "mpii_human_pose*.mat"

_ANNOTATIONS: dict[DatasetKind, str] = {"coco": "annotations", "mpii": "annot"}


def annotation_names(kind: DatasetKind, splits: Iterable[str]) -> list[str]:
    """File names of the splits' annotations."""
    return [f"person_keypoints_{split}.json" if kind == "coco" else f"{split}.json" for split in splits]


def parts_of(kind: DatasetKind, splits: Sequence[str], *, images: bool) -> list[tuple[str, ...]]:
    """What a source must hold, each part by the names that it may have, folders with a slash at the end."""
    if kind == "mpii":
        return [("annot/",), ("images/",)] if images else [("annot/",)]
    parts: list[tuple[str, ...]] = []
    for split in splits:
        parts.append((annotation_path(Path(), split).as_posix(),))
        if images:
            parts.append((f"images/{split}/", f"{split}/"))
    return parts


def find_annotations(kind: DatasetKind, folder: Path, splits: Sequence[str]) -> Path | None:
    """The folder with the annotation files of all splits: of the usual name, or `folder`, or in its only sub-folder."""
    names = annotation_names(kind, splits)
    places = (place for base in bases(folder) for place in (base / _ANNOTATIONS[kind], base))
    return next((place for place in places if all((place / name).is_file() for name in names)), None)


def refuse_annotations(kind: DatasetKind, folder: Path, splits: Sequence[str]) -> NoReturn:
    """Raise DatasetError for a folder without the splits' annotation files; says what is there."""
    refuse_other_kind(kind, folder)
    usual = (base / _ANNOTATIONS[kind] for base in bases(folder))
    place = next((place for place in usual if place.is_dir()), folder)
    missing = next(name for name in annotation_names(kind, splits) if not (place / name).is_file())
    raise DatasetError(
        f"{folder} has no {_ANNOTATIONS[kind]}/{missing}. {_what_is_in(place)}",
        hint="Check dataset.source, dataset.calibration_split and dataset.evaluation_split.",
    )


def refuse_other_kind(kind: DatasetKind, folder: Path) -> None:
    """Raise DatasetError where a folder holds the layout of the other kind of data set."""
    other: DatasetKind = "mpii" if kind == "coco" else "coco"
    for base in bases(folder):
        files = (base / _ANNOTATIONS[other]).glob(annotation_names(other, ["*"])[0])
        if not (base / _ANNOTATIONS[kind]).is_dir() and any(files):
            raise DatasetError(
                f"{folder} is a data set in the layout of {other.upper()}, not of {kind.upper()}.",
                hint=f"Set dataset.kind to {other}, or give another source.",
            )


def refuse_file(folder: Path) -> None:
    """Raise DatasetError where the source of a COCO data set is a .mat file."""
    if folder.is_file():
        raise DatasetError(
            f"dataset.source: {folder} is a .mat file, and a COCO data set has none.",
            hint="Set dataset.kind to mpii, or give another source.",
        )


def mpii_originals(folder: Path) -> list[Path]:
    """MPII's own annotation files in a folder that holds none in the Simple Baselines layout."""
    return [path for base in bases(folder) for path in base.glob(_MPII_ORIGINAL)]


def find_images(kind: DatasetKind, folders: Iterable[Path], split: str) -> Path | None:
    """The folder with a split's images in one of the folders that archives were unpacked to; MPII has one for all."""
    names = (f"images/{split}", split) if kind == "coco" else ("images",)
    places = (base / name for folder in folders for base in bases(folder) for name in names)
    return next((place for place in places if place.is_dir()), None)


def refuse_images(kind: DatasetKind, folders: Mapping[str, Path], split: str) -> NoReturn:
    """Raise DatasetError for sources, by address, without a split's images; says what they hold."""
    for folder in folders.values():
        if folder.is_dir():
            refuse_other_kind(kind, folder)
    wanted = f"images/{split}/ or {split}/" if kind == "coco" else "images/"
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
