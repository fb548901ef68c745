"""The two figures that a model is judged by, and how the numbers of a run are written.

The gate, the report, the table in the terminal and the comparison with published figures all read it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.datasets import GateMetric, MetricName
from hpe_tasks.records.evaluation import EvaluationReport, Stats

FEW_PERSONS = 150
"""Below this many persons the same model's figure moves by more than the usual limits from sample to sample."""

TOLERANCE = 1e-9
"""Differences of decimal fractions are off by some 1e-17: 0.62 - 0.60 must still be within a limit of 0.02."""

_MOST_DECIMALS = 9


@dataclass(frozen=True)
class Unit:
    """How a number is written: times `factor`, with at least `decimals`, and `suffix` behind it.

    Attributes:
        maximum: The largest value there can be, before the factor.
    """

    decimals: int
    factor: float = 1.0
    suffix: str = ""
    maximum: float = math.inf

    def text(self, value: float | None, decimals: int | None = None) -> str:
        """The number in its unit; a dash for no data."""
        if value is None:
            return "–"
        # z: what rounds to zero has no sign.
        return f"{self.factor * value:z.{self.decimals if decimals is None else decimals}f}{self.suffix}"

    def decimals_between(self, a: float, b: float) -> int:
        """The decimals that it takes to tell two numbers apart, and their difference from zero."""
        apart = self.factor * abs(a - b)
        decimals = self.decimals
        while (
            decimals < _MOST_DECIMALS
            and apart > self.factor * TOLERANCE
            and (self.text(a, decimals) == self.text(b, decimals) or float(f"{apart:.{decimals}f}") == 0)
        ):
            decimals += 1
        return decimals


@dataclass(frozen=True)
class Column:
    """One statistic of a metric.

    Attributes:
        field: Its field in the metric's statistics.
        brief: Whether it belongs in a short table.
        note: What a reader must know to compare it with others.
    """

    field: str
    label: str
    meaning: str
    brief: bool = True
    note: str = ""


@dataclass(frozen=True)
class Metric:
    """What a model is judged by.

    Attributes:
        columns: Its statistics in the order in which they are shown, the figure that is judged first.
        second: The field that publications print beside the figure.
        explanation: For a footnote.
        counts_joints: Whether its statistics say how many joints they are over (`num_joints`).
    """

    key: GateMetric
    name: str
    unit: Unit
    columns: tuple[Column, ...]
    second: str
    title: str
    explanation: str
    counts_joints: bool = False

    @property
    def maximum(self) -> float:
        """The figure of a perfect model; the least is 0."""
        return self.unit.maximum

    def text(self, value: float | None) -> str:
        """A figure of this metric; a dash for no data."""
        return self.unit.text(value)


METRICS: dict[GateMetric, Metric] = {
    "ap": Metric(
        key="ap",
        name="AP",
        unit=Unit(decimals=3, maximum=1.0),
        columns=(
            Column("ap", "AP", "mean over OKS 0.50 to 0.95"),
            Column("ap50", "AP50", "OKS 0.50"),
            Column("ap75", "AP75", "OKS 0.75"),
            Column("ap_medium", "AP medium", "32² to 96² pixels", brief=False),
            Column("ap_large", "AP large", "over 96² pixels", brief=False),
            Column("ar", "AR", "mean over OKS 0.50 to 0.95"),
            Column("ar50", "AR50", "OKS 0.50", brief=False),
            Column("ar75", "AR75", "OKS 0.75", brief=False),
            Column("ar_medium", "AR medium", "32² to 96² pixels", brief=False),
            Column("ar_large", "AR large", "over 96² pixels", brief=False),
        ),
        second="ar",
        title="COCO statistics",
        explanation="AP and AR are COCO OKS statistics in [0, 1].",
    ),
    "pckh": Metric(
        key="pckh",
        name="PCKh",
        unit=Unit(decimals=1, maximum=100.0),
        columns=(
            Column("mean", "Mean", "all joints but pelvis and thorax"),
            Column("head", "Head", "top of the head"),
            Column("shoulder", "Shoulder", "left and right"),
            Column("elbow", "Elbow", "left and right"),
            Column("wrist", "Wrist", "left and right"),
            Column("hip", "Hip", "left and right"),
            Column("knee", "Knee", "left and right"),
            Column("ankle", "Ankle", "left and right"),
            Column(
                "mean_at_01",
                "Mean@0.1",
                "as published",
                note="Mean@0.1 is computed at the threshold 0.11, as the reference does whose figures are published.",
            ),
            Column("mean_at_exactly_01", "Mean at exactly 0.1", ""),
        ),
        second="mean_at_01",
        title="MPII PCKh at 0.5",
        explanation="PCKh is the percentage of joints within half a head's size of the truth.",
        counts_joints=True,
    ),
}

