"""Running the self-test, and keeping what it found."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hpe_tasks.contract.cpu import processor_name
from hpe_tasks.errors import ConfigError, HpeError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.provenance import git_commit
from hpe_tasks.pipeline.running import Watch
from hpe_tasks.records.selftest import HEALTHY, GuardOutcome, GuardTrial, SelfTest
from hpe_tasks.selftest.bench import Bench
from hpe_tasks.selftest.fault import Fault, Ruling
from hpe_tasks.selftest.faults import FAULTS
from hpe_tasks.selftest.release_faults import serve_golden, stored_version
from hpe_tasks.storage.files import storage_errors
from hpe_tasks.storage.workspace import RESULT, Workspace


class SelfTestError(HpeError):
    """A guard does not do what it is there for."""


OnTrial = Callable[[GuardTrial], None]

_PLANTED = "planted-"
_ABANDONED_S = 2 * 24 * 3600

_HEALTHY_PLANTED = "Nothing: the healthy run"
_HEALTHY_GUARD = "all of them let it pass"

_OUTCOMES: dict[bool, tuple[GuardOutcome, GuardOutcome]] = {
    False: ("refused", "let_through"),
    True: ("refused", "passed"),
}
"""By whether it is the healthy run: what it is called when a guard stops it, and when none does."""

log = logging.getLogger(__name__)


def run_selftest(
    cache: Path,
    *,
    only: Sequence[str] = (),
    on_trial: OnTrial | None = None,
    watch: Watch | None = None,
) -> SelfTest:
    """Plant every fault on a healthy run, and try whether its guard refuses it.

    Nothing outside of `cache` is touched, and no network.

    Args:
        cache: Folder of this machine; `selftest` in it keeps the drawn pictures and the healthy run's results, which
            are reused where nothing they depend on has changed.
        only: Names of the faults to plant; all of them by default.
        on_trial: Is given each trial as it ends.
        watch: Is told of the healthy run's steps.

    Raises:
        ConfigError: There is no fault of such a name.
        StorageError: The folder cannot be written.
    """
    chosen, started, began = _chosen(only), datetime.now(UTC), time.monotonic()
    home = cache.absolute() / "selftest"
    with storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        with _quiet(), tempfile.TemporaryDirectory(prefix=_PLANTED, dir=home) as folder:
            trials = []
            for trial in _trials(Bench(home, Path(folder), watch), chosen):
                trials.append(trial)
                if on_trial is not None:
                    on_trial(trial)
    return SelfTest(
        started=started,
        seconds=time.monotonic() - began,
        trials=tuple(trials),
        git_commit=git_commit(),
        processor=processor_name(),
    )


def refuse_failed(record: SelfTest) -> None:
    """Raise SelfTestError where a guard has let its fault through, or has stopped the healthy run."""
    if not record.passed:
        told = "; ".join(f"{trial.planted}: {trial.guard}: {trial.message}" for trial in record.failed)
        raise SelfTestError(
            f"The self-test failed. {told.rstrip('.')}.",
            hint="Until these guards work, do not rely on what they should have refused. `hpe selftest --only NAME` "
            "tries one again.",
        )


def _sweep(home: Path) -> None:
    """Remove what killed self-tests have left behind."""
    for folder in home.glob(f"{_PLANTED}*"):
        with contextlib.suppress(FileNotFoundError):  # another one has just finished with it
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _chosen(only: Sequence[str]) -> tuple[Fault, ...]:
    known = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"There is no fault {unknown[0]!r}.", hint=f"Choose of: {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(only)) or FAULTS


def _trials(bench: Bench, faults: Sequence[Fault]) -> Iterator[GuardTrial]:
    """The healthy run's trial, and if it passes those of the faults: otherwise a refusal would prove nothing."""
    healthy = _tried(Fault(HEALTHY, _HEALTHY_PLANTED, _HEALTHY_GUARD, _pass_all), bench)
    yield healthy
    if healthy.good:
        for fault in faults:
            yield _tried(fault, bench)


def _pass_all(bench: Bench) -> Ruling:
    """Take the healthy run through every guard that a fault is planted in front of."""
    run = bench.healthy
    decision = run.result(steps.gate)
    if not decision.passed:
        return Ruling(True, f"The gate refused it: {decision.reason}")
    left_out = run.result(steps.quantize).calibration_left_out
    if left_out:
        return Ruling(True, f"Calibration images were left out: {'; '.join(left_out)}")
    published = run.result(steps.publish)
    serve_golden(bench, stored_version(bench).manifest)
    checks = run.result(steps.validate_dataset).checks_run
    fp32 = run.result(steps.check_fp32).reason
    return Ruling(
        False,
        f"{checks} expectations are met; {fp32}; the gate's {len(decision.checks)} checks passed; version "
        f"{published.version} was stored, is whole, and the function finds in its {len(stored_version(bench).images)} "
        "golden images whom it should",
    )


def _tried(fault: Fault, bench: Bench) -> GuardTrial:
    began = time.monotonic()
    stopped, gone_on = _OUTCOMES[fault.name == HEALTHY]
    outcome: GuardOutcome
    try:
        ruling = fault.plant(bench)
    except HpeError as error:
        healthy = fault.name == HEALTHY
        outcome = stopped if healthy else gone_on
        message = error.message if healthy else f"Another guard stopped it: {error.message}"
    # The edge of one trial: it is told in its row, and fails the self-test.
    except Exception as error:
        log.exception("%s could not be tried", fault.name)
        outcome, message = "broke", f"{type(error).__name__}: {error}"
    else:
        outcome, message = stopped if ruling.refused else gone_on, ruling.message
    return GuardTrial(
        name=fault.name,
        planted=fault.planted,
        guard=fault.guard,
        outcome=outcome,
        message=message,
        seconds=time.monotonic() - began,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what steps warn of: planted faults are no news."""
    root = logging.getLogger("hpe_tasks")
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def keep_selftest(record: SelfTest, workspace: Workspace) -> str:
    """Write the record and its page to the workspace; returns the page's address."""
    from hpe_tasks.report.selftest_page import selftest_page

    folder = f"selftest/{record.started:%Y-%m-%dT%H%M%S}"
    workspace.write(f"{folder}/report.html", selftest_page(record).encode())
    workspace.write(f"{folder}/{RESULT}", record.model_dump_json(indent=1).encode())
    return f"{workspace.uri}/{folder}/report.html"
