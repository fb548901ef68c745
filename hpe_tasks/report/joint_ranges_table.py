"""The ranges that were chosen by the joints: what each was, what it is, and what the activation does with either."""

from __future__ import annotations

from dataclasses import dataclass

from hpe_tasks.records.joint_ranges import ChosenRange, JointRanges, Range


@dataclass(frozen=True)
class RangeRow:
    """One activation; positions and lengths in percent of the widest range shown beside it, and of the largest harm."""

    layer: str
    operator: str
    before: str
    after: str
    harm_before: str
    harm_after: str
    length_before: float
    length_after: float


@dataclass(frozen=True)
class RangesView:
    """The table and what is told of it."""

    rows: tuple[RangeRow, ...]
    told: str
    caption: str


def ranges_view(ranges: JointRanges | None) -> RangesView | None:
    """Lay out the table; None where the recipe asked for no search."""
    if ranges is None:
        return None
    most = max((each.harm_before for each in ranges.chosen), default=0.0) or 1.0
    return RangesView(tuple(_row(each, most) for each in ranges.chosen), _told(ranges), _caption(ranges))


def _told(ranges: JointRanges) -> str:
    if not ranges.chosen:
        return (
            f"No range was changed: of {ranges.looked_at} activations that were searched none had a better one, and "
            f"the joint error stays {ranges.error_before:.3f}."
        )
    count = len(ranges.chosen)
    return (
        f"{count} {'activation has' if count == 1 else 'activations have'} another range than the scheme gave: joint "
        f"error {ranges.error_after:.3f} instead of {ranges.error_before:.3f} with all activations quantized."
    )


def _caption(ranges: JointRanges) -> str:
    return (
        f"{ranges.looked_at} activations were searched in {ranges.evaluations} runs on {ranges.images} calibration "
        f"images, in {ranges.seconds:,.0f} s, and confirmed together on {ranges.confirmed_on}. Harm: joint error, and "
        "a twentieth of the outputs' noise, when the activation alone is quantized; below 0 it is less than with none."
    )


def _row(each: ChosenRange, most: float) -> RangeRow:
    return RangeRow(
        layer=each.layer,
        operator=each.operator,
        before=_range(each.before),
        after=_range(each.after),
        harm_before=f"{each.harm_before:.3f}",
        harm_after=f"{max(each.harm_after, 0.0):.3f}" if round(each.harm_after, 3) == 0 else f"{each.harm_after:.3f}",
        length_before=round(100 * max(each.harm_before, 0.0) / most, 1),
        length_after=round(100 * max(each.harm_after, 0.0) / most, 1),
    )


def _range(ends: Range) -> str:
    return " to ".join(f"{end:.3g}" if end else "0" for end in ends)
