"""Whether tables of images tell the truth: matched again, from the stored predictions and the annotations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpe_tasks.config.addresses import shown_address
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import DatasetError, DigestError
from hpe_tasks.evaluation.recount import Recount, recount
from hpe_tasks.metrics.image_tables import HitTable, ImageTable, MatchTable
from hpe_tasks.records.evaluation import Runtime
from hpe_tasks.registry.evidence import compared_role, predictions_role, table_role
from hpe_tasks.registry.manifest import Metrics, ModelManifest
from hpe_tasks.verification.findings import NotAskedError, NotMadeError, VerificationCheck, carried_out
from hpe_tasks.verification.judged import configuration_of
from hpe_tasks.verification.measured import CLOSE, FORMS, PublishedEvidence, same

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class MeasuredTruth:
    """The split that a version was measured on, and how it was asked for."""

    split: Dataset
    config: RunConfig


def open_truth(manifest: ModelManifest, source: str, cache: Path, s3: Callable[[], S3Client]) -> MeasuredTruth:
    """The data set of a version, found in a place of the caller's.

    Args:
        manifest: The version.
        source: As `dataset.source` of a run: a folder, an archive, an address of one, or `sample`; with its images.
        cache: Folder of this machine for downloads and remembered digests.
        s3: Makes the S3 client when one is needed.

    Raises:
        NotMadeError: The manifest does not say what was asked.
        DatasetError: It is another data set, or cannot be used.
        HpeError: It cannot be fetched.
    """
    from hpe_tasks.data.fetch import fetch_dataset
    from hpe_tasks.data.splits import load_split

    config = configuration_of(manifest)
    here = {"source": source, "sha256": None, "image_archives": None, "boxes": None}
    asked = config.dataset.model_copy(update=here)
    root, fetched = fetch_dataset(
        asked, cache, s3, calibration_images=config.recipe.calibration_images, seed=config.seed
    )
    recorded = manifest.provenance.dataset_digest
    if fetched.digest != recorded:
        raise DatasetError(
            f"{shown_address(source)} is not the data set of version {manifest.version}: its digest is "
            f"{fetched.digest}, the manifest says {recorded}.",
            hint=f"Give the data set as the run had it ({manifest.provenance.dataset_source}): annotations and images "
            f"of {', '.join(config.dataset.splits)}, unchanged.",
        )
    return MeasuredTruth(load_split(config.dataset.kind, root, config.dataset.evaluation_split), config)


def match_checks(
    manifest: ModelManifest, evidence: PublishedEvidence, find_truth: Callable[[], MeasuredTruth]
) -> Iterator[VerificationCheck]:
    """Each measurement's table, made again.

    Args:
        manifest: The version.
        evidence: Its files.
        find_truth: Opens the annotations; raises NotMadeError or NotAskedError where there are none. Any other error
            says nothing of the version, and is not caught.
    """
    truth = _at_hand(find_truth)
    for form, runtime in FORMS:
        metrics: Metrics = getattr(manifest, form)

        def matches(metrics: Metrics = metrics, runtime: Runtime = runtime) -> str:
            return _matched(evidence, metrics, runtime, truth())

        yield carried_out(f"matches/{runtime}", f"Matches of {runtime}", "computation", matches)
    if any(compared_role(runtime) in evidence.files for _, runtime in FORMS):
        yield carried_out("matches/compared", "Matches of further images", "computation", lambda: _further(truth))


def _at_hand(find_truth: Callable[[], MeasuredTruth]) -> Callable[[], MeasuredTruth]:
    """The annotations, or why there are none, to be told of each check."""
    try:
        found = find_truth()
    except (NotMadeError, NotAskedError) as error:
        reason = error

        def lacking() -> MeasuredTruth:
            raise reason

        return lacking
    return lambda: found


def no_truth(manifest: ModelManifest) -> MeasuredTruth:
    """Say what is to be given."""
    digest = manifest.provenance.dataset_digest
    raise NotAskedError(f"needs the annotations: give --dataset, the data set with the digest {digest[:16]}…")


def _further(truth: Callable[[], MeasuredTruth]) -> str:
    truth()
    raise NotMadeError("predictions of images that were measured after the first look are not published")


def _matched(evidence: PublishedEvidence, metrics: Metrics, runtime: Runtime, truth: MeasuredTruth) -> str:
    role, protocol = predictions_role(runtime), metrics.fingerprint
    published = evidence.table(table_role(runtime))
    try:
        rows: list[dict[str, Any]] = json.loads(evidence.require(role))
        found = recount(
            truth.split,
            rows,
            truth.config.model,
            truth.config.evaluation,
            images=truth.config.dataset.evaluation_images,
            runtime=runtime,
            seed=truth.config.seed,
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DigestError(f"{role} cannot be compared with the annotations: {error!r}") from error
    measured = (found.image_ids_digest, found.num_persons, found.joint_map)
    if measured != (protocol.image_ids_digest, protocol.num_persons, protocol.joint_map):
        raise DigestError("images, persons or joints are not those that these annotations and what was asked give")
    if not _lies_between(published, *found.tables):
        raise DigestError(f"{table_role(runtime)} is not what the predictions give with these annotations")
    _check_stats(found, metrics)
    return f"{len(rows):,} poses matched again with {found.num_persons:,} annotated persons"


def _check_stats(found: Recount, metrics: Metrics) -> None:
    """The figures that no table holds as well, such as AP50 and the recalls."""
    if found.stats is None:
        return
    told = metrics.stats.model_dump()
    for name, value in found.stats.model_dump().items():
        if name not in told or not same(value, told[name]):
            raise DigestError(f"{name} is {value!r} by the predictions, the manifest says {told.get(name)!r}")


def _lies_between(published: ImageTable, fewest: ImageTable, most: ImageTable) -> bool:
    """Whether a table is the one, or one of those, that were counted."""
    if isinstance(published, MatchTable) and isinstance(fewest, MatchTable):
        return _same_matches(published, fewest)
    if not (isinstance(published, HitTable) and isinstance(fewest, HitTable) and isinstance(most, HitTable)):
        return False
    return (
        np.array_equal(published.images, fewest.images)
        and np.array_equal(published.labelled, fewest.labelled)
        and published.hits.shape == fewest.hits.shape
        and bool(((published.hits >= fewest.hits) & (published.hits <= most.hits)).all())
        and (dict(published.columns), set(published.pooled)) == (dict(fewest.columns), set(fewest.pooled))
    )


def _same_matches(one: MatchTable, other: MatchTable) -> bool:
    return (
        np.array_equal(one.images, other.images)
        and np.array_equal(one.result_image, other.result_image)
        and one.score.shape == other.score.shape
        and np.allclose(one.score, other.score, rtol=0, atol=CLOSE)
        and set(one.parts) == set(other.parts)
        and all(
            np.array_equal(getattr(one.matches[part], field), getattr(other.matches[part], field))
            for part in one.parts
            for field in ("true", "ignored", "persons")
        )
    )
