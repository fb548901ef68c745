from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.rungs import RUNGS as config_rungs
from hpe_tasks.storage.s3 import S3Location, make_client

REGISTRY = S3Location.parse("s3://hpe-models/registry")
HEAVY = ("torch", "onnx", "onnxruntime", "aimet_torch", "aimet_onnx", "great_expectations", "numpy", "cv2", "pandas")
RUNGS = [rung.step for rung in config_rungs]
LADDER = {*RUNGS, "choose_recipe"}
SHARDS = {"evaluate_fp32_shards", "evaluate_quantized_shards"}
UNASKED = dict.fromkeys(LADDER | SHARDS | {"approve"}, "skipped")
TASKS = {
    "preflight",
    "fetch_dataset",
    "fetch_checkpoint",
    "validate_dataset",
    "evaluate_fp32",
    "check_fp32",
    "quantize",
    "export_onnx",
    "evaluate_quantized",
    "compare_accuracy",
    "gate",
    "publish",
    "smoke_test_lambda",
    "promote",
    "diagnose_layers",
    "report",
}
AFTER_GATE = dict.fromkeys(("publish", "smoke_test_lambda", "promote"), "skipped")
DATES = (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day) for day in count())


@pytest.fixture(scope="session")
def dag(dag_bag: Any) -> Any:
    return dag_bag.dags["hpe_requantize"]


def test_every_dag_file_imports_without_errors(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}
    assert set(dag_bag.dags) == {"hpe_requantize", "hpe_retrain", "hpe_selftest", "hpe_watch"}


def test_the_plugin_loads_without_errors(dag_bag: Any) -> None:
    from airflow import plugins_manager

    assert [plugin.name for plugin in plugins_manager._get_plugins()[0] if plugin.name == "hpe"] == ["hpe"]
    assert plugins_manager._get_plugins()[1] == {}


