"""Mixed precision in the pipeline: the step leaves a record, and what it turned off is off in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.bench import check_widths
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.step import Step
from support.no_s3 import no_s3
from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.slow, pytest.mark.long]


GATE = {"gate.min_int8_mac_share": 0.0}
"""Nothing is asked of the share of int8: so small a network has little to leave in float."""


class Silent:
    def began(self, step: Step[object]) -> None: ...

    def ended(self, step: Step[object], end: str, seconds: float) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed")


def opened(folder: Path, **recipe: object) -> Run:
    settings = {key: value for key, value in tiny_settings(folder).items() if key not in ("preset", "recipe.scheme")}
    asked = {f"recipe.{name}": value for name, value in recipe.items()}
    config = load_config(
        "sample", overrides={**settings, "destination.smoke_test": False, "recipe": "mixed", **GATE, **asked}
    )
    return open_run(config, workspace=(folder / "w").as_uri(), cache=folder / "c", name="r", s3=no_s3)


def test_the_step_records_what_it_left_in_float(folder: Path) -> None:
    run = opened(folder, max_slowdown=10)
    assert run.config.recipe.name == "w8a8_per_channel_mse_augmented_mixed"
    run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(steps.export_onnx), Silent())
    quantized, exported = run.result(steps.quantize), run.result(steps.export_onnx)
    mixed = quantized.mixed_precision
    assert mixed is not None
    assert mixed.effects
    assert mixed.curve[0].slowdown == 1
    encodings = json.loads(run.workspace.local(quantized.encodings).read_text())
    assert encodings["left_float"] == sorted(mixed.left_float)
    taken = mixed.curve[mixed.chosen]
    assert exported.placement.int8_mac_share == pytest.approx(taken.int8_mac_share, abs=1e-6)


def test_another_gate_asks_for_another_choice(folder: Path) -> None:
    """The gate's limit on the speed is part of what mixed precision may cost, and of nothing else in the step."""
    settings = [
        {"gate.min_speedup": limit, "recipe.mixed_precision": mixed} for mixed in (True, False) for limit in (1.0, 1.1)
    ]
    keys = []
    for each in settings:
        run = opened(folder)
        config = run.config
        gate = config.gate.model_copy(update={"min_speedup": each["gate.min_speedup"]})
        recipe = config.recipe.changed(mixed_precision=each["recipe.mixed_precision"])
        keys.append(json.dumps(steps.quantize.settings(config.model_copy(update={"gate": gate, "recipe": recipe}))))
    assert keys[0] != keys[1]
    assert keys[2] == keys[3]


def test_a_speed_that_nothing_reaches_is_said(folder: Path) -> None:
    run = opened(folder)
    impossible = run.config.model_copy(update={"gate": run.config.gate.model_copy(update={"min_speedup": 1000.0})})
    other = open_run(impossible, workspace=(folder / "w2").as_uri(), cache=folder / "c", name="r", s3=no_s3)
    with pytest.raises(QuantizationError, match=r"gate\.min_speedup 1000"):
        run_steps(REQUANTIZE, other, REQUANTIZE.needed_for(steps.quantize), Silent())


def test_without_8_bits_there_is_nothing_to_choose() -> None:
    with pytest.raises(QuantizationError, match="16-bit activations") as caught:
        check_widths(QuantizationRecipe(activation_bw=16, mixed_precision=True))
    assert "recipe.activation_bw" in caught.value.hint
