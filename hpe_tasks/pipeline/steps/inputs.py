"""The steps that bring what a run starts from: a look at everything first, then checkpoint and data set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.addresses import address_identity
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import DatasetError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import step
from hpe_tasks.preflight import refuse_failed, signature_required_by
from hpe_tasks.records.inputs import DatasetValidation, FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.preflight import Preflight
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.workspace import Scratch, Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.dataset import Dataset

log = logging.getLogger(__name__)


@step(
    Preflight,
    "Preflight",
    accept=refuse_failed,
    reuse=False,
    tell=lambda record: f"{len(record.checks)} checks, {len(record.warnings)} to look at",
    shown_as="preflight",
)
def preflight(run: Run, _: Scratch) -> Preflight:
    """Look at what the run needs and keep what was found; `hpe check` does the same without a run.

    Raises:
        PreflightError: Something that was given cannot be used; all that was found is in the record.
        TransientError: Only the network failed.
    """
    from hpe_tasks.preflight import preflight as look

    record = look(run.asked, workspace=run.workspace, cache=run.cache, s3=run.s3, signing_key=run.signing_key)
    for check in record.warnings:
        log.warning("%s: %s. %s", check.title, check.found.rstrip("."), check.advice)
    return record


def checkpoint_file(
    model: ModelConfig,
    cache: Path,
    s3: Callable[[], S3Client],
    records: Workspace,
    *,
    allow_private_addresses: bool = False,
) -> Path:
    """The checkpoint on this machine, downloaded if it is not there yet.

    Args:
        model: Names the checkpoint, and the SHA-256 that it must have.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.
        records: Keeps what each address gave when it was first used: it must give the same again.
        allow_private_addresses: Ask web servers that not everybody can reach as well.
    """
    from hpe_tasks.data.fetch.download import checkpoint_folder, fetch_file
    from hpe_tasks.data.fetch.trust import check_trusted
    from hpe_tasks.models.checkpoint import sample_checkpoint

    if model.checkpoint == SAMPLE:
        return sample_checkpoint(model.architecture)
    folder = checkpoint_folder(cache, model.checkpoint)
    file = fetch_file(
        model.checkpoint,
        folder,
        sha256=model.checkpoint_sha256,
        s3=s3,
        allow_private_addresses=allow_private_addresses,
    )
    check_trusted(
        model.checkpoint,
        sha256_file(file),
        model.checkpoint_sha256,
        option="model.checkpoint_sha256",
        read=records.read,
        write=records.write,
    )
    return file


def _checkpoint_of(run: Run) -> Path:
    allowed = run.config.dataset.allow_private_addresses
    return checkpoint_file(run.config.model, run.cache, run.s3, run.workspace, allow_private_addresses=allowed)


def _checkpoint_digest(run: Run) -> str:
    from hpe_tasks.data.fetch.taken_in import check_checkpoint

    file = _checkpoint_of(run)
    # Whether it is new here or not: the architecture may be another than the last time.
    check_checkpoint(run.config.model, file, run.cache)
    return digest_of([address_identity(run.config.model.checkpoint), file.name, sha256_file(file)])


@step(
    FetchedCheckpoint,
    "Checkpoint",
    follows=(preflight,),
    found=_checkpoint_digest,
    tell=lambda record: record.file.sha256,
    shown_as="checkpoint",
)
def fetch_checkpoint(run: Run, scratch: Scratch) -> FetchedCheckpoint:
    """Bring the checkpoint into the workspace.

    Raises:
        CheckpointError: It cannot be read, or does not fit the architecture and the input size.
    """
    from hpe_tasks.config.addresses import shown_address
    from hpe_tasks.models.training_record import trained_on

    file = _checkpoint_of(run)
    kept = scratch.path / file.name
    shutil.copyfile(file, kept)
    return FetchedCheckpoint(
        source=shown_address(run.config.model.checkpoint), file=scratch.artifact(kept), trained_on=trained_on(file)
    )


def dataset_of(run: Run) -> tuple[Path, FetchedDataset]:
    """The data set's folder on this machine, fetched if it is not there yet, and what it holds."""
    from hpe_tasks.data.fetch import fetch_dataset as fetch

    if "dataset" not in run.at_hand:
        config = run.config
        images, seed = config.recipe.calibration_images, config.seed
        run.at_hand["dataset"] = fetch(config.dataset, run.cache, run.s3, calibration_images=images, seed=seed)
    found: tuple[Path, FetchedDataset] = run.at_hand["dataset"]
    return found


def _dataset_digest(run: Run) -> str:
    from hpe_tasks.registry.signing import open_signing_key

    # What publishing would refuse hours later, for those who begin here and not at the preflight.
    open_signing_key(run.signing_key(), required_because=signature_required_by(run.config))
    _, fetched = dataset_of(run)
    return digest_of(fetched.model_dump(mode="json"))


@step(
    FetchedDataset,
    "Data set",
    follows=(preflight,),
    found=_dataset_digest,
    tell=lambda record: record.digest,
    shown_as="dataset",
)
def fetch_dataset(run: Run, _: Scratch) -> FetchedDataset:
    """Bring the data set to this machine.

    Raises:
        ConfigError: The run could not publish: a signature is required and there is no key, or it is not a key.
    """
    _root, fetched = dataset_of(run)
    return fetched


def split_of(run: Run, name: str) -> Dataset:
    """One split of the data set, on whichever worker this is; raises DatasetError when it has changed."""
    from hpe_tasks.data.splits import load_split

    root, fetched = dataset_of(run)
    recorded = run.result(fetch_dataset)
    if (recorded.digest, recorded.boxes_sha256) != (fetched.digest, fetched.boxes_sha256):
        raise DatasetError(
            f"The data set {fetched.source} has changed since this run fetched it.",
            hint="Start again from fetch_dataset.",
        )
    return load_split(run.config.dataset.kind, root, name)


def _refuse_broken(validation: DatasetValidation) -> None:
    if not validation.passed:
        shown = [f"{p.message} ({', '.join(p.examples)})" if p.examples else p.message for p in validation.problems]
        raise DatasetError(
            f"The data set fails {len(shown)} of {validation.checks_run} checks: " + "; ".join(shown),
            hint="Mend these files or records; the run's report shows the details.",
        )


@step(
    DatasetValidation,
    "Validation",
    needs=(fetch_dataset,),
    settings=lambda c: [
        c.dataset.model_dump(include={"kind", "calibration_split", "evaluation_split", "min_persons"}),
        c.evaluation.max_failed_images,
    ],
    accept=_refuse_broken,
    tell=lambda record: record.data_docs.uri,
    shown_as="validation",
)
def validate_dataset(run: Run, scratch: Scratch) -> DatasetValidation:
    """Check the data set against its expectations."""
    from hpe_tasks.data.validation import validate_dataset as validate

    root, _ = dataset_of(run)
    outcome = validate(
        root,
        run.config.dataset,
        scratch.path,
        run.result(fetch_dataset).digest,
        max_failed=run.config.evaluation.max_failed_images,
    )
    for warning in outcome.warnings:
        log.warning("%s %s", warning.message, ", ".join(warning.examples))
    return DatasetValidation(
        passed=not outcome.problems,
        checks_run=outcome.checks_run,
        problems=outcome.problems,
        warnings=outcome.warnings,
        splits=outcome.splits,
        data_docs=scratch.artifact(outcome.data_docs),
        lookalikes=outcome.lookalikes,
    )
