"""docker/compose.yaml as Compose's own client reads it, which needs no engine for that: Debian's docker-compose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.requirements import missing

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def client() -> str:
    found = shutil.which("docker-compose")
    if found is None:
        missing("docker-compose is not installed (Debian's package docker-compose)")
    return found


@pytest.fixture(scope="module")
def description(repository: Path) -> Any:
    return yaml.safe_load((repository / "docker/cluster.yaml").read_text())


@pytest.fixture
def secrets(repository: Path, tmp_path: Path) -> Path:
    """The file that `python -m tools.cluster secrets > docker/.env` makes."""
    command = [sys.executable, "-m", "tools.cluster", "secrets"]
    made = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    file = tmp_path / "secrets.env"
    file.write_text(made.stdout)
    return file


def config(client: str, repository: Path, secrets: Path, *options: str, more: tuple[str, ...] = ()) -> Any:
    files = [option for file in ("docker/compose.yaml", *more) for option in ("-f", file)]
    return subprocess.run(
        [client, "--env-file", str(secrets), *files, "config", *options],
        cwd=repository,
        env={"PATH": os.environ["PATH"], "HOME": str(secrets.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_client_reads_the_services_of_the_description(
    client: str, repository: Path, secrets: Path, description: Any
) -> None:
    quiet = config(client, repository, secrets, "-q")
    assert (quiet.returncode, quiet.stdout) == (0, ""), quiet.stderr
    read = yaml.safe_load(config(client, repository, secrets).stdout)
    # Beside them stands what runs once, before Airflow's services.
    once = {name for name, service in read["services"].items() if service.get("restart") == "no"}
    assert read["services"].keys() - once == description["services"].keys()
    told = dict(line.split("=", 1) for line in secrets.read_text().splitlines() if line and not line.startswith("#"))
    assert told.keys() == description["secrets"].keys()
    password = told["POSTGRES_PASSWORD"]
    assert read["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == password
    for name in ("scheduler", "cpu-worker", "gpu-worker"):
        assert (
            f":{password}@postgres:5432/"
            in read["services"][name]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        )


def test_the_client_reads_the_monitoring_on_top(client: str, repository: Path, secrets: Path) -> None:
    more = ("docker/monitoring/compose.yaml",)
    refused = config(client, repository, secrets, "-q", more=more)
    assert refused.returncode != 0
    assert "set GRAFANA_ADMIN_PASSWORD" in refused.stderr
    with secrets.open("a") as file:
        file.write("GRAFANA_ADMIN_PASSWORD=a\n")
    done = config(client, repository, secrets, "--services", more=more)
    assert done.returncode == 0, done.stderr
    assert {"prometheus", "grafana", "scheduler"} <= set(done.stdout.split())


def test_a_secret_that_is_not_set_is_named(client: str, repository: Path, secrets: Path, description: Any) -> None:
    kept = secrets.read_text().splitlines(keepends=True)
    for name in description["secrets"]:
        secrets.write_text("".join(line for line in kept if not line.startswith(f"{name}=")))
        done = config(client, repository, secrets, "-q")
        assert done.returncode != 0
        assert f"${{{name}:?is not set}}" in done.stderr
