"""serverless.yml as osls, the Serverless Framework's free successor, reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import ConfigError
from hpe_tasks.local.environment import lambda_python
from support.requirements import missing

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OSLS_VERSION = "3.77.1"


@pytest.fixture(scope="module")
def osls(request: pytest.FixtureRequest) -> Path:
    """osls, installed once into the folder where pytest keeps what it needs again."""
    npm = shutil.which("npm")
    if npm is None:
        missing("npm, which comes with Node.js, is not installed: it installs osls")
    folder: Path = request.config.cache.mkdir("osls")
    installed = folder / OSLS_VERSION
    program = installed / "node_modules" / ".bin" / "osls"
    if not program.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            partial = Path(temporary, OSLS_VERSION)
            partial.mkdir()
            command: list[str | Path] = [npm, "install", "--prefix", partial, "--cache", Path(temporary, "npm")]
            command += ["--ignore-scripts", "--no-audit", "--no-fund", f"osls@{OSLS_VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                missing(f"npm cannot install osls: {done.stderr}")
            partial.replace(installed)
    return program


@pytest.fixture(scope="module")
def cfn_lint() -> Path:
    try:
        return lambda_python().with_name("cfn-lint")
    except ConfigError as error:
        missing(str(error))


def package(osls: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `osls package` beside a copy of serverless.yml and a package."""
    folder.joinpath("serverless.yml").write_bytes(files("hpe_tasks.packaging").joinpath("serverless.yml").read_bytes())
    with zipfile.ZipFile(folder / "package.zip", "w") as archive:
        archive.writestr("hpe_tasks/serving/handler.py", "")
    return subprocess.run(
        [osls, "package", *options],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "CI": "1", "SLS_TELEMETRY_DISABLED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_osls_makes_the_function_its_rights_and_an_address_for_signed_requests(
    osls: Path, cfn_lint: Path, tmp_path: Path
) -> None:
    done = package(osls, tmp_path, "--param", "registryBucket=models", "--param", "architecture=arm64")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Warning" not in said
    made = tmp_path / ".serverless" / "cloudformation-template-update-stack.json"
    resources = list(json.loads(made.read_text())["Resources"].values())

    def only(kind: str) -> dict[str, Any]:
        (properties,) = (resource["Properties"] for resource in resources if resource["Type"] == kind)
        return dict(properties)

    function = only("AWS::Lambda::Function")
    assert function["Handler"] == "hpe_tasks.serving.handler.handler"
    assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
    assert (function["MemorySize"], function["Timeout"]) == (1769, 29)
    assert function["Environment"]["Variables"] == {
        "HPE_REGISTRY": "s3://models/registry",
        "HPE_MODEL": "pose",
        "HPE_CHANNEL": "production",
    }
    (policy,) = only("AWS::IAM::Role")["Policies"]
    rights = policy["PolicyDocument"]["Statement"]
    of_s3 = [right for right in rights if any(action.startswith("s3:") for action in right["Action"])]
    assert of_s3 == [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::models/registry/*"}]
    route = only("AWS::ApiGatewayV2::Route")
    assert (route["RouteKey"], route["AuthorizationType"]) == ("$default", "AWS_IAM")
    assert only("AWS::ApiGatewayV2::Integration")["PayloadFormatVersion"] == "2.0"
    assert only("AWS::Logs::LogGroup")["RetentionInDays"] == 30

    # It writes a DependsOn that is not needed, which cfn-lint warns of.
    command: list[str | Path] = [cfn_lint, "--non-zero-exit-code", "error", "--regions", "eu-central-1", "--", made]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_osls_asks_for_the_registrys_bucket(osls: Path, tmp_path: Path) -> None:
    done = package(osls, tmp_path)
    assert done.returncode != 0
    assert "HPE_REGISTRY" in done.stdout
    assert 'Value not found at "param" source' in done.stdout
