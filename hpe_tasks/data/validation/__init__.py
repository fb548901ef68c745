"""Whether a data set is fit for a run: a Great Expectations suite for each form of annotations."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.formats import format_of
from hpe_tasks.data.validation.expectations import ValidationOutcome

__all__ = ["ValidationOutcome", "validate_dataset"]


def validate_dataset(
    root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float = 0.0
) -> ValidationOutcome:
    """Check the two splits of a data set of any kind.

    Every image of both splits is decoded, those that calibration will not draw as well: which ones it draws
    depends on the seed, and the verdict should not.

    Args:
        root: Folder that holds the annotations and images.
        config: Kind of the data set, names of the splits and the fewest persons.
        out: Folder for the Data Docs; nothing is written elsewhere.
        digest: Content digest of the data set, shown in the Data Docs.
        max_failed: Largest share of images that may be missing or unreadable.

    Raises:
        HpeError: Great Expectations itself failed on an expectation.
        StorageError: The Data Docs cannot be written.
    """
    return format_of(config.described).validate(root, config, out, digest, max_failed=max_failed)
