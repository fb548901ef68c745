from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hpe_airflow.params_form import form_params

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError, StorageError
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.storage.s3 import make_client
from support import airflow_home


def tool(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repository / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOG = """\
11:00Z [info     ] [DAG TEST] starting task_id=fetch_dataset map_index=-1 [airflow.sdk.definitions.dag]
11:00Z [info     ] fetch_dataset: reused the result of the same inputs [hpe_tasks.pipeline.runs] loc=runs.py:232
11:00Z [info     ] Task instance state updated    [airflow.api] new_state=success rows_affected=1
11:00Z [info     ] [DAG TEST] starting task_id=quantize map_index=-1 [airflow.sdk.definitions.dag]
11:00Z [warning  ] No CUDA device is available.   [hpe_tasks.quantization.aimet] loc=aimet.py:1
11:00Z [info     ] Calibrating: 16 of 80 crops, 2 crops/s, 32 s left [hpe_tasks.progress] loc=progress.py:51
11:00Z [warning  ] Something of no interest        [py.warnings] category=UserWarning
11:00Z [info     ] quantize: done                 [hpe_tasks.pipeline.runs] loc=runs.py:232
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
        ["quantize", "Calibrating:", *("16", "of", "80", "crops,", "2", "crops/s,", "32", "s", "left")],
        ["quantize", "done"],
        ["No", "CUDA", "device", "is", "available."],
        ["export_onnx", "failed"],
        ["The", "disk", "is", "full.", "Free", "some", "space."],
    ]
    assert (tmp_path / "all.log").read_text() == LOG


def test_on_a_terminal_progress_stands_in_the_tasks_line(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    tool(repository, "run_dag").follow(LOG.splitlines(keepends=True), tmp_path / "all.log")
    (line,) = [line for line in capsys.readouterr().out.split("\n") if "Calibrating" in line]
    assert line.split("\r")[1].startswith("  quantize            Calibrating: 16 of 80 crops")
    assert re.fullmatch(r"\x1b\[K  quantize            done {9}0\.0 s", line.split("\r")[-1])


PARAM_ERROR = """\
Traceback (most recent call last):
  File "/x/airflow/serialization/definitions/param.py", line 151, in _validate_one
    raise ParamValidationError(f"Invalid input for param {k}: {e}") from None
airflow.sdk.exceptions.ParamValidationError: Invalid input for param gate.min_ap: 7 is greater than the maximum of 1

Failed validating 'maximum' in schema['else']:
    {'type': ['number', 'null'], 'minimum': 0, 'maximum': 1}
"""

NO_DAG = """\
hpe_tasks.errors.ConfigError: There is no preset 'x'.
11:00Z [error    ] Error loading DAG from hpe_requantize.py: There is no preset 'x'. [airflow.dag_processing.dagbag]
Traceback (most recent call last):
  File "/x/airflow/utils/cli.py", line 304, in get_bagged_dag
airflow.sdk.exceptions.AirflowException: Dag 'hpe_requantize' could not be found; either it does not exist.
"""

NO_DATABASE = (
    "11:00Z [error    ] Database migration required. Please run `airflow db migrate`. [airflow.utils.db] loc=1\n"
)

RUNNING = "11:00Z [info     ] [DAG TEST] starting task_id=quantize map_index=-1 [airflow.sdk.definitions.dag]\n"


def new_run(folder: Path) -> Run:
    """A run that no task has touched."""
    workspace = (folder / "workspace").as_uri()
    return open_run(load_config("sample"), workspace=workspace, cache=folder, name="x", s3=make_client)


@pytest.mark.parametrize(
    ("log", "status", "says"),
    [
        pytest.param(
            PARAM_ERROR,
            1,
            "Airflow ended early: ParamValidationError: Invalid input for param gate.min_ap: 7 is greater than the "
            "maximum of 1.",
            id="parameters",
        ),
        pytest.param(
            NO_DAG, 1, "Error loading DAG from hpe_requantize.py: There is no preset 'x'.", id="DAG that does not load"
        ),
        pytest.param(NO_DATABASE, 1, "Airflow ended early: Database migration required.", id="no database"),
        pytest.param("", 4, "Airflow ended early: exit status 4, without a word.", id="nothing said"),
        pytest.param(
            RUNNING, -9, "Airflow was ended by SIGKILL while quantize ran: the machine may have run out", id="killed"
        ),
        pytest.param(
            RUNNING + "Traceback (most recent call last):\n  File x\nMemoryError\n",
            1,
            "Airflow ended early while quantize ran: MemoryError.",
            id="within a task",
        ),
    ],
)
def test_why_airflow_ended_is_one_sentence_and_where_its_log_is(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str, status: int, says: str
) -> None:
    tools, file = tool(repository, "run_dag"), tmp_path / "dags-test.log"
    said = tools.follow(log.splitlines(keepends=True), file)
    run = new_run(tmp_path)
    assert tools.conclude(run, status, said, file) == 3
    shown = capsys.readouterr()
    assert says in shown.err
    assert f"All that Airflow said is in {file}" in shown.err
    # No task has left anything: there is nothing to sum up, and no "next step".
    assert "Not finished" not in shown.out


def test_a_task_that_failed_around_its_step_is_told(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools, file = tool(repository, "run_dag"), tmp_path / "dags-test.log"
    said = tools.follow(LOG.splitlines(keepends=True), file)
    capsys.readouterr()
    run = new_run(tmp_path)
    assert tools.conclude(run, 1, said, file) == 1
    assert "export_onnx failed: The disk is full. Free some space.\n" in capsys.readouterr().err
    run.keep_failure("export_onnx", StorageError("The disk is full.", hint="Free some space."))
    assert tools.conclude(run, 1, said, file) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "Failed at export_onnx" in shown.out
    assert shown.out.endswith("export_onnx failed: The disk is full.\nWhat to do: Free some space.\n")


def run_tool(repository: Path, home: Path, conf: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / "run_dag.py"), "--conf", conf]
    environment = os.environ | airflow_home.environment(home) | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        pytest.param(
            '{"recipe.fold_batch_norms": "maybe"}',
            'recipe.fold_batch_norms takes true or false, not "maybe".',
            id="text for true or false",
        ),
        pytest.param('{"gate.min_ap": true}', "gate.min_ap takes a number, not true.", id="true for a number"),
        pytest.param('{"model.mean": 0.5}', "model.mean takes a list of 3 numbers, not 0.5.", id="number for a list"),
        pytest.param('{"gate.min_ap": 7}', "gate.min_ap: Input should be less than or equal to 1", id="out of bounds"),
        pytest.param("[1]", "CONF is [1], and takes a JSON object.", id="no object"),
        pytest.param('{"a"', "CONF is not JSON: Expecting ':' delimiter", id="no JSON"),
    ],
)
def test_conf_with_wrong_types_is_one_clear_error(repository: Path, conf: str, says: str) -> None:
    tools = tool(repository, "run_dag")
    with pytest.raises((tools.BadConf, ConfigError), match=re.escape(says)):
        tools.read_conf("sample", conf)


def test_conf_with_wrong_types_is_refused_before_anything_runs(repository: Path, tmp_path: Path) -> None:
    done = run_tool(repository, tmp_path, '{"gate.min_ap": true}')
    assert (done.returncode, done.stdout) == (2, "")
    assert "gate.min_ap takes a number, not true." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".hpe").exists()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"recipe.fold_batch_norms": False, "gate.min_ap": 0.25, "seed": 3}, id="JSON"),
        pytest.param({"recipe.fold_batch_norms": "false", "gate.min_ap": "0.25", "seed": "3"}, id="texts"),
    ],
)
def test_conf_arrives_in_the_types_of_its_settings(repository: Path, given: dict[str, object]) -> None:
    conf = tool(repository, "run_dag").read_conf("sample", json.dumps(given))
    assert conf == {"preset": "sample", "recipe.fold_batch_norms": False, "gate.min_ap": 0.25, "seed": 3}
    assert all(form_params()[key].resolve(value) == value for key, value in conf.items())


def test_a_reason_of_airflow_itself_is_told(repository: Path, tmp_path: Path) -> None:
    """A home without a database, as before `make setup`: Airflow's own error, and no table of a run that never was."""
    done = run_tool(repository, tmp_path, "{}")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Airflow ended early: Database migration required." in done.stderr
    assert str(tmp_path / ".airflow" / "logs" / "dags-test.log") in done.stderr
    assert "Not finished" not in done.stdout


def test_the_ui_takes_another_port_where_its_own_is_busy(repository: Path) -> None:
    free_port = tool(repository, "ui").free_port
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken
