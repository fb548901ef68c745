"""A pipeline: its steps in their order, and all that follows from them.

The command line, the DAG, the collected records and the report are made from this object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from hpe_tasks.errors import BelowFloorError, HpeError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Results, Step, never_skipped
from hpe_tasks.records.run import RunReport, StepFailure, StepOutcome, StepState


@dataclass(frozen=True)
class Pipeline:
    """Steps that make up a run.

    Attributes:
        name: Of its DAG, and of its runs.
        command: Of the command line that runs all of it.
        summary: What a run of it does, in a sentence.
        steps: In the order in which a single process runs them: each after those that it needs or follows.
    """

    name: str
    command: str
    summary: str
    steps: tuple[Step[Any], ...]

    def __post_init__(self) -> None:
        """Refuse steps that could not run in this order."""
        earlier: list[Step[Any]] = []
        for step in self.steps:
            if any(step.name == other.name for other in earlier):
                raise ValueError(f"{self.name} holds two steps that are called {step.name}")
            # What a step only follows need not be in the pipeline.
            followed = (other for other in step.follows if other in self.steps)
            for other in (*_asked_by(step), *followed):
                if other not in earlier:
                    raise ValueError(f"in {self.name} the step {step.name} stands before {other.name}")
            earlier.append(step)

    @cached_property
    def by_name(self) -> Mapping[str, Step[Any]]:
        """The steps by their names."""
        return {step.name: step for step in self.steps}

    @property
    def ordered(self) -> tuple[Step[Any], ...]:
        """The steps that run one after the other, without those that run at the end whatever came."""
        return tuple(step for step in self.steps if not step.whatever_came)

    @property
    def last(self) -> tuple[Step[Any], ...]:
        """The steps that run at the end whatever came."""
        return tuple(step for step in self.steps if step.whatever_came)

    def needed_for(self, step: Step[Any]) -> tuple[Step[Any], ...]:
        """What must have run for a step to run, and the step itself, in their order."""
        wanted = {step, *_closure(step, _asked_by)}
        return tuple(one for one in self.steps if one in wanted)

    def skip_reason(self, step: Step[Any], results: Results) -> str:
        """Why a step is left out of a run: by its own rule or that of a step that it needs; empty where it is not."""
        reasons = (one.skip(results) for one in (step, *_closure(step, _needs)))
        return next(filter(None, reasons), "")

    def may_skip(self, step: Step[Any]) -> bool:
        """Whether a step has a rule of its own for being left out."""
        return step.skip is not never_skipped

    def left_out_behind(self, step: Step[Any], results: Results) -> tuple[Step[Any], ...]:
        """Steps of the search for a recipe that are left out, as is certain when a step has ended.

        That is so where all that they wait for has ended with it, or is left out as well.

        Args:
            step: Has just ended.
            results: The run's.
        """
        ended = {step, *_closure(step, _waited_for_by)}
        left_out = []
        for other in self.ordered:
            waits_for = {one for one in _waited_for_by(other) if one in self.steps}
            if other.before_choice and other not in ended and waits_for <= ended and self.skip_reason(other, results):
                left_out.append(other)
                ended.add(other)
        return tuple(left_out)

    def upstream(self, step: Step[Any]) -> tuple[Step[Any], ...]:
        """The steps that a step waits for, without those that others of them wait for in any case.

        A step that runs whatever came waits for the ends of all branches.
        """
        if step.whatever_came:
            return self._ends()
        hard = _asked_by(step)
        # One that is left out has waited for nothing.
        implied = {far for near in hard if not self.may_skip(near) for far in _closure(near, _asked_by)}
        wanted = {*hard, *step.follows} - implied
        return tuple(other for other in self.steps if other in wanted)

    def _ends(self) -> tuple[Step[Any], ...]:
        """Steps of which none can still run when all of these have ended, whichever has failed.

        What waits for two branches ends as soon as one of them fails, while the other still runs.
        """
        # What a step only follows need not be in the pipeline.
        earlier = {step: [one for one in _closure(step, _waited_for_by) if one in self.steps] for step in self.ordered}

        def apart(one: Step[Any], other: Step[Any]) -> bool:
            return one is not other and one not in earlier[other] and other not in earlier[one]

        ends: list[Step[Any]] = []
        for one in reversed(self.ordered):
            if not any(one in earlier[end] and not any(apart(one, other) for other in earlier[end]) for end in ends):
                ends.insert(0, one)
        return tuple(ends)

    def report_uri(self, run: Run) -> str | None:
        """Address of the report that a step of this pipeline has written at a run's end; None where there is none."""
        reports = (run.recorded(step) for step in self.last if step.kind is RunReport)
        return next((report.html.uri for report in reports if report is not None), None)

    def failures(self, run: Run) -> tuple[StepFailure, ...]:
        """Why steps failed, in their order; without those that an earlier step's new result has outdated."""
        failures = ((step, run.failure(step.name)) for step in self.steps)
        return tuple(failure for step, failure in failures if failure is not None and not _outdated(run, step, failure))

    def outcomes(self, results: Results, failures: Sequence[StepFailure]) -> tuple[StepOutcome, ...]:
        """How each step went, but for quiet ones that are left out.

        A failure counts more than a result of an earlier attempt.
        """
        # A later step that was started all the same has been refused for the same reason, which is told once.
        failed = {failure.step: failure for failure in failures if failure.error != BelowFloorError.__name__}
        records = {step: results.find(step) for step in self.ordered}
        outcomes = []
        for place, step in enumerate(self.ordered):
            failure, record = failed.get(step.name), records[step]
            state: StepState = "not_run"
            if failure is not None:
                state = "failed"
            elif record is not None:
                state = _state_of(step, record)
            elif self.skip_reason(step, results) or self._left_out(step, place, records):
                state = "skipped"
            if state == "skipped" and step.quiet:
                continue
            outcomes.append(StepOutcome(name=step.name, title=step.title, state=state, failure=failure))
        return tuple(outcomes)

    def _left_out(self, step: Step[Any], place: int, records: Mapping[Step[Any], Any]) -> bool:
        """Whether the run has gone on without a step that no other needs: it was begun at one that follows it."""
        others = self.ordered[place + 1 :]
        wanted = any(step in _asked_by(other) for other in others)
        following = [other for other in others if step in _closure(other, _waited_for_by)]
        return not wanted and any(records[other] is not None for other in following)


