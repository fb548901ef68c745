"""The figures of a version, counted again from what was published beside it.

A table says what became of each image. Whether it says the truth is known by whoever has the annotations, whose digest
the manifest names; here it is held against the figures, the predictions and the images that it must belong to.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpe_tasks.errors import DigestError
from hpe_tasks.metrics.coco_ap import MAX_RESULTS
from hpe_tasks.metrics.image_tables import WHOLE, ImageTable, MatchTable, read_table
from hpe_tasks.records.evaluation import Runtime
from hpe_tasks.registry.evidence import compared_role, predictions_role, table_role
from hpe_tasks.registry.manifest import Metrics, ModelManifest
from hpe_tasks.verification.findings import NotMadeError, VerificationCheck, carried_out

CLOSE = 1e-9
"""Figures that differ by less are the same: they were summed up by another processor."""

_LARGEST_TABLE_BYTES = 1024**3

FORMS: tuple[tuple[str, Runtime], ...] = (("fp32", "fp32"), ("quantsim", "quantsim"), ("onnx", "onnxruntime"))
"""The manifest's fields with measurements, and what ran the network for them."""


@dataclass(frozen=True)
class PublishedEvidence:
    """A version's files that were found whole, by role."""

    files: Mapping[str, Path]

    def require(self, role: str) -> bytes:
        """A file's content; raises NotMadeError where the version has none that is whole."""
        if role not in self.files:
            raise NotMadeError(f"the version has no whole file {role!r}: it was published without, or is damaged")
        return self.files[role].read_bytes()

    def table(self, role: str) -> ImageTable:
        """A table of images; raises DigestError where the file is none."""
        self.require(role)
        try:
            with zipfile.ZipFile(self.files[role]) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > _LARGEST_TABLE_BYTES:
                    raise DigestError(f"{role} unpacks to more than {_LARGEST_TABLE_BYTES:,} bytes")
            return read_table(self.files[role].read_bytes())
        except (ValueError, zipfile.BadZipFile) as error:
            raise DigestError(f"{role} cannot be read: {error}") from error

    def compared_tables(self, num_images: int) -> tuple[ImageTable, ImageTable]:
        """FP32's and the file's table of all images that were compared."""
        roles = [compared_role(runtime) for runtime in ("fp32", "onnxruntime")]
        if not all(role in self.files for role in roles):
            roles = [table_role(runtime) for runtime in ("fp32", "onnxruntime")]
        before, after = map(self.table, roles)
        for role, table in zip(roles, (before, after), strict=True):
            if len(table.images) != num_images:
                raise DigestError(f"{role} is of {len(table.images):,} images, {num_images:,} were compared")
        return before, after


@contextmanager
def fitting_tables() -> Iterator[None]:
    """Tables whose arrays do not fit together are no evidence: whatever NumPy makes of them is told as that."""
    try:
        yield
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise DigestError(f"the tables cannot be counted: {error}") from error


def measurement_checks(manifest: ModelManifest, evidence: PublishedEvidence) -> Iterator[VerificationCheck]:
    """Each measurement: its figures, the images that it is of, and the predictions that it was made from."""
    for form, runtime in FORMS:
        metrics: Metrics = getattr(manifest, form)

        def figures(metrics: Metrics = metrics, runtime: Runtime = runtime) -> str:
            table = evidence.table(table_role(runtime))
            with fitting_tables():
                _check_images(table, metrics)
                counted = _check_figures(table, metrics)
            return f"{counted} figures, over {len(table.images):,} images"

        def predictions(metrics: Metrics = metrics, runtime: Runtime = runtime) -> str:
            return _check_predictions(evidence, runtime, metrics)

        yield carried_out(f"figures/{runtime}", f"Figures of {runtime}", "computation", figures)
        yield carried_out(f"predictions/{runtime}", f"Predictions of {runtime}", "comparison", predictions)
    yield carried_out("truth", "Same truth", "comparison", lambda: _same_truth(manifest))


