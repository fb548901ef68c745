"""A checkpoint that was trained: from what, how it compares with the live version's, and where it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.comparison import PairedComparison

Comparison = Literal["first", "better", "equal", "worse"]
"""What a new checkpoint is beside the one that the live version came from; `first` where there is no live version."""


class StartingWeights(Record):
    """What a training starts from.

    Attributes:
        source: The address that they came from.
        live_version: The version whose checkpoint they are; None where they are what the run names.
    """

    source: str
    file: Artifact
    live_version: str | None = None


class TrainedCheckpoint(Record):
    """A checkpoint, and how it was made.

    Attributes:
        started_from: SHA-256 of the weights that the first stage started from; None for random ones.
        stages: The settings of each stage.
        losses: Mean loss of each epoch of the last stage.
        persons: How many it learned from.
        seconds: How long it took.
        curves: As `hpe_tasks.records.training_curves` reads them; None in records from before they were kept.
    """

    checkpoint: Artifact
    started_from: str | None
    stages: tuple[dict[str, Any], ...]
    losses: tuple[float, ...]
    persons: int
    seconds: float
    curves: Artifact | None = None


class LiveCheckpoint(Record):
    """The checkpoint that the version came from which a channel serves.

    Attributes:
        version: None where the channel serves nothing, and then the rest is None or empty.
        source: The address that the checkpoint was fetched from.
        model: The network's settings, as `model` of a run's configuration.
    """

    registry: str
    name: str
    channel: str
    version: str | None = None
    source: str = ""
    checkpoint: Artifact | None = None
    model: dict[str, Any] = Field(default_factory=dict)


class CheckpointComparison(Record):
    """A new checkpoint beside the one that the live version came from, on the same persons.

    Attributes:
        reason: Why, in a sentence without its end.
        live_version: None where the channel serves nothing.
        parent_sha256: Of the live version's checkpoint.
        protocols_differ_in: What the two networks were not measured alike in, such as `input_size`: their own ways.
        paired: The figures; `before` is the live version's checkpoint, `after` the new one. None without one.
    """

    outcome: Comparison
    reason: str
    live_version: str | None = None
    parent_sha256: str | None = None
    protocols_differ_in: tuple[str, ...] = ()
    paired: PairedComparison | None = None

    @property
    def better(self) -> bool:
        """Whether requantization is to begin from it."""
        return self.outcome in ("first", "better")


class LineageFigure(Frozen):
    """The judged figure of a checkpoint, and of the live version's beside it, with the interval of the difference."""

    metric: str
    persons: int
    images: int
    checkpoint: float | None
    parent: float | None = None
    low: float | None = None
    high: float | None = None


class CheckpointLineage(Record):
    """What a registered checkpoint came from.

    Attributes:
        model: Settings of the network, as `model` of a run's configuration.
        dataset_digest: Of all splits that the run used.
        stages: The settings of each stage of the training.
        started_from: SHA-256 of the weights that it started from; None for random ones.
        parent_sha256: Of the checkpoint that the live version came from.
        outcome: What it is beside that one.
        code: Digest of the code that the training can reach.
        git_commit: None outside a checkout.
        tool_versions: Of the libraries that decide weights.
    """

    sha256: str
    size_bytes: int
    model: dict[str, Any]
    dataset_source: str
    dataset_digest: str
    training_split: str
    stages: tuple[dict[str, Any], ...]
    started_from: str | None
    live_version: str | None
    parent_sha256: str | None
    outcome: Comparison
    reason: str
    figure: LineageFigure
    code: str
    git_commit: str | None
    tool_versions: dict[str, str]
    run: str
    created_at: datetime
    created_by: str


class RegisteredCheckpoint(Record):
    """A checkpoint in the registry.

    Attributes:
        checkpoint: Its address, as `model.checkpoint` takes it.
        lineage: Where its lineage lies.
        created: False where the same bytes had been registered before.
    """

    checkpoint: str
    sha256: str
    size_bytes: int
    lineage: Artifact
    created: bool
    outcome: Comparison
    reason: str

    @property
    def better(self) -> bool:
        """Whether it is worth a requantization."""
        return self.outcome in ("first", "better")


class AnnouncedCheckpoint(Record):
    """A checkpoint that is worth a requantization, as whoever starts one needs to know it.

    Attributes:
        checkpoint: Its address, as `model.checkpoint` takes it.
        model: The network's settings, as `model` of a run's configuration, without the checkpoint.
    """

    checkpoint: str
    sha256: str
    model: dict[str, Any]
    reason: str
