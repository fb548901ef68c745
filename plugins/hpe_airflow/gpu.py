"""What Airflow is told of a task that wants a GPU: its queue, its pool, and, where tasks are pods, its pod."""

from __future__ import annotations

import os
from typing import Any

from hpe_tasks.errors import ConfigError

GPU_POD = """
spec:
  containers:
    - name: base
      resources:
        requests: {cpu: "4", memory: 16Gi}
        limits: {memory: 32Gi, nvidia.com/gpu: "1"}
  tolerations:
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
"""
"""One GPU of the NVIDIA device plugin, on nodes that keep other pods away by the plugin's usual taint."""

_HINT = "Write it as a part of a Pod, in YAML or JSON; docker/kubernetes/values.yaml has an example."


def gpu_arguments() -> dict[str, Any]:
    """Arguments of `@task` for work on a GPU.

    GPU workers serve the queue, and the pool has a slot for each of them. KubernetesExecutor knows no queues: there,
    and nowhere else, the task's pod asks for the GPU.

    Raises:
        ConfigError: HPE_GPU_POD is not a part of a pod.
    """
    arguments: dict[str, Any] = {"queue": "gpu", "pool": "gpu_pool"}
    if tasks_are_pods():
        arguments["executor_config"] = {"pod_override": pod_from_text(os.environ.get("HPE_GPU_POD") or GPU_POD)}
    return arguments


def tasks_are_pods() -> bool:
    """Whether KubernetesExecutor is among the executors that Airflow is configured with."""
    from airflow.configuration import conf

    named = str(conf.get("core", "executor")).split(",")
    # By its name or its path, with an alias behind it or a team before it.
    return any("KubernetesExecutor" in executor for executor in named)


def pod_from_text(text: str) -> Any:
    """Read a part of a pod, as Kubernetes' client has it: a `V1Pod`.

    Raises:
        ConfigError: It is not YAML, or has a field that pods do not have. Kubernetes' client drops such fields in
            silence: the task would run without what it was to have.
    """
    import yaml

    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"HPE_GPU_POD cannot be read: {' '.join(str(error).split())}.", hint=_HINT) from error
    if not isinstance(said, dict):
        raise ConfigError("HPE_GPU_POD is not a part of a Pod.", hint=_HINT)
    # This imports all of Kubernetes' types, which takes longer than everything else in a DAG file.
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    try:
        pod = PodGenerator.deserialize_model_dict(said)
        read = PodGenerator.serialize_pod(pod)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"HPE_GPU_POD is not a part of a Pod: {error}.", hint=_HINT) from error
    lost = _first_difference(said, read, "")
    if lost:
        raise ConfigError(f"HPE_GPU_POD: {lost} is not what a Pod has there.", hint=_HINT)
    if not read.get("spec", {}).get("containers"):
        raise ConfigError("HPE_GPU_POD has no spec.containers.", hint=_HINT)
    return pod


def _first_difference(said: Any, read: Any, place: str) -> str:
    """Where two trees part, as `spec.containers.0.image`; empty where they do not."""
    if isinstance(said, dict) and isinstance(read, dict):
        pairs = [(key, said.get(key), read.get(key)) for key in said]
    elif isinstance(said, list) and isinstance(read, list) and len(said) == len(read):
        pairs = [(index, *pair) for index, pair in enumerate(zip(said, read, strict=True))]
    else:
        return "" if said == read and type(said) is type(read) else place
    found = (_first_difference(one, other, f"{place}.{key}".lstrip(".")) for key, one, other in pairs)
    return next(filter(None, found), "")
