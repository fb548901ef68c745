"""The ladder of recipes: what each rung has come to, and which of them was chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.comparison import PartDifference
from hpe_tasks.records.execution import LatencyComparison

TriedState = Literal["passed", "inconclusive", "refused", "impossible"]
"""What the gate said of a rung; or `impossible`, where the network could not be quantized so."""

RungState = Literal["passed", "inconclusive", "refused", "impossible", "skipped", "failed", "not_run"]


class TriedRung(Record):
    """A recipe of the ladder, tried: quantized, exported, measured and judged.

    Attributes:
        rung: Its name.
        reason: Why it did not pass, or what kept it from being tried.
        fp32: The judged figure before quantization; None where nothing was measured, here and below.
        quantsim: The same of QuantSim.
        onnx: The same of the exported file.
        change: Of the judged figure from FP32 to the exported file, with its interval and its limit.
        image_table: What became of each image with the exported file.
        float_operators: Operators that stayed float and do arithmetic, those with most of it first.
        float_tensors: Layers whose activations a mixed precision has left in float, those first that win most.
        seconds: What it took, without what was found from before.
        peak_memory_bytes: The most memory of its process meanwhile; None where the system does not tell.
        reused: Steps of it whose results were there from before.
    """

    rung: str
    recipe: QuantizationRecipe
    state: TriedState
    reason: str = ""
    fp32: float | None = None
    quantsim: float | None = None
    onnx: float | None = None
    change: PartDifference | None = None
    image_table: Artifact | None = None
    latency: LatencyComparison | None = None
    size_bytes: int | None = None
    fp32_size_bytes: int | None = None
    int8_mac_share: float | None = None
    float_operators: tuple[str, ...] = ()
    float_tensors: tuple[str, ...] = ()
    seconds: float = Field(ge=0)
    peak_memory_bytes: int | None = None
    reused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the gate let it pass."""
        return self.state == "passed"

    @property
    def loss(self) -> float | None:
        """What the judged figure lost, below zero for a gain; None where nothing was measured."""
        if self.change is not None and self.change.drop is not None:
            return self.change.drop
        return None if self.fp32 is None or self.onnx is None else self.fp32 - self.onnx


class RecipeChoice(Record):
    """The rung whose recipe the rest of the run takes.

    Attributes:
        rung: Its name.
        passed: Whether it passed the gate; otherwise none did, and it came closest.
        reason: Why it is this one, in a sentence.
    """

    search: Literal["first", "best"]
    rung: str
    recipe: QuantizationRecipe
    passed: bool
    reason: str


class RungOutcome(Frozen):
    """How it went with one rung of a run's ladder.

    Attributes:
        summary: What its recipe does.
        reason: Why it was not tried, or did not pass.
        tried: What it came to; None where it was not tried.
        chosen: Whether the run has taken its recipe.
    """

    name: str
    summary: str
    state: RungState
    reason: str = ""
    tried: TriedRung | None = None
    chosen: bool = False
