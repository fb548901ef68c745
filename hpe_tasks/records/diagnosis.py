"""Whether the checkpoint is accurate enough to begin with, and the usual mistakes where it is not."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.datasets import GateMetric
from hpe_tasks.records.base import Record


class TriedMistake(Frozen):
    """A usual mistake, or several at once, and what the network reaches without it.

    Attributes:
        when: What may be wrong, in words that follow "when".
        settings: What mends it, as `--set` takes it; empty where no setting does.
        accuracy: The judged figure with it mended, on the images of the diagnosis; None where the network's output is
            not finite.
    """

    when: str
    settings: tuple[str, ...]
    accuracy: float | None


class Diagnosis(Frozen):
    """What a network with too little accuracy reaches on a few labelled images when a usual mistake is mended.

    Attributes:
        split: Where the images were drawn from.
        num_persons: Persons in the images that were compared.
        accuracy: The judged figure as configured, on these images.
        tried: The best first.
        found: The mistake that explains the figure; None where none does.
        summary: All of this in a sentence.
        seconds: How long it took.
    """

    split: str
    num_images: int
    num_persons: int
    accuracy: float | None
    tried: tuple[TriedMistake, ...]
    found: TriedMistake | None
    summary: str
    seconds: float


class Fp32Check(Record):
    """Whether the checkpoint, before quantization, reaches what the gate asks of the exported file.

    Attributes:
        observed: AP in [0, 1] or mean PCKh in percent; None where nothing could be measured.
        limit: The gate's floor.
        reason: Why it passed or failed, in a sentence.
        diagnosis: Of a checkpoint that failed; None where it passed, or where nothing could be measured.
    """

    passed: bool
    metric: GateMetric
    observed: float | None
    limit: float
    reason: str
    diagnosis: Diagnosis | None = None
