"""Images of one split that another split holds as well: the same file, or the same picture in another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hpe_tasks.data.dataset import Dataset
from hpe_tasks.data.image_files import ImageFile, look_at
from hpe_tasks.data.perceptual_hash import find_alike
from hpe_tasks.progress import track

_THREADS = min(8, (os.cpu_count() or 1) + 1)


def find_lookalikes(dataset: Dataset, evaluation: Dataset) -> dict[Any, str]:
    """The images of a split that show what an image of the evaluation split shows, with the name of its file.

    Every image of both is decoded; those that cannot be read are like none.

    Args:
        dataset: A split.
        evaluation: The split that a network is measured on.
    """
    ours, theirs = (_looked_at(split) for split in (dataset, evaluation))
    by_digest = {file.digest: name for name, file in theirs.values() if file.digest}
    hashes = [[file.perceptual_hash for _, file in files.values()] for files in (ours, theirs)]
    names = [name for name, _ in theirs.values()]
    found = {}
    for (key, (_, file)), place in zip(ours.items(), find_alike(*hashes), strict=True):
        like = by_digest.get(file.digest) if file.digest else None
        if like is None and place is not None:
            like = names[place]
        if like is not None:
            found[key] = like
    return found


def _looked_at(split: Dataset) -> Mapping[Any, tuple[str, ImageFile]]:
    paths = split.image_files()
    with ThreadPoolExecutor(_THREADS) as pool:
        looked = track(pool.map(look_at, paths.values()), f"Looking at {split.split}", total=len(paths), unit="images")
        return {key: (path.name, file) for (key, path), file in zip(paths.items(), looked, strict=True)}
