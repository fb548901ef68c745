"""The two forms that annotation files have, and what is done with the data sets in each of them.

A kind of data set says which form its files have; another kind in the same form needs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.datasets import DatasetKind
from hpe_tasks.errors import DatasetError

if TYPE_CHECKING:
    from hpe_tasks.data.dataset import Dataset
    from hpe_tasks.data.fetch.sources import SourceRequest
    from hpe_tasks.data.validation.expectations import ValidationOutcome


class AnnotationFormat(Protocol):
    """How data sets of one form are found, read and validated."""

    def check_folder(self, folder: Path, config: DatasetConfig, splits: Sequence[str], *, images: bool) -> None:
        """Raise DatasetError unless the folder has the files that fetching would look for."""

    def find_source(self, request: SourceRequest) -> Path:
        """The folder with the data set on this machine; raises what `fetch_dataset` does."""

    def files(
        self, kind: DatasetKind, root: Path, splits: Sequence[str], evaluation: str, /
    ) -> Iterator[tuple[str, Path]]:
        """The files of the splits that its digest covers, by their names in the usual layout."""

    def load(self, kind: DatasetKind, root: Path, split: str, /) -> Dataset:
        """One split; raises DatasetError where its annotations cannot be used."""

    def validate(
        self, root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float
    ) -> ValidationOutcome:
        """Check the data set with its suite; see `validate_dataset`."""


class CocoFormat:
    """One JSON file for each split, with images, annotations and categories."""

    def check_folder(self, folder: Path, config: DatasetConfig, splits: Sequence[str], *, images: bool) -> None:
        """Raise DatasetError unless the folder has the splits' annotations, and their images if asked."""
        from hpe_tasks.data.annotation_files import find_root
        from hpe_tasks.data.fetch import layouts

        kind = config.described
        if images:
            find_root(folder, splits, kind)
        elif layouts.find_annotations(kind, folder, splits) is None:
            layouts.refuse_annotations(kind, folder, splits)

    def find_source(self, request: SourceRequest) -> Path:
        """The folder that holds the layout."""
        from hpe_tasks.data.fetch.coco_source import find_coco

        return find_coco(request)

    def files(
        self, kind: DatasetKind, root: Path, splits: Sequence[str], _evaluation: str
    ) -> Iterator[tuple[str, Path]]:
        """The splits' annotation files and images."""
        from hpe_tasks.data.fetch.digests import coco_files

        return coco_files(root, splits, kind)

    def load(self, kind: DatasetKind, root: Path, split: str) -> Dataset:
        """One split."""
        from hpe_tasks.data.coco import load_coco

        return load_coco(root, split, kind)

    def validate(
        self, root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float
    ) -> ValidationOutcome:
        """Check the data set with the suite of COCO's form."""
        from hpe_tasks.data.validation.coco import validate_coco

        return validate_coco(root, config, out, digest, max_failed=max_failed)


class MpiiFormat:
    """A list of persons for each split, and a MATLAB file with their truth."""

    def check_folder(self, folder: Path, config: DatasetConfig, splits: Sequence[str], *, images: bool) -> None:
        """Raise DatasetError unless annotations and truth are there, or one original file, and images if asked."""
        from hpe_tasks.data.fetch import layouts
        from hpe_tasks.data.mpii import truth_path

        kind = config.described
        annotations = layouts.find_annotations(kind, folder, splits)
        if annotations is None and len(layouts.originals(kind, folder)) != 1:
            layouts.refuse_annotations(kind, folder, splits)
        if annotations is not None:
            truth = annotations / truth_path(Path(), config.evaluation_split).name
            if not truth.is_file():
                raise DatasetError(
                    f"{annotations} has no {truth.name}, which predictions of {config.evaluation_split!r} are "
                    "compared with.",
                    hint="Put it beside the .json file, or set dataset.evaluation_split to a split that has one.",
                )
        if images and layouts.find_images(kind, [folder], "") is None:
            layouts.refuse_images(kind, {config.source: folder}, config.evaluation_split)

    def find_source(self, request: SourceRequest) -> Path:
        """The folder with annotations and images."""
        from hpe_tasks.data.fetch.mpii_source import find_mpii

        return find_mpii(request)

    def files(
        self, _kind: DatasetKind, root: Path, splits: Sequence[str], evaluation: str
    ) -> Iterator[tuple[str, Path]]:
        """The splits' annotations, the truth of the evaluation split, and the images that they name."""
        from hpe_tasks.data.fetch.digests import mpii_files

        return mpii_files(root, splits, evaluation)

    def load(self, _kind: DatasetKind, root: Path, split: str) -> Dataset:
        """One split."""
        from hpe_tasks.data.mpii import load_mpii

        return load_mpii(root, split)

    def validate(
        self, root: Path, config: DatasetConfig, out: Path, digest: str, *, max_failed: float
    ) -> ValidationOutcome:
        """Check the data set with MPII's suite."""
        from hpe_tasks.data.mpii.validation import validate_mpii

        return validate_mpii(root, config, out, digest, max_failed=max_failed)


FORMATS: dict[str, AnnotationFormat] = {"coco": CocoFormat(), "mpii": MpiiFormat()}
"""By `DatasetKind.format`."""


def format_of(kind: DatasetKind) -> AnnotationFormat:
    """The form of a kind's annotation files."""
    return FORMATS[kind.format]
