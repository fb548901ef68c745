"""The picture of a distillation: how far what is held out was from the float network, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from hpe_tasks.records.network import Distillation
from hpe_tasks.report.charts import Tick

_HEADROOM = 1.08


@dataclass(frozen=True)
class LossCurve:
    """A line on an axis of steps and one of losses, as shares of the loss at the start; positions in percent.

    Attributes:
        points: Of the line, as SVG has them; the upper end of the picture is y = 0.
        start_y: Where the calibrated simulation was.
        best: (x, y) of the state that was kept.
        steps: Ticks of the horizontal axis.
        losses: Ticks of the vertical axis, from the top.
        before: The loss at the start, and `after` of what was kept.
        summary: What was done, in a sentence.
    """

    points: str
    start_y: float
    best: tuple[float, float]
    steps: tuple[Tick, ...]
    losses: tuple[Tick, ...]
    before: str
    after: str
    summary: str


def loss_curve(told: Distillation | None) -> LossCurve | None:
    """Lay out the held-out losses; None where nothing was distilled, or where nothing was lost before."""
    if told is None or not told.loss_before:
        return None
    shares = [point.held_out / told.loss_before for point in told.curve]
    top = _HEADROOM * max(*shares, 1.0)

    def x(step: int) -> float:
        return round(100 * step / told.steps, 2)

    def y(share: float) -> float:
        return round(100 * (1 - share / top), 2)

    places = [(x(point.step), y(share)) for point, share in zip(told.curve, shares, strict=True)]
    kept = next((i for i, point in enumerate(told.curve) if point.step == told.best_step), 0)
    return LossCurve(
        points=" ".join(f"{across},{down}" for across, down in places),
        start_y=y(1.0),
        best=places[kept],
        steps=tuple(Tick(f"{step:,}", x(step)) for step in (0, told.steps // 2, told.steps)),
        losses=(Tick("start", y(1.0)), Tick("0", y(0.0))),
        before=f"{told.loss_before:.3g}",
        after=f"{told.loss_after:.3g}",
        summary=summary_of(told),
    )


def summary_of(told: Distillation) -> str:
    """How the simulation learned, and what came of it, in two sentences."""
    source = "the annotations of the training split and the float network" if told.labelled else "the float network"
    moved = ", moved and mirrored at random," if told.augmented else ""
    how = (
        f"{told.steps:,} steps in {told.seconds:,.0f} s, on {told.num_learnt:,} examples{moved} from {source}"
        f"{'' if told.labelled else ', without labels'}."
    )
    if not told.best_step:
        return f"{how} Nothing was gained on {told.num_held_out:,} held-out examples: it stays as it was calibrated."
    share = 100 * (1 - told.loss_after / told.loss_before)
    return (
        f"{how} On {told.num_held_out:,} held-out examples the loss fell by {share:.0f} %; the state after step "
        f"{told.best_step:,} was kept."
    )
