"""Looking at every record and image of a data set: tables of what is there, for expectations to judge.

Nothing is refused here: a record that cannot be understood becomes a row whose `fault` says why.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from hpe_tasks.data.annotation_files import crowd_index_fault, is_safe_file_name, person_category, read_annotations
from hpe_tasks.data.image_files import ImageFile, look_at
from hpe_tasks.data.own_joints import OwnJoints, read_own_joints
from hpe_tasks.data.perceptual_hash import find_alike
from hpe_tasks.datasets import DatasetKind
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.progress import track
from hpe_tasks.records.inputs import Lookalike

_THREADS = min(8, (os.cpu_count() or 1) + 1)

_LONGEST = 80


@dataclass(frozen=True)
class Inspection:
    """Tables of a data set; each row of the last two has a `label` that a person can look up.

    Attributes:
        files: One row for each annotation file and image folder of the layout.
        splits: One row for each split whose annotations could be read.
        images: One row for each image record.
        annotations: One row for each annotation of a person.
        lookalikes: Calibration images that look like an evaluation image.
    """

    files: pd.DataFrame
    splits: pd.DataFrame
    images: pd.DataFrame
    annotations: pd.DataFrame
    lookalikes: tuple[Lookalike, ...]


def inspect(root: Path, kind: DatasetKind, *, calibration: str, evaluation: str) -> Inspection:
    """Read the annotations of both splits and decode every image that they name.

    Images are read once, decoded by several threads, and forgotten: memory does not grow with them. JPEGs are
    decoded at an eighth of their size, which still reads every coded byte.
    """
    files: list[dict[str, Any]] = []
    splits: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for split in (calibration, evaluation):
        path, folder = kind.layout.annotation_path(root, split), kind.layout.image_folder(root, split)
        files.append(file_row(folder, root, folder.is_dir()))
        try:
            content = read_annotations(path, kind)
        except DatasetError as error:
            files.append(file_row(path, root, path.is_file(), error.message))
            continue
        category = person_category(content)
        own = _own_joints(category, path, kind, root)
        files.append(file_row(path, root, exists=True, fault=own if isinstance(own, str) else ""))
        joints = len(category["keypoints"]) if category else len(COCO17.joints)
        image_rows = [_image_row(row, split, kind) for row in content["images"]]
        person_rows = [
            row
            for row in content["annotations"]
            if category is None or row.get("category_id") in (None, category.get("id"))
        ]
        sizes = {row["id"]: (row["width"], row["height"]) for row in image_rows if row["id"] is not None}
        found = [_annotation_row(row, split, sizes) for row in person_rows]
        images += image_rows
        annotations += found
        persons = sum(row["is_person"] for row in found)
        splits.append(
            {
                "label": split,
                "images": len(image_rows),
                "annotations": len(content["annotations"]),
                "persons": persons,
                "calibration_persons": persons if split == calibration else None,
                "evaluation_persons": persons if split == evaluation else None,
                "category_joints": joints if category else 0,
                "derived_sigmas": len(own.derived) if isinstance(own, OwnJoints) else 0,
            }
        )
    look_at_files(images, {split: kind.layout.image_folder(root, split) for split in (calibration, evaluation)})
    shared = {"id": "id_shared", "file_name": "name_shared", "digest": "content_shared"}
    mark_shared(images, calibration, evaluation, shared)
    lookalikes = mark_alike(images, calibration, evaluation)
    return Inspection(
        files=make_frame(files, {}, columns=list(file_row(root, root, exists=True))),
        splits=make_frame(splits, {"calibration_persons": "Int64", "evaluation_persons": "Int64"}),
        images=make_frame(images, dict.fromkeys(("id", "width", "height", "file_width", "file_height"), "Int64")),
        annotations=make_frame(annotations, dict.fromkeys(("id", "image_id", "num_keypoints"), "Int64")),
        lookalikes=lookalikes,
    )


def make_frame(
    rows: list[dict[str, Any]], types: Mapping[str, str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table of the rows, with types of columns that pandas would not find by itself."""
    frame = pd.DataFrame([{name: _printable(value) for name, value in row.items()} for row in rows], columns=columns)
    return frame.astype({column: kind for column, kind in types.items() if column in frame})


