"""Run Airflow's services together in the foreground, print where to log in, and stop them all on Ctrl-C.

`airflow standalone` does the same, but leaves its services running when it is stopped by a signal other than Ctrl-C,
and cannot be given a port. Here they end with this program, however that ends, and it ends with what started it.
Used by `make ui` and by the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from types import FrameType

from hpe_tasks.local.processes import end_with_parent, start_guarded

SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
STOP_S = 30.0


def free_port(wanted: int) -> int:
    """`wanted` where it is free on loopback, or else a port that the system chooses."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("No free port on 127.0.0.1.")


def start(home: Path, port: int) -> dict[str, subprocess.Popen[bytes]]:
    """Start every service with its output in `.airflow/logs/<service>.log`; each is the leader of its own session."""
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__PORT": str(port),
        # Tasks look for the execution API here; without it they would ask port 8080.
        "AIRFLOW__API__BASE_URL": address,
    }
    logs = home / ".airflow" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    airflow = Path(sys.executable).with_name("airflow")
    children = {}
    for service in SERVICES:
        with (logs / f"{service}.log").open("ab") as log:
            children[service] = subprocess.Popen(
                [airflow, service],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # For the case that the guard is killed together with this process, which has no threads.
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509
            )
    return children


def unhealthy(port: int) -> list[str]:
    """Services that have not reported themselves healthy yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
    except (urllib.error.URLError, OSError):
        return ["api-server"]
    return [name for name in ("scheduler", "dag_processor", "triggerer") if health[name]["status"] != "healthy"]


def stop(children: dict[str, subprocess.Popen[bytes]]) -> None:
    """TERM to each service, which stops its own workers; KILL to the session of one that does not listen."""
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + STOP_S
    for child in children.values():
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def announce(home: Path, port: int) -> None:
    """Say where the UI is and who may log in."""
    passwords = json.loads((home / ".airflow" / "passwords.json").read_text(encoding="utf-8"))
    print(f"\nAirflow is ready: http://127.0.0.1:{port}/dags/hpe_requantize\n\n  {'user':10}password")
    for user, password in passwords.items():
        print(f"  {user:10}{password}")
    print("\nCtrl-C stops it.", flush=True)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Start, wait until ready, announce, wait for Ctrl-C or TERM, stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="another one is taken where it is busy; 0 for any")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to wait for the services")
    options = parser.parse_args()
    home = Path(os.environ["AIRFLOW_HOME"]).absolute()
    port = free_port(options.port)
    # Both, because a shell starts background jobs with the interrupt ignored.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)  # the terminal was closed
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        print("Starting Airflow …", flush=True)
        children = start(home, port)
        deadline = time.monotonic() + options.timeout
        ready = False
        while True:
            ended = [name for name, child in children.items() if child.poll() is not None]
            if ended:
                print(f"{ended[0]} ended; see {home}/.airflow/logs/{ended[0]}.log", file=sys.stderr)
                return 1
            if not ready:
                waiting = unhealthy(port)
                if not waiting:
                    announce(home, port)
                    ready = True
                elif time.monotonic() > deadline:
                    print(f"Not ready: {', '.join(waiting)}; see {home}/.airflow/logs/", file=sys.stderr)
                    return 1
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nStopping Airflow …", flush=True)
        return 0
    finally:
        # A second Ctrl-C must not leave services behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop(children)


if __name__ == "__main__":
    start_guarded()
    sys.exit(main())
