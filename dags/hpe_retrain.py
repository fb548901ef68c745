"""The DAG `hpe_retrain`: from a data set to a registered checkpoint, which starts `hpe_requantize` where it is better.

Composition only: the steps and their order are those of `hpe_tasks.pipeline.retrain`, and what ties them to Airflow is
in `plugins/hpe_airflow`. Here is when and where they run.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag
from hpe_airflow.alerts import FailedTask, late_alert
from hpe_airflow.assets import DATASET, REGISTERED_CHECKPOINT
from hpe_airflow.failures import RETRIES, log_reason
from hpe_airflow.gpu import gpu_arguments
from hpe_airflow.links import ReportLink
from hpe_airflow.params_form import form_params
from hpe_airflow.schedules import schedule_of
from hpe_airflow.tasks import TaskRules, add_tasks

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.retrain import RETRAIN
from hpe_tasks.pipeline.step import Step

SCHEDULE = schedule_of("HPE_RETRAIN_SCHEDULE", DATASET)
"""When to run by itself, such as `@weekly` or a cron expression, or the asset that starts it; off by default."""

NOT_ASKED = ("recipe",)
"""Sections of a run's settings that change nothing in a training."""

DOC = """
Trains a checkpoint, compares it with the one that the live version came from, and registers it.

**Try it:** press *Trigger* with `training.epochs` 1: the preset `sample` trains its own small network on its drawn
people, from the weights that ship with it.

**Your own:** `model` describes the network, and `model.checkpoint` is what the training starts from, unless
`training.start` says `live` or `random`. It learns from `dataset.training_split`, or where that is empty from
`dataset.calibration_split`; images that look like one of `dataset.evaluation_split` are left out. `training.schedule`
names a built-in schedule; without one, weights are fine-tuned with care. A training that was killed goes on.

**What it is compared with:** the checkpoint that the version came from which `destination.channel` serves, measured on
the same persons in the same way. Better is what lies above it with the whole interval of `gate.confidence` (and
`training.min_gain`). Where the channel serves nothing, the new checkpoint is the first, and counts as better.

**What becomes of it:** every checkpoint is registered below `destination.registry` under the digest of its content,
with its lineage: data, settings, starting weights, code and figures. One that is better changes the asset
`hpe_registered_checkpoint`; a worse or an equal one is kept, marked, and starts nothing: `announce_checkpoint` is
skipped, and its XCom `reason`, its log and the report say why.

**What follows:** set `HPE_REQUANTIZE_SCHEDULE=hpe_registered_checkpoint` for the DAG processor, and `hpe_requantize`
quantizes each better checkpoint, with the gate and the channel of `HPE_REQUANTIZE_PARAMS`.

**By itself:** set `HPE_RETRAIN_SCHEDULE` to `@weekly`, to `hpe_dataset` for whenever that asset changes, or to
`@weekly or hpe_dataset`, and unpause the DAG; `HPE_RETRAIN_PARAMS` holds the settings of such runs as JSON. An event of
`hpe_dataset` may carry `source`, and `sha256` of an archive: the run then learns from that data set.

**When it fails:** the last line of the failed task's log says what is wrong and what to do. Finished steps are not
repeated.
"""

RULES: dict[Step[Any], TaskRules] = {
    # GPU workers serve the queue, and the pool has a slot for each of them. LocalExecutor knows no queues.
    steps.train: TaskRules({**gpu_arguments(), "execution_timeout": timedelta(days=7)}),
    steps.compare_checkpoints: TaskRules(links=(ReportLink(),)),
    steps.register_checkpoint: TaskRules({"execution_timeout": timedelta(hours=1)}, links=(ReportLink(),)),
    steps.announce_checkpoint: TaskRules(
        {"execution_timeout": timedelta(minutes=10)},
        links=(ReportLink(),),
        asset=REGISTERED_CHECKPOINT,
        event=frozenset({"checkpoint", "sha256", "model", "reason"}),
    ),
    steps.report: TaskRules({"execution_timeout": timedelta(hours=1)}, links=(ReportLink(),)),
}
"""Where a task is not as all others."""


@dag(
    dag_id=RETRAIN.name,
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # With a schedule the first unpausing starts a run at once: that is for a person to decide.
    is_paused_upon_creation=SCHEDULE is not None,
    default_args={
        **RETRIES,
        "on_failure_callback": [log_reason, FailedTask()],
        "execution_timeout": timedelta(hours=6),
    },
    tags=["pose", "training"],
    doc_md=DOC,
    deadline=late_alert(),
    dag_display_name="Retrain a pose model",
)
def hpe_retrain() -> None:
    """From a data set to a registered checkpoint."""
    add_tasks(RETRAIN, RULES)


# After its tasks: made inside of the DAG, each task would copy all of them four times, which took half of the import.
hpe_retrain().params.update(form_params(os.environ.get("HPE_RETRAIN_PARAMS"), without=NOT_ASKED))
