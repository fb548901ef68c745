"""Where tasks are pods: what their pods ask for, judged by Kubernetes' own schema, and nothing of it elsewhere."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.errors import ConfigError
from support.kubernetes import kubernetes_validator

ON_GPU = {"train", "quantize", *(rung.step for rung in RUNGS)}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "docker" / "kubernetes"


@pytest.fixture(scope="module")
def pods(repository: Path, dag_bag: Any) -> dict[str, Any]:
    """The pods of the DAG's tasks by their names, made by the executor's own code under the cluster's settings."""
    from airflow.dag_processing.dagbag import DagBag

    assert dag_bag.import_errors == {}
    with pytest.MonkeyPatch.context() as patch:
        tool = runpy.run_path(str(repository / "tools" / "kubernetes_pods.py"))
        for name, value in tool["cluster_environment"]().items():
            patch.setenv(name, value)
        bag = DagBag(repository / "dags")
        assert bag.import_errors == {}
        made = [*tool["pods"](bag.dags["hpe_requantize"]), *tool["pods"](bag.dags["hpe_retrain"], ["train"])]
    return {pod["metadata"]["annotations"]["task_id"]: pod for pod in made}


def test_the_pods_and_what_they_are_made_of_are_what_kubernetes_takes(pods: dict[str, Any], folder: Path) -> None:
    judge = kubernetes_validator("Pod")
    for manifest in (*pods.values(), yaml.safe_load((folder / "task-pod.yaml").read_text())):
        judge.validate(manifest)
    kubernetes_validator("ConfigMap").validate(yaml.safe_load((folder / "settings.yaml").read_text()))


def test_the_schema_takes_no_field_that_pods_do_not_have(pods: dict[str, Any]) -> None:
    broken = json.loads(json.dumps(pods["quantize"]))
    broken["spec"]["containers"][0]["resource"] = {}
    [error] = kubernetes_validator("Pod").iter_errors(broken)
    assert "'resource' was unexpected" in error.message


def test_only_gpu_tasks_ask_for_a_gpu_and_land_on_its_nodes(pods: dict[str, Any]) -> None:
    asks = {
        name: (
            pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu"),
            pod["spec"].get("tolerations"),
        )
        for name, pod in pods.items()
    }
    assert asks == {name: ("1", [TOLERATION]) if name in ON_GPU else (None, None) for name in pods}
    assert pods["quantize"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_pods_have_the_workers_image_no_rights_and_none_of_airflows_keys(pods: dict[str, Any]) -> None:
    for pod in pods.values():
        [container] = pod["spec"]["containers"]
        assert container["image"] == "registry.example.org/hpe-worker:0.1.0"
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        named = " ".join(variable["name"] for variable in container["env"])
        assert not re.search("FERNET|JWT|SECRET|SQL_ALCHEMY|PASSWORD", named)
        # A read-only root: each place that is written to is a volume.
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_files_hold_no_secret_and_agree_with_each_other(folder: Path, repository: Path) -> None:
    values, pod = (yaml.safe_load((folder / name).read_text()) for name in ("values.yaml", "task-pod.yaml"))
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    [container] = pod["spec"]["containers"]
    executor = values["config"]["kubernetes_executor"]
    assert container["image"] == f"{executor['worker_container_repository']}:{executor['worker_container_tag']}"
    assert container["envFrom"] == yaml.safe_load(values["extraEnvFrom"])
    assert container["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == (
        f"http://{values['fullnameOverride']}-api-server:8080/execution/"
    )
    # Else the chart takes the release's name instead.
    assert values["useStandardNaming"]
    assert not values["postgresql"]["enabled"]
    told = json.dumps([values, settings, pod])
    assert not re.search(r"(?i)(password|secret_access_key|fernet_key|secret_key)\"?: \"[^\"]", told)
    # Each is documented, as a setting that nobody reads would not be.
    manual = "".join((repository / "docs" / page).read_text() for page in ("operations.md", "kubernetes.md"))
    asked = {name for name in {**variables, **settings["data"]} if name.startswith("HPE_")}
    assert {name for name in asked if f"`{name}`" not in manual} == set()
    secrets = set(re.findall(r'"(hpe-(?!settings|airflow|worker|task|workspace|api-server)[a-z]+)"', told))
    assert {name for name in secrets if name not in manual} == set()
    airflow = re.search(r"^apache-airflow==(\S+)", (repository / "docker/airflow/requirements.txt").read_text(), re.M)
    assert airflow
    assert values["airflowVersion"] == airflow[1]


def test_pods_of_the_chart_run_nothing_that_the_image_lacks(folder: Path, repository: Path) -> None:
    values = yaml.safe_load((folder / "values.yaml").read_text())
    # The chart's sidecar runs /clean-logs, which Airflow's own image has, and keeps its pod from getting ready here.
    assert "clean-logs" not in (repository / "docker" / "airflow" / "Dockerfile").read_text()
    for pod in ("scheduler", "dagProcessor", "triggerer"):
        assert values[pod]["logGroomerSidecar"] == {"enabled": False}
    # Its airflow.cfg lies over the image's.
    ours = configparser.ConfigParser(interpolation=None)
    ours.read(repository / "airflow.cfg")
    for section, option in (("scheduler", "scheduler_idle_sleep_time"), ("dag_processor", "refresh_interval")):
        assert values["config"][section][option] == ours[section][option]


def test_options_of_airflow_in_the_values_are_there(folder: Path) -> None:
    from airflow.configuration import conf

    values = yaml.safe_load((folder / "values.yaml").read_text())
    known = conf.configuration_description
    unknown = [
        f"{part}.{one}"
        for part, options in values["config"].items()
        for one in options
        if one not in known.get(part, {}).get("options", {})
    ]
    assert not unknown


def test_a_gpu_task_stays_one_when_airflow_has_stored_the_dag(
    repository: Path, monkeypatch: pytest.MonkeyPatch, dag_bag: Any
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,KubernetesExecutor")
    dag = DagBag(repository / "dags").dags["hpe_requantize"]
    stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    pod = stored.get_task("quantize").executor_config["pod_override"]
    assert pod.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert "pod_override" not in stored.get_task("gate").executor_config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("spec: [", "cannot be read", id="not YAML"),
        pytest.param("just words", "is not a part of a Pod", id="not a mapping"),
        pytest.param("spec: {tolerations: []}", "is not a part of a Pod", id="no containers"),
        pytest.param("metadata: {labels: {a: b}}", "has no spec.containers", id="no spec"),
        pytest.param(
            "spec: {containers: [{name: base}], toleration: [{key: gpu}]}", "spec.toleration is not", id="no such field"
        ),
        pytest.param(
            "spec: {containers: [{name: base, env: [{name: A, value: 1}]}]}",
            "spec.containers.0.env.0.value is not",
            id="a number for a text",
        ),
    ],
)
def test_what_is_no_part_of_a_pod_is_refused_with_its_place(text: str, said: str) -> None:
    from hpe_airflow.gpu import pod_from_text

    with pytest.raises(ConfigError, match="HPE_GPU_POD") as refused:
        pod_from_text(text)
    assert said in str(refused.value)


PARSED = """
import runpy, sys
sys.path.insert(0, sys.argv[2])
dag = runpy.run_path(sys.argv[1])
print("kubernetes" in sys.modules, dag["GPU"])
"""


def test_elsewhere_a_dag_knows_nothing_of_kubernetes(repository: Path) -> None:
    command = [sys.executable, "-c", PARSED, str(repository / "dags/hpe_requantize.py"), str(repository / "plugins")]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1]
    assert said == "False {'queue': 'gpu', 'pool': 'gpu_pool'}"
