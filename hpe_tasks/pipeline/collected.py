"""What the steps of a run have left, collected for the report and the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hpe_tasks.config.addresses import without_credentials
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.pipelines import pipeline_of
from hpe_tasks.pipeline.provenance import git_commit
from hpe_tasks.pipeline.runs import CHOICE, Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.ladder import RungOutcome, RungState
from hpe_tasks.records.run import StepFailure
from hpe_tasks.report.records import RunRecords


def records_of(run: Run, *, looking_back: bool = False, with_commit: bool = True) -> RunRecords:
    """What the run's steps have produced so far.

    Args:
        run: The run.
        looking_back: Show what is recorded, also when inputs or code have changed since.
        with_commit: Say which code this is, for which git is asked.

    Raises:
        ValueError: A step of the run's pipeline is shown as what is no field of the records.
    """
    pipeline, load = pipeline_of(run), run.recorded if looking_back else run.find
    shown: Mapping[str, Any] = {step.shown_as: load(step) for step in _shown_steps(pipeline)}
    failures, collected = pipeline.failures(run), _CollectedRun(run.asked, run.config, load)
    return RunRecords(
        config=without_credentials(run.config),
        asked=None if run.asked == run.config else without_credentials(run.asked),
        run=run.name,
        started=run.started,
        git_commit=git_commit() if with_commit else None,
        failures=failures,
        rungs=tuple(_rungs(collected, pipeline.by_name, failures)),
        steps=pipeline.outcomes(collected, failures),
        **shown,
    )


def _shown_steps(pipeline: Pipeline) -> Iterator[Step[Any]]:
    known = {field.name for field in fields(RunRecords)}
    for step in pipeline.steps:
        if step.shown_as and step.shown_as not in known:
            wrong = f"{step.shown_as!r}, which is no field of RunRecords"
            raise ValueError(f"in {pipeline.name} the step {step.name} is shown as {wrong}")
        if step.shown_as:
            yield step


@dataclass(frozen=True)
class _CollectedRun:
    """Records as they were collected of a run."""

    asked: RunConfig
    config: RunConfig
    find: Callable[[Step[Any]], Any]


def _rungs(
    results: _CollectedRun, steps: Mapping[str, Step[Any]], failures: Sequence[StepFailure]
) -> Iterator[RungOutcome]:
    """How it went with each rung that the pipeline has a step for; of none where no recipe is searched."""
    if results.asked.recipe.search == "off":
        return
    failed = {failure.step: failure for failure in failures}
    choice = results.find(steps[CHOICE]) if CHOICE in steps else None
    for rung in (rung for rung in RUNGS if rung.step in steps):
        step = steps[rung.step]
        tried, failure = results.find(step), failed.get(rung.step)
        reason = "" if tried is not None or failure is not None else step.skip(results)
        state: RungState = "skipped" if reason else "not_run"
        if failure is not None:
            state, reason = "failed", failure.message
        elif tried is not None:
            state, reason = tried.state, tried.reason
        chosen = choice is not None and tried is not None and choice.rung == rung.name
        yield RungOutcome(name=rung.name, summary=rung.summary, state=state, reason=reason, tried=tried, chosen=chosen)
