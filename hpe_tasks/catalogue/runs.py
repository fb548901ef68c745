"""All runs of a workspace: what each was asked, and what it has come to, refused ones with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.catalogue.kept_rows import KeptRow, KeptRows
from hpe_tasks.catalogue.summaries import SpeedSummary, protocol_digest, speed_summary
from hpe_tasks.datasets import MetricName
from hpe_tasks.errors import AccessError, BadInputError
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.pipelines import pipeline_of
from hpe_tasks.pipeline.runs import CONFIG, FAILURE, RUNS, Run, run_asked
from hpe_tasks.records.base import Record
from hpe_tasks.report.records import RunRecords, VerdictKind, verdict_of
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.opening import open_workspace
from hpe_tasks.storage.workspace import RESULT, StoredFile, Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_FORMAT = 2
_THREADS = 8
_SETTLED = timedelta(seconds=5)
"""S3 tells times in seconds: a file that is older than this has not been written twice in the same one."""


class RunSummary(Record):
    """A run as a row of the catalogue. What it has not come to is None.

    Attributes:
        name: Its folder in the workspace, as `hpe show --run` takes it.
        problem: Why it cannot be read, in a sentence; the rest is then empty.
        model: Name of the model in the registry.
        checkpoint: The address that was given, without credentials.
        ended: When its last step ended; None while steps are left to do.
        last_step_at: When a step ended or failed last.
        verdict: What it has come to, in a word.
        title: The same as a headline.
        reason: Why nothing was published, in a sentence: the first check that failed, or the error of a step.
        failed_checks: Checks of the gate that did not pass, by their titles.
        failed_step: The step that failed.
        size_bytes: Of the exported file.
        speed: Of the exported file.
        int8_share: Share of its multiply-accumulates that run in int8.
        protocol: Digest of how it was measured.
        version: What was published; None where nothing was.
        channel: What serves it since; None where nothing was promoted.
        report: Address of its HTML report.
    """

    name: str
    problem: str = ""
    pipeline: str = ""
    preset: str | None = None
    model: str | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    architecture: str | None = None
    recipe: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    last_step_at: datetime | None = None
    verdict: VerdictKind | None = None
    title: str = ""
    reason: str = ""
    failed_checks: tuple[str, ...] = ()
    failed_step: str | None = None
    metric: MetricName | None = None
    fp32: float | None = None
    int8: float | None = None
    size_bytes: int | None = None
    speed: SpeedSummary | None = None
    int8_share: float | None = None
    protocol: str | None = None
    version: str | None = None
    channel: str | None = None
    registry: str | None = None
    report: str | None = None

    @property
    def drop(self) -> float | None:
        """Accuracy that quantization cost, below zero for a gain; None where either figure is."""
        return None if self.fp32 is None or self.int8 is None else self.fp32 - self.int8


def list_runs(workspace: str, cache: Path, s3: Callable[[], S3Client]) -> tuple[RunSummary, ...]:
    """All runs of a workspace, those that began last first; one that this code cannot read has a row that says so.

    The workspace is listed anew each time. Rows of runs of which no file has changed since are taken from the cache.

    Args:
        workspace: `file://` or `s3://` address.
        cache: As HPE_CACHE names it.
        s3: Makes the client, where the workspace is on S3.

    Raises:
        AccessError: The bucket does not exist, or refuses the credentials.
        TransientError: The server cannot be reached, or failed.
    """
    place = open_workspace(workspace, s3=s3, cache=cache)
    files, now = _files_of_runs(place), datetime.now(UTC)
    kept: KeptRows[RunSummary] = KeptRows(cache, workspace, RunSummary, _FORMAT)
    known = kept.read()
    digests = {name: _digest(listed) for name, listed in files.items()}
    rows = {name: known[name] for name, digest in digests.items() if name in known and known[name].made_from == digest}
    missing = [name for name in files if name not in rows]

    def read(name: str) -> RunSummary | None:
        return _read(place, name, files[name], cache, s3)

    if missing:
        with ThreadPoolExecutor(min(_THREADS, len(missing))) as pool:
            made = zip(missing, pool.map(read, missing), strict=True)
            rows.update({name: KeptRow(made_from=digests[name], row=row) for name, row in made if row is not None})
    if missing or rows.keys() != known.keys():
        settled = {name for name, listed in files.items() if max(file.modified for file in listed) < now - _SETTLED}
        kept.write({name: row for name, row in rows.items() if name in settled})
    begun = datetime.min.replace(tzinfo=UTC)
    found = (row.row for row in rows.values())
    return tuple(sorted(found, key=lambda row: (row.started or begun, row.name), reverse=True))


def summary_of_run(run: Run, records: RunRecords | None = None) -> RunSummary:
    """The row of a run, from what its steps have left.

    Args:
        run: The run.
        records: What was collected of it, where that is at hand.

    Raises:
        MissingInputError: This code does not have the run's pipeline.
    """
    pipeline = pipeline_of(run)
    records = records or records_of(run, looking_back=True, with_commit=False)
    verdict = verdict_of(records)
    failed = next((step for step in records.steps if step.state == "failed"), None)
    pointers = (run.pointer(step.name) for step in pipeline.steps)
    moments = [
        *(pointer.finished_at for pointer in pointers if pointer is not None),
        *(failure.failed_at for failure in records.failures),
    ]
    last = max(moments, default=None)
    config, exact = records.config, records.measurements
    before, after = exact[0][1], exact[-1][1]
    return RunSummary(
        name=run.name,
        pipeline=run.pipeline,
        preset=config.preset,
        model=config.destination.name,
        checkpoint=config.model.checkpoint,
        dataset=config.dataset.source,
        architecture=config.model.architecture,
        recipe=config.recipe.name,
        started=records.started,
        ended=None if verdict.kind == "unfinished" else last,
        last_step_at=last,
        verdict=verdict.kind,
        title=verdict.title,
        reason=_reason(records, verdict.detail, good=verdict.good),
        failed_checks=() if records.decision is None else tuple(check.title for check in records.decision.failed),
        failed_step=None if failed is None else failed.name,
        metric=config.dataset.described.metric,
        fp32=None if before is None else before.accuracy,
        int8=None if after is None or records.trained is not None else after.accuracy,
        size_bytes=None if records.exported is None else records.exported.model.size_bytes,
        speed=speed_summary(records.latency),
        int8_share=None if records.exported is None else records.exported.placement.int8_mac_share,
        protocol=None if after is None else protocol_digest(after.fingerprint),
        version=None if records.published is None else records.published.version,
        channel=None if records.promoted is None else records.promoted.channel,
        registry=None if records.published is None else records.published.registry,
        report=pipeline.report_uri(run),
    )


def _reason(records: RunRecords, detail: str, *, good: bool) -> str:
    failed = next((step for step in records.steps if step.state == "failed"), None)
    if good or failed is not None:
        return "" if good else detail
    if records.below_floor is not None:
        return f"{records.below_floor.reason}."
    refused = records.decision is not None and records.decision.failed
    return f"{refused[0].reason}." if refused else detail


def _read(
    workspace: Workspace, name: str, files: Iterable[StoredFile], cache: Path, s3: Callable[[], S3Client]
) -> RunSummary | None:
    """The row of a run; None where it was deleted meanwhile."""
    asked = workspace.read(f"{RUNS}/{name}/{CONFIG}")
    listed = frozenset(file.name for file in files)
    try:
        if asked is None:
            return None
        return summary_of_run(run_asked(asked, workspace, name, cache=cache, s3=s3, listed=listed))
    except AccessError:
        raise
    except BadInputError as error:
        return RunSummary(name=name, problem=error.message)


def _files_of_runs(workspace: Workspace) -> dict[str, list[StoredFile]]:
    """What makes up each run's row, by the run's folder; folders without `run.json` are no runs."""
    found: dict[str, list[StoredFile]] = {}
    for file in workspace.files(RUNS):
        _, name, *rest = file.name.split("/")
        if rest == [CONFIG] or (len(rest) == 2 and rest[1] in (RESULT, FAILURE)):
            found.setdefault(name, []).append(file)
    return {name: files for name, files in found.items() if any(file.name.endswith(f"/{CONFIG}") for file in files)}


def _digest(files: Iterable[StoredFile]) -> str:
    return digest_of(sorted((file.name, file.size_bytes, file.modified.isoformat()) for file in files))
