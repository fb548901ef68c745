"""Run the DAG `hpe_requantize` once, with a line for each task, and end with the table of results; for `make run`.

`airflow dags test` prints hundreds of lines: all of them go to `.airflow/logs/dags-test.log`, and what a person wants
to know while it runs comes here.

Exit status: 0 published, 1 a step or the gate failed, 2 bad input, 3 Airflow itself failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hpe_tasks.errors import BadInputError, HpeError
from hpe_tasks.local.processes import end_with_parent, start_guarded
from hpe_tasks.pipeline.requantize import REQUANTIZE

if TYPE_CHECKING:
    from hpe_airflow.run_log import RunLog

    from hpe_tasks.pipeline.runs import Run

DAG_ID = REQUANTIZE.name
STOP_S = 20.0


class BadConf(ValueError):
    """The configuration is not a JSON object."""


def read_conf(preset: str, text: str) -> dict[str, Any]:
    """The run's settings, in the types that they have; raises BadConf, or ConfigError that names what is wrong."""
    from hpe_airflow.params_form import typed_params

    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConf(f"CONF is not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise BadConf(f"CONF is {text.strip()}, and takes a JSON object.")
    return typed_params({"preset": preset, **given})


def prepare_run(conf: dict[str, Any], logical_date: datetime) -> Run:
    """The run that the tasks will open; raises ConfigError before anything is started."""
    from hpe_airflow.params_form import config_from_params
    from hpe_airflow.runs import run_name

    from hpe_tasks.config.environment import Settings
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    name = run_name({"logical_date": logical_date})
    config = config_from_params(conf)
    return open_run(config, workspace=places.workspace, cache=places.cache, name=name, s3=make_client)


def follow(lines: Iterable[str], log: Path) -> RunLog:
    """Keep every line in `log`; tell which task runs, how it ended, and after that what it warned of, once.

    On a terminal a task's line shows how far it is; elsewhere each report of that is a line of its own.
    """
    from hpe_airflow.run_log import RunLog

    said, began, terminal = RunLog(), time.monotonic(), sys.stdout.isatty()
    with log.open("w", encoding="utf-8") as kept:
        for line in lines:
            kept.write(line)
            kept.flush()
            if said.started(line):
                began = time.monotonic()
                print(f"  {said.task:20}" if terminal else "", end="", flush=True)
            elif done := said.progress(line):
                print(
                    f"\r  {said.task:20}{done}\033[K" if terminal else f"  {said.task:20}{done}\n", end="", flush=True
                )
            elif said.ended(line):
                again = "\r\033[K" if terminal else ""
                print(f"{again}  {said.task:20}{said.state:10}{time.monotonic() - began:6.1f} s")
                print("".join(f"    {note}\n" for note in said.new_notes()), end="", flush=True)
                said.task = ""
    return said


def run_dag(conf: dict[str, Any], logical_date: datetime, log: Path) -> tuple[int, RunLog]:
    """Run `airflow dags test` to its end; its exit status, and what it said."""
    airflow = Path(sys.executable).with_name("airflow")
    command = [str(airflow), "dags", "test", DAG_ID, logical_date.isoformat(), "--conf", json.dumps(conf)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What is asked here is all that counts: HPE_REQUANTIZE_PARAMS are the settings of scheduled runs.
        env={**os.environ, "NO_COLOR": "1", "HPE_REQUANTIZE_PARAMS": ""},
        # For the case that the guard is killed together with this process, which has no threads.
        preexec_fn=partial(end_with_parent, signal.SIGKILL, os.getpid()),  # noqa: PLW1509
    )
    if process.stdout is None:  # cannot be: it was asked for as a pipe
        raise SystemExit(3)
    try:
        said = follow(process.stdout, log)
        return process.wait(), said
    except KeyboardInterrupt:
        # A terminal's Ctrl-C has reached it too; `dags test` ignores TERM after its first task.
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def main() -> int:
    """Check the configuration, run the DAG, print the table."""
    parser = argparse.ArgumentParser(description="Run the DAG hpe_requantize once.")
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--conf", default="{}", help='settings as JSON, such as {"gate.min_ap": 0.5}')
    options = parser.parse_args()
    home = Path(os.environ["AIRFLOW_HOME"])
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins"))
    logical_date = datetime.now(UTC).replace(microsecond=0)
    try:
        conf = read_conf(options.preset, options.conf)
        run = prepare_run(conf, logical_date)
        log = home / ".airflow" / "logs" / "dags-test.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{DAG_ID}, preset {conf['preset']}; everything that Airflow says is in {log}", flush=True)
        status, said = run_dag(conf, logical_date, log)
        return conclude(run, status, said, log)
    except (BadConf, HpeError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, BadConf | BadInputError) else 3
    except KeyboardInterrupt:
        print("\nInterrupted; the next run goes on where this one was stopped.", file=sys.stderr)
        return 130


def conclude(run: Run, status: int, said: RunLog, log: Path) -> int:
    """Print what the run has come to and, where that does not say it, why it ended; the exit status."""
    from hpe_tasks.cli.run_summary import print_summary

    reached = any(run.pointer(step.name) or run.failure(step.name) for step in REQUANTIZE.steps)
    passed = print_summary(run, looking_back=True, launcher="make") if reached else False
    if status == 0:
        return 0 if passed else 1
    kept = {failure.step for failure in REQUANTIZE.failures(run)}
    untold = [
        f"{task} failed: {reason or 'for no reason that is in the log'}"
        for task, reason in said.failures.items()
        if task not in kept
    ]
    airflow_failed = status < 0 or bool(said.task) or not said.failures
    if airflow_failed:
        untold.append(said.reason(status))
    if untold:
        print("\n".join(["", *untold, f"All that Airflow said is in {log}"]), file=sys.stderr)
    return 3 if airflow_failed else 1


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    start_guarded()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)  # the terminal was closed
    sys.exit(main())
