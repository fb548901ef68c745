"""What the run that made a version has left in the workspace, as long as that is still there."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from hpe_airflow.connections import s3_client
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import HpeError
from hpe_tasks.pipeline.runs import find_run, is_run_name


@dataclass(frozen=True)
class ShownValidation:
    """What the expectations found in the run's data.

    Attributes:
        told: The checks that were made, and what was warned of.
        address: Of the Data Docs, below the pages' own.
    """

    told: str
    address: str


def run_is_here(run: str) -> bool:
    """Whether the run is in this workspace, with a report."""
    from hpe_tasks.pipeline import steps

    places = Settings.from_environment()
    try:
        found = is_run_name(run) and find_run(run, workspace=places.workspace, cache=places.cache, s3=s3_client)
    except HpeError:
        return False
    return bool(found and found.pointer(steps.report.name) is not None)


def validation_of(run: str) -> ShownValidation | str:
    """What was found in the data of a run; a sentence where the run is not to be had here any more."""
    from hpe_tasks.pipeline import steps

    gone = "The run that made it is not in this workspace: its Data Docs are not to be had here."
    if not is_run_name(run):
        return gone
    places = Settings.from_environment()
    try:
        found = find_run(run, workspace=places.workspace, cache=places.cache, s3=s3_client)
        validation = found.recorded(steps.validate_dataset)
    except HpeError:
        return gone
    if validation is None:
        return "Its run did not look at the data, or another version of the project did."
    told = f"{validation.checks_run:,} checks of the data " + ("passed" if validation.passed else "did not all pass")
    warned = "; ".join(one.message for one in validation.warnings)
    return ShownValidation(f"{told}{': ' if warned else ''}{warned}", f"/runs/{quote(run, safe='')}/data-docs")
