"""How far quantization may have changed the figures: two measurements of the same images, compared."""

from __future__ import annotations

from pydantic import Field

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.evaluation import Runtime


class PartDifference(Frozen):
    """A figure before and after quantization, and how far their difference may lie from what was measured.

    Attributes:
        part: `all`, the judged figure; or that of a part: `size/…`, `crowd/…`, `group/…` or `joint/…`.
        before: FP32's; None where no person counts.
        after: The exported file's.
        low: Lower end of the interval of `after` - `before`; None where none was asked for.
        high: Its upper end.
        limit: How much the part may lose; None where nothing is asked of it.
        probability: Share of the resamples in which it does not lose more; None without interval or limit.
    """

    part: str
    before: float | None
    after: float | None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    probability: float | None = None

    @property
    def drop(self) -> float | None:
        """What was lost; below zero for a gain."""
        return None if self.before is None or self.after is None else self.before - self.after


class Look(Frozen):
    """One look at a growing number of images.

    Attributes:
        error: Share of such looks that may take a model for good enough which is not: one tail of its intervals.
        drop: What the judged figure had lost.
        largest_drop: What it may have lost: the end of the interval.
    """

    num_images: int = Field(ge=1)
    error: float
    drop: float | None
    largest_drop: float | None


class JointShifts(Frozen):
    """How far joints lie apart that two forms of a network found in the same crops, in pixels of its input.

    Attributes:
        joints: How many were compared.
        within: Share of them that lie no farther apart than each of `SHIFTS_PX`.
        same_cell: Share of them whose best cell of the output is the same.
    """

    joints: int
    median_px: float
    p99_px: float
    largest_px: float
    within: tuple[float, ...]
    same_cell: float


SHIFTS_PX = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Distances that `JointShifts.within` counts to."""


class PixelParity(Frozen):
    """Two forms of a network on the same crops.

    Attributes:
        between: What ran them; the first is the reference.
        sure: The joints that the reference is sure of: those that count in a person's score. None where there is none.
        every: All joints, those that the crop does not show included.
    """

    between: tuple[Runtime, Runtime]
    crops: int
    sure: JointShifts | None
    every: JointShifts


class PairedComparison(Record):
    """FP32 and the exported file on the same images, resampled; see `hpe_tasks.metrics.bootstrap`.

    Attributes:
        num_images: Images that both were measured on in the end.
        available_images: Images of the evaluation split that could be measured.
        confidence: Of all looks together, two-sided; None where no intervals were asked for.
        resamples: Of the images, for the intervals.
        looks: More than one where the first images were too few to tell.
        parts: The judged figure first; empty where the measurements kept no tables of images.
        parity: FP32 and QuantSim, QuantSim and the file, FP32 and the file, joint by joint; empty in older records, and
            of networks that are shown whole images.
        tables: FP32's and the file's, of all images that were compared, where those are more than the ones that were
            measured first.
    """

    num_images: int
    available_images: int
    confidence: float | None
    resamples: int
    looks: tuple[Look, ...] = ()
    parts: tuple[PartDifference, ...] = ()
    parity: tuple[PixelParity, ...] = ()
    tables: tuple[Artifact, ...] = ()

    def part(self, name: str) -> PartDifference | None:
        """The part of this name."""
        return next((part for part in self.parts if part.part == name), None)