IMPORT = """
import gc, json, sys, time
sys.path.insert(0, sys.argv[2])
begin = time.process_time()
from airflow.sdk import Asset, BaseOperatorLink, ExceptionRetryPolicy, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException
from airflow.dag_processing.dagbag import DagBag
import airflow.providers.standard.decorators.python  # what @task stands for
import pydantic, urllib.request
@dag(dag_id="empty")
def empty():
    @task
    def nothing(): ...
    nothing()
empty()
# A collection of all that Airflow has made would count as the file's, or not, as chance has it.
gc.collect()
gc.freeze()
start = time.process_time()
import runpy
runpy.run_path(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps({"share": seconds / (start - begin), "modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""


def test_importing_the_dag_is_quick_and_loads_nothing_heavy(repository: Path) -> None:
    command = [sys.executable, "-c", IMPORT, str(repository / "dags/hpe_requantize.py"), str(repository / "plugins")]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])
        for _ in range(3)
    ]
    assert not set(HEAVY) & set(runs[0]["modules"])
    # Processor time against that of Airflow's own imports in the same process, whatever the machine and its load.
    assert min(run["share"] for run in runs) < 0.1


def test_the_tasks_are_the_steps_in_their_order(dag: Any) -> None:
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "preflight": set(),
        "fetch_dataset": {"preflight"},
        "fetch_checkpoint": {"preflight"},
        "validate_dataset": {"fetch_dataset"},
        "evaluate_fp32_shards": {"validate_dataset", "fetch_checkpoint"},
        "evaluate_fp32": {"validate_dataset", "fetch_checkpoint", "evaluate_fp32_shards"},
        "check_fp32": {"evaluate_fp32"},
        RUNGS[0]: {"check_fp32"},
        **{rung: {"check_fp32", before} for before, rung in pairwise(RUNGS)},
        "choose_recipe": {"check_fp32", *RUNGS},
        "quantize": {"check_fp32", "choose_recipe"},
        "export_onnx": {"quantize"},
        "evaluate_quantized_shards": {"export_onnx"},
        "evaluate_quantized": {"export_onnx", "evaluate_quantized_shards"},
        "compare_accuracy": {"evaluate_quantized"},
        "gate": {"compare_accuracy"},
        "publish": {"gate"},
        "smoke_test_lambda": {"publish"},
        # Airflow's own: a person is asked before the channel moves.
        "approve": {"publish", "smoke_test_lambda"},
        "promote": {"publish", "smoke_test_lambda", "approve"},
        "diagnose_layers": {"export_onnx", "gate"},
        "report": {"validate_dataset", "fetch_checkpoint", "promote", "diagnose_layers"},
    }


def test_every_step_of_the_pipeline_has_a_task() -> None:
    from hpe_tasks.pipeline.requantize import REQUANTIZE

    assert {step.name for step in REQUANTIZE.steps} == TASKS | LADDER


def test_the_dag_runs_one_at_a_time_and_only_when_asked(dag: Any) -> None:
    assert dag.schedule is None
    assert not dag.catchup
    assert dag.max_active_runs == 1
    assert dag.tags
    assert "Try it" in dag.doc_md


def test_wrong_settings_for_scheduled_runs_are_an_import_error(
    repository: Path, monkeypatch: pytest.MonkeyPatch, dag_bag: Any
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("HPE_REQUANTIZE_PARAMS", '{"gate.min_app": 0.5}')
    errors = DagBag(repository / "dags").import_errors
    # Of all that take them: what is watched is what runs are asked.
    assert {Path(file).name for file in errors} >= {"hpe_requantize.py", "hpe_watch.py"}
    for error in errors.values():
        assert "gate.min_app" in error
        assert "gate.min_ap" in error


def test_heavy_work_goes_to_the_gpu_worker_and_every_task_ends_some_time(dag: Any) -> None:
    for quantizes in ("quantize", *RUNGS):
        task = dag.get_task(quantizes)
        assert (task.queue, task.pool) == ("gpu", "gpu_pool")
    assert all(task.execution_timeout for task in dag.tasks if task.task_id != "approve")
    assert dag.get_task("approve").response_timeout


def test_the_ladder_is_a_group_whose_tasks_are_called_as_their_steps(dag: Any) -> None:
    grouped = {task.task_id for task in dag.tasks if task.task_group.group_id == "ladder"}
    assert grouped == LADDER
    assert {task.trigger_rule for task in dag.tasks if task.task_id in {*LADDER - {RUNGS[0]}, "quantize"}} == {
        "none_failed_min_one_success"
    }


def test_the_buttons_are_on_the_tasks_that_have_something_to_show(dag: Any) -> None:
    links = {task.task_id: sorted(link.name for link in task.operator_extra_links) for task in dag.tasks}
    published = ["Compare with served", "Published version", "Report", "Version page"]
    assert {task: names for task, names in links.items() if names} == {
        "validate_dataset": ["Data Docs"],
        "check_fp32": ["Report"],
        "gate": ["Report"],
        **dict.fromkeys(("publish", "smoke_test_lambda", "promote"), published),
        "report": ["Report"],
    }


def test_a_model_that_a_channel_serves_is_an_asset(dag: Any) -> None:
    outlets = {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks if task.outlets}
    assert outlets == {"promote": ["hpe_published_model"]}


def run(dag: Any, settings: dict[str, Any]) -> tuple[str, dict[str, str], datetime]:
    from airflow.dag_processing.dagbag import DagBag

    date = next(DATES)
    # Airflow writes a run's settings into the parameters of the DAG, where the next one in this process finds them.
    parsed = DagBag(dag.fileloc).dags[dag.dag_id]
    finished = parsed.test(logical_date=date, run_conf=settings)
    return str(finished.state), {ti.task_id: str(ti.state) for ti in finished.get_task_instances()}, date


def folder_of(date: datetime) -> Path:
    (folder,) = (Path(os.environ["AIRFLOW_HOME"]) / ".hpe/workspace/runs").glob(f"{date:%Y-%m-%dT%H%M%S}-*")
    return folder


def serves(name: str, channel: str) -> str | None:
    """The version that a channel serves; None for a channel that does not exist."""
    from hpe_tasks.registry.publishing import ModelRegistry

    registry = ModelRegistry(make_client(), REGISTRY)
    return registry.show(name, channel).version if channel in registry.channels(name) else None


def expect_joints_elsewhere(name: str, version: str) -> None:
    """Let a stored manifest expect confident joints in the corner of each golden image."""
    client, key = make_client(), f"{REGISTRY.key}/models/{name}/versions/{version}/manifest.json"
    manifest = json.loads(client.get_object(Bucket=REGISTRY.bucket, Key=key)["Body"].read())
    for golden in manifest["golden"]:
        for person in golden["people"]:
            person["joints"] = [[1.0, 1.0 + i, 1.0] for i in range(len(person["joints"]))]
    client.put_object(Bucket=REGISTRY.bucket, Key=key, Body=json.dumps(manifest).encode())


def lanes(date: datetime, task: str) -> list[str]:
    """The states of the tasks that make a step's parts, in their order."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(TaskInstance).filter(TaskInstance.task_id == task)
        ours = [one for one in found if one.dag_run.logical_date == date]
        return [str(one.state) for one in sorted(ours, key=lambda one: one.map_index)]


