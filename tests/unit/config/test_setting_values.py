"""Values of settings, as JSON has them and as their texts: one reading, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.help import setting_schema
from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.values import typed_value
from hpe_tasks.errors import ConfigError

OBJECT = {"type": "object"}

SAME = [
    pytest.param("recipe.fold_batch_norms", [True, "true", "True", " true "], True, id="true"),
    pytest.param("recipe.fold_batch_norms", [False, "false", "False"], False, id="false"),
    pytest.param("gate.min_ap", [0.5, "0.5", ".5", "5e-1", "+0.5"], 0.5, id="number"),
    pytest.param("gate.min_ap", [1, "1", 1.0], 1.0, id="whole number for a number"),
    pytest.param("recipe.calibration_images", [80, "80", 80.0], 80, id="whole number"),
    pytest.param("recipe.param_bw", [8, "8"], 8, id="choice of numbers"),
    pytest.param("seed", [7, "7"], 7, id="setting without a section"),
    pytest.param(
        "model.mean", [[0.5, 0.25, 1], ["0.5", "0.25", "1"], "[0.5, 0.25, 1]"], (0.5, 0.25, 1.0), id="list of numbers"
    ),
    pytest.param("model.joint_names", [["a", "b"], '["a", "b"]'], ("a", "b"), id="list of texts"),
    pytest.param("evaluation.num_images", [12, "12"], 12, id="optional whole number"),
]


def value_of(config: RunConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("key", "given", "expected"), SAME)
def test_json_and_its_text_are_the_same_setting(key: str, given: list[Any], expected: Any) -> None:
    for value in given:
        read = value_of(load_config("sample", overrides={key: value}), key)
        assert read == expected
        assert isinstance(read, type(expected))


@pytest.mark.parametrize(("key", "given", "expected"), SAME)
def test_also_in_a_file(tmp_path: Path, key: str, given: list[Any], expected: Any) -> None:
    import yaml

    section, _, leaf = key.rpartition(".")
    for value in given:
        values = {section: {leaf: value}} if section else {leaf: value}
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump({"preset": "sample", **values}))
        assert value_of(load_config(None, file), key) == expected


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        pytest.param(
            "recipe.fold_batch_norms", "maybe", 'takes true or false, not "maybe"', id="text for true or false"
        ),
        pytest.param("recipe.fold_batch_norms", 1, "takes true or false, not 1", id="1 is not true"),
        pytest.param("recipe.fold_batch_norms", "no", 'takes true or false, not "no"', id="no is not false"),
        pytest.param("gate.min_ap", True, "takes a number, not true", id="true is not 1"),
        pytest.param("gate.min_ap", "much", 'takes a number, not "much"', id="text for a number"),
        pytest.param("gate.min_ap", "NaN", 'takes a number, not "NaN"', id="no number"),
        pytest.param("gate.min_ap", float("inf"), "takes a number, not Infinity", id="infinite"),
        pytest.param("gate.min_ap", "1e999", 'takes a number, not "1e999"', id="text of an infinite number"),
        pytest.param("gate.min_ap", [0.5], "takes a number, not [0.5]", id="list for a number"),
        pytest.param("gate.min_ap", "", 'takes a number, not ""', id="empty text for a number"),
        pytest.param("recipe.calibration_images", 0.5, "takes a whole number, not 0.5", id="half an image"),
        pytest.param("recipe.calibration_images", "80.0", 'takes a whole number, not "80.0"', id="text of a fraction"),
        pytest.param("recipe.param_bw", "eight", 'takes one of 4, 8, 16, not "eight"', id="choice of numbers"),
        pytest.param("model.mean", [0.5, 0.5], "takes a list of 3 numbers, not [0.5, 0.5]", id="too few numbers"),
        pytest.param("model.mean", [0.5, "x", 0.5], "takes a list of 3 numbers", id="text among numbers"),
        pytest.param("model.mean", [0.5, None, 0.5], "takes a list of 3 numbers", id="nothing among numbers"),
        pytest.param("model.mean", "[0.5, 0.5", "takes a list of 3 numbers", id="broken JSON"),
        pytest.param("model.joint_names", "nose", 'takes a list of texts, not "nose"', id="text for a list"),
        pytest.param("model.joint_names", {"nose": 1}, "takes a list of texts", id="object for a list"),
        pytest.param("destination.name", 5, "takes a text, not 5", id="number for a text"),
    ],
)
def test_a_wrong_type_is_named_with_what_the_setting_takes(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("sample", overrides={key: value})
    assert f"{key} {says}" in error.value.message
    assert "hpe presets --keys" in error.value.hint


def test_all_wrong_types_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load_config("sample", overrides={"gate.min_ap": True, "seed": "x", "model.std": 3})
    assert all(key in error.value.message for key in ("gate.min_ap", "seed", "model.std"))


def test_what_stands_there_is_shortened() -> None:
    with pytest.raises(ConfigError, match="…") as error:
        load_config("sample", overrides={"gate.min_ap": "x" * 5000})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, id="object"),
        pytest.param('{"a": 1}', {"a": 1}, id="its text"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_objects(value: Any, expected: Any) -> None:
    assert typed_value(value, OBJECT) == expected


@pytest.mark.parametrize("value", ["{", "[1]", [1], 1, True])
def test_what_is_no_object(value: Any) -> None:
    with pytest.raises(ValueError, match="takes an object"):
        typed_value(value, OBJECT)


def test_every_setting_keeps_the_values_of_a_stored_configuration() -> None:
    changed = {"model.joint_names": ["a"], "evaluation.num_images": 3, "training.epochs": 1}
    config = load_config("sample", overrides=changed)
    stored = config.model_dump(mode="json")
    for key in config_keys():
        value = stored
        for name in key.split("."):
            value = value[name]
        assert typed_value(value, setting_schema(key)) == value
