"""The pipeline from Python: all of it, or as far as one result needs it.

Every function opens a run as the command line does and goes through the same steps. What was made before of the same
inputs is reused, whoever made it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hpe_tasks.api.configs import with_settings
from hpe_tasks.api.places import places
from hpe_tasks.api.results import Decision, Evaluation, Export, Quantization, RunResult
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import BelowFloorError, HpeError
from hpe_tasks.pipeline import runs, steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import StepEnd, end_line, end_run, run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.base import Record
from hpe_tasks.storage.s3 import make_client
from hpe_tasks.upkeep.cache import trim_after_run

R = TypeVar("R", bound=Record)

OnProgress = Callable[[str], None]
"""Takes a line of text about what is done, such as `print`."""

DEFAULT_NAME = "local"
"""Name of a run that is given none, as on the command line."""

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    *,
    publish: bool = False,
    name: str = DEFAULT_NAME,
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = print,
) -> RunResult:
    """Quantize a network, export and measure it, and let the gate decide.

    A model that the gate refuses is a result, and so is a checkpoint that is below the gate's floor before anything is
    quantized. Nothing leaves the workspace unless `publish` is set.

    Args:
        config: What is asked, as `load_preset`, `load_file` or `from_onnx` give it.
        publish: Go on as `hpe run` does: a model that passes is stored in `destination.registry`, tested if a smoke
            test is asked for, and served by `destination.channel` from then on.
        name: Runs of one name and one configuration are the same run, here and on the command line.
        workspace: A folder, or a `file://` or `s3://` address; by default HPE_WORKSPACE.
        cache: Folder for downloads and data sets; by default HPE_CACHE.
        on_progress: Is given a line when a step ends and while a long one goes on; None for silence.

    Raises:
        PreflightError: What was given cannot be used; names all of it, before anything long begins.
        HpeError: A step failed. What the run has come to is in its report all the same: see `find_run`.
    """
    opened = _open(config, name, workspace, cache)
    with _told(on_progress) as watch:
        if not publish:
            _look(opened)
        try:
            run_steps(REQUANTIZE, opened, REQUANTIZE.ordered if publish else REQUANTIZE.needed_for(steps.gate), watch)
        except BelowFloorError:
            log.debug("%s is below the gate's floor: its records say so", opened.name)
        except BaseException as error:
            try:
                end_run(REQUANTIZE, opened)
            except HpeError as second:
                log.warning("There is no report: %s", second)
                raise error from None
            raise
        end_run(REQUANTIZE, opened)
        trim_after_run(opened.cache, places().cache_max_gb)
    return RunResult(records_of(opened), opened)


def evaluate(
    config: RunConfig,
    *,
    name: str = DEFAULT_NAME,
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = print,
) -> Evaluation:
    """Measure a network as it came, before quantization, on the evaluation split.

    Args:
        config: What is asked.
        name: As for `run`.
        workspace: As for `run`.
        cache: As for `run`.
        on_progress: As for `run`.

    Raises:
        DatasetError: The data set cannot be read or fails its validation.
        CheckpointError: The checkpoint cannot be read or does not fit.
    """
    opened = _open(config, name, workspace, cache)
    return Evaluation(_result(opened, steps.evaluate_fp32, on_progress), opened)


def quantize(
    config: RunConfig,
    *,
    name: str = DEFAULT_NAME,
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = print,
) -> Quantization:
    """Calibrate AIMET's QuantSim on images that no metric is measured on.

    Args:
        config: What is asked.
        name: As for `run`.
        workspace: As for `run`.
        cache: As for `run`.
        on_progress: As for `run`.

    Raises:
        BelowFloorError: The network, before quantization, does not reach the gate's floor; says what may mend it.
        QuantizationError: AIMET cannot quantize it.
    """
    opened = _open(config, name, workspace, cache)
    return Quantization(_result(opened, steps.quantize, on_progress), opened)


def export(
    config: RunConfig,
    *,
    name: str = DEFAULT_NAME,
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = print,
) -> Export:
    """Write the int8 ONNX file, and prove that no integer kernel can clip a sum of it. Its accuracy is not measured.

    Args:
        config: What is asked.
        name: As for `run`.
        workspace: As for `run`.
        cache: As for `run`.
        on_progress: As for `run`.

    Raises:
        BelowFloorError: The network, before quantization, does not reach the gate's floor; says what may mend it.
        QuantizationError: It cannot be quantized or exported.
    """
    opened = _open(config, name, workspace, cache)
    return Export(_result(opened, steps.export_onnx, on_progress), opened)


def decide(
    asked: RunConfig | RunResult,
    settings: Mapping[str, Any] | None = None,
    *,
    name: str = DEFAULT_NAME,
    workspace: str | Path | None = None,
    cache: str | Path | None = None,
    on_progress: OnProgress | None = print,
) -> Decision:
    """What the gate decides on a configuration, or on a run under other limits.

    `decide(result, {"gate.min_ap": 0.7})` judges what was measured already: nothing that a limit does not change is
    made again.

    Args:
        asked: A configuration; or a run, which then says where it is kept and what it is called.
        settings: Values by dotted key that take the place of its own.
        name: As for `run`.
        workspace: As for `run`.
        cache: As for `run`.
        on_progress: As for `run`.

    Raises:
        BelowFloorError: The network, before quantization, does not reach the gate's floor; says what may mend it.
        ConfigError: A setting is unknown or out of bounds.
    """
    config = asked.config if isinstance(asked, RunResult) else asked
    if isinstance(asked, RunResult):
        # A run's folder is its name with a digest of its configuration.
        name, workspace, cache = asked.name.rpartition("-")[0], asked.workspace, asked.cache
    opened = _open(with_settings(config, settings) if settings else config, name, workspace, cache)
    return Decision(_result(opened, steps.gate, on_progress), opened)


def find_run(
    name: str | None = None, *, workspace: str | Path | None = None, cache: str | Path | None = None
) -> RunResult:
    """What a run has come to that was started anywhere: here, by the command line, or by Airflow.

    Args:
        name: Of the run or its folder in the workspace; by default the run that reported last.
        workspace: As for `run`.
        cache: As for `run`.

    Raises:
        MissingInputError: There is no such run.
    """
    where = places(workspace, cache)
    found = runs.find_run(name, workspace=where.workspace, cache=where.cache, s3=make_client)
    return RunResult(records_of(found, looking_back=True), found)


def _open(config: RunConfig, name: str, workspace: str | Path | None, cache: str | Path | None) -> Run:
    where = places(workspace, cache)
    return open_run(
        config,
        workspace=where.workspace,
        cache=where.cache,
        name=name,
        s3=make_client,
        signing_key=where.read_signing_key,
        pipeline=REQUANTIZE.name,
    )


def _look(opened: Run) -> None:
    """The preflight, without what only publishing needs: no record of the run, because that would promise more."""
    from hpe_tasks.preflight import preflight, refuse_failed

    found = preflight(
        opened.config,
        workspace=opened.workspace,
        cache=opened.cache,
        s3=opened.s3,
        signing_key=opened.signing_key,
        publishing=False,
    )
    for check in found.warnings:
        log.warning("%s: %s. %s", check.title, check.found.rstrip("."), check.advice)
    refuse_failed(found)


def _result(opened: Run, step: Step[R], on_progress: OnProgress | None) -> R:
    with _told(on_progress) as watch:
        run_steps(REQUANTIZE, opened, REQUANTIZE.needed_for(step), watch)
    return opened.result(step)


@dataclass(frozen=True)
class _Lines:
    """Tells how each step ended, in a line."""

    tell: OnProgress

    def began(self, step: Step[Any]) -> None:
        """Nothing: the line comes when it is done."""

    def ended(self, step: Step[Any], end: StepEnd, seconds: float) -> None:
        """The line."""
        self.tell(end_line(step, end, seconds))


class _Forward(logging.Handler):
    """Passes on what long work says of its progress."""

    def __init__(self, tell: OnProgress) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Pass it on as a line."""
        self._tell(f"  {record.getMessage()}")


@contextmanager
def _told(on_progress: OnProgress | None) -> Iterator[_Lines | None]:
    """Have progress told while the steps run; logging is afterwards as it was."""
    if on_progress is None:
        yield None
        return
    progress, handler = logging.getLogger("hpe_tasks.progress"), _Forward(on_progress)
    before = progress.level, progress.propagate
    progress.addHandler(handler)
    progress.setLevel(logging.INFO)
    # Libraries that steps import give the root logger a handler: everything would be told twice.
    progress.propagate = False
    try:
        yield _Lines(on_progress)
    finally:
        progress.removeHandler(handler)
        progress.setLevel(before[0])
        progress.propagate = before[1]
