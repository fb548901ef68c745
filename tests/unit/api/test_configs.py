"""Configurations to begin with: those of the API are those of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import hpe_tasks
from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import CheckpointError, ConfigError

YOURS = {"model.checkpoint": "mine.onnx", "dataset.source": "/path/to/coco"}


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hpe_tasks.sample_onnx(tmp_path_factory.mktemp("onnx") / "deep" / "yours.onnx")


@pytest.mark.parametrize(
    ("preset", "settings", "changes"),
    [
        pytest.param("sample", {}, {"recipe.scheme": "min_max"}, id="one setting"),
        pytest.param("sample", {}, {"gate.min_speedup": 2, "recipe.param_bw": "4"}, id="a text, one was empty"),
        pytest.param("sample", {"gate.min_speedup": 2}, {"gate.min_speedup": None}, id="one that becomes empty"),
        pytest.param("sample", {}, {"recipe": "w8a8_per_tensor"}, id="a named recipe"),
        pytest.param("sample", {}, {"recipe": "w8a8_per_tensor", "recipe.scheme": "min_max"}, id="a recipe, changed"),
        pytest.param("rtmpose", YOURS, {"model.channel_order": "bgr", "model.mean": [0.1, 0.2, 0.3]}, id="a list"),
        pytest.param("pose_resnet_50_mpii", YOURS, {"gate.min_pckh": 70}, id="another metric"),
    ],
)
def test_changed_settings_are_those_of_a_preset(preset: str, settings: Any, changes: dict[str, Any]) -> None:
    begun = hpe_tasks.load_preset(preset, settings)
    assert hpe_tasks.with_settings(begun, changes) == load_config(preset, overrides={**settings, **changes})
    assert hpe_tasks.with_settings(begun, {}) == begun


def test_a_file_may_come_as_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"preset": "sample", "gate": {"min_ap": 0.7}}))
    assert hpe_tasks.load_file(str(file)) == load_config("sample", overrides={"gate.min_ap": 0.7})
    assert hpe_tasks.load_file(file, {"gate.min_ap": 0.1}).gate.min_ap == 0.1


def test_an_onnx_file_says_its_size_and_layouts(onnx_file: Path, tmp_path: Path) -> None:
    config = hpe_tasks.from_onnx(onnx_file, settings={"gate.min_ap": 0.6}, cache=tmp_path)
    assert (config.model.architecture, config.model.checkpoint) == ("onnx", str(onnx_file))
    assert (config.model.input_size, config.model.input_layout, config.model.output_layout) == (
        (128, 192),
        "nchw",
        "nchw",
    )
    assert (config.dataset.calibration_split, config.dataset.evaluation_split) == ("calibration", "val")
    own = hpe_tasks.from_onnx(str(onnx_file), "/path/to/coco", preset="rtmpose", settings={"model.codec": "heatmap"})
    assert (own.dataset.source, own.dataset.evaluation_split) == ("/path/to/coco", "val2017")
    assert (own.preset, own.destination.name, own.model.input_size) == ("rtmpose", "rtmpose", (128, 192))


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        pytest.param({"model.input_width": 64}, ConfigError, "model.input_width is 64", id="contradicts the file"),
        pytest.param({"model.checkpoint": "other.onnx"}, ConfigError, "model.checkpoint is among", id="given twice"),
        pytest.param({"gate.minimum": 1}, ConfigError, "no setting 'gate.minimum'", id="unknown"),
        pytest.param({"gate.min_ap": 7}, ConfigError, "gate.min_ap", id="out of bounds"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, Any], kind: type[Exception], told: str, onnx_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        hpe_tasks.from_onnx(onnx_file, settings=settings, cache=tmp_path)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"broken\.onnx"):
        hpe_tasks.from_onnx(file, cache=tmp_path)