def verdict(date: datetime) -> str:
    """What the last task of a run says that it has come to: the scheduler's listener makes the run's note of it."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(XComModel).filter(XComModel.key == "hpe_verdict")
        (said,) = [one.value for one in found if one.dag_run.logical_date == date]
        return str(said)


@pytest.mark.long
@pytest.mark.usefixtures("s3_server")
def test_parts_of_a_measurement_are_tasks_of_their_own(
    dag: Any, small_run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the run asks for; the others are left out without a process. What follows finds all of them."""
    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "workspace").as_uri())
    # The floor ends the run before anything is quantized.
    settings = {**small_run, "evaluation.shards": 7, "evaluation.batch_size": 1, "gate.min_ap": 0.5}
    state, tasks, date = run(dag, settings)
    assert (state, tasks["evaluate_fp32"], tasks["check_fp32"]) == ("failed", "success", "failed")
    assert lanes(date, "evaluate_fp32_shards") == ["success"] * 7 + ["skipped"]
    assert lanes(date, "evaluate_quantized_shards") == ["upstream_failed"] * 7 + ["skipped"]
    (folder,) = (tmp_path / "workspace/runs").glob(f"{date:%Y-%m-%dT%H%M%S}-*")
    parts = (tmp_path / "workspace/store/evaluate_fp32_shards").glob("*/result.json")
    made = [json.loads(file.read_text()) for file in parts]
    assert sorted(part["number"] for part in made) == list(range(7))
    measured = json.loads((folder / "evaluate_fp32/result.json").read_text())["record"]
    seconds = sum(part["seconds"] for part in made)
    assert measured["images_per_second"] == pytest.approx(measured["fingerprint"]["num_images"] / seconds)


