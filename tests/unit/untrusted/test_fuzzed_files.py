"""Changed files are accepted or refused with an error of ours. For hours of it: benchmarks/fuzz.py.

What that found stands below, each as small as it can be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from hpe_tasks.data.annotation_files import is_safe_file_name
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.validation.inspection import inspect
from hpe_tasks.datasets import CUSTOM
from hpe_tasks.errors import CheckpointError, DatasetError
from hpe_tasks.models.onnx_model import prepare_onnx
from support import tiny_networks as tiny
from support.fuzzing.targets import TARGETS

SPLITS = ["calibration", "val"]


@pytest.mark.parametrize(
    ("targets", "cases"),
    [
        pytest.param(["manifest", "channel"], 20, id="some"),
        pytest.param(TARGETS, 60, id="more", marks=pytest.mark.long),
    ],
)
def test_changed_files_are_accepted_or_refused(
    targets: Sequence[str], cases: int, repository: Path, tmp_path: Path
) -> None:
    """A few of each kind. In a process of its own, and these in ones of theirs: SciPy's parser can end them."""
    program = repository / "benchmarks" / "fuzz.py"
    command: list[str | Path] = [sys.executable, program, "--json", "--seed", "11", "--cases", str(cases)]
    command += ["--findings", tmp_path / "findings", "--targets", *targets]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(repository), str(repository / "tests")])},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert [(target, found[target]["unforeseen"]) for target in targets] == [(target, {}) for target in targets]
    assert done.returncode == 0, done.stderr
    for target, counts in found.items():
        assert counts["cases"] >= cases, target
        assert counts["accepted"] > 0, target
        assert counts["refused"] > 0, target


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    make_sample(tmp_path, SampleSpec(train=1, calibration=2, val=2, width=160, height=120), splits=SPLITS, kind=CUSTOM)
    return tmp_path


@pytest.mark.parametrize("identifier", [{}, [1]], ids=["object", "list"])
@pytest.mark.parametrize("place", ["categories", "annotations"])
def test_an_identifier_that_is_none_is_told(drawn: Path, place: str, identifier: Any) -> None:
    path = CUSTOM.layout.annotation_path(drawn, "val")
    content = json.loads(path.read_text())
    content[place][0]["id" if place == "categories" else "category_id"] = identifier
    path.write_text(json.dumps(content))
    inspect(drawn, CUSTOM, calibration="calibration", evaluation="val")
    with suppress(DatasetError):
        load_coco(drawn, "val", CUSTOM)


def test_a_sigma_that_no_float_holds_is_told(drawn: Path) -> None:
    names = json.loads(CUSTOM.layout.annotation_path(drawn, "val").read_text())["categories"][0]["keypoints"]
    (drawn / "annotations" / "sigmas.json").write_text(json.dumps(dict.fromkeys(names, 10**400)))
    with pytest.raises(DatasetError, match="not a number above 0"):
        load_coco(drawn, "val", CUSTOM)


def test_half_a_character_is_no_file_name() -> None:
    assert [is_safe_file_name(json.loads(f'"{name}.jpg"')) for name in (r"\ud83d", r"\ud83d\ude00", "é")] == [
        False,
        True,
        True,
    ]


def _no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def _idle_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", [], []))


def _copy_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", [], ["x"]))


def _unknown_wire(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _lone_conv(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def _two_functions(model: onnx.ModelProto) -> None:
    model.functions.extend([onnx.FunctionProto()] * 2)


def _input_of_no_kind(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = -2


def _output_of_no_kind(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UNDEFINED


def _weight_of_no_kind(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(
    "change",
    [
        *(_no_outputs, _idle_node, _copy_of_nothing, _unknown_wire, _lone_conv, _two_functions),
        *(_input_of_no_kind, _output_of_no_kind, _weight_of_no_kind),
    ],
)
def test_a_network_that_is_none_is_told(change: Callable[[onnx.ModelProto], None], opset: int, tmp_path: Path) -> None:
    model = tiny.pose_onnx(opset=opset, ir=3 if opset == 9 else 8, listed_initializers=opset == 9)
    change(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    if change is _output_of_no_kind and opset == 9:
        # The version converter finds the kind out.
        prepare_onnx(tmp_path / "bad.onnx", tmp_path / "out.onnx", tiny.onnx_config())
        return
    with pytest.raises(CheckpointError, match=r"bad\.onnx"):
        prepare_onnx(tmp_path / "bad.onnx", tmp_path / "out.onnx", tiny.onnx_config())
    assert not (tmp_path / "out.onnx").exists()


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    data = tiny.pose_onnx().SerializeToString().replace(b"stem.w", b"st\xc1m.w", 1)
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"bad\.onnx"):
        prepare_onnx(tmp_path / "bad.onnx", tmp_path / "out.onnx", tiny.onnx_config())
