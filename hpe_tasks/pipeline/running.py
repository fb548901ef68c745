"""Running steps of a pipeline one after the other in one process: what the command line and the Python API do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Protocol

from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step

StepEnd = Literal["done", "reused", "failed", "interrupted"]


class Watch(Protocol):
    """Is told how far a run is."""

    def began(self, step: Step[Any]) -> None:
        """A step begins."""

    def ended(self, step: Step[Any], end: StepEnd, seconds: float) -> None:
        """A step has ended, `reused` where an earlier result of the same inputs stood in."""


def run_steps(pipeline: Pipeline, run: Run, steps: Iterable[Step[Any]], watch: Watch | None = None) -> None:
    """Run steps in this order, but those that a rule of theirs leaves out.

    Args:
        pipeline: Whose steps they are.
        run: Where they find each other's results.
        steps: What to run.
        watch: Is told of each step.
    """
    for step in steps:
        if not pipeline.skip_reason(step, run):
            with nullcontext() if watch is None else _watched(run, step, watch):
                step(run)


def end_run(pipeline: Pipeline, run: Run) -> None:
    """Run the steps that a pipeline ends with, whatever the others have come to."""
    for step in pipeline.last:
        step(run)


def end_line(step: Step[Any], end: StepEnd, seconds: float) -> str:
    """How a step ended and how long it took, as a line of a table."""
    return f"{step.name:20}{end:10}{seconds:6.1f} s"


@contextmanager
def _watched(run: Run, step: Step[Any], watch: Watch) -> Iterator[None]:
    watch.began(step)
    began = time.monotonic()
    end: StepEnd = "failed"
    try:
        yield
        pointer = run.pointer(step.name)
        end = "reused" if pointer is not None and pointer.reused else "done"
    except KeyboardInterrupt:
        end = "interrupted"
        raise
    finally:
        watch.ended(step, end, time.monotonic() - began)