def _printable(value: Any) -> Any:
    """A text without halves of surrogate pairs, which JSON may hold and Arrow's tables may not; others unchanged."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def file_row(path: Path, root: Path, exists: bool, fault: str = "") -> dict[str, Any]:
    """A row of the table of files; `fault` says why an existing file cannot be used."""
    return {
        "label": path.relative_to(root).as_posix(),
        "present": exists,
        "fault": None if not exists else fault or None,
    }


def _is_int(value: object) -> TypeGuard[int]:
    # Tables hold 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _are_numbers(value: object, count: int | None = None) -> TypeGuard[list[float]]:
    return isinstance(value, list) and (count is None or len(value) == count) and all(map(_is_number, value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _first_fault(faults: Iterable[tuple[bool, str]]) -> str | None:
    return next((text for fine, text in faults if not fine), None)


def _own_joints(category: Mapping[str, Any] | None, path: Path, kind: DatasetKind, root: Path) -> OwnJoints | str:
    """The joints of a data set that brings its own, or what is wrong with them; that it names none, `splits` says."""
    if kind.skeleton is not None or category is None:
        return ""
    try:
        return read_own_joints(category, path, kind, root)
    except DatasetError as error:
        return error.message


def _image_row(row: Mapping[str, Any], split: str, kind: DatasetKind) -> dict[str, Any]:
    values = {name: row.get(name) if _is_int(row.get(name)) else None for name in ("id", "width", "height")}
    name = row.get("file_name")
    faults = [
        (_is_int(row.get("id")), "id is not a whole number"),
        (isinstance(name, str) and name != "", "file_name is missing"),
        (_is_int(row.get("width")) and row["width"] > 0, "width is not a positive whole number"),
        (_is_int(row.get("height")) and row["height"] > 0, "height is not a positive whole number"),
        (not crowd_index_fault(row, kind), crowd_index_fault(row, kind)),
    ]
    file_name = name if isinstance(name, str) and name else None
    return {
        "label": f"{split}/{_short(str(file_name))} (image {_short(repr(row.get('id')))})",
        "split": split,
        **values,
        "file_name": file_name,
        "fault": _first_fault(faults),
    }


def _annotation_row(
    row: Mapping[str, Any], split: str, sizes: Mapping[int, tuple[int | None, int | None]]
) -> dict[str, Any]:
    crowd = bool(row.get("iscrowd"))
    joints, box = row.get("keypoints", [] if crowd else None), row.get("bbox")
    given = row.get("num_keypoints", 0 if crowd else None)
    image_id = row.get("image_id") if _is_int(row.get("image_id")) else None
    faults = [
        (_is_int(row.get("id")), "id is not a whole number"),
        (image_id is not None, "image_id is not a whole number"),
        (_are_numbers(box, 4), "bbox is not four numbers"),
        (_is_number(row.get("area")), "area is not a number"),
        (_is_int(given), "num_keypoints is not a whole number"),
        (_are_numbers(joints), "keypoints is not a list of numbers"),
    ]
    result: dict[str, Any] = {
        "label": f"annotation {_short(repr(row.get('id')))} (image {_short(repr(row.get('image_id')))}, {split})",
        "split": split,
        "id": row.get("id") if _is_int(row.get("id")) else None,
        "image_id": image_id,
        "image_listed": image_id is None or image_id in sizes,
        "fault": _first_fault(faults),
        "num_keypoints": given if _is_int(given) else None,
        "is_person": not crowd and _is_int(given) and given > 0,
        **dict.fromkeys(("joint_numbers", "labelled", "odd_visibilities", "joints_out_px"), np.nan),
        **dict.fromkeys(("box_out_px", "box_width", "box_height", "area"), np.nan),
    }
    person = result["is_person"]
    width, height = sizes.get(image_id, (None, None)) if image_id is not None else (None, None)
    if _are_numbers(joints) and (joints or not crowd):
        result["joint_numbers"] = len(joints)
        visibilities = joints[2::3]
        result["labelled"] = sum(v > 0 for v in visibilities)
        result["odd_visibilities"] = sum(v not in (0, 1, 2) for v in visibilities)
        if person and width and height:
            points = [p for p in zip(joints[::3], joints[1::3], visibilities, strict=False) if p[2] > 0]
            result["joints_out_px"] = max((max(-x, -y, x - width, y - height, 0) for x, y, _ in points), default=0)
    if person and _are_numbers(box, 4):
        x, y, result["box_width"], result["box_height"] = box
        if width and height:
            over = (-x, -y, x + box[2] - width, y + box[3] - height, 0)
            result["box_out_px"] = max(over)
    if person and _is_number(row.get("area")):
        result["area"] = row["area"]
    return result


def look_at_files(images: list[dict[str, Any]], folders: Mapping[str, Path]) -> None:
    """Decode every image and add what its file is to its row: `exists`, `decode_fault`, sizes and `digest`.

    Args:
        images: Rows with `split` and `file_name`.
        folders: Where the images of each split lie.
    """

    def look(row: Mapping[str, Any]) -> ImageFile:
        if row["file_name"] is None:
            return ImageFile(exists=True)  # The record's own fault.
        if not is_safe_file_name(row["file_name"]):
            return ImageFile(exists=False)
        return look_at(folders[row["split"]] / row["file_name"])

    with ThreadPoolExecutor(_THREADS) as pool:
        for row, file in zip(
            images, track(pool.map(look, images), "Decoding", total=len(images), unit="images"), strict=True
        ):
            row["exists"] = file.exists
            row["decode_fault"] = file.fault or None
            row["file_width"] = file.width or None
            row["file_height"] = file.height or None
            row["digest"] = file.digest or None
            row["perceptual_hash"] = file.perceptual_hash


def mark_alike(images: Sequence[dict[str, Any]], calibration: str, evaluation: str) -> tuple[Lookalike, ...]:
    """Say for each calibration image which evaluation image looks like it: `looks_like`, with None for no other.

    Equal files are not named again: `content_shared` says so. The hashes are taken out of the rows.

    Returns:
        All that look like one.
    """
    hashes = {id(row): row.pop("perceptual_hash") for row in images}
    judged = [row for row in images if row["split"] == evaluation]
    drawn = [row for row in images if row["split"] == calibration]
    found = find_alike([hashes[id(row)] for row in drawn], [hashes[id(row)] for row in judged])
    for row in images:
        row["looks_like"] = None
    lookalikes = []
    for row, place in zip(drawn, found, strict=True):
        if place is not None and judged[place]["digest"] != row["digest"]:
            other, name = judged[place], row["file_name"]
            row["looks_like"] = other["label"]
            image = row.get("id", name)
            if image is not None:  # one without an id is a fault of its own
                lookalikes.append(Lookalike(image=image, file_name=name, like=other["file_name"]))
    return tuple(lookalikes)


def mark_shared(
    images: Sequence[dict[str, Any]], calibration: str, evaluation: str, columns: Mapping[str, str]
) -> None:
    """Say for each calibration image whether an image of the evaluation split has the same value in a column.

    Args:
        images: Rows with `split` and the columns.
        calibration: The calibration split.
        evaluation: The evaluation split.
        columns: For each column that is compared, the column that says so.
    """
    judged = [row for row in images if row["split"] == evaluation]
    for column, target in columns.items():
        theirs = {row[column] for row in judged} - {None}
        for row in images:
            row[target] = row[column] in theirs if row["split"] == calibration else None
