"""Pictures of what FP32 and the exported file found, or why there are none."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hpe_tasks.errors import DatasetError
from hpe_tasks.report.files import ReportFiles
from hpe_tasks.report.records import RunRecords
from hpe_tasks.report.side_by_side import (
    ComparedImage,
    ComparedPerson,
    compare_images,
    compare_persons,
    score_threshold,
)
from hpe_tasks.report.subjects import read_predictions, read_truth

USUAL_COUNT = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """Persons and whole images side by side, or why there are none.

    Attributes:
        size_name: What the distances of persons are told in.
        drawn: Which joints are drawn.
    """

    persons: tuple[ComparedPerson, ...] = ()
    images: tuple[ComparedImage, ...] = ()
    size_name: str = ""
    drawn: str = ""
    absent: str = ""


def pictures_of(records: RunRecords, files: ReportFiles, *, count: int = USUAL_COUNT) -> Pictures:
    """Draw persons, and of a network of whole images some of those; says why where that cannot be done.

    Args:
        records: Of a run that has measured FP32 and the exported file.
        files: Where the data set and both predictions lie.
        count: How many persons: half of them telling ones, the others drawn by the run's seed.
    """
    if files.dataset_root is None or files.fp32_predictions is None or files.onnx_predictions is None:
        return Pictures(absent="They need the data set and the predictions of both the FP32 model and the ONNX file.")
    if records.onnx is None:
        return Pictures(absent="The ONNX file has not been measured.")
    protocol, seed = records.onnx.fingerprint, records.config.seed
    try:
        truth = read_truth(records.config.dataset.kind, files.dataset_root, protocol.split)
        before, after = read_predictions(files.fp32_predictions), read_predictions(files.onnx_predictions)
        persons = compare_persons(truth, before, after, protocol, seed=seed, count=count)
        bottom_up = protocol.box_source == "whole_image"
        images = compare_images(truth, before, after, protocol, seed=seed) if bottom_up else ()
    except (DatasetError, OSError) as error:
        # The numbers are worth a report without pictures too; the reader is told why there are none.
        log.warning("There are no pictures: %s", error)
        return Pictures(absent=f"They could not be made: {error}")
    threshold = score_threshold(protocol)
    drawn = f"joints that FP32 or int8 scores {threshold} or more" if threshold else "the joints that each model found"
    drawn += f". {truth.agreement}"
    absent = "" if persons else "Neither FP32 nor the ONNX file found an annotated person."
    return Pictures(persons, images, truth.size_name, drawn, absent)
