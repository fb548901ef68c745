"""All pipelines: the command line, the trigger check and the pages in Airflow know those that are listed here."""

from __future__ import annotations

from hpe_tasks.errors import MissingInputError
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.retrain import RETRAIN
from hpe_tasks.pipeline.runs import Run

PIPELINES: tuple[Pipeline, ...] = (REQUANTIZE, RETRAIN)


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline whose steps make up a run.

    Raises:
        MissingInputError: This version of the project does not have it.
    """
    for pipeline in PIPELINES:
        if pipeline.name == run.pipeline:
            return pipeline
    raise MissingInputError(
        f"The run {run.name} belongs to the pipeline {run.pipeline!r}, which this version of the code does not have.",
        hint="Use the version that made it.",
    )
