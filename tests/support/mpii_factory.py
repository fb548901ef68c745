"""Makes small MPII data sets in the layout of Simple Baselines, and changes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from hpe_tasks.data.mpii.mat import MpiiMat, write_mpii_mat

WIDTH, HEIGHT = 120, 100
NAMES = ("000001.jpg", "000002.jpg", "000003.jpg")
PERSONS = 4  # The first image shows two.


def people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints N×16×2, visible N×16 and head boxes N×2×2, counted from 1; the last person's ankles are not labelled."""
    rng = np.random.default_rng(7)
    joints = rng.integers(2, 90, (PERSONS, 16, 2)).astype(np.float64)
    visible = np.ones((PERSONS, 16), dtype=bool)
    visible[-1, [0, 5]] = False
    joints[~visible] = -1
    corner = rng.integers(5, 50, (PERSONS, 2)).astype(np.float64)
    boxes = np.stack([corner, corner + rng.integers(12, 30, (PERSONS, 2))], axis=1)
    # MPII derives neck and head top from the head's box: points on a line through its centre.
    slope = np.array([2.5, 7.25])
    joints[:, 8] = boxes.mean(axis=1) + slope
    joints[:, 9] = boxes.mean(axis=1) - slope
    return joints, visible, boxes


def write_mpii(root: Path, splits: tuple[str, ...] = ("train", "valid")) -> Path:
    """Splits of four persons in three images each; names of the images begin with the split's number."""
    (root / "images").mkdir(parents=True)
    (root / "annot").mkdir()
    joints, visible, boxes = people()
    for number, split in enumerate(splits):
        names = [f"{number}{name}" for name in NAMES]
        rows = [
            {
                "image": names[max(0, person - 1)],
                "center": [50.0 + person, 40.0],
                "scale": 0.4,
                "joints": joints[person].tolist(),
                "joints_vis": visible[person].astype(int).tolist(),
            }
            for person in range(PERSONS)
        ]
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(10 * number + seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name)
        (root / "annot" / f"{split}.json").write_text(json.dumps(rows))
        write_mpii_mat(root / "annot" / f"gt_{split}.mat", MpiiMat(joints, visible, boxes))
    return root


@contextmanager
def edited_rows(root: Path, split: str = "valid") -> Iterator[list[dict[str, Any]]]:
    """The records of the split's .json file, written back afterwards."""
    path = root / "annot" / f"{split}.json"
    rows = json.loads(path.read_text())
    yield rows
    path.write_text(json.dumps(rows))


@contextmanager
def edited_mat(root: Path, split: str = "valid") -> Iterator[dict[str, Any]]:
    """The variables of the split's .mat file, written back afterwards."""
    path = root / "annot" / f"gt_{split}.mat"
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    yield variables
    scipy.io.savemat(path, variables)
