"""What became of each image: the judged figure on it alone, before and after quantization.

Figures of single images are for finding the images that lost most: their mean is not the figure of them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.base import Frozen
from hpe_tasks.errors import BadInputError, DigestError
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import Runtime
from hpe_tasks.report.records import RunRecords

if TYPE_CHECKING:
    from hpe_tasks.metrics.image_tables import ImageTable
    from hpe_tasks.storage.workspace import Workspace

_AT_ONCE = 128
"""Images that are counted at once: it bounds the memory, which grows with them and with all results."""


class ImageResult(Frozen):
    """An image with the figure of each form of the model on it alone; None where no person in it counts.

    Attributes:
        image: Its id, or file name, in the data set.
        persons: Persons that count; of PCKh the joints that are labelled.
        lost: FP32 minus the exported file.
    """

    image: int | str
    persons: int
    fp32: float | None
    quantsim: float | None
    int8: float | None

    @property
    def lost(self) -> float | None:
        """Below zero for a gain; None where either figure is."""
        return None if self.fp32 is None or self.int8 is None else self.fp32 - self.int8


IMAGE_COLUMNS = (*ImageResult.model_fields, "lost")


def tables_of_run(records: RunRecords, workspace: Workspace) -> dict[Runtime, ImageTable]:
    """The tables of a run's measurements, of all images that were compared.

    Raises:
        BadInputError: The run has not measured anything yet, or keeps no tables, as older ones did not.
        DigestError: A table is damaged.
    """
    evaluation = records.quantized_evaluation
    artifacts: dict[Runtime, Artifact | None] = {
        "fp32": None if records.fp32 is None else records.fp32.image_table,
        "quantsim": None if evaluation is None else evaluation.quantsim.image_table,
        "onnxruntime": None if evaluation is None else evaluation.onnx.image_table,
    }
    if records.comparison is not None and len(records.comparison.tables) == 2:
        artifacts["fp32"], artifacts["onnxruntime"] = records.comparison.tables
    found = {runtime: artifact for runtime, artifact in artifacts.items() if artifact is not None}
    if not found:
        raise BadInputError(
            f"The run {records.run} has no results of single images.",
            hint="It has not measured a network yet, or was made before they were kept: run evaluate_fp32 in it.",
        )
    return {runtime: table_in(workspace.local(artifact)) for runtime, artifact in found.items()}


def table_in(file: Path) -> ImageTable:
    """The table in a file; raises DigestError where it is damaged."""
    from hpe_tasks.metrics.image_tables import read_table

    try:
        return read_table(file.read_bytes())
    except ValueError as error:
        raise DigestError(f"{file} is no table of images: {error}.", hint="Measure again.") from error


def image_results(tables: Mapping[Runtime, ImageTable], *, part: str = "all") -> list[ImageResult]:
    """Every image that one of the forms was measured on, those that lost most first.

    Args:
        tables: As `tables_of_run` gives them.
        part: What is counted: `all`, or `group/…`, `joint/…`, `size/…` or `crowd/…`.

    Raises:
        BadInputError: The tables have no such part.
    """
    known = {part for table in tables.values() for part in table.parts}
    if part not in known:
        raise BadInputError(f"There is no part {part!r}.", hint=f"Choose one of: {', '.join(sorted(known))}.")
    figures = {runtime: dict(_figures(table, part)) for runtime, table in tables.items()}
    persons: dict[int | str, int] = {}
    for table in tables.values():
        persons |= _persons(table, part)
    results = [
        ImageResult(
            image=image,
            persons=count,
            fp32=figures.get("fp32", {}).get(image),
            quantsim=figures.get("quantsim", {}).get(image),
            int8=figures.get("onnxruntime", {}).get(image),
        )
        for image, count in persons.items()
    ]
    # sorted() keeps the order of the images among those that lost alike.
    return sorted(results, key=lambda one: (one.lost is None, -(one.lost or 0.0)))


def image_record(result: ImageResult) -> dict[str, Any]:
    """An image as a flat record, by IMAGE_COLUMNS."""
    return {**result.model_dump(), "lost": result.lost}


def _figures(table: ImageTable, part: str) -> Iterator[tuple[int | str, float | None]]:
    import numpy as np

    names, total = table.images.tolist(), len(table.images)
    for begin in range(0, total, _AT_ONCE):
        rows = min(_AT_ONCE, total - begin)
        counts = np.zeros((rows, total), dtype=np.int32)
        counts[np.arange(rows), np.arange(begin, begin + rows)] = 1
        values = table.figures(counts, [part])[part]
        for name, value in zip(names[begin : begin + rows], values.tolist(), strict=True):
            yield name, None if np.isnan(value) else value


def _persons(table: ImageTable, part: str) -> dict[int | str, int]:
    from hpe_tasks.metrics.image_tables import HitTable, MatchTable

    if isinstance(table, MatchTable):
        counted = table.matches[part].persons
    elif isinstance(table, HitTable):
        counted = table.labelled[:, list(table.columns[part])].sum(axis=1)
    else:
        raise TypeError(f"{type(table).__name__} tells no persons")
    return dict(zip(table.images.tolist(), counted.tolist(), strict=True))