@pytest.mark.slow
@pytest.mark.usefixtures("s3_server")
class TestOutcomes:
    """The DAG really run, with `dag.test`, in each way that a run can end."""

    def test_a_model_that_passes_is_published_with_an_asset_event(self, dag: Any, small_run: dict[str, Any]) -> None:
        from airflow.models.asset import AssetEvent
        from airflow.utils.session import create_session

        state, tasks, date = run(dag, small_run)
        assert (state, tasks) == ("success", dict.fromkeys(TASKS, "success") | UNASKED)
        assert (folder_of(date) / "report/report.html").is_file()
        with create_session() as session:
            event = session.query(AssetEvent).order_by(AssetEvent.id.desc()).first()
            assert event is not None
            extra = {key: value for key, value in event.extra.items() if key in {"name", "channel", "version"}}
        assert (extra["name"], extra["channel"]) == ("tiny", "staging")
        assert extra["version"]
        tested = json.loads((folder_of(date) / "smoke_test_lambda/result.json").read_text())["record"]
        assert len(tested["images"]) == 3
        assert all(image["min_oks"] > 0.9 for image in tested["images"])

    def test_without_a_smoke_test_the_channel_moves_all_the_same(self, dag: Any, small_run: dict[str, Any]) -> None:
        settings = {**small_run, "destination.smoke_test": "false", "destination.name": "untested"}
        state, tasks, date = run(dag, settings)
        done = dict.fromkeys(TASKS, "success") | UNASKED
        assert (state, tasks) == ("success", done | {"smoke_test_lambda": "skipped"})
        promoted = json.loads((folder_of(date) / "promote/result.json").read_text())["record"]
        assert serves("untested", "staging") == promoted["version"]

    def test_a_version_that_the_function_does_not_serve_as_measured_moves_no_channel(
        self, dag: Any, small_run: dict[str, Any]
    ) -> None:
        settings = {**small_run, "destination.name": "unservable"}
        run(dag, settings)
        version = serves("unservable", "staging")
        assert version
        expect_joints_elsewhere("unservable", version)
        state, tasks, date = run(dag, {**settings, "destination.channel": "production"})
        assert state == "failed"
        failed = {"smoke_test_lambda": "failed", "promote": "upstream_failed"}
        assert tasks == {**dict.fromkeys(TASKS, "success"), **UNASKED, **failed}
        assert serves("unservable", "production") is None
        html = (folder_of(date) / "report/report.html").read_text()
        assert f"does not serve version {version}" in html

    def test_a_second_run_reuses_the_work_and_publishes_no_second_version(
        self, dag: Any, small_run: dict[str, Any]
    ) -> None:
        run(dag, small_run)
        state, _, date = run(dag, small_run)
        assert state == "success"
        results = {step: json.loads((folder_of(date) / step / "result.json").read_text()) for step in TASKS}
        heavy = {"evaluate_fp32", "quantize", "export_onnx", "evaluate_quantized"}
        assert {step for step in heavy if not results[step]["reused"]} == set()
        assert results["publish"]["record"]["created"] is False

    def test_a_model_that_fails_the_gate_is_not_published_and_the_run_is_no_failure(
        self, dag: Any, small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        # Nor is a person asked, where one would be: `dags test` would fail at it.
        monkeypatch.setenv("HPE_APPROVE_CHANNELS", "*")
        state, tasks, date = run(dag, {**small_run, "gate.max_size_mb": 0.001, "destination.name": "refused"})
        assert state == "success"
        assert tasks == {**dict.fromkeys(TASKS, "success"), **UNASKED, **AFTER_GATE}
        assert (folder_of(date) / "report/report.html").is_file()
        with create_session() as session:
            reason = (
                session.query(XComModel.value)
                .filter_by(task_id="publish", key="reason")
                .order_by(XComModel.timestamp.desc())
                .first()
            )
        assert "MB is above" in str(reason)
        told = verdict(date)
        assert told.startswith("Not published: the gate failed. 1 of ")
        assert "MB is above" in told

    def test_a_checkpoint_below_the_floor_stops_before_quantization(self, dag: Any, small_run: dict[str, Any]) -> None:
        state, tasks, date = run(dag, {**small_run, "gate.min_ap": 0.5})
        assert state == "failed"
        done = ("preflight", "fetch_dataset", "fetch_checkpoint", "validate_dataset", "evaluate_fp32", "report")
        assert tasks == {
            **dict.fromkeys(TASKS | LADDER, "upstream_failed"),
            **dict.fromkeys(SHARDS | {"approve"}, "skipped"),
            **dict.fromkeys(done, "success"),
            "check_fp32": "failed",
        }
        html = (folder_of(date) / "report/report.html").read_text()
        assert "Stopped before quantization" in html
        assert "no usual mistake explains it" in html

    def test_a_search_publishes_the_first_recipe_that_passes(self, dag: Any, small_run: dict[str, Any]) -> None:
        settings = {key: value for key, value in small_run.items() if key != "recipe.scheme"}
        settings |= {"recipe": "auto", "destination.name": "searched", "destination.smoke_test": False}
        state, tasks, date = run(dag, settings)
        tried = {RUNGS[0]: "success", "choose_recipe": "success", "smoke_test_lambda": "skipped"}
        assert (state, tasks) == ("success", {**dict.fromkeys(TASKS, "success"), **UNASKED, **tried})
        for step in ("quantize", "gate"):
            assert json.loads((folder_of(date) / step / "result.json").read_text())["reused"]
        published = json.loads((folder_of(date) / "publish/result.json").read_text())["record"]
        client, key = make_client(), f"{REGISTRY.key}/models/searched/versions/{published['version']}/manifest.json"
        manifest = json.loads(client.get_object(Bucket=REGISTRY.bucket, Key=key)["Body"].read())
        assert (manifest["recipe"]["scheme"], manifest["recipe"]["search"]) == ("min_max", "off")
        found = "recipe.search=first, min_max: the first of 1 rung tried that passes the gate."
        assert manifest["provenance"]["recipe_found"] == found

    @pytest.mark.long
    def test_a_search_in_which_nothing_passes_publishes_nothing(self, dag: Any, small_run: dict[str, Any]) -> None:
        settings = {key: value for key, value in small_run.items() if key != "recipe.scheme"}
        rungs = {"recipe": "auto", "recipe.search_rungs": ["min_max", "tf_enhanced"]}
        state, tasks, date = run(dag, {**settings, **rungs, "gate.max_size_mb": 0.001})
        assert state == "success"
        climbed = dict.fromkeys(("try_min_max", "try_tf_enhanced", "choose_recipe"), "success")
        assert tasks == {**dict.fromkeys(TASKS, "success"), **UNASKED, **climbed, **AFTER_GATE}
        assert "and this one came closest" in (folder_of(date) / "report/report.html").read_text()

    def test_a_failed_preflight_stops_the_run_with_all_its_reasons(self, dag: Any, small_run: dict[str, Any]) -> None:
        wrong = {"model.checkpoint": "/nowhere/model.safetensors", "destination.registry": "s3://nowhere/registry"}
        state, tasks, date = run(dag, {**small_run, **wrong})
        assert state == "failed"
        stopped = dict.fromkeys(TASKS | LADDER | SHARDS | {"approve"}, "upstream_failed")
        assert tasks == {**stopped, "preflight": "failed", "report": "success"}
        html = (folder_of(date) / "report/report.html").read_text()
        assert "/nowhere/model.safetensors does not exist" in html
        assert "The bucket &#39;nowhere&#39; does not exist" in html

    def test_a_failed_step_fails_the_run_but_not_its_report(self, dag: Any, small_run: dict[str, Any]) -> None:
        state, tasks, date = run(dag, {**small_run, "dataset.min_persons": 999})
        assert state == "failed"
        assert tasks == {
            **dict.fromkeys(TASKS | LADDER, "upstream_failed"),
            **dict.fromkeys(SHARDS | {"approve"}, "skipped"),
            **dict.fromkeys(("preflight", "fetch_dataset", "fetch_checkpoint", "report"), "success"),
            "validate_dataset": "failed",
        }
        assert "The data set fails 1 of" in (folder_of(date) / "report/report.html").read_text()

    def test_settings_that_do_not_go_together_fail_the_first_task_without_a_retry(
        self, dag: Any, small_run: dict[str, Any]
    ) -> None:
        state, tasks, _ = run(dag, {**small_run, "dataset.calibration_split": "val"})
        assert state == "failed"
        assert (tasks["preflight"], tasks["fetch_dataset"]) == ("failed", "upstream_failed")

    def test_who_is_asked_sees_the_gate_and_what_is_served_and_the_answer_moves_the_channel(
        self, dag: Any, small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`dags test` asks nobody, and says so; what Airflow's operator does with an answer is done to its run."""
        from hpe_airflow.approval import ChannelApproval, channel_approval
        from hpe_airflow.approval_text import question
        from hpe_airflow.runs import open_run_from_context

        from hpe_tasks.errors import ConfigError, NotApprovedError
        from hpe_tasks.pipeline import steps

        settings = {**small_run, "destination.smoke_test": False, "destination.name": "asked"}
        _, _, first = run(dag, settings)
        monkeypatch.setenv("HPE_APPROVE_CHANNELS", "staging")
        context: Any = {"dag": dag, "logical_date": first, "params": settings}
        opened = open_run_from_context(context)
        published = opened.result(steps.publish)
        subject, body = question(opened, published)
        assert subject == f"May staging serve asked {published.version}?"
        assert "| Check | Observed | Limit | Margin | Result |" in body
        assert "The same version." in body
        with pytest.raises(ConfigError, match="nobody can be asked here"):
            ChannelApproval.execute(channel_approval().ask(), context)
        with pytest.raises(NotApprovedError, match="Nobody has approved"):
            steps.promote(opened)
        answer = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "1", "name": "ada"}}
        channel_approval().ask().execute_complete(context, {**answer, "responded_at": datetime.now(UTC)})
        assert steps.promote(opened).version == published.version
