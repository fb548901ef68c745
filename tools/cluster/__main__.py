"""Run a cluster as processes, or write its compose file: `python -m tools.cluster` in the repository's root."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hpe_tasks.local.processes import start_guarded
from tools.cluster.compose import FILE, compose_text
from tools.cluster.processes import Cluster, NotStartedError
from tools.cluster.topology import new_secrets, read_topology

_LOOK_S = 0.2


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def up(options: argparse.Namespace) -> int:
    """Start, announce, keep running, stop on Ctrl-C or TERM."""
    start_guarded()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    settings: dict[str, dict[str, str]] = {}
    for service, name, value in options.env:
        settings.setdefault(service, {})[name] = value
    detours: dict[str, dict[str, int]] = {}
    for service, other, port in options.detour:
        detours.setdefault(service, {})[other] = int(port)
    cluster = Cluster(
        read_topology().serving(dict(options.queues)),
        options.home.absolute(),
        ports={name: int(port) for name, port in options.port},
        settings=settings,
        detours=detours,
        own_store=options.s3 == "embedded",
    )
    try:
        cluster.start(options.timeout, lambda what: print(f"Starting {what} …", flush=True))
        announce(cluster)
        while True:
            cluster.keep_running()
            time.sleep(_LOOK_S)
    except NotStartedError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopping …", flush=True)
        return 0
    finally:
        # A second Ctrl-C must not leave services behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        cluster.stop()


def announce(cluster: Cluster) -> None:
    """Say where everything is, and who may log in."""
    print(f"\nThe cluster is ready: {cluster.url}/dags/hpe_requantize\n")
    print(f"  {'user':10}password\n  {cluster.topology.user:10}{cluster.secrets['AIRFLOW_ADMIN_PASSWORD']}\n")
    for name, one in cluster.running.items():
        port = cluster.ports.get(name)
        print(f"  {name:15}process {one.process.pid:<9}{f'port {port}' if port else ''}")
    print(f"\nEach has its folder and its log in {cluster.home}. Ctrl-C stops all of them.", flush=True)


def compose(options: argparse.Namespace) -> int:
    """Write the compose file, or compare it."""
    text = compose_text(read_topology())
    if not options.check:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.is_file() or FILE.read_text(encoding="utf-8") != text:
        print(f"{FILE} does not follow from docker/cluster.yaml: python -m tools.cluster compose", file=sys.stderr)
        return 1
    return 0


def secrets(_: argparse.Namespace) -> int:
    """Print random secrets, as docker/.env takes them."""
    print("\n".join(f"{name}={value}" for name, value in new_secrets(read_topology()).items()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("up", help="run the services as processes, until Ctrl-C")
    run.add_argument(
        "--home", type=Path, default=Path(".hpe/cluster"), help="folder of all services; default: %(default)s"
    )
    run.add_argument("--timeout", type=float, default=180, help="seconds to wait for the services")
    run.add_argument("--s3", choices=("embedded", "environment"), default="embedded", help="whose S3 server")
    run.add_argument("--port", nargs=2, action="append", default=[], metavar=("SERVICE", "PORT"))
    run.add_argument(
        *("--env",),
        nargs=3,
        action="append",
        default=[],
        metavar=("SERVICE", "NAME", "VALUE"),
        help="a further environment variable; `airflow` stands for all Airflow services",
    )
    run.add_argument(
        "--detour",
        nargs=3,
        action="append",
        default=[],
        metavar=("SERVICE", "OTHER", "PORT"),
        help="where a service is to look for another one, such as a proxy of a test",
    )
    run.add_argument("--queues", nargs=2, action="append", default=[], metavar=("WORKER", "QUEUES"))
    run.set_defaults(does=up)
    write = actions.add_parser("compose", help="write docker/compose.yaml")
    write.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it says something else")
    write.set_defaults(does=compose)
    actions.add_parser("secrets", help="print a new value of each secret, for docker/.env").set_defaults(does=secrets)
    options = parser.parse_args(arguments)
    return int(options.does(options))


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[2])
    sys.exit(main())