_BY_NAME: dict[MetricName, Metric] = {
    "coco_oks_ap": METRICS["ap"],
    "mpii_pckh": METRICS["pckh"],
    "crowdpose_oks_ap": replace(
        METRICS["ap"],
        columns=(
            *(column for column in METRICS["ap"].columns if not column.field.endswith(("_medium", "_large"))),
            Column("ap_easy", "AP easy", "crowd index below 0.1"),
            Column("ap_medium", "AP medium", "crowd index 0.1 to 0.8"),
            Column("ap_hard", "AP hard", "crowd index above 0.8"),
        ),
        title="CrowdPose statistics",
        explanation="AP and AR are OKS statistics of CrowdPose in [0, 1].",
    ),
}
"""By the name of how accuracy was measured; the gate judges some of them by the same limits."""

UNITS: dict[str, Unit] = {
    **{metric.name: metric.unit for metric in METRICS.values()},
    "share": Unit(decimals=1, factor=100.0, suffix=" %", maximum=1.0),
    "MB": Unit(decimals=1, suffix=" MB"),
    "dB": Unit(decimals=1, suffix=" dB"),
    "layers": Unit(decimals=0),
    "times": Unit(decimals=2, suffix="×"),
}
"""By the `unit` of a gate check; "AP" and "PCKh" have no unit that is worth showing."""


def megabytes_text(size_bytes: int) -> str:
    """A size in MB (1e6 bytes), with the decimals that its magnitude deserves."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.2f} MB" if megabytes < 10 else f"{megabytes:.1f} MB"


@dataclass(frozen=True)
class AccuracyLimits:
    """The limits of the gate that are in the judged metric's own unit."""

    minimum: float
    drop: float
    quantsim_gap: float
    joint_drop: float
    size_drop: float

    def of_part(self, part: str) -> float | None:
        """How much a part of a paired comparison may lose; None of a single joint, of which nothing is asked."""
        return {"all": self.drop, "group": self.joint_drop, "size": self.size_drop, "crowd": self.size_drop}.get(
            part.partition("/")[0]
        )


def accuracy_limits(limits: GateLimits, metric: GateMetric) -> AccuracyLimits:
    """The limits that count for the metric that is judged."""
    if metric == "ap":
        drop, joint, size = limits.max_ap_drop, limits.max_joint_drop, limits.max_size_drop
        minimum, gap = limits.min_ap, limits.max_quantsim_gap
    else:
        drop, joint, size = limits.max_pckh_drop, limits.max_joint_pckh_drop, None
        minimum, gap = limits.min_pckh, limits.max_quantsim_pckh_gap
    # What the whole may lose, no part of it may exceed, unless it is asked to.
    return AccuracyLimits(minimum, drop, gap, drop if joint is None else joint, drop if size is None else size)


def metric_named(name: MetricName) -> Metric:
    """The metric of this name in protocol fingerprints."""
    return _BY_NAME[name]


def metric_of(stats: Stats) -> Metric:
    """The metric that statistics belong to."""
    return _BY_NAME[stats.metric]


def sample_text(report: EvaluationReport) -> str:
    """What a figure was measured on, and what could not be."""
    protocol = report.fingerprint
    text = f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {protocol.split}"
    return text + (f", {unreadable_text(report)}" if report.failed_images else "")


def unreadable_text(report: EvaluationReport) -> str:
    """How many images could not be measured; empty when all could."""
    count, images = len(report.failed_images), report.fingerprint.num_images
    return f"{count:,} of {images:,} images could not be measured" if count else ""


def few_persons_text(report: EvaluationReport, min_persons: int) -> str:
    """That a figure stands on fewer persons than `dataset.min_persons` asks for; empty when it does not."""
    protocol = report.fingerprint
    if protocol.num_persons >= min_persons:
        return ""
    subset = f", a subset of {protocol.num_images:,} images" if protocol.subset else ""
    return (
        f"Measured on {protocol.num_persons:,} persons{subset}: fewer than the {min_persons:,} that "
        "dataset.min_persons asks for"
    )
