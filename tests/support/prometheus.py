"""Debian's Prometheus on a loopback port, which answers queries about series that it was given."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from support.otlp import Sample
from support.requirements import missing

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Prometheus:
    """A server that answers.

    Attributes:
        address: With `http://`.
    """

    address: str

    def query(self, expression: str) -> list[tuple[str, Mapping[str, str], float]]:
        """What an expression gives now: of each series its name, its labels, and its value.

        An expression that Prometheus does not understand fails the test with what it says.
        """
        found = self._ask("query", query=expression)
        assert found["resultType"] == "vector", expression
        series = [(dict(one["metric"]), float(one["value"][1])) for one in found["result"]]
        return [(labels.pop("__name__", ""), labels, value) for labels, value in series]

    def label_values(self, label: str, selector: str) -> list[str]:
        """What Grafana's `label_values` offers."""
        found: list[str] = self._ask(f"label/{label}/values", **{"match[]": selector})
        return found

    def _ask(self, what: str, **said: str) -> Any:
        answer = requests.get(f"{self.address}/api/v1/{what}", params=said, timeout=30)
        assert answer.status_code == 200, (said, answer.text)
        return answer.json()["data"]


@contextmanager
def prometheus(folder: Path, config: Path, samples: Iterable[Sample], told_at: float) -> Iterator[Prometheus]:
    """A Prometheus with a configuration of ours, and these samples in its store.

    Args:
        folder: Empty; holds the store and the log.
        config: Of the server; what it would scrape need not be there.
        samples: As a server for OpenTelemetry has received them.
        told_at: When they were, in seconds since 1970.
    """
    programs = [shutil.which(name) for name in ("prometheus", "promtool")]
    if None in programs:
        missing("Prometheus is not installed: apt-get install prometheus")
    server, tool = map(str, programs)
    checked = subprocess.run([tool, "check", "config", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    # Prometheus 2 takes nothing by OpenTelemetry: the series are put where it would have put them.
    series = folder / "series"
    lines = {f"{sample.exposition} {told_at:.3f}" for sample in samples}
    families = dict.fromkeys(sorted(line.partition("{")[0] for line in lines))
    told = [
        f"# TYPE {name} gauge\n" + "\n".join(sorted(one for one in lines if one.startswith(f"{name}{{")))
        for name in families
    ]
    series.write_text("\n".join([*told, "# EOF\n"]))
    subprocess.run(
        [tool, "tsdb", "create-blocks-from", "openmetrics", series, folder / "store"], check=True, capture_output=True
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        server, f"--config.file={config}", f"--storage.tsdb.path={folder / 'store'}", f"--web.listen-address={where}",
        "--storage.tsdb.retention.time=1y",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_for(f"http://{where}/-/ready", process, folder / "log")
        yield Prometheus(f"http://{where}")
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(address, timeout=2).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"Prometheus does not start:\n{log.read_text()[-3000:]}")
