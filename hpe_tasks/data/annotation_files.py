"""Annotation files in COCO's form, and where they and their images lie on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from hpe_tasks.data.json_files import read_json
from hpe_tasks.datasets import COCO, DatasetKind
from hpe_tasks.errors import DatasetError

# JSON can spell half of a UTF-16 pair; no file system takes it.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

_IMAGES_HINT = (
    "Where the images are in archives of their own, name these in dataset.image_archives; where their records have "
    "addresses, set dataset.images_by_url."
)


def annotation_path(root: Path, split: str) -> Path:
    """`annotations/person_keypoints_<split>.json` of a data set in COCO's own layout."""
    return COCO.layout.annotation_path(root, split)


def image_folder(root: Path, split: str) -> Path:
    """Images of a split in COCO's own layout: `images/<split>/`, or `<split>/` as COCO's archives unpack."""
    return COCO.layout.image_folder(root, split)


def splits_present(root: Path, kind: DatasetKind = COCO) -> tuple[str, ...]:
    """Names of the splits that have both annotations and an image folder, sorted."""
    folder, names = root / kind.layout.annotation_folder, set[str]()
    for pattern in kind.layout.annotation_names("\n"):
        before, after = pattern.split("\n")
        names |= {path.name.removeprefix(before).removesuffix(after) for path in folder.glob(f"{before}*{after}")}
    own = Path(kind.layout.sigmas or "").stem
    return tuple(sorted(n for n in names if n != own and kind.layout.image_folder(root, n).is_dir()))


def find_root(folder: Path, splits: Sequence[str], kind: DatasetKind = COCO) -> Path:
    """The folder that holds the layout: `folder`, or its only sub-folder as archives often have one.

    Raises:
        DatasetError: A split's annotations or images are missing; says what was looked for and what is there.
    """
    layout = kind.layout
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
    root = folder
    if not (folder / layout.annotation_folder).is_dir() and len(visible) == 1 and visible[0].is_dir():
        root = visible[0]
    for split in splits:
        if not layout.annotation_path(root, split).is_file():
            _missing(root, kind, layout.annotations.format(split=split))
        if not layout.image_folder(root, split).is_dir():
            _missing(root, kind, f"{layout.image_folders(split)[0]}/", _IMAGES_HINT)
    return root


def _missing(root: Path, kind: DatasetKind, what: str, more_hint: str = "") -> NoReturn:
    complete = splits_present(root, kind)
    if complete:
        there = "It has these splits: " + ", ".join(complete) + "."
        hint = "Set dataset.calibration_split and dataset.evaluation_split to two of them, or add the missing one."
    else:
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())
        there = "It holds: " + (", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing") + "."
        hint = kind.layout_hint
    raise DatasetError(f"The data set in {root} has no {what}. {there}", hint=f"{hint} {more_hint}".rstrip())


def read_annotations(path: Path, kind: DatasetKind = COCO) -> dict[str, Any]:
    """The annotation file's top level: `images`, `annotations` and `categories` are lists of objects.

    Raises:
        DatasetError: The file is missing, is not JSON, or has another top level; names the file.
    """
    content = read_json(path, if_missing=kind.layout_hint)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path} is not a COCO annotation file: its top level is not a JSON object.", hint=kind.layout_hint
        )
    for name in ("images", "annotations", "categories"):
        rows = content.get(name, [] if name == "categories" else None)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DatasetError(
                f"{path} is not a COCO annotation file: {name!r} is missing or is not a list of objects.",
                hint=f"Give the {kind.layout.annotation_names('<split>')[0]} file of the data set.",
            )
        content[name] = rows
    _adapt(content, kind)
    return content


def _adapt(content: Mapping[str, Any], kind: DatasetKind) -> None:
    """Give annotations what a kind derives: areas from boxes, and one category for all with the same joints."""
    if kind.area_of_box is not None:
        for row in content["annotations"]:
            box = row.get("bbox")
            if isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box):
                row["area"] = kind.area_of_box * box[2] * box[3]
    first = person_category(content)
    if kind.skeleton is None and first is not None:
        alike = [category for category in content["categories"] if joint_names(category) == joint_names(first)]
        same = {category.get("id") for category in alike if _may_be_id(category.get("id"))}
        for row in content["annotations"]:
            if _may_be_id(row.get("category_id")) and row["category_id"] in same:
                row["category_id"] = first.get("id")


def _may_be_id(value: object) -> bool:
    """Whether something that JSON holds can be looked up: no list and no object."""
    return isinstance(value, int | float | str)


def person_category(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The category whose annotations are persons with joints: `person`, else the first that lists joints."""
    listed: list[dict[str, Any]] = [category for category in content["categories"] if joint_names(category)]
    named = [category for category in listed if category.get("name") == "person"]
    return next(iter(named or listed), None)


def joint_names(category: Mapping[str, Any]) -> tuple[str, ...]:
    """The joints that a category names; none where it names none, or one twice."""
    names = category.get("keypoints")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return ()
    return tuple(names)


def is_safe_file_name(name: object) -> bool:
    """Whether an image's `file_name` stays inside its folder."""
    if not isinstance(name, str) or not name or "\0" in name or _HALF_CHARACTER.search(name):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def crowd_index_fault(row: Mapping[str, Any], kind: DatasetKind) -> str:
    """What is wrong with how crowded an image record says that it is; empty when nothing is."""
    if kind.crowd_levels is None:
        return ""
    name = kind.crowd_levels.field
    index = row.get(name)
    if isinstance(index, bool) or not isinstance(index, int | float) or not 0 <= index <= 1:
        return f"{name} is missing" if name not in row else f"{name} is not a number from 0 to 1"
    return ""
