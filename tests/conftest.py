"""Fixtures shared by all tests: where the real data lies, and what happens when something needed is missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import airflow_home
from support.requirements import folder_named_by, missing

# Test processes share the machine: threads that wait by spinning would slow each other down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """Let go of what a test has held in its cache, and of what it has registered: both last as long as the process."""
    from hpe_tasks.config.web_credentials import forget_sources
    from hpe_tasks.storage.folders import let_go

    yield
    let_go()
    forget_sources()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with `coco-mini/` (real photographs and annotations) and `models/` (real ONNX models)."""
    return folder_named_by("HPE_TEST_DATA", "coco-mini/ and models/")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of this checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def object_store_python(repository: Path) -> Path:
    """Interpreter of the environment that holds ministack."""
    named = os.environ.get("HPE_OBJECT_STORE_PYTHON")
    python = Path(named) if named else repository / ".venv-object-store" / "bin" / "python"
    if not python.is_file():
        missing(f"{python} does not exist: install docker/object-store/requirements.txt there")
    return python


@pytest.fixture(scope="session")
def lambda_python() -> Path:
    """Python of the environment that holds Lambda's emulator, SAM and cfn-lint."""
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.local import environment as lambda_environment

    try:
        return lambda_environment.lambda_python()
    except ConfigError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One core for torch: networks this small are slower on two."""
    yield from _threads(1)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """Both cores for torch, where a test trains."""
    yield from _threads(2)


def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have int8 files that tests run in this process noticed, as soon as something has imported onnxruntime."""
    if "onnxruntime" in sys.modules:
        from support import int8_runs, processors

        int8_runs.watch(lambda: processors.ran.add("host"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the controller where int8 files ran; Airflow's home of this process is removed."""
    airflow_home.remove()
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        from support import processors

        told["int8_ran_on"] = sorted(processors.ran)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """The controller takes note of what a worker ran."""
    from support import processors

    processors.ran.update(getattr(node, "workeroutput", {}).get("int8_ran_on", ()))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of a test run: on which processors int8 files were run."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    from support import processors

    terminal.write_line(processors.last_line(processors.ran))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a command may ask of tests."""
    parser.addoption(
        "--pictures", type=Path, help="leave pictures of pages for the documentation in this folder: docs/images"
    )


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of pages are left."""
    asked: Path | None = request.config.getoption("--pictures")
    return tmp_path if asked is None else asked.resolve()