def _same_truth(manifest: ModelManifest) -> str:
    protocols = [getattr(manifest, form).fingerprint for form, _ in FORMS]
    if any(protocol != protocols[0] for protocol in protocols):
        raise DigestError("the measurements were not made alike: their protocols differ")
    if protocols[0].dataset_digest != manifest.provenance.dataset_digest:
        raise DigestError("the measurements are of another data set than the provenance says")
    return f"all three on the data set with the digest {protocols[0].dataset_digest[:16]}…, which is not stored here"


def _check_images(table: ImageTable, metrics: Metrics) -> None:
    protocol = metrics.fingerprint
    separator = "," if isinstance(table, MatchTable) else "\n"
    digest = hashlib.sha256(separator.join(map(str, table.images.tolist())).encode()).hexdigest()
    if (digest, len(table.images)) != (protocol.image_ids_digest, protocol.num_images):
        raise DigestError("the table is of other images than the protocol says")


def _check_figures(table: ImageTable, metrics: Metrics) -> int:
    """Count the figures again; how many there were."""
    counted = table.whole()
    told = _figures(metrics)
    unknown = sorted(name for name, value in told.items() if name not in counted and value is not None)
    if unknown:
        raise DigestError(f"the table does not say {', '.join(unknown)}")
    for part, value in counted.items():
        if part not in told:
            raise DigestError(f"the table says {part}, of which the manifest says nothing")
        if not same(None if np.isnan(value) else value, told[part]):
            raise DigestError(f"{part} is {value!r} by the table, the manifest says {told[part]!r}")
    return len(counted)


def _figures(metrics: Metrics) -> dict[str, float | None]:
    """The manifest's figures by the names of a table's parts."""
    figures = {WHOLE: metrics.stats.accuracy}
    figures |= {f"group/{name}": value for name, value in metrics.by_group.items()}
    figures |= {f"joint/{name}": value for name, value in metrics.by_joint.items()}
    return figures | metrics.stats.by_part


def same(one: float | None, other: float | None) -> bool:
    """Whether two figures are the same, up to the last digits."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= CLOSE * max(1.0, abs(one))


def _check_predictions(evidence: PublishedEvidence, runtime: Runtime, metrics: Metrics) -> str:
    role = predictions_role(runtime)
    try:
        rows = json.loads(evidence.require(role))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DigestError(f"{role} is no list of poses")
        table = evidence.table(table_role(runtime))
        if isinstance(table, MatchTable):
            _check_results(table, rows)
            return f"{len(rows):,} poses; the table's results are theirs, by image and score"
        strange = {str(row["image"]) for row in rows} - set(table.images.tolist())
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DigestError(f"{role} does not hold poses: {error!r}") from error
    if strange:
        raise DigestError(f"{role} holds poses in images that were not measured: {sorted(strange)[0]}")
    if len(rows) > metrics.fingerprint.num_persons:
        raise DigestError(f"{role} holds {len(rows):,} poses of {metrics.fingerprint.num_persons:,} persons")
    return f"{len(rows):,} poses, all in images of the table"


def _check_results(table: MatchTable, rows: list[dict[str, Any]]) -> None:
    """Whether a table's results are the best-scored poses of each image."""
    image = np.array([row["image_id"] for row in rows], dtype=np.int64)
    score = np.array([row["score"] for row in rows], dtype=np.float64)
    order = np.lexsort((-score, image))
    image, score = image[order], score[order]
    kept = np.arange(len(image)) - np.searchsorted(image, image) < MAX_RESULTS
    of_table = table.images[table.result_image]
    order = np.lexsort((-table.score, of_table))
    if not (
        np.array_equal(image[kept], of_table[order])
        and np.allclose(score[kept], table.score[order], rtol=0, atol=CLOSE)
    ):
        raise DigestError("the table's results are not those of the predictions")
