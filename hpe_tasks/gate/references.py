"""Published figures, and what a run's own figures come to beside them.

Figures may be compared only when they were made in the same way: on the same split and images, with boxes from the
same kind of source, with or without the flip test. Where that is not so, the two are shown without a difference, and
with what keeps them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, with_config

from hpe_tasks.config.recipe import SEARCH_SETTINGS, QuantizationRecipe
from hpe_tasks.datasets import GateMetric
from hpe_tasks.gate.accuracy import METRICS, metric_of, unreadable_text
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, Runtime

BOX_SOURCES: dict[str, str] = {
    "ground_truth": "annotated boxes",
    "detector": "a detector's boxes",
    "annotated_center_scale": "annotated centres and scales",
    "whole_image": "whole images",
}
"""Where crops come from, in words."""

# As in the gate: 0.704 - 0.699 must be within a tolerance of 0.005.
_ROUNDING = 1e-9


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class PublishedFigure:
    """One row of a published table.

    Attributes:
        label: What was measured.
        runtime: Which of a run's three measurements it is compared with.
        value: AP in [0, 1], or mean PCKh at 0.5 in percent.
        second: AR, or "Mean@0.1" in percent.
        architecture: The network, where a reference holds several: only the figures of the run's are shown.
        recipe: How a quantized network was quantized; None for FP32.
        protocol: Fields in which this figure's protocol differs from the reference's.
    """

    label: str
    runtime: Runtime
    value: float
    second: float | None = None
    architecture: str | None = None
    recipe: QuantizationRecipe | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict, hash=False)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Reference:
    """Published figures, and the protocol that they were made with.

    Attributes:
        name: Of the publication or the model.
        source: Where the figures are printed, for a person to look them up.
        tolerance: Largest difference either way that counts as agreement, in the metric's own unit.
        joints: How many joints the figures are over.
        protocol: Fields of `ProtocolFingerprint` that a measurement must share to be compared.
    """

    name: str
    source: str
    metric: GateMetric
    rows: tuple[PublishedFigure, ...]
    tolerance: float
    joints: int
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse protocol fields that no fingerprint has: they would never be found to differ."""
        named = {*self.protocol, *(name for row in self.rows for name in row.protocol)}
        unknown = sorted(named - set(ProtocolFingerprint.model_fields))
        if unknown:
            raise ValueError(f"the protocol of {self.name!r} names what no fingerprint has: {', '.join(unknown)}")


@dataclass(frozen=True)
class ComparedFigure:
    """A published figure beside a run's own.

    Attributes:
        ours: The run's figure; None where it has not been measured.
        difference: Ours minus the published one; None where the two may not be compared.
        within: Whether the difference is within the tolerance; None where there is none.
        obstacles: What keeps the two from being compared.
    """

    published: PublishedFigure
    ours: float | None
    ours_second: float | None
    difference: float | None
    within: bool | None
    obstacles: tuple[str, ...]


def compare(
    reference: Reference,
    measurements: Sequence[EvaluationReport | None],
    *,
    architecture: str,
    recipe: QuantizationRecipe,
) -> tuple[ComparedFigure, ...]:
    """Set a run's measurements beside published figures.

    Args:
        reference: The figures.
        measurements: Those that the run has, whatever their order.
        architecture: The run's network, as `ModelConfig` names it.
        recipe: How the run quantizes.

    Returns:
        One row for each published figure of that network or of no particular one.
    """
    by_runtime = {report.runtime: report for report in measurements if report is not None}
    return tuple(
        _compare(reference, row, by_runtime.get(row.runtime), recipe)
        for row in reference.rows
        if row.architecture in (None, architecture)
    )


def _compare(
    reference: Reference, row: PublishedFigure, report: EvaluationReport | None, recipe: QuantizationRecipe
) -> ComparedFigure:
    if report is None:
        return ComparedFigure(row, None, None, None, None, ())
    metric, own = METRICS[reference.metric], metric_of(report.stats)
    if own != metric:
        ours, theirs = (own.name, metric.name) if own.name != metric.name else (own.title, metric.title)
        return ComparedFigure(row, None, None, None, None, (f"{ours} instead of {theirs}",))
    obstacles = tuple(_obstacles(reference, row, report, recipe))
    figure: float | None = report.accuracy
    second: float | None = getattr(report.stats, metric.second)
    if obstacles or figure is None:
        return ComparedFigure(row, figure, second, None, None, obstacles)
    difference = figure - row.value
    within = abs(difference) <= reference.tolerance + _ROUNDING
    return ComparedFigure(row, figure, second, difference, within, ())


def _obstacles(
    reference: Reference, row: PublishedFigure, report: EvaluationReport, recipe: QuantizationRecipe
) -> Iterator[str]:
    """What keeps a measurement from being compared with a published figure."""
    yield from _protocol_obstacles({**reference.protocol, **row.protocol}, report.fingerprint)
    joints = len(report.fingerprint.joint_map)
    if joints != reference.joints:
        yield f"{joints} instead of {reference.joints} joints"
    if report.failed_images:
        yield unreadable_text(report)
    if row.recipe is not None and _quantization(recipe) != _quantization(row.recipe):
        yield f"{_recipe_text(recipe)} instead of {_recipe_text(row.recipe)}"


def _quantization(recipe: QuantizationRecipe) -> dict[str, Any]:
    """What decides a quantized network's figures, but for the images that it was calibrated on."""
    return recipe.model_dump(exclude={"calibration_images", "augment_calibration", *SEARCH_SETTINGS})


def _recipe_text(recipe: QuantizationRecipe) -> str:
    settings: list[str] = [recipe.ranges]
    settings += [] if recipe.fold_batch_norms else ["batch norms not folded"]
    settings += [] if recipe.aimet_config is None else ["an AIMET configuration of its own"]
    return f"{recipe.name} ({', '.join(settings)})"


def _protocol_obstacles(wanted: Mapping[str, Any], ours: ProtocolFingerprint) -> Iterator[str]:
    """Say for each field that differs what was measured instead, such as "79 of 40,504 images"."""
    for name, expected in wanted.items():
        found = getattr(ours, name)
        if found != expected:
            yield _difference(name, found, expected)


def _difference(name: str, found: Any, expected: Any) -> str:
    match name:
        case "num_images" | "num_persons":
            relation = "of" if found < expected else "instead of"
            text = f"{found:,} {relation} {expected:,} {name.removeprefix('num_')}"
        case "split":
            text = f"{found} instead of {expected}"
        case "box_source":
            text = f"{BOX_SOURCES[found]} instead of {BOX_SOURCES[expected]}"
        case "flip_test":
            text = "with flip test" if found else "without flip test"
        case "subset":
            text = "a subset of the split" if found else "the whole split"
        case "input_size":
            text = f"input {found[0]}×{found[1]} instead of {expected[0]}×{expected[1]}"
        case _:
            text = f"{name.replace('_', ' ')} {found} instead of {expected}"
    return text
