"""The tasks of a pipeline's DAG, made of its steps.

What a step does, needs and skips is said by the pipeline; when and where it runs, and what Airflow shows of it, by the
DAG.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow.sdk import Asset, BaseOperatorLink, TaskGroup, task
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from hpe_airflow.failures import SHARDS
from hpe_airflow.links import with_links
from hpe_airflow.metrics import emit_metrics
from hpe_airflow.orphans import end_with_supervisor
from hpe_airflow.run_names import RUN_KEY, VERDICT_KEY
from hpe_airflow.runs import open_run_from_context
from hpe_airflow.task_log import quiet_others, reason_first, tell_result, tell_rows
from hpe_airflow.verdicts import verdict_text
from hpe_tasks.config.environment import Settings, shard_tasks
from hpe_tasks.errors import MissingInputError
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.upkeep.cache import trim_after_run

AFTER_WHAT_MAY_BE_SKIPPED = "none_failed_min_one_success"

SHARD_TASKS = shard_tasks()
"""How many tasks of a step make its parts beside each other, at most; with more parts each makes several in turn.

They are known when the file is read, and not made by another task: so each can be tried alone.
"""


@dataclass(frozen=True)
class TaskRules:
    """What the DAG says of one step's task.

    Attributes:
        arguments: Of `@task`, such as `queue`, `pool` and `execution_timeout`.
        links: Buttons on the task's page.
        group: Name of the task group that it stands in; empty for none.
        asset: What changes when the task succeeds.
        event: Fields of the step's record that the asset's event carries.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[BaseOperatorLink, ...] = ()
    group: str = ""
    asset: Asset | None = None
    event: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Approvals:
    """A task in which a person is asked before a step, and which the first task leaves out of runs that do not ask.

    Attributes:
        before: The step.
        task_id: Of the task.
        ask: Makes the task.
        wanted: Whether a run asks.
    """

    before: Step[Any]
    task_id: str
    ask: Callable[[], Any]
    wanted: Callable[[Run], bool]


def add_tasks(pipeline: Pipeline, rules: Mapping[Step[Any], TaskRules], approval: Approvals | None = None) -> None:
    """Add a task for each step of a pipeline to the DAG that is being made, in the order that the steps ask for.

    A step that runs whatever came becomes a teardown: it leaves the run's state to the others. (With
    on_failure_fail_dagrun Airflow takes its success for the run's.)

    Args:
        pipeline: The steps.
        rules: For steps whose tasks are not as all others.
        approval: The task in which a person is asked, and the step that waits for the answer.
    """
    outputs, shards, groups = {}, {}, dict[str, TaskGroup]()
    for step in pipeline.steps:
        said = rules.get(step, TaskRules())
        if said.group and said.group not in groups:
            # A task is called as its step, wherever it stands.
            groups[said.group] = TaskGroup(said.group, prefix_group_id=False)
        with groups[said.group] if said.group else nullcontext():
            if step.sharding is not None:
                shards[step] = _shard_tasks(pipeline, step, said)
            outputs[step] = _task(pipeline, step, said, approval)
    for step, output in outputs.items():
        upstream = [outputs[other] for other in pipeline.upstream(step)]
        if step in shards:
            if upstream:
                upstream >> shards[step]
            upstream = [*upstream, shards[step]]
        if approval is not None and step is approval.before:
            asked = approval.ask()
            upstream >> asked
            upstream = [*upstream, asked]
        if upstream:
            upstream >> (output.as_teardown() if step.whatever_came else output)


