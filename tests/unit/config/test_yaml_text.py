"""YAML that is built to bring down whoever reads it, in a file and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpe_tasks.cli.options import read_values
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.yaml_text import MAX_DEPTH, YamlLimitError, load_yaml
from hpe_tasks.errors import ConfigError
from support.bombs import LAUGHS, MERGES

BOMBS = [
    pytest.param("[" * 100_000, "within more than 100", id="sequences"),
    pytest.param('{"a":' * 40_000, "within more than 100", id="mappings"),
    pytest.param("- " * 100_000, "within more than 100", id="block-sequences"),
    pytest.param("\n".join(" " * n + "a:" for n in range(600)), "within more than 100", id="block-mappings"),
    pytest.param(LAUGHS, "stands for, more than 250,000 characters", id="aliases"),
    pytest.param(MERGES, "stands for, more than 250,000 characters", id="merges"),
    pytest.param(f"a: &a {'x' * 9000}\nb: [{', '.join(['*a'] * 1000)}]", "stands for", id="aliases-of-a-long-text"),
    pytest.param("gate: &a {b: [*a]}", r"\*a stands within what it names", id="in-itself"),
    pytest.param("x" * 250_001, "more than 250,000 characters", id="long"),
]


@pytest.mark.parametrize(("text", "says"), BOMBS)
def test_a_file_that_is_a_bomb_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config("sample", file)
    assert str(file) in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.hint


@pytest.mark.parametrize(("text", "says"), BOMBS)
def test_a_setting_that_is_a_bomb_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_values([f"gate.min_ap={text}"])
    assert "--set gate.min_ap" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("value", ["2026-99-99", "9" * 5000], ids=["date", "number"])
def test_a_value_that_does_not_exist_is_no_yaml(tmp_path: Path, value: str) -> None:
    (tmp_path / "settings.yaml").write_text(f"seed: {value}")
    with pytest.raises(ConfigError, match="is neither YAML nor JSON"):
        load_config("sample", tmp_path / "settings.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_values([f"seed={value}"])


def test_aliases_of_ordinary_texts_work() -> None:
    assert load_yaml("a: &a {x: [1, 2]}\nb: {<<: *a, y: *a}\nc: *a") == [
        {"a": {"x": [1, 2]}, "b": {"x": [1, 2], "y": {"x": [1, 2]}}, "c": {"x": [1, 2]}}
    ]
    assert load_yaml("a: &n 1\nb: *n\n---\nc: &n [2]\nd: *n") == [{"a": 1, "b": 1}, {"c": [2], "d": [2]}]


def test_as_deep_as_is_allowed() -> None:
    assert load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(YamlLimitError):
        load_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_an_alias_of_nothing_is_an_error_as_before() -> None:
    with pytest.raises(yaml.YAMLError, match="undefined alias"):
        load_yaml("a: *b")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_far_from_the_limits(name: str) -> None:
    written = yaml.safe_dump(PRESETS[name].values)
    assert load_yaml(written) == [PRESETS[name].values]
    assert len(written) < 25_000
