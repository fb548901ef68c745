"""The picture of how far apart FP32, QuantSim and the exported file find the joints of the same crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpe_tasks.records.comparison import SHIFTS_PX, JointShifts, PixelParity
from hpe_tasks.records.evaluation import Runtime
from hpe_tasks.report.charts import Tick

_NAMES: dict[Runtime, str] = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "file"}
_FLOORS = (99, 95, 90, 80, 50, 0)

Segment = tuple[float, float, float, float]
"""From x and y to x and y, in percent of the chart."""


@dataclass(frozen=True)
class ParityRow:
    """Two forms of the network: of the joints that the first is sure of, and, smaller, of all.

    Attributes:
        style: Class of its line.
        line: Share of joints within each distance.
    """

    label: str
    style: str
    joints: str
    median: str
    p99: str
    largest: str
    same_cell: str
    every: str
    line: tuple[Segment, ...]


@dataclass(frozen=True)
class ParityChart:
    """Share of joints, upwards, that lie no farther apart than so many pixels."""

    rows: tuple[ParityRow, ...]
    across: tuple[Tick, ...]
    upwards: tuple[Tick, ...]
    crops: str


def parity_chart(parity: Sequence[PixelParity]) -> ParityChart | None:
    """Lay out what was compared; None where nothing was."""
    if not parity:
        return None
    least = 100 * min(_shown(pair).within[0] for pair in parity)
    floor = next(floor for floor in _FLOORS if floor <= least)

    def across(place: int) -> float:
        return round(100 * place / (len(SHIFTS_PX) - 1), 2)

    def up(percent: float) -> float:
        return round(100 * (100 - percent) / (100 - floor), 2)

    rows = []
    for pair in parity:
        shown, ends = _shown(pair), tuple(_NAMES[one] for one in pair.between)
        points = [(across(place), up(100 * share)) for place, share in enumerate(shown.within)]
        rows.append(
            ParityRow(
                label=" – ".join(ends),
                style="-".join(pair.between),
                joints=f"{shown.joints:,}",
                median=_pixels(shown.median_px),
                p99=_pixels(shown.p99_px),
                largest=_pixels(shown.largest_px),
                same_cell=f"{100 * shown.same_cell:.1f} %",
                every=(
                    f"all {pair.every.joints:,}: median {_pixels(pair.every.median_px)}, 99 % within "
                    f"{_pixels(pair.every.p99_px)}, same cell {100 * pair.every.same_cell:.1f} %"
                ),
                line=tuple((*one, *other) for one, other in pairwise(points)),
            )
        )
    return ParityChart(
        rows=tuple(rows),
        across=tuple(Tick(f"{shift:g}", across(place)) for place, shift in enumerate(SHIFTS_PX)),
        upwards=tuple(Tick(f"{percent:g} %", up(percent)) for percent in (floor, (floor + 100) / 2, 100)),
        crops=f"{max(pair.crops for pair in parity):,}",
    )


def _shown(pair: PixelParity) -> JointShifts:
    return pair.sure or pair.every


def _pixels(value: float) -> str:
    return f"{value:.2f} px"
