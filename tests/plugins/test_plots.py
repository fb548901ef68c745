"""Where the plots put their points: at the figures."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hpe_airflow.model_pages.plots import HEIGHT, WIDTH, Plot, accuracy_plot, speed_plot, trade_off

from hpe_tasks.catalogue.summaries import SpeedSummary, VersionSummary


def row(number: int, int8: float, ms: float, size: int, *channels: str, protocol: str = "p") -> VersionSummary:
    return VersionSummary(
        name="pose", version=f"{number:016x}", published_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
        metric="coco_oks_ap", protocol=protocol, fp32=int8 + 0.02, int8=int8, size_bytes=size, channels=channels,
        speed=SpeedSummary(int8_ms=ms, fp32_ms=3 * ms, ratio=3.0, threads=1, processor="a"),
    )  # fmt: skip


ROWS = [row(3, 0.65, 12.0, 4_000_000), row(2, 0.60, 20.0, 1_000_000), row(1, 0.70, 16.0, 2_000_000)]


def height_of(plot: Plot, text: str) -> float:
    """Where the axis says that a value stands, between its labels."""
    low, high = plot.y_labels[0], plot.y_labels[-1]
    a, b = (float(label.text.split()[0]) for label in (low, high))
    return low.at + (float(text) - a) / (b - a) * (high.at - low.at)


def test_accuracies_stand_at_their_values_in_the_order_of_publication() -> None:
    plot = accuracy_plot(ROWS)
    assert plot is not None
    before, after = plot.series
    assert [point.version[-1] for point in after.points] == ["1", "2", "3"]
    xs = [point.x for point in after.points]
    assert xs == sorted(xs)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    for series, values in ((before, (0.72, 0.62, 0.67)), (after, (0.70, 0.60, 0.65))):
        for point, value in zip(series.points, values, strict=True):
            assert point.y == pytest.approx(height_of(plot, str(value)), abs=1.0)


def test_times_begin_at_nought() -> None:
    plot = speed_plot(ROWS)
    assert plot is not None
    (series,) = plot.series
    floor = plot.y_labels[0].at
    heights = [floor - point.y for point in series.points]
    assert heights[1] / heights[0] == pytest.approx(20 / 16, abs=0.01)
    assert heights[2] / heights[0] == pytest.approx(12 / 16, abs=0.01)


def test_the_scatter_has_time_across_accuracy_up_and_size_as_area() -> None:
    plot = trade_off(ROWS)
    assert plot is not None
    points = {point.version[-1]: point for point in plot.series[0].points}
    assert points["3"].x < points["1"].x < points["2"].x
    assert points["1"].x - points["3"].x == pytest.approx(points["2"].x - points["1"].x, abs=0.2)
    assert points["1"].y < points["3"].y < points["2"].y
    areas = {version: (point.radius - 4) ** 2 for version, point in points.items()}
    assert areas["3"] / areas["2"] == pytest.approx(4, rel=0.05)


def test_what_was_measured_in_another_way_is_left_out_and_said() -> None:
    plot = accuracy_plot([*ROWS, row(0, 0.9, 10.0, 1_000_000, protocol="other")])
    assert plot is not None
    assert len(plot.series[1].points) == 3
    assert plot.left_out == "1 measured in another way: not shown."


def test_names_of_served_versions_do_not_stand_on_each_other() -> None:
    near = [row(n, 0.65 + n / 100_000, 12.0 + n / 1000, 4_000_000, f"channel-{n}") for n in range(4)]
    far = row(9, 0.2, 90.0, 1_000_000)
    plot = trade_off([far, *near])
    assert plot is not None
    ys = sorted(name.y for name in plot.names)
    assert len(ys) == 4
    assert all(b - a >= 15 for a, b in itertools.pairwise(ys))
    assert all(0 < name.y < HEIGHT and 0 <= name.x <= WIDTH for name in plot.names)