def _needs(step: Step[Any]) -> tuple[Step[Any], ...]:
    """The steps whose results a step reads."""
    return step.needs


def _asked_by(step: Step[Any]) -> tuple[Step[Any], ...]:
    """The steps that must have run before a step, as far as they are not left out."""
    return (*step.needs, *step.needs_unless_skipped, *step.after)


def _waited_for_by(step: Step[Any]) -> tuple[Step[Any], ...]:
    """The steps that come before a step wherever they are run."""
    return (*_asked_by(step), *step.follows)


@cache
def _closure(step: Step[Any], near: Callable[[Step[Any]], Iterable[Step[Any]]]) -> Mapping[Step[Any], None]:
    """The steps that are near a step, those that are near them, and so on: each once, in the order they are met."""
    found: dict[Step[Any], None] = {}
    waiting = list(near(step))
    while waiting:
        other = waiting.pop(0)
        if other not in found:
            found[other] = None
            waiting += near(other)
    return found


def _state_of(step: Step[Any], record: Any) -> StepState:
    """How a step went that has left a record."""
    if step.refused(record):
        return "refused"
    try:
        step.accept(record)
    except HpeError:
        return "failed"
    return "done"


def _outdated(run: Run, step: Step[Any], failure: StepFailure) -> bool:
    inputs = (run.pointer(other.name) for other in _asked_by(step))
    return any(pointer is not None and pointer.finished_at > failure.failed_at for pointer in inputs)
