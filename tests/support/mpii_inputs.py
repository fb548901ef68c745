"""An MPII data set of photographs: mpii-mini's five persons to evaluate on, and those of coco-mini to calibrate on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hpe_tasks.data.coco import CocoDataset, Person, load_coco
from hpe_tasks.data.mpii import CENTER_SHIFT, FIRST_PIXEL
from hpe_tasks.pose.skeletons import MPII16


def write_mpii_of_photographs(test_data: Path, root: Path) -> Path:
    """Make `train` of coco-mini's persons and `valid` of mpii-mini, in the layout of Simple Baselines."""
    shutil.copytree(test_data / "mpii-mini", root)
    coco = load_coco(test_data / "coco-mini", "train2017")
    rows = [_row(coco, image.file_name, person) for image in coco.images for person in coco.persons(image.id)]
    (root / "annot" / "train.json").write_text(json.dumps([row for row in rows if any(row["joints_vis"])]))
    for image in coco.images:
        shutil.copy(coco.image_path(image), root / "images" / image.file_name)
    return root


def _row(coco: CocoDataset, file_name: str, person: Person) -> dict[str, Any]:
    """The person's joints that MPII has too; centre and scale as MPII would have them for the box."""
    joints, visible = np.full((len(MPII16.joints), 2), -1.0), np.zeros(len(MPII16.joints), dtype=int)
    for index, name in enumerate(MPII16.joints):
        if name in coco.joint_names:
            x, y, labelled = person.joints[coco.joint_names.index(name)]
            if labelled:
                joints[index], visible[index] = (x + FIRST_PIXEL, y + FIRST_PIXEL), 1
    x, y, width, height = person.box
    scale = max(width, height) / 200
    return {
        "image": file_name,
        "center": [x + width / 2 + FIRST_PIXEL, y + height / 2 + FIRST_PIXEL - CENTER_SHIFT * scale],
        "scale": scale,
        "joints": joints.tolist(),
        "joints_vis": visible.tolist(),
    }
