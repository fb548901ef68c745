"""Print the pods that KubernetesExecutor makes of the tasks of a DAG, as YAML: `python tools/kubernetes_pods.py`.

With docker/kubernetes/ as it stands: the executor's own code puts the pod together from task-pod.yaml, the image that
values.yaml names, and what the DAG says of the task. Nothing is sent anywhere. Whatever reads manifests can judge them:

    python tools/kubernetes_pods.py > pods.yaml
    uvx kubernetes-validate --strict -k 1.34 pods.yaml docker/kubernetes/settings.yaml docker/kubernetes/task-pod.yaml
    kubectl apply --dry-run=server -f pods.yaml

(A secret that is not there does not show in either.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docker" / "kubernetes"


def main() -> None:
    """Print one pod for each of the tasks that were named, or for all."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--dag", default="hpe_requantize", help="default: %(default)s")
    parser.add_argument("tasks", nargs="*", help="default: all")
    asked = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # Airflow tells there that it reads the DAGs.
        made = pods(_parsed(asked.dag), asked.tasks)
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)


def _parsed(dag_id: str) -> Any:
    """A DAG as it is in the cluster, which knows the executor and what settings.yaml says."""
    os.environ.setdefault("AIRFLOW_HOME", str(ROOT))
    os.environ.update(cluster_environment())
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags")
    if bag.import_errors:
        sys.exit("\n".join(bag.import_errors.values()))
    if dag_id not in bag.dags:
        sys.exit(f"There is no DAG {dag_id}, only {', '.join(sorted(bag.dags))}.")
    return bag.dags[dag_id]


def cluster_environment() -> dict[str, str]:
    """The variables that the DAG processor has in the cluster and DAGs depend on."""
    settings = yaml.safe_load((FOLDER / "settings.yaml").read_text())["data"]
    executor = yaml.safe_load((FOLDER / "values.yaml").read_text())["executor"]
    return {"AIRFLOW__CORE__EXECUTOR": executor} | {k: v for k, v in settings.items() if k.startswith("HPE_")}


def pods(dag: Any, tasks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The pods of these tasks, or of all of a DAG, as their manifests."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    executor = yaml.safe_load((FOLDER / "values.yaml").read_text())["config"]["kubernetes_executor"]
    template = str(FOLDER / "task-pod.yaml")
    made = [
        PodGenerator.construct_pod(
            dag_id=dag.dag_id,
            task_id=task.task_id,
            pod_id=f"{dag.dag_id}-{task.task_id}".replace("_", "-"),
            try_number=1,
            kube_image=f"{executor['worker_container_repository']}:{executor['worker_container_tag']}",
            date=None,
            run_id="manual",
            args=["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "{}"],
            pod_override_object=PodGenerator.from_obj(task.executor_config),
            base_worker_pod=PodGenerator.deserialize_model_file(template),
            namespace="default",
            scheduler_job_id="0",
        )
        for task in dag.tasks
        if not tasks or task.task_id in tasks
    ]
    return [PodGenerator.serialize_pod(pod) for pod in made]


if __name__ == "__main__":
    main()