def _task(pipeline: Pipeline, step: Step[Any], rules: TaskRules, approval: Approvals | None) -> Any:
    arguments = {"doc_md": step.summary, **rules.arguments}
    # A step that is left out is no reason to leave out what only follows it, or works without it.
    if step.sharding or any(map(pipeline.may_skip, (*step.follows, *step.after, *step.needs_unless_skipped))):
        arguments["trigger_rule"] = AFTER_WHAT_MAY_BE_SKIPPED
    if rules.asset is not None:
        arguments["outlets"] = [rules.asset]

    @task(task_id=step.name, **arguments)
    def run_step(*, ti: Any = None, outlet_events: Any = None) -> str:
        end_with_supervisor()
        quiet_others()
        run = reason_first(step.name, open_run_from_context)
        ti.xcom_push(RUN_KEY, run.name)
        reason = pipeline.skip_reason(step, run)
        if reason:
            ti.xcom_push("reason", reason)
            raise AirflowSkipException(f"{step.name} is left out: {reason}")
        began = time.monotonic()
        record = reason_first(step.name, partial(step, run))
        emit_metrics(step, run, record, time.monotonic() - began)
        tell_result(run, step, record)
        if step.whatever_came:
            ti.xcom_push(VERDICT_KEY, verdict_text(run))
            trim_after_run(run.cache, Settings.from_environment().cache_max_gb)
        if rules.asset is not None:
            outlet_events[rules.asset].extra = record.model_dump(include=set(rules.event))
        left_out: list[Any] = [other.name for other in pipeline.left_out_behind(step, run)]
        if step is pipeline.steps[0]:
            left_out += _idle_shard_tasks(pipeline, run)
            left_out += [approval.task_id] if approval is not None and not approval.wanted(run) else []
        if left_out:
            # A process for each of them would take longer than the quickest of the other steps.
            ti.xcom_push(BaseXCom.XCOM_RETURN_KEY, step.tell(record))
            raise DownstreamTasksSkipped(tasks=left_out)  # type: ignore[no-untyped-call]
        return step.tell(record)

    return with_links(run_step(), *rules.links)


def _shard_tasks(pipeline: Pipeline, step: Step[Any], rules: TaskRules) -> Any:
    """Tasks that make the parts of a step's work before it; they are left out with it, and where there is no part."""

    @task(task_id=f"{step.name}{SHARDS}", doc_md=f"Parts of: {step.summary}", **rules.arguments)
    def make_shards(lane: int) -> str:
        end_with_supervisor()
        quiet_others()
        return reason_first(f"{step.name}{SHARDS}", partial(_make_shards, pipeline, step, lane))

    return make_shards.expand(lane=list(range(SHARD_TASKS)))


def _make_shards(pipeline: Pipeline, step: Step[Any], lane: int) -> str:
    """Make the parts of one task, each in its turn; which they were."""
    run = open_run_from_context()
    if reason := pipeline.skip_reason(step, run):
        raise AirflowSkipException(f"{step.name} is left out: {reason}")
    count = _shards_of(step, run)
    numbers = range(lane, count, SHARD_TASKS)
    if not numbers:
        raise AirflowSkipException(f"{step.name} has no part for this task.")
    took: dict[str, str] = {}
    for number in numbers:
        began = time.monotonic()
        step.make_shard(run, number)
        took[f"part {number}"] = f"{time.monotonic() - began:.1f} s"
    tell_rows(f"{step.title}, {len(numbers)} of {count} parts, counted from 0", took)
    return f"{', '.join(map(str, numbers))} of {count}"


def _shards_of(step: Step[Any], run: Run) -> int:
    """How many parts are made before a step: none of a whole."""
    count = 1 if step.sharding is None else step.sharding.count(run)
    return 0 if count == 1 else count


def _idle_shard_tasks(pipeline: Pipeline, run: Run) -> list[tuple[str, int]]:
    """Tasks that have no part to make in a run, by name and number: a process for each would take a second or more.

    Where only the data set will tell how many parts there are, each looks for itself.
    """
    try:
        return [
            (f"{step.name}{SHARDS}", lane)
            for step in pipeline.steps
            if step.sharding is not None
            for lane in range(_shards_of(step, run), SHARD_TASKS)
        ]
    except MissingInputError:
        return []
