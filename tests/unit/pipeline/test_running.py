"""Running steps one after the other: in their order, told of, and left out by their own rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import StepEnd, end_line, end_run, run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.step import Results, Step, step
from hpe_tasks.records.base import Record
from hpe_tasks.storage.workspace import Scratch
from support.no_s3 import no_s3


def skipped(_: Results) -> str:
    return "It is not asked for."


@step(Record, "First")
def first(_run: Run, _scratch: Scratch) -> Record:
    """Be first."""
    return Record()


@step(Record, "Left out", needs=(first,), skip=skipped)
def left_out(_run: Run, _scratch: Scratch) -> Record:
    """Be left out."""
    raise AssertionError("it is left out")


@step(Record, "Refused", needs=(first,))
def refused(_run: Run, _scratch: Scratch) -> Record:
    """Refuse."""
    raise ConfigError("It cannot be.")


@step(Record, "Stopped", needs=(first,))
def stopped(_run: Run, _scratch: Scratch) -> Record:
    """Be stopped by the user."""
    raise KeyboardInterrupt


@step(Record, "Last", reuse=False, whatever_came=True)
def last(_run: Run, _scratch: Scratch) -> Record:
    """Tell what came."""
    return Record()


KIT = Pipeline("kit", "kit", "Try the steps.", (first, left_out, refused, stopped, last))


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def began(self, step: Step[Any]) -> None:
        self.told.append((step.name, "begins"))

    def ended(self, step: Step[Any], end: StepEnd, seconds: float) -> None:
        assert end_line(step, end, seconds).split()[:2] == [step.name, end]
        self.told.append((step.name, end))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    workspace = (tmp_path / "w").as_uri()
    return open_run(load_config("sample"), workspace=workspace, cache=tmp_path / "c", name="r", s3=no_s3)


def test_each_step_is_told_of_and_one_that_is_left_out_is_not(run: Run) -> None:
    heard = Heard()
    for _ in range(2):
        run_steps(KIT, run, [first, left_out], heard)
    assert heard.told == [("first", "begins"), ("first", "done"), ("first", "begins"), ("first", "reused")]


@pytest.mark.parametrize(
    ("failing", "error", "end"), [(refused, ConfigError, "failed"), (stopped, KeyboardInterrupt, "interrupted")]
)
def test_how_a_step_failed_is_told(failing: Step[Record], error: type[BaseException], end: StepEnd, run: Run) -> None:
    heard = Heard()
    with pytest.raises(error):
        run_steps(KIT, run, [first, failing, first], heard)
    assert heard.told[-1] == (failing.name, end)


def test_the_end_comes_whatever_came(run: Run) -> None:
    with pytest.raises(ConfigError):
        run_steps(KIT, run, [first, refused])
    assert run.pointer("last") is None
    end_run(KIT, run)
    assert run.pointer("last") is not None


def test_a_result_needs_what_it_is_made_of_and_what_must_have_passed() -> None:
    # The rungs of the ladder as well, as far as they are not left out.
    names = [step.name for step in REQUANTIZE.needed_for(steps.quantize) if not step.name.startswith("try_")]
    before = ["fetch_checkpoint", "fetch_dataset", "validate_dataset", "evaluate_fp32", "check_fp32"]
    assert names == [*before, "choose_recipe", "quantize"]
    assert REQUANTIZE.needed_for(steps.fetch_checkpoint) == (steps.fetch_checkpoint,)
    assert "publish" not in [step.name for step in REQUANTIZE.needed_for(steps.gate)]
