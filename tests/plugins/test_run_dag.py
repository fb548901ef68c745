from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from types import ModuleType

import pytest


def tool(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repository / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOG = """\
11:00Z [info     ] [DAG TEST] starting task_id=fetch_dataset map_index=-1 [airflow.sdk.definitions.dag]
11:00Z [info     ] fetch_dataset: reused the result of the same inputs [hpe_tasks.runs] loc=runs.py:232
11:00Z [info     ] Task instance state updated    [airflow.api] new_state=success rows_affected=1
11:00Z [info     ] [DAG TEST] starting task_id=quantize map_index=-1 [airflow.sdk.definitions.dag]
11:00Z [warning  ] No CUDA device is available.   [hpe_tasks.quantization.aimet] loc=aimet.py:1
11:00Z [info     ] calibrating (batches): 1 of 9  [hpe_tasks.progress] loc=progress.py:51
11:00Z [warning  ] Something of no interest        [py.warnings] category=UserWarning
11:00Z [info     ] quantize: done                 [hpe_tasks.runs] loc=runs.py:232
11:00Z [info     ] Task instance state updated    [airflow.api] new_state=success rows_affected=1
11:00Z [info     ] [DAG TEST] starting task_id=export_onnx map_index=-1 [airflow.sdk.definitions.dag]
11:00Z [warning  ] No CUDA device is available.   [hpe_tasks.quantization.aimet] loc=aimet.py:1
Traceback (most recent call last):
11:00Z [error    ] export_onnx failed: The disk is full. Free some space. [hpe_airflow.failures] loc=f.py:1
11:00Z [info     ] Task instance state updated    [airflow.api] new_state=failed rows_affected=1
"""


def test_a_run_is_told_in_a_line_for_each_task(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(repository, "run_dag").follow(LOG.splitlines(keepends=True), tmp_path / "all.log")
    told = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line.partition("  0.0 s")[0].split() for line in told] == [
        ["fetch_dataset", "reused"],
        ["quantize", "done"],
        ["No", "CUDA", "device", "is", "available."],
        ["export_onnx", "failed"],
        ["The", "disk", "is", "full.", "Free", "some", "space."],
    ]
    assert (tmp_path / "all.log").read_text() == LOG


def test_the_ui_takes_another_port_where_its_own_is_busy(repository: Path) -> None:
    free_port = tool(repository, "ui").free_port
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken
