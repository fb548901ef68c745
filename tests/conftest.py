"""Fixtures shared by all tests: where the real data lies, and what happens when something needed is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

# Test processes share the machine: threads that wait by spinning would slow each other down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where CI promises that everything needed is there (HPE_REQUIRE_TOOLS=1)."""
    if os.environ.get("HPE_REQUIRE_TOOLS") == "1":
        pytest.fail(f"HPE_REQUIRE_TOOLS=1, but {what}")
    pytest.skip(what)


def _folder(variable: str, holds: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        missing(f"{variable} is not set: it names the folder that holds {holds}")
    folder = Path(value).resolve()
    if not folder.is_dir():
        missing(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with `coco-mini/` (real photographs and annotations) and `models/` (real ONNX models)."""
    return _folder("HPE_TEST_DATA", "coco-mini/ and models/")


@pytest.fixture(scope="session")
def specs() -> Path:
    """Folder with `*.state_dict.json`: names and shapes of published checkpoints."""
    return _folder("HPE_TEST_SPECS", "the *.state_dict.json files")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def lambda_python() -> Path:
    """Python of the environment that holds Lambda's emulator, SAM and cfn-lint."""
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.local import environment as lambda_environment

    try:
        return lambda_environment.lambda_python()
    except ConfigError as error:
        missing(str(error))


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("no Chromium is installed")
    return found


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have int8 files that tests run in this process noticed, as soon as something has imported onnxruntime."""
    if "onnxruntime" in sys.modules:
        import int8_runs
        import processors

        int8_runs.watch(lambda: processors.ran.add("host"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the controller where int8 files ran."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        import processors

        told["int8_ran_on"] = sorted(processors.ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """The controller takes note of what a worker ran."""
    import processors

    processors.ran.update(getattr(node, "workeroutput", {}).get("int8_ran_on", ()))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of a test run: on which processors int8 files were run."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    import processors

    terminal.write_line(processors.last_line(processors.ran))
