"""What a training may learn from."""

from __future__ import annotations

import logging

from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.data.lookalikes import find_lookalikes
from hpe_tasks.errors import DatasetError

log = logging.getLogger(__name__)

_SHOWN_LOOKALIKES = 5


def without_lookalikes(dataset: CocoDataset, validation: CocoDataset) -> CocoDataset:
    """The images that the validation split does not show as well, in the same files or in others.

    Raises:
        DatasetError: None is left.
    """
    found = find_lookalikes(dataset, validation)
    if not found:
        return dataset
    files = dataset.image_files()
    shown = [f"{files[image].name} (like {like})" for image, like in list(found.items())[:_SHOWN_LOOKALIKES]]
    named = ", ".join(shown) + (", …" if len(found) > len(shown) else "")
    kept = [image for image in dataset.image_ids if image not in found]
    if not kept:
        raise DatasetError(
            f"Every image of {dataset.split!r} looks like one of {validation.split!r}: {named}.",
            hint="Name another validation split, or none.",
        )
    ours, theirs = dataset.split, validation.split
    log.warning("Not trained on %d images of %r that %r shows, too: %s.", len(found), ours, theirs, named)
    return dataset.subset(kept)
