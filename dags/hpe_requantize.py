"""The DAG `hpe_requantize`: from a pose checkpoint to a published int8 ONNX model.

Composition only: what a step does is in `hpe_tasks.pipeline.steps`, what ties it to Airflow in `plugins/hpe_airflow`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Asset, dag, task
from airflow.sdk.exceptions import AirflowSkipException
from hpe_airflow.failures import RETRIES, log_reason
from hpe_airflow.links import ReportLink, VersionLink, with_links
from hpe_airflow.params_form import form_params
from hpe_airflow.runs import open_run_from_context

from hpe_tasks.pipeline import steps
from hpe_tasks.records import GateDecision

PUBLISHED_MODEL = Asset("hpe_published_model", group="hpe")
"""Changes when a channel serves a published version; its events carry `name`, `version`, `channel` and `registry`."""

SCHEDULE = os.environ.get("HPE_REQUANTIZE_SCHEDULE") or None
"""When to run by itself, such as `@weekly` or a cron expression; off by default. Runs use the form's defaults."""

DOC = """
Turns a human-pose checkpoint into an int8 ONNX model, proves the exported file, and publishes it to S3 if it passes.

**Try it:** press *Trigger* and leave everything as it is. The preset `sample` takes some minutes and needs no data; its
smoke test installs the function's packages (onnxruntime, NumPy, Pillow and a few more) from the package index once.
Without a network, set `destination.smoke_test=false`.

**Your own model and data:** choose a preset, set `model.checkpoint` and `dataset.source` (a folder, an archive, `s3://`
or `http(s)://`; of COCO's layout or another `dataset.kind`), and what the model must reach under *Gate*. An empty field
means "as in the preset".

**Before anything is quantized:** `check_fp32` holds the checkpoint's own accuracy against the gate's floor. Where it
stays below, the task fails, and the last line of its log names the usual mistake that explains it (a network that takes
BGR, other pixel values, joints in another order) with the setting that mends it; the report has the table.

**Where the result is:** `check_fp32` and the tasks from `gate` on have a button *Report* on their *Details* tab, and
`publish`, `smoke_test_lambda` and `promote` have *Published version*, which opens the manifest. A run whose gate failed
is green with `publish` and what follows skipped: the reason is the XCom `reason` of `publish`, and in its log and the
report.

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

**Signatures:** with a private Ed25519 key in the connection `hpe_signing` (or in the file that `HPE_SIGNING_KEY` names)
manifests are signed; `destination.require_signature` refuses to publish without.

**Weekly:** set `HPE_REQUANTIZE_SCHEDULE=@weekly` for the DAG processor and unpause the DAG; `HPE_REQUANTIZE_PARAMS`
holds the settings of such runs as JSON, for example `{"preset": "pose_resnet_50", "dataset.source": "s3://…"}`.
"""


