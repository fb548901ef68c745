"""The command to try next: it starts the same run with one setting changed."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.report.commands import command_with

MINE = {"model.checkpoint": "/my models/a'b$c.pth", "dataset.source": "s3://bucket/coco"}

ASKED = [
    pytest.param("sample", {}, id="preset as it is"),
    pytest.param("sample", {"gate.min_ap": 0.7, "recipe.fold_batch_norms": False}, id="some settings"),
    pytest.param("sample", {"recipe": "w8a8_per_tensor", "evaluation.num_images": 4}, id="named recipe"),
    pytest.param("pose_resnet_50", MINE, id="what the preset needs, with quotes and a dollar sign"),
    pytest.param("pose_resnet_50_mpii", {"dataset.source": "/mpii", "model.architecture": "pose_resnet_101",
                 "model.checkpoint": "x.pth"}, id="another network"),
    pytest.param("pose_mobilenet_coco2017", {"model.checkpoint": "x.pth", "dataset.source": "/coco"},
                 id="images that no longer come by address"),
    pytest.param("efficientpose_rt_lite", MINE | {"model.joint_names": ["a", "yes", "1"], "dataset.kind": "mpii"},
                 id="lists, and texts that look like something else"),
    pytest.param(None, MINE | {"model.mean": [0.5, 0.5, 0.5], "seed": 3}, id="no preset"),
]  # fmt: skip


def of_hpe(command: str) -> RunConfig:
    """What `hpe run` makes of the command."""
    words = shlex.split(command)
    assert words[:2] == ["hpe", "run"]
    preset, settings = None, {}
    for option, value in zip(words[2::2], words[3::2], strict=True):
        if option == "--preset":
            preset = value
        else:
            assert option == "--set"
            key, _, text = value.partition("=")
            settings[key] = yaml.safe_load(text)
    return load_config(preset, overrides=settings)


def of_make(command: str) -> RunConfig:
    """What `make run` makes of the command: its variables, in which a dollar sign is written twice."""
    words = shlex.split(command)
    assert words[:2] == ["make", "run"]
    variables = dict(word.replace("$$", "$").partition("=")[::2] for word in words[2:])
    return load_config(variables.get("PRESET", "sample"), overrides=json.loads(variables.get("CONF", "{}")))


@pytest.mark.parametrize(("preset", "settings"), ASKED)
@pytest.mark.parametrize("launcher", ["hpe", "make"])
def test_the_command_starts_the_same_run_with_one_change(
    preset: str | None, settings: dict[str, Any], launcher: Any
) -> None:
    config = load_config(preset, overrides=settings)
    command = command_with(config, ["recipe.calibration_images=33"], launcher)
    read = of_make(command) if launcher == "make" and preset else of_hpe(command)
    recipe = config.recipe.model_copy(update={"calibration_images": 33})
    assert read == config.model_copy(update={"recipe": recipe})
    assert "\n" not in command


def test_what_becomes_as_in_the_preset_is_left_out() -> None:
    config = load_config("sample", overrides={"evaluation.num_images": 4})
    assert command_with(config, ["evaluation.num_images=null"], "make") == "make run"
    assert command_with(config, ["evaluation.num_images=null"], "hpe") == "hpe run --preset sample"


def test_only_what_differs_is_named() -> None:
    config = load_config("sample", overrides={"gate.min_ap": 0.7})
    assert command_with(config, ["recipe.scheme=min_max"], "hpe") == (
        "hpe run --preset sample --set gate.min_ap=0.7 --set recipe.scheme=min_max"
    )
    assert command_with(config, ["recipe.fold_batch_norms=false"], "make") == (
        """make run CONF='{"gate.min_ap": 0.7, "recipe.fold_batch_norms": false}'"""
    )
