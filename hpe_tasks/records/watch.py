"""Whether there is a reason to quantize again: what a model is made of, what changed, and how its requests look."""

from __future__ import annotations

import hashlib
import itertools
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hpe_tasks.config.base import Frozen, Sha256
from hpe_tasks.contract.canonical import canonical_json
from hpe_tasks.records.base import Record

TriggerKind = Literal["first", "checkpoint", "data", "recipe", "terms", "tools", "drift"]
"""What changed: `terms` are those that a version is admitted on, the gate's limits and how it is measured; with `first`
the channel serves nothing yet."""


class Trigger(Frozen):
    """One reason to quantize again, in plain words such as "onnxruntime 1.31.0 → 1.32.1"."""

    kind: TriggerKind
    reason: str


class MadeOf(Frozen):
    """What a run's model would be made of now.

    Attributes:
        dataset_digest: Over the files of the data set's splits, those of the calibration among them.
        boxes_sha256: Of the file with detected boxes; None where none is used.
        settings: By dotted key, as JSON: all that decide what the model is, or whether it passes.
        tools: Versions by distribution.
    """

    checkpoint_sha256: Sha256
    dataset_digest: Sha256
    boxes_sha256: Sha256 | None = None
    settings: dict[str, str]
    tools: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it."""
        return _digest(self.model_dump(mode="json"))


class Histogram(Frozen):
    """How often values fell between edges; the first and the last bin are open.

    Attributes:
        edges: Inner edges, ascending; a value on an edge belongs to the bin above it.
        counts: One more than there are edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError("counts must be one more than the ascending edges")
        return self

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def median(self) -> float | None:
        """Middle of the bin that holds the middle value, or the edge of an open one; None of nothing."""
        if not self.total or not self.edges:
            return None
        sums = itertools.accumulate(self.counts)
        index = next(index for index, seen in enumerate(sums) if 2 * seen >= self.total)
        low, high = max(index - 1, 0), min(index, len(self.edges) - 1)
        return (self.edges[low] + self.edges[high]) / 2


class RequestStatistics(Record):
    """How the requests of a period looked: one histogram for each statistic of an image.

    Attributes:
        model: Name of the model that answered.
        version: Of the model; None where the period counts whichever version answered.
        since: Of the first request that counts.
        until: Of the last one.
        images: Requests that counted.
        unreadable_lines: Lines of the log that should have been one of an invocation and are not whole.
    """

    model: str
    version: str | None
    since: datetime | None
    until: datetime | None
    images: int
    unreadable_lines: int = 0
    histograms: dict[str, Histogram]


class DriftedStatistic(Frozen):
    """One statistic of the golden period beside that of now.

    Attributes:
        psi: Population stability index; None where there is too little of either.
        p_value: Of the chi-square test of homogeneity, corrected by Holm for the number of statistics.
        drifted: Whether both say so.
    """

    name: str
    golden: Histogram
    now: Histogram
    psi: float | None
    p_value: float | None
    drifted: bool


class DriftReport(Frozen):
    """Whether requests look as they did in the golden period.

    Attributes:
        golden_digest: Of the golden period's record.
        not_judged: Why nothing was compared; empty where it was.
        min_images: How many images either period must hold.
        max_psi: Beyond this a statistic has left the golden period's, if its p-value is below `alpha` as well.
    """

    golden_digest: Sha256 | None = None
    golden_images: int = 0
    golden_since: datetime | None = None
    golden_until: datetime | None = None
    images: int = 0
    since: datetime | None = None
    until: datetime | None = None
    unreadable_lines: int = 0
    not_judged: str = ""
    min_images: int
    max_psi: float
    alpha: float
    statistics: tuple[DriftedStatistic, ...] = ()

    @property
    def drifted(self) -> tuple[DriftedStatistic, ...]:
        """The statistics that have left those of the golden period."""
        return tuple(one for one in self.statistics if one.drifted)


class StartClaim(Record):
    """Who has taken it upon himself to start a run for a reason; the first to write it is the only one.

    Attributes:
        key: Digest of the reason; see `WatchReport.key`.
        run_id: Name of the run.
        by: Who claims: an Airflow run, or a user and a process.
    """

    key: Sha256
    run_id: str
    reasons: tuple[str, ...]
    by: str
    at: datetime


class WatchReport(Record):
    """What a look at one channel has found.

    Attributes:
        version: What the channel serves; None where it serves nothing.
        triggers: What fired.
        not_compared: What could not be compared with the served version, and why.
        drift: None where no telemetry is read.
        claimed: Who started a run for this very reason before; None where nobody did.
        checkpoint_sha256: For the run that is started, where it is to accept a new file at the checkpoint's address.
        model: Settings of the served version's network, where a retraining has registered its checkpoint: a run goes on
            from that one. Empty where the run's own settings count.
    """

    name: str
    channel: str
    registry: str
    looked_at: datetime
    version: str | None
    manifest_sha256: Sha256 | None
    made_of: MadeOf
    triggers: tuple[Trigger, ...] = ()
    not_compared: tuple[str, ...] = ()
    drift: DriftReport | None = None
    claimed: StartClaim | None = None
    checkpoint_sha256: Sha256 | None = None
    model: dict[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """Digest of the reason: what is served, what it would be made of, and which golden period was left."""
        drifted = self.drift is not None and bool(self.drift.drifted)
        golden = self.drift.golden_digest if drifted and self.drift is not None else None
        return _digest([self.registry, self.name, self.channel, self.manifest_sha256, self.made_of.fingerprint, golden])

    @property
    def run_id(self) -> str:
        """Name of the run that is started for this reason, whoever starts it."""
        return f"watch__{self.key[:16]}"

    @property
    def due(self) -> bool:
        """Whether something fired for which nobody has started a run yet."""
        return bool(self.triggers) and self.claimed is None

    @property
    def note(self) -> str:
        """The reasons, as the started run's note has them."""
        return "\n".join(f"{trigger.kind}: {trigger.reason}" for trigger in self.triggers)


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
