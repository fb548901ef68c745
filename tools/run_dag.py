"""Run the DAG `hpe_requantize` once, with a line for each task, and end with the table of results; for `make run`.

`airflow dags test` prints hundreds of lines: all of them go to `.airflow/logs/dags-test.log`, and what a person wants
to know while it runs comes here.

Exit status: 0 published, 1 a step or the gate failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpe_tasks.errors import HpeError

DAG_ID = "hpe_requantize"

_STARTED = re.compile(r"\[DAG TEST\] starting task_id=(\w+)")
_STATE = re.compile(r"Task instance state updated .*new_state=(\w+)")
_REUSED = re.compile(r"\w+: reused .*\[hpe_tasks\.runs\]")
_PROGRESS = re.compile(r"\[info\s*\] (.*?)\s*\[hpe_tasks\.progress\]")
_OURS = re.compile(r"\[(?:warning|error)\s*\] (.*?)\s*\[hpe_\w+[\w.]*\]")


def run_folder(conf: dict[str, Any], logical_date: datetime) -> str:
    """Name of the run's folder in the workspace; raises ConfigError before anything is started."""
    from hpe_airflow.params_form import config_from_params
    from hpe_airflow.runs import run_name

    from hpe_tasks.runs import open_run
    from hpe_tasks.s3 import make_client
    from hpe_tasks.settings import Settings

    places = Settings.from_environment()
    name = run_name({"logical_date": logical_date})
    config = config_from_params(conf)
    return open_run(config, workspace=places.workspace, cache=places.cache, name=name, s3=make_client).name


def follow(lines: Iterable[str], log: Path) -> None:
    """Keep every line in `log`; tell which task runs, how it ended, and after that what it warned of, once."""
    task, began, reused = "", time.monotonic(), False
    notes: dict[str, bool] = {}  # by text: whether it has been told
    with log.open("w", encoding="utf-8") as kept:
        for line in lines:
            kept.write(line)
            kept.flush()
            if found := _STARTED.search(line):
                task, began, reused = found[1], time.monotonic(), False
                print(f"  {task:20}", end="", flush=True)
            elif sys.stdout.isatty() and (found := _PROGRESS.search(line)):
                print(f"\r  {task:20}{found[1]}\033[K", end="", flush=True)
            elif found := _OURS.search(line):
                notes.setdefault(found[1].removeprefix(f"{task} failed: "), False)
            elif _REUSED.search(line):
                reused = True
            elif task and (found := _STATE.search(line)):
                state = "reused" if reused and found[1] == "success" else found[1].replace("success", "done")
                # A terminal's line may show progress: it is written over.
                again = f"\r\033[K  {task:20}" if sys.stdout.isatty() else ""
                print(f"{again}{state:10}{time.monotonic() - began:6.1f} s")
                print("".join(f"    {note}\n" for note, told in notes.items() if not told), end="", flush=True)
                notes = dict.fromkeys(notes, True)
                task = ""


def run_dag(conf: dict[str, Any], logical_date: datetime, log: Path) -> int:
    """Run `airflow dags test` to its end; its exit status."""
    airflow = Path(sys.executable).with_name("airflow")
    command = [str(airflow), "dags", "test", DAG_ID, logical_date.isoformat(), "--conf", json.dumps(conf)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    if process.stdout is None:  # cannot be: it was asked for as a pipe
        raise SystemExit(3)
    try:
        follow(process.stdout, log)
        return process.wait()
    except KeyboardInterrupt:
        # A terminal's Ctrl-C has reached it too; `dags test` ignores TERM after its first task.
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait()
        raise


def main() -> int:
    """Check the configuration, run the DAG, print the table."""
    parser = argparse.ArgumentParser(description="Run the DAG hpe_requantize once.")
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--conf", default="{}", help='settings as JSON, such as {"gate.min_ap": 0.5}')
    options = parser.parse_args()
    home = Path(os.environ["AIRFLOW_HOME"])
    sys.path.insert(0, str(home / "plugins"))
    logical_date = datetime.now(UTC).replace(microsecond=0)
    try:
        conf = {"preset": options.preset, **json.loads(options.conf)}
        run = run_folder(conf, logical_date)
    except (ValueError, TypeError) as error:
        print(f"CONF is not a JSON object: {error}", file=sys.stderr)
        return 2
    except HpeError as error:
        print(error, file=sys.stderr)
        return 2
    log = home / ".airflow" / "logs" / "dags-test.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{DAG_ID}, preset {options.preset}; everything that Airflow says is in {log}", flush=True)
    try:
        status = run_dag(conf, logical_date, log)
    except KeyboardInterrupt:
        print("\nInterrupted; the next run goes on where this one was stopped.", file=sys.stderr)
        return 130
    hpe = Path(sys.executable).with_name("hpe")
    shown = subprocess.run([hpe, "show", "--run", run], check=False).returncode
    return 1 if status else shown


if __name__ == "__main__":
    sys.exit(main())
