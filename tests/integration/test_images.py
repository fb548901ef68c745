"""Images are built of their Dockerfiles and run as a cluster runs them: without rights or a network, and read-only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.requirements import missing

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

S3_SERVER = """
import sys, time, urllib.error, urllib.request
# Who does not say who it is may make a bucket there, and then neither read nor write it.
for method, path in (("GET", "/_ministack/health"), ("PUT", "/bucket"), ("GET", "/bucket"), ("PUT", "/bucket/key")):
    request = urllib.request.Request("http://127.0.0.1:4566" + path, method=method)
    for attempt in range(120):
        try:
            print(method, path, urllib.request.urlopen(request).status)
            break
        except urllib.error.HTTPError as error:
            print(method, path, error.code)
            break
        except OSError:
            time.sleep(0.5)
    else:
        sys.exit("no answer")
"""


@pytest.fixture(scope="module")
def tool(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that builds and runs images of this module's own."""
    script = repository / "tools" / "image.py"
    return [sys.executable, str(script), "--store", str(tmp_path_factory.mktemp("images"))]


def in_image(tool: list[str], image: str, words: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Build an image and run a shell's words in it."""
    built = subprocess.run([*tool, "build", image], stderr=subprocess.PIPE, text=True, check=False)
    if built.stderr.startswith("Missing:"):
        missing(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    command = [*tool, "run", image, *options, "--", "bash", "-c", words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_s3_server_answers_and_asks_who_it_is(tool: list[str]) -> None:
    server = "python -I /opt/guarded_ministack.py >&2 & "
    words = f"id -u; touch /home/file; {server} python -c '{S3_SERVER}'; ended=$?; kill %1; wait; exit $ended"
    done = in_image(tool, "object-store", words, "--write", "/data")
    assert done.returncode == 0, done.stderr
    answers = ["GET /_ministack/health 200", "PUT /bucket 200", "GET /bucket 403", "PUT /bucket/key 403"]
    assert done.stdout.splitlines() == ["50000", *answers], done.stderr
    assert "touch: cannot touch '/home/file'" in done.stderr


@pytest.mark.long
def test_airflow_has_its_dags_and_pages_and_writes_in_its_volumes_only(tool: list[str]) -> None:
    listed = "airflow db migrate >&2 && airflow dags reserialize >&2 && airflow dags list && airflow plugins"
    done = in_image(tool, "airflow", f"id -u; touch /opt/airflow/dags/file; {listed}")
    assert done.returncode == 0, done.stderr
    for word in ("50000", "hpe_requantize", "hpe_retrain", "hpe_watch", "hpe_selftest", "hpe_airflow"):
        assert word in done.stdout, done.stdout
    assert "touch: cannot touch '/opt/airflow/dags/file'" in done.stderr
