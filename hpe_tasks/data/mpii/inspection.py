"""Looking at every record and image of an MPII data set: tables of what is there, for expectations to judge.

Nothing is refused here: a record that cannot be understood becomes a row whose `fault` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpe_tasks.data.mpii.annotations import (
    FIRST_PIXEL,
    MpiiDataset,
    annotation_path,
    as_person,
    read_records,
    record_fault,
    truth_path,
)
from hpe_tasks.data.mpii.truth import load_truth
from hpe_tasks.data.validation.inspection import file_row, look_at_files, make_frame, mark_alike, mark_shared
from hpe_tasks.errors import DatasetError
from hpe_tasks.records.inputs import Lookalike

CLEAR_SURPLUS, CLEAR_RATIO = 20, 3
"""So many more coordinates at pixel 0 than at the last pixel, and so many times as many, are not there by accident."""


@dataclass(frozen=True)
class MpiiInspection:
    """Tables of a data set; every row has a `label` that a person can look up.

    Attributes:
        files: One row for each annotation file, the folder of images and the evaluation split's truth.
        splits: One row for each split whose annotations could be read.
        images: One row for each image that a split names.
        persons: One row for each person.
        lookalikes: Calibration images that look like an evaluation image.
    """

    files: pd.DataFrame
    splits: pd.DataFrame
    images: pd.DataFrame
    persons: pd.DataFrame
    lookalikes: tuple[Lookalike, ...]


def inspect_mpii(root: Path, *, calibration: str, evaluation: str) -> MpiiInspection:
    """Read the annotations of both splits and the truth of the second, and decode every image that they name."""
    folder, truth = root / "images", truth_path(root, evaluation)
    files = [file_row(folder, root, folder.is_dir())]
    splits: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    persons: list[dict[str, Any]] = []
    for split in (calibration, evaluation):
        path = annotation_path(root, split)
        try:
            records = read_records(path)
        except DatasetError as error:
            files.append(file_row(path, root, path.is_file(), error.message))
            continue
        files.append(file_row(path, root, exists=True))
        rows = [_person_row(record, index, split) for index, record in enumerate(records)]
        names = dict.fromkeys(row["image"] for row in rows if row["image"] is not None)
        images += [{"label": f"{split}: {name}", "split": split, "file_name": name} for name in names]
        labelled = sum(row["labelled"] > 0 for row in rows)
        splits.append(
            {
                "label": split,
                "images": len(names),
                "annotations": len(rows),
                "persons": labelled,
                "calibration_persons": labelled if split == calibration else None,
                "evaluation_persons": labelled if split == evaluation else None,
            }
        )
        persons += rows
    files.append(file_row(truth, root, truth.is_file(), _truth_fault(root, evaluation, persons)))
    look_at_files(images, dict.fromkeys((calibration, evaluation), folder))
    mark_shared(images, calibration, evaluation, {"file_name": "name_shared", "digest": "content_shared"})
    lookalikes = mark_alike(images, calibration, evaluation)
    _compare_with_images(persons, splits, images)
    return MpiiInspection(
        files=make_frame(files, {}),
        splits=make_frame(splits, {"calibration_persons": "Int64", "evaluation_persons": "Int64"}),
        images=make_frame(images, dict.fromkeys(("file_width", "file_height"), "Int64")),
        persons=make_frame([{k: v for k, v in row.items() if k != "points"} for row in persons], {}),
        lookalikes=lookalikes,
    )


def _person_row(record: Any, index: int, split: str) -> dict[str, Any]:
    fault = record_fault(record)
    image = record.get("image") if isinstance(record, dict) else None
    points = np.zeros((0, 2))
    if not fault:
        person = as_person(record, index)
        points = person.joints[person.visible]
    return {
        "label": f"person {index} of {split} ({str(image)[:80]})",
        "split": split,
        "image": image if isinstance(image, str) and image else None,
        "fault": fault or None,
        "labelled": len(points),
        "points": points,
        "joints_out_px": np.nan,
    }


def _truth_fault(root: Path, split: str, persons: list[dict[str, Any]]) -> str:
    """Why the truth cannot be used; empty when it can, or when records have faults that come first."""
    records = [row for row in persons if row["split"] == split]
    if not records or any(row["fault"] for row in records):
        return ""
    people = tuple(as_person(record, index) for index, record in enumerate(read_records(annotation_path(root, split))))
    try:
        load_truth(MpiiDataset(root, split, people))
    except DatasetError as error:
        return error.message
    return ""


def _compare_with_images(
    persons: list[dict[str, Any]], splits: list[dict[str, Any]], images: list[dict[str, Any]]
) -> None:
    """Say of each person how far labelled joints leave the image, and of each split whether it counts from 0.

    With pixels counted from 1, joints on an image's border are at 1 or at its width; counted from 0, at 0 or at its
    width less 1. So more labelled coordinates on pixel 0 than on the last pixel as counted from 1 speak for a file
    that counts from 0. Joints that are labelled a little outside fall on either side: a few more on one are a sign,
    and only many more are `clear_zero_surplus`.
    """
    sizes = {row["file_name"]: (row["file_width"], row["file_height"]) for row in images}
    at_zero: dict[str, int] = {row["label"]: 0 for row in splits}
    at_end = dict(at_zero)
    for row in persons:
        width, height = sizes.get(row["image"], (None, None))
        points = row["points"]
        if not len(points) or not width or not height:
            continue
        last = np.array([width, height], dtype=np.float64)
        row["joints_out_px"] = float(max((FIRST_PIXEL - points).max(), (points - last).max(), 0.0))
        at_zero[row["split"]] += int(((points >= 0) & (points < FIRST_PIXEL)).sum())
        at_end[row["split"]] += int(((points > last - 1) & (points <= last)).sum())
    for row in splits:
        zero, end = at_zero[row["label"]], at_end[row["label"]]
        row["zero_surplus"] = zero - end
        row["clear_zero_surplus"] = zero - end if zero - end >= CLEAR_SURPLUS and zero >= CLEAR_RATIO * end else 0
