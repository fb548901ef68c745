"""A measurement counted again from its predictions and the annotations; no network is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.data.mpii import MpiiDataset
from hpe_tasks.evaluation import coco, mpii
from hpe_tasks.evaluation.request import JointMap, PredictionRequest
from hpe_tasks.metrics.image_tables import ImageTable
from hpe_tasks.records.evaluation import Runtime, Stats


@dataclass(frozen=True, eq=False)
class Recount:
    """What predictions come to.

    Attributes:
        image_ids_digest: Of the images that the configuration draws from these annotations, as a protocol has it.
        num_persons: Annotated persons that are measured.
        joint_map: The compared joints.
        tables: The table of images, with the fewest and with the most hits that the digits of the predictions leave
            open. COCO's tables are made of the predictions as they are stored, and both are the same.
        stats: The metric's figures; None where the digits of the predictions may leave them open.
    """

    image_ids_digest: str
    num_persons: int
    joint_map: JointMap
    tables: tuple[ImageTable, ImageTable]
    stats: Stats | None


def recount(
    dataset: Dataset,
    rows: Sequence[dict[str, Any]],
    model: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    images: Literal["with_persons", "all"] = "with_persons",
    runtime: Runtime,
    seed: int,
) -> Recount:
    """Compare stored predictions with the annotations as `evaluate` does.

    Args:
        dataset: The evaluation split.
        rows: Its predictions, as `EvaluationReport.predictions` says.
        model: Says which joints were predicted.
        evaluation: Says how many images were measured.
        images: This and the others as of `evaluate`.
        runtime: Whose predictions they are.
        seed: Of the subset.

    Raises:
        ConfigError: Model and data set have no joint in common.
        DatasetError: The annotations cannot be used.
        KeyError, TypeError, ValueError: The rows are no predictions on these images.
    """
    request = PredictionRequest(
        predict=_not_asked,
        model=model,
        evaluation=evaluation,
        images=images,
        boxes=None,
        runtime=runtime,
        seed=seed,
    )
    return _FORMATS[dataset.kind.format](dataset, rows, request)


def _not_asked(_: NDArray[np.float32]) -> Any:
    raise RuntimeError("Stored predictions are counted: no network is asked.")


def _coco(dataset: CocoDataset, rows: Sequence[dict[str, Any]], request: PredictionRequest) -> Recount:
    measured = coco.choose(dataset, request)
    table = coco.image_table(measured, rows)
    return Recount(
        image_ids_digest=coco.ids_digest(measured.dataset),
        num_persons=len(measured.persons),
        joint_map=measured.joint_map,
        tables=(table, table),
        stats=coco.score(measured, rows).stats,
    )


def _mpii(dataset: MpiiDataset, rows: Sequence[dict[str, Any]], request: PredictionRequest) -> Recount:
    measured, joint_map, tables = mpii.tables_of_rows(dataset, rows, request)
    return Recount(
        image_ids_digest=hashlib.sha256("\n".join(measured.images).encode()).hexdigest(),
        num_persons=len(measured.persons),
        joint_map=joint_map,
        tables=tables,
        stats=None,
    )


_FORMATS: dict[str, Callable[[Any, Sequence[dict[str, Any]], PredictionRequest], Recount]] = {
    "coco": _coco,
    "mpii": _mpii,
}
