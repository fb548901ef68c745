"""The picture of mixed precision, and the page that it stands on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpe_tasks.records.mixed_precision import ActivationEffect, MixedPrecision, PrecisionPoint
from hpe_tasks.report.page import render_report
from hpe_tasks.report.precision_chart import precision_plot
from support.run_cases import STATES
from support.run_files import files_of_states


def point(layers: tuple[str, ...], error: float, slowdown: float) -> PrecisionPoint:
    return PrecisionPoint(
        float_tensors=len(layers),
        float_layers=layers,
        left_float=tuple(f"{layer}.out" for layer in layers),
        joint_error=error,
        slowdown=slowdown,
        of_fp32=slowdown / 1.6,
        int8_mac_share=1 - 0.1 * len(layers),
    )


def effect(layer: str, error: float) -> ActivationEffect:
    return ActivationEffect(
        tensors=(f"{layer}.out",), operator="Conv+Relu", layer=layer, joint_error=error, output_noise=error / 2
    )


MIXED = MixedPrecision(
    effects=(effect("fuse<3>", 0.2), effect("stem", 0.05), effect("head", -0.001)),
    curve=(point((), 0.25, 1.0), point(("fuse<3>",), 0.06, 1.1), point(("fuse<3>", "stem"), 0.02, 1.4)),
    chosen=1,
    int8_error=0.25,
    float_error=0.01,
    max_slowdown=1.3,
    images=24,
    evaluations=57,
    seconds=61.0,
    threads=2,
)


def test_points_rise_with_the_error_and_go_right_with_the_time() -> None:
    plot = precision_plot(MIXED)
    assert plot is not None
    xs, ys = [each.x for each in plot.points], [each.y for each in plot.points]
    assert xs == sorted(xs)
    # The picture's y grows downwards.
    assert ys == sorted(ys)
    assert [each.chosen for each in plot.points] == [False, True, False]
    assert plot.limit_x is not None
    assert xs[1] < plot.limit_x < xs[2]
    assert plot.fp32_x is not None
    assert plot.fp32_x > xs[2]
    assert all(0 <= each.x <= 100 and 0 <= each.y <= 100 for each in plot.points)
    assert "joint error 0.060 instead of 0.250, at 1.10 times the time" in plot.chosen
    assert [(row.layer, row.left_float) for row in plot.effects] == [
        ("fuse<3>", True),
        ("stem", False),
        ("head", False),
    ]
    assert [row.length for row in plot.effects] == [100.0, 25.0, 0.0]


def test_nothing_in_float_is_said() -> None:
    plot = precision_plot(MIXED.model_copy(update={"chosen": 0, "curve": MIXED.curve[:1]}))
    assert plot is not None
    assert plot.chosen.startswith("Nothing is left in float")
    assert len(plot.points) == 1
    assert precision_plot(None) is None


def test_the_page_names_the_layers(tmp_path: Path) -> None:
    records = STATES["published"]()
    assert records.quantized is not None
    records = replace(records, quantized=records.quantized.model_copy(update={"mixed_precision": MIXED}))
    files = files_of_states(tmp_path, {"published": STATES["published"]})["published"]
    page = render_report(records, files, tmp_path / "page.html").read_text()
    assert 'id="mixed-precision"' in page
    assert "<code>fuse&lt;3&gt;</code>" in page
    assert page.count('class="choice taken"') == 2
    plain = render_report(STATES["published"](), files, tmp_path / "plain.html").read_text()
    assert 'id="mixed-precision"' not in plain
