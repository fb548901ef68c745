"""The DAG `hpe_requantize`: from a pose checkpoint to a published int8 ONNX model.

Composition only: the steps and their order are those of `hpe_tasks.pipeline.requantize`, and what ties them to Airflow
is in `plugins/hpe_airflow`. Here is when and where they run.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import dag
from hpe_airflow.alerts import FailedTask, PromotedVersion, RefusedModel, late_alert
from hpe_airflow.approval import channel_approval
from hpe_airflow.assets import PUBLISHED_MODEL, REGISTERED_CHECKPOINT
from hpe_airflow.failures import RETRIES, log_reason
from hpe_airflow.gpu import gpu_arguments
from hpe_airflow.links import ReportLink, VersionLink
from hpe_airflow.params_form import form_params
from hpe_airflow.schedules import schedule_of
from hpe_airflow.task_links import DataDocsLink, ServedComparisonLink, VersionPageLink
from hpe_airflow.tasks import TaskRules, add_tasks

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pipeline.steps.ladder import TRY_RUNGS

SCHEDULE = schedule_of("HPE_REQUANTIZE_SCHEDULE", REGISTERED_CHECKPOINT)
"""When to run by itself, such as `@weekly` or a cron expression, or the asset that starts it; off by default.

Runs use the form's defaults; one that a registered checkpoint has started quantizes that checkpoint.
"""

DOC = """
Turns a human-pose checkpoint into an int8 ONNX model, proves the exported file, and publishes it to S3 if it passes.

**Try it:** press *Trigger* and leave everything as it is. The preset `sample` takes some minutes and needs no data; its
smoke test installs the function's packages (onnxruntime, NumPy, Pillow and a few more) from the package index once.
Without a network, set `destination.smoke_test=false`.

**Your own model and data:** choose a preset, set `model.checkpoint` and `dataset.source` (a folder, an archive, `s3://`
or `http(s)://`; of COCO's layout or another `dataset.kind`), and what the model must reach under *Gate*. An empty field
means "as in the preset".

**Before anything is quantized:** `check_fp32` compares the checkpoint's own accuracy with the gate's floor. Where it
is below, the task fails, and the last line of its log names the usual mistake that explains it (a network that takes
BGR, other pixel values, joints in another order) with the setting that mends it; the report has the table.

**A recipe that keeps the accuracy:** with `recipe` `auto` the tasks of the group `ladder` try recipes, cheapest first,
up to the first that passes the gate; with `auto_best` all of them. `choose_recipe` says which one the rest of the run
takes, and why.

**Where the result is:** on the run's tab *Pose model*: the verdict, the stages and the report. The verdict is in the
run's note as well: a run whose gate failed is green, with `publish` and what follows skipped. Tasks have buttons on
their *Details* tab: *Report*, *Data Docs*, *Published version* (the manifest), *Version page* and *Compare with
served*.

**Before a channel serves it:** `publish` stores the version and moves nothing. With `destination.smoke_test` the task
`smoke_test_lambda` then runs the built Lambda package in AWS's Runtime Interface Emulator, and compares what it finds
in the version's golden images with what was measured; `publish` has uploaded them, up to three of the evaluation split,
with the version. Only `promote` moves the channel, and it does not run when the smoke test fails: the channel serves
what it served before. Cleared in an old run, `promote` refuses to take the channel back from a version that came later;
`hpe channel promote` does it.

**Before anything long:** `preflight` looks at the configuration, the destination bucket, the signing key, the
checkpoint, the data set, and at disk, memory and processor of its worker, and fails with all that is wrong at once.

**When it fails:** the last line of the failed task's log says what is wrong and what to do. Network errors are tried
again by themselves. After mending anything else, clear the failed task: finished steps are not repeated.

**S3:** endpoint and credentials come from the connection `hpe_s3` (type `aws`), or from the usual AWS variables.

**Web servers** that want a login or a token are told what the connection `hpe_web_SERVER` (type `http`) holds, with the
server's name in place of SERVER and `_` for its dots and hyphens: `hpe_web_data_example_org`.

**Signatures:** with a private Ed25519 key in the connection `hpe_signing` (or in the file that `HPE_SIGNING_KEY` names)
manifests are signed; `destination.require_signature` refuses to publish without.

**Being told:** with a connection `hpe_alerts_webhook` (type `http`) or `hpe_alerts_email` (type `smtp`) people hear of
refused models, failures, promotions and, with `HPE_ALERT_LATE_HOURS`, of late runs: one sentence and a link.

**Weekly:** set `HPE_REQUANTIZE_SCHEDULE=@weekly` for the DAG processor and unpause the DAG; `HPE_REQUANTIZE_PARAMS`
holds the settings of such runs as JSON, for example `{"preset": "pose_resnet_50", "dataset.source": "s3://…"}`.

**After a training:** with `HPE_REQUANTIZE_SCHEDULE=hpe_registered_checkpoint` a better checkpoint of `hpe_retrain`
starts a run that quantizes it; its gate, its data and its channel are those of `HPE_REQUANTIZE_PARAMS`.
`@weekly or hpe_registered_checkpoint` does both.
"""


PUBLICATION = (ReportLink(), VersionLink(), VersionPageLink(), ServedComparisonLink())
ONE_HOUR = {"execution_timeout": timedelta(hours=1)}
GPU = gpu_arguments()

RULES: dict[Step[Any], TaskRules] = {
    steps.preflight: TaskRules({"execution_timeout": timedelta(minutes=30)}),
    steps.validate_dataset: TaskRules(links=(DataDocsLink(),)),
    steps.check_fp32: TaskRules(links=(ReportLink(),)),
    # With `recipe=auto` or `auto_best` each rung quantizes, and measures what came of it.
    **dict.fromkeys(TRY_RUNGS, TaskRules(GPU, group="ladder")),
    steps.choose_recipe: TaskRules(group="ladder"),
    steps.quantize: TaskRules(GPU),
    steps.gate: TaskRules({"execution_timeout": timedelta(minutes=10)}, links=(ReportLink(),)),
    steps.publish: TaskRules(ONE_HOUR, links=PUBLICATION),
    steps.smoke_test_lambda: TaskRules(ONE_HOUR, links=PUBLICATION),
    steps.promote: TaskRules(
        {**ONE_HOUR, "on_success_callback": [PromotedVersion()]},
        links=PUBLICATION,
        asset=PUBLISHED_MODEL,
        event=frozenset({"name", "version", "channel", "registry"}),
    ),
    steps.report: TaskRules({**ONE_HOUR, "on_success_callback": [RefusedModel()]}, links=(ReportLink(),)),
}
"""Where a task is not as all others."""


@dag(
    dag_id=REQUANTIZE.name,
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
    tags=["pose", "quantization"],
    doc_md=DOC,
    deadline=late_alert(),
    dag_display_name="Requantize a pose model",
)
def hpe_requantize() -> None:
    """From a checkpoint to a published version."""
    add_tasks(REQUANTIZE, RULES, channel_approval())


# After its tasks: made inside of the DAG, each task would copy all of them four times, which took half of the import.
hpe_requantize().params.update(form_params(os.environ.get("HPE_REQUANTIZE_PARAMS")))
