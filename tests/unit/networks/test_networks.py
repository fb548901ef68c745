"""The list of architectures: what it must say of each, and that the rest of the project asks it and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import hpe_tasks
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint
from hpe_tasks.networks import ARCHITECTURES, OWN_FILE

PACKAGE = Path(hpe_tasks.__file__).parent
BUILT = [name for name, network in ARCHITECTURES.items() if not network.from_file]
# What records and manifests of earlier versions name.
RECORDED = (
    "pose_resnet_18",
    "pose_resnet_34",
    "pose_resnet_50",
    "pose_resnet_101",
    "pose_resnet_152",
    "pose_mobilenet",
    "aimet_pose",
    "onnx",
)


def config(name: str, **fields: object) -> ModelConfig:
    network = ARCHITECTURES[name]
    return ModelConfig.model_validate({"architecture": name, "checkpoint": "weights.pth", **network.input, **fields})


def test_each_is_listed_under_its_name() -> None:
    assert all(network.name == name for name, network in ARCHITECTURES.items())
    assert [name for name, network in ARCHITECTURES.items() if network.from_file] == [OWN_FILE]


@pytest.mark.parametrize("name", RECORDED)
def test_what_older_records_name_is_still_known(name: str) -> None:
    assert config(name).network.name == name


def test_settings_offer_what_is_listed() -> None:
    assert ModelConfig.model_json_schema()["properties"]["architecture"]["enum"] == list(ARCHITECTURES)
    assert TrainingConfig.model_json_schema()["properties"]["architecture"]["enum"] == BUILT


def test_an_unknown_one_is_refused_with_the_list() -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate({"architecture": "pose_resnet_51", "checkpoint": "w.pth"})
    assert all(name in str(caught.value) for name in ARCHITECTURES)


@pytest.mark.parametrize("name", BUILT)
def test_each_is_built_as_it_is_described(name: str) -> None:
    network = ARCHITECTURES[name]
    side = 2 * network.side_multiple
    model = build_model(config(name, input_width=max(side, 32), input_height=max(side, 32)))
    assert not model.training
    with torch.inference_mode():
        maps = model(torch.zeros(1, 3, 2 * side, side))
    shapes = [tuple(one.shape) for one in ([maps] if isinstance(maps, torch.Tensor) else maps)]
    assert shapes == ([(1, 38, 4, 2), (1, 19, 4, 2)] if network.codecs == ("paf",) else [(1, 17, side // 2, side // 4)])


@pytest.mark.parametrize("name", BUILT)
def test_an_input_that_does_not_divide_is_refused(name: str) -> None:
    multiple = ARCHITECTURES[name].side_multiple
    with pytest.raises(ValidationError, match=f"multiples of {multiple} for {name}"):
        config(name, input_width=192 + multiple // 2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_its_codecs_are_taken(name: str) -> None:
    for codec in ("heatmap", "paf"):
        if codec in ARCHITECTURES[name].codecs:
            assert config(name, codec=codec).codec == codec
        else:
            with pytest.raises(ValidationError, match=f"codec must be .* for {name}"):
                config(name, codec=codec)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shipped_weights_are_those_that_the_list_names(name: str) -> None:
    if ARCHITECTURES[name].sample_checkpoint is None:
        with pytest.raises(ValidationError, match="'sample' holds a pose_mobilenet"):
            config(name, checkpoint="sample")
        with pytest.raises(CheckpointError, match=f"No weights of {name} are shipped"):
            sample_checkpoint(name)
    else:
        load_checkpoint(build_model(config(name, checkpoint="sample")), sample_checkpoint(name))


def test_the_list_is_read_without_torch() -> None:
    code = "import sys, hpe_tasks.networks; sys.exit(', '.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def comparisons(module: Path) -> Iterator[str]:
    """Places where a module compares the name of an architecture with one that is written there."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            sides = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
            named = {part.value for part in sides if isinstance(part, ast.Constant)} & set(ARCHITECTURES)
            asked = any(isinstance(part, ast.Attribute) and part.attr == "architecture" for part in sides)
            if named and (asked or named != {OWN_FILE}):
                yield f"{module.relative_to(PACKAGE)}:{node.lineno}"


def test_no_module_asks_for_an_architecture_by_its_name() -> None:
    """A new network is a module of `networks` and an entry of the list: no other place may need to know its name."""
    assert [place for module in sorted(PACKAGE.rglob("*.py")) for place in comparisons(module)] == []


def test_a_comparison_of_names_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "m.py").write_text(
        'a = config.architecture == "onnx"\nb = name in ("pose_mobilenet", "x")\nc = runtime == "onnx"\n'
    )
    assert list(comparisons(tmp_path / "m.py")) == ["m.py:1", "m.py:2"]
