"""Where accuracy is lost, as the report draws it: joints in pixels, and layer by layer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.gate.accuracy import METRICS
from hpe_tasks.records.comparison import PixelParity
from hpe_tasks.records.ladder import RungOutcome, TriedRung
from hpe_tasks.records.layers import LayerDiagnosis
from hpe_tasks.report.files import ReportFiles
from hpe_tasks.report.layer_advice import layer_advice
from hpe_tasks.report.layer_chart import layer_chart
from hpe_tasks.report.page import render_report
from hpe_tasks.report.parity_chart import parity_chart
from support.losses import LAYERS, PARITY, layer
from support.run_cases import complete, judged


def page(tmp_path: Path, layers: LayerDiagnosis | None, parity: tuple[PixelParity, ...]) -> str:
    records = judged(complete())
    assert records.comparison is not None
    compared = records.comparison.model_copy(update={"parity": parity})
    records = replace(records, comparison=compared, layers=layers)
    html = render_report(records, ReportFiles(), tmp_path / "report.html").read_text()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.partition("<body>")[2]))


def test_the_page_tells_where_accuracy_is_lost(tmp_path: Path) -> None:
    text = page(tmp_path, LAYERS, PARITY)
    assert "Where accuracy is lost" in text
    assert "FP32 – QuantSim 1,200 0.00 px 2.25 px 90.0 %" in text
    assert "all 1,530: median 0.00 px, 99 % within 2.25 px, same cell 80.0 %" in text
    assert "QuantSim – file 1,200 0.00 px 2.25 px 95.0 %" in text
    assert "FP32 – file 1,530 0.00 px 2.25 px 87.5 %" in text
    assert "Recipe w8a8_per_channel (tf enhanced) on 8 calibration images" in text
    assert "2 quantized activations of the file could not be found in QuantSim" in text
    assert "QuantSim and the file part at fuse (Conv): given the same input, codes differ by up to 7, 25 %" in text
    assert "of them by more than one; 1 more do so" in text
    assert "1 up Mul 0 to 6 0 to 9.5 4 % 12.0 its range 40.0 25.0 2 % at an end 24.0 1 % at an end" in text
    assert "QuantSim's up and the file's down, a full bar 2 %" in text
    assert "All 5 layers" in text
    assert "maps output float" in text
    assert "Its range leaves out many values" not in text
    tried = "Even out its weights with those of the layers around it. Try recipe.cross_layer_equalization=true "
    assert f"{tried}(rung equalized )" in text
    assert "equalized weights whose spreads differ from channel to channel 1 not tried in this run" in text
    assert "The file computes here what QuantSim does not" in text
    assert "Little is lost here." in text


def test_what_was_not_compared_is_left_out_or_said(tmp_path: Path) -> None:
    assert "Where accuracy is lost" not in page(tmp_path, None, ())
    text = page(tmp_path, LayerDiagnosis(recipe=QuantizationRecipe(), num_images=0, reason="no such file"), ())
    assert "The layers could not be compared: no such file" in text
    assert "The same joints" not in text
    agree = LAYERS.model_copy(update={"layers": LAYERS.layers[:2]})
    assert "no layer of the file differs from QuantSim by more than one code" in page(tmp_path, agree, ())


def test_layers_lie_on_one_axis_of_decibels() -> None:
    chart = layer_chart(LAYERS)
    assert chart is not None
    assert [tick.label for tick in chart.ticks] == ["10 dB", "20 dB", "30 dB", "40 dB"]
    assert (chart.ticks[0].x, chart.ticks[-1].x) == (100.0, 0.0)
    assert [(dot.x, dot.rank) for dot in chart.dots] == [(10, 4), (30, 1), (50, 2), (70, 3), (90, 0)]
    assert [dot.y for dot in chart.dots] == pytest.approx([0.0, 93.33, 23.33, 13.33, 33.33])
    assert chart.quantsim == tuple((10 + 20 * i, 50.0, 30 + 20 * i, 50.0) for i in range(4))
    assert chart.clipped == ((20.0, 20.0, 100.0),)
    assert (chart.most_clipped, chart.parted_x) == ("4 %", 50)
    # QuantSim's share fills its half, the file's half of its own.
    assert (chart.saturated, chart.most_saturated) == (((20.0, 20.0, 50.0, 25.0),), "2 %")
    assert [row.name for row in chart.rows] == ["up", "fuse", "late", "stem"]
    assert layer_chart(None) is None


def test_ratios_beyond_the_axis_are_drawn_at_its_edge() -> None:
    chart = layer_chart(LAYERS.model_copy(update={"layers": (layer("a", 120.0), layer("b", -80.0))}))
    assert chart is not None
    assert [dot.y for dot in chart.dots] == [0.0, 100.0]
    assert (chart.clipped, chart.most_clipped) == ((), "")
    assert (chart.saturated, chart.most_saturated) == ((), "")


def test_joints_lie_between_the_least_share_and_all() -> None:
    chart = parity_chart(PARITY)
    assert chart is not None
    assert [tick.label for tick in chart.upwards] == ["90 %", "95 %", "100 %"]
    assert [tick.label for tick in chart.across] == ["0", "0.25", "0.5", "1", "2", "4", "8", "16", "32"]
    assert chart.rows[0].line[0][:2] == (0.0, 80.0)
    assert chart.rows[0].line[-1][2:] == (100.0, 0.0)
    assert parity_chart(()) is None


def test_the_ten_layers_that_lose_most_are_named_with_their_ranges() -> None:
    many = LAYERS.model_copy(update={"layers": tuple(layer(f"l{i}", 10.0 + i) for i in range(14))})
    chart = layer_chart(many)
    assert chart is not None
    assert [row.name for row in chart.rows] == [f"l{i}" for i in range(10)]
    assert all(row.remedy for row in chart.rows)
    # Codes up to 6 of values up to 9.5.
    assert chart.rows[0].ranges == (0.0, 63.16, 0.0, 100.0)
    assert [row.remedy for row in chart.every] == [None] * 14


def test_rungs_stand_beside_the_layers_that_they_address() -> None:
    lossy = LAYERS.model_copy(
        update={
            "layers": (
                layer("weights", 12.0),
                layer("spread", 10.0, range_db=11.0),
                layer("more", 13.0, range_db=14.0),
                layer("good", 40.0),
            )
        }
    )
    lost = TriedRung(
        rung="even_channels", recipe=QuantizationRecipe(), state="refused", fp32=0.7, onnx=0.669, seconds=1.0
    )
    outcomes = [
        RungOutcome(name="equalized", summary="", state="skipped"),
        RungOutcome(name="even_channels", summary="", state="refused", tried=lost),
    ]
    chart = layer_chart(lossy, from_file=True, rungs=outcomes, metric=METRICS["ap"])
    assert chart is not None
    assert [(row.name, row.layers, row.came_to) for row in chart.rungs] == [
        ("even channels", "1, 3", "refused, AP lost 0.031"),
        ("bias corrected", "2", "not tried in this run"),
        ("seq mse", "2", "not tried in this run"),
        ("joint ranges", "1, 3", "not tried in this run"),
        ("mixed", "1–3", "not tried in this run"),
        ("distilled", "1–3", "not tried in this run"),
    ]
    used = layer_chart(
        lossy.model_copy(update={"recipe": QuantizationRecipe(channel_equalization=True)}), from_file=True
    )
    assert used is not None
    assert used.rungs[0].came_to == "this recipe does it"


FOR_RANGES = {"range_db": 13.0}
USED = {
    "cross_layer_equalization": True, "rounding": "seq_mse", "bias_correction": True, "joint_ranges": True,
    "channel_equalization": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "recipe", "from_file", "setting"),
    [
        pytest.param({"clipped": 0.04, **FOR_RANGES}, {}, False, "recipe.scheme=min_max", id="cut off"),
        pytest.param(
            {"clipped": 0.04, **FOR_RANGES}, {"scheme": "min_max"}, False, "recipe.joint_ranges=true", id="not by it"
        ),
        pytest.param(FOR_RANGES, {"scheme": "min_max"}, False, "recipe.scheme=tf_enhanced", id="stretched"),
        pytest.param(FOR_RANGES, {}, True, "recipe.channel_equalization=true", id="a file's channels"),
        pytest.param(FOR_RANGES, {}, False, "recipe.joint_ranges=true", id="its range"),
        pytest.param(FOR_RANGES, USED, True, "recipe.mixed_precision=true", id="its range, all used"),
        pytest.param({}, {"granularity": "per_tensor"}, False, "recipe.granularity=per_channel", id="one scale"),
        pytest.param({}, {}, False, "recipe.cross_layer_equalization=true", id="weights"),
        pytest.param({}, {}, True, "recipe.rounding=seq_mse", id="weights of a file"),
        pytest.param({}, {"rounding": "adaround"}, True, "recipe.bias_correction=true", id="rounded well"),
        pytest.param(
            {}, {**USED, "mixed_precision": True}, True, "recipe.distillation_steps=300", id="all but learning"
        ),
        pytest.param({}, {**USED, "mixed_precision": True, "distillation_steps": 9}, True, "", id="all used"),
        pytest.param({"parted_codes": 9}, {"saturation_free": False}, True, "recipe.saturation_free=true", id="clips"),
        pytest.param({"parted_codes": 9}, {}, True, "", id="parts"),
        pytest.param({"alone_db": 30.0}, {}, True, "", id="good"),
    ],
)
def test_what_to_try_follows_from_where_the_noise_comes_from(
    fields: dict[str, Any], recipe: dict[str, Any], from_file: bool, setting: str
) -> None:
    lossy = layer("up", fields.pop("alone_db", 12.0), **fields)
    remedy = layer_advice(lossy, QuantizationRecipe(**recipe), from_file=from_file)
    assert remedy.advice.setting == setting
    if remedy.rung:
        # Its recipe has the setting that is advised.
        key, value = setting.removeprefix("recipe.").split("=")
        rung = next(rung for rung in RUNGS if rung.name == remedy.rung)
        assert getattr(rung.recipe(QuantizationRecipe(**recipe)), key) == yaml.safe_load(value)
    if setting:
        # A setting that there is, and that the run has not used.
        key, value = setting.removeprefix("recipe.").split("=")
        used = QuantizationRecipe(**recipe)
        assert used.changed(**{key: yaml.safe_load(value)}) != used
