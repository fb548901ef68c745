"""Reading one split of a data set of any kind."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.data.dataset import Dataset
from hpe_tasks.data.formats import format_of
from hpe_tasks.datasets import KINDS


def load_split(kind: str, root: Path, split: str) -> Dataset:
    """The split's images and persons; raises DatasetError where its annotations cannot be used."""
    return format_of(KINDS[kind]).load(KINDS[kind], root, split)
