"""docker/cluster.yaml and what is made of it. How its services work: tests/integration/test_process_cluster.py."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import ChainMap
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

COMMAND = (sys.executable, "-m", "tools.cluster")


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=repository, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def described(repository: Path) -> Any:
    return yaml.safe_load((repository / "docker/cluster.yaml").read_text())


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "docker/compose.yaml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> Any:
    return yaml.safe_load(text)


def test_the_compose_file_follows_from_the_description(repository: Path) -> None:
    done = run(repository, "compose", "--check")
    assert done.returncode == 0, done.stderr


def test_each_secret_comes_from_outside_and_none_has_a_default(described: Any, text: str) -> None:
    asked = set(re.findall(r"\$\{([A-Z0-9_]+):\?[^}]+\}", text))
    assert asked == set(described["secrets"])
    # Of what else is looked up, nothing is secret.
    assert set(re.findall(r"(?<!\$)\$\{([^}]+)\}", text)) - {f"{name}:?is not set" for name in asked} == {
        "GIT_COMMIT:-"
    }
    assert "password" not in re.sub(r"passwords\.json|requirepass", "", text.lower().replace("_password", ""))


def test_new_secrets_are_those_that_are_asked_for(repository: Path, described: Any) -> None:
    done = run(repository, "secrets")
    given = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert given.keys() == described["secrets"].keys()
    # They stand in addresses, and between quotes of a shell and of JSON.
    assert all(re.fullmatch(r"[\w=-]{32,}", value) for value in given.values())
    assert len(set(given.values())) == len(given)
    Fernet(given["AIRFLOW_FERNET_KEY"])


def test_the_services_are_those_of_the_description(described: Any, compose: Any) -> None:
    assert list(compose["services"]) == [*described["services"], "prepare"]


@pytest.mark.parametrize(
    "service",
    [
        *("postgres", "redis", "s3", "api-server", "scheduler", "dag-processor", "triggerer"),
        *("cpu-worker", "gpu-worker", "prepare"),
    ],
)
def test_a_service_has_no_rights_that_it_does_not_need(compose: Any, service: str) -> None:
    one = compose["services"][service]
    assert one["user"] not in {"root", "0", "0:0"}
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    # Only Airflow's page is reached from outside, and by this machine alone.
    assert one.get("ports", []) == (["127.0.0.1:8080:8080"] if service == "api-server" else [])
    assert service == "prepare" or one["healthcheck"]["test"]


def test_only_s3_is_shared(compose: Any) -> None:
    volumes = [volume for one in compose["services"].values() for volume in one.get("volumes", ())]
    assert len(volumes) == len(set(volumes))
    assert compose["volumes"].keys() == {volume.partition(":")[0] for volume in volumes}


def test_workers_serve_the_queues_of_the_dags_and_the_pool_has_a_slot_for_each_gpu(compose: Any) -> None:
    services = compose["services"]
    served = {name: one["command"][3] for name, one in services.items() if "worker" in name}
    assert served == {"cpu-worker": "default", "gpu-worker": "gpu"}
    (device,) = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert f"airflow pools set gpu_pool {device['count']} " in services["prepare"]["command"][0]


def test_images_are_those_of_this_repository_or_have_a_version(repository: Path, compose: Any) -> None:
    for one in compose["services"].values():
        if "build" in one:
            assert (repository / one["build"]["dockerfile"]).is_file()
            assert one["build"]["context"] == ".."
        else:
            assert re.fullmatch(r"[a-z]+:\d+[\w.-]*", one["image"])


WRONG = {
    "unknown key": ({"service": {}}, "Extra inputs are not permitted"),
    "unknown place": ({"environment": {"X": "http://{nowhere}"}}, "X names nowhere"),
    "service without a port": ({"environment": {"X": "http://{scheduler}"}}, "X names scheduler"),
}


@pytest.mark.parametrize(("more", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_description_is_refused(
    repository: Path, described: Any, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(dict(ChainMap(more, described))))
    code = "import sys, pathlib, tools.cluster.topology as t; t.read_topology(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, file], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert says in done.stderr
