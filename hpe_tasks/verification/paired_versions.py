"""Two published versions on the same images, resampled: whether one is better, from the tables beside them."""

from __future__ import annotations

import json
from pathlib import Path

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.errors import DigestError
from hpe_tasks.evaluation.paired import Question, differences
from hpe_tasks.metrics.image_tables import WHOLE
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.registry.evidence import table_role
from hpe_tasks.verification.measured import PublishedEvidence, fitting_tables

_ROLE = table_role("onnxruntime")


def compare_versions(before: str, *, after: str, answer: str) -> None:
    """Compare the exported files of two versions: for `try_reading`, in a process with bounds.

    The judged figure gets an interval, by the gate's defaults; parts are told without.

    Args:
        before: Table of images of the one.
        after: Of the other, on the same images.
        answer: File that takes `{"comparison": …}`, or `{"problem": …}` where the tables do not fit together.
    """
    try:
        told: dict[str, object] = {"comparison": _compared(Path(before), Path(after)).model_dump(mode="json")}
    except DigestError as error:
        told = {"problem": error.message}
    Path(answer).write_text(json.dumps(told), encoding="utf-8")


def _compared(before: Path, after: Path) -> PairedComparison:
    tables = PublishedEvidence({_ROLE: before}).table(_ROLE), PublishedEvidence({_ROLE: after}).table(_ROLE)
    limits = GateLimits()
    question = Question(
        limit_of=lambda part: 0.0 if part == WHOLE else None,
        confidence=limits.confidence,
        resamples=limits.resamples,
        max_looks=1,
        seed=0,
    )
    error = None if limits.confidence is None else (1 - limits.confidence) / 2
    with fitting_tables():
        found = differences(tables, question, error)
    images = len(tables[0].images)
    # Nothing is asked: it only tells which one is better.
    parts = tuple(part.model_copy(update={"limit": None, "probability": None}) for part in found)
    return PairedComparison(
        num_images=images,
        available_images=images,
        confidence=limits.confidence,
        resamples=limits.resamples,
        parts=parts,
    )
