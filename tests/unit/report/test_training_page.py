from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hpe_tasks.records.base import Artifact
from hpe_tasks.records.retraining import TrainedCheckpoint
from hpe_tasks.records.training_curves import CurvePoint, StageCurves, begun, measured, stepped
from hpe_tasks.report.files import ReportFiles
from hpe_tasks.report.page import render_report
from hpe_tasks.report.training_page import CurveChart, training_page, training_view
from support.run_cases import complete

SETTINGS = {"architecture": "pose_mobilenet", "input_width": 64, "input_height": 96}


def stage(losses: list[float], steps: int | None = None) -> StageCurves:
    points = [CurvePoint(step, {"loss": loss}) for step, loss in enumerate(losses, start=1)]
    return StageCurves(SETTINGS, steps or len(losses), points=points)


def loss_chart(told: StageCurves) -> CurveChart:
    [view] = training_view([told])
    return next(chart for chart in view.charts if chart.title == "Loss")


def points_of(chart: CurveChart) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in chart.lines[0].points.split()]


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [
        pytest.param([4.0, 1.0], ["0", "1", "2", "3", "4"], id="linear from zero"),
        pytest.param([-2.0, 1.0], ["-2", "-1", "0", "1"], id="below zero"),
        pytest.param([1.0, 0.1, 0.001], ["0.001", "0.01", "0.1", "1"], id="powers of ten"),
        pytest.param([0.0, 0.0], ["0", "0.5", "1"], id="nothing but zeros"),
        pytest.param([3.0, 0.0], ["0", "1", "2", "3"], id="falls to zero"),
    ],
)
def test_axes_have_round_ticks_and_hold_the_line(losses: list[float], ticks: list[str]) -> None:
    chart = loss_chart(stage(losses))
    assert [tick.label for tick in chart.values] == ticks
    assert all(0 <= y <= 100 for _, y in points_of(chart))


def test_a_line_of_many_points_is_thinned_to_means() -> None:
    points = points_of(loss_chart(stage([1.0, 3.0] * 4000)))
    assert len(points) == 400
    assert len({y for _, y in points}) == 1


def test_ap_is_shown_around_its_values() -> None:
    told = StageCurves(SETTINGS, 8, epochs=[CurvePoint(4, {"ap": 0.78}), CurvePoint(8, {"ap": 0.79})])
    [chart] = training_view([told])[0].charts
    assert [tick.label for tick in chart.values] == ["0.77", "0.78", "0.79", "0.8"]
    assert 30 < points_of(chart)[0][1] - points_of(chart)[1][1] < 40


@pytest.mark.parametrize(
    ("done", "result", "state"),
    [
        pytest.param(2, None, "2 of 8 steps", id="under way"),
        pytest.param(2, {"ap": 0.5}, "2 of 8 steps, ended there", id="ended early"),
        pytest.param(8, {"ap": 0.5}, "8 of 8 steps, done", id="done"),
    ],
)
def test_a_stage_says_how_far_it_is(done: int, result: dict[str, float] | None, state: str) -> None:
    told = StageCurves(SETTINGS, 8, points=[CurvePoint(done, {"loss": 1.0})], result=result)
    assert training_view([told])[0].state == state


def test_a_training_that_is_under_way_ends_where_it_is() -> None:
    chart = loss_chart(stage([2.0, 1.0], steps=8))
    assert points_of(chart)[-1][0] == 25.0
    assert [tick.label for tick in chart.steps] == ["0", "4", "8"]


@pytest.mark.parametrize(
    ("stages", "shown"),
    [
        pytest.param([], "Not begun", id="nothing told"),
        pytest.param([stage([])], "0 of 0 steps", id="just begun"),
        pytest.param([stage([1.0])], "1 of 1 steps", id="one step"),
        pytest.param([StageCurves({**SETTINGS, "note": "<b>"}, 1)], "&lt;b&gt;", id="what is text stays text"),
    ],
)
def test_a_page_can_always_be_made(stages: list[StageCurves], shown: str) -> None:
    page = training_page(stages)
    assert shown in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_the_report_of_a_run_shows_the_curves_of_its_training(tmp_path: Path) -> None:
    curves = tmp_path / "curves.jsonl"
    ranges = {"activation_min/stem": -1.0, "activation_max/stem": 2.0}
    curves.write_text(
        begun(SETTINGS, steps=2, done=0) + stepped(2, {"loss": 1.0}) + measured(2, {"ap": 0.5, "loss": 1.0, **ranges})
    )
    nothing = Artifact(uri="file:///c", sha256="0" * 64, size_bytes=1)
    stages = ({"train_split": "train", "epochs": 1, "batch_size": 2, "learning_rate": 0.1, "input_width": 64,
               "input_height": 96},)  # fmt: skip
    trained = TrainedCheckpoint(
        checkpoint=nothing, started_from=None, stages=stages, losses=(1.0,), persons=2, seconds=1.0
    )
    records = replace(complete(), trained=trained)
    page = render_report(records, ReportFiles(curves=curves), tmp_path / "report.html").read_text()
    for shown in ("AP on the validation split", "Ranges of activations", "<code>stem</code>", ".training-chart"):
        assert shown in page
    without = render_report(records, ReportFiles(), tmp_path / "report.html").read_text()
    assert "training-chart" not in without
