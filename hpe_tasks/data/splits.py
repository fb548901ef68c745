"""A split of a data set of either kind."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.config.run import DatasetKind
from hpe_tasks.data.coco import CocoKeypoints, load_coco
from hpe_tasks.data.mpii import MpiiKeypoints, load_mpii


def load_split(kind: DatasetKind, root: Path, split: str) -> CocoKeypoints | MpiiKeypoints:
    """Read a split's annotations; raises DatasetError as `load_coco` and `load_mpii` do."""
    return load_mpii(root, split) if kind == "mpii" else load_coco(root, split)