@dag(
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # With a schedule the first unpausing starts a run at once: that is for a person to decide.
    is_paused_upon_creation=SCHEDULE is not None,
    params=form_params(os.environ.get("HPE_REQUANTIZE_PARAMS")),
    default_args={**RETRIES, "on_failure_callback": log_reason, "execution_timeout": timedelta(hours=6)},
    tags=["pose", "quantization"],
    doc_md=DOC,
    dag_display_name="Requantize a pose model",
)
def hpe_requantize() -> None:
    """From a checkpoint to a published version."""

    @task(execution_timeout=timedelta(minutes=30))
    def preflight() -> str:
        """Look at everything that the run needs, before anything long begins."""
        record = steps.preflight(open_run_from_context())
        return f"{len(record.checks)} checks, {len(record.warnings)} to look at"

    @task
    def fetch_dataset() -> str:
        """Bring the data set to this machine."""
        return steps.fetch_dataset(open_run_from_context()).digest

    @task
    def fetch_checkpoint() -> str:
        """Bring the checkpoint into the workspace."""
        return steps.fetch_checkpoint(open_run_from_context()).file.sha256

    @task
    def validate_dataset() -> str:
        """Hold the data set against its expectations."""
        return steps.validate_dataset(open_run_from_context()).data_docs.uri

    @task
    def evaluate_fp32() -> str:
        """Measure the checkpoint as it came."""
        return steps.evaluate_fp32(open_run_from_context()).predictions.uri

    @task
    def check_fp32() -> str:
        """Stop here, with a diagnosis, where the checkpoint is below the gate's floor."""
        return steps.check_fp32(open_run_from_context()).reason

    # GPU workers serve the queue, and the pool has a slot for each of them. LocalExecutor knows no queues.
    @task(queue="gpu", pool="gpu_pool")
    def quantize() -> str:
        """Calibrate AIMET's quantization simulation."""
        return steps.quantize(open_run_from_context()).encodings.uri

    @task
    def export_onnx() -> str:
        """Write the file that ships, and read back where it runs in int8."""
        return steps.export_onnx(open_run_from_context()).model.uri

    @task
    def evaluate_quantized() -> str:
        """Measure the simulation and the exported file on the same persons."""
        return steps.evaluate_quantized(open_run_from_context()).onnx.predictions.uri

    @task(execution_timeout=timedelta(minutes=10))
    def gate() -> str:
        """Decide whether the model may be published."""
        decision = steps.gate(open_run_from_context())
        return "passed" if decision.passed else decision.reason

    @task(execution_timeout=timedelta(hours=1))
    def publish(*, ti: Any = None) -> str:
        """Put the model into the registry, or skip with the reason why not."""
        run = open_run_from_context()
        decision = run.load(GateDecision)
        if decision is not None and not decision.passed:
            ti.xcom_push("reason", decision.reason)
            raise AirflowSkipException(f"Not published: {decision.reason}")
        return steps.publish(run).manifest.uri

    @task(execution_timeout=timedelta(hours=1))
    def smoke_test_lambda() -> str:
        """Run the Lambda package with the published version, unless that is switched off."""
        run = open_run_from_context()
        if not run.config.destination.smoke_test:
            raise AirflowSkipException("No smoke test: destination.smoke_test is off.")
        return steps.smoke_test_lambda(run).package_sha256

    # A smoke test that is switched off is no reason not to promote; nothing published is.
    @task(outlets=[PUBLISHED_MODEL], trigger_rule="none_failed_min_one_success", execution_timeout=timedelta(hours=1))
    def promote(*, outlet_events: Any = None) -> str:
        """Let the channel serve the published version."""
        promoted = steps.promote(open_run_from_context())
        outlet_events[PUBLISHED_MODEL].extra = promoted.model_dump(include={"name", "version", "channel", "registry"})
        return promoted.version

    @task(execution_timeout=timedelta(hours=1))
    def report() -> str:
        """Write the report, whatever the run has come to."""
        return steps.report(open_run_from_context()).html.uri

    checked, dataset, checkpoint, validated = preflight(), fetch_dataset(), fetch_checkpoint(), validate_dataset()
    decided, reported = with_links(gate(), ReportLink()), with_links(report(), ReportLink())
    published = with_links(publish(), ReportLink(), VersionLink())
    tested = with_links(smoke_test_lambda(), ReportLink(), VersionLink())
    promoted = with_links(promote(), ReportLink(), VersionLink())

    # Only an order: every task works without the preflight's record, as `airflow tasks test` runs them.
    checked >> [dataset, checkpoint]
    dataset >> validated
    (
        [validated, checkpoint]
        >> evaluate_fp32()
        >> with_links(check_fp32(), ReportLink())
        >> quantize()
        >> export_onnx()
        >> evaluate_quantized()
        >> decided
    )
    decided >> published >> tested
    [published, tested] >> promoted
    # A teardown runs after all the others, failed or not, and leaves the run's state to them. (With
    # on_failure_fail_dagrun Airflow takes the report's success for the run's.)
    [validated, checkpoint, promoted] >> reported.as_teardown()


hpe_requantize()
