from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.onnx_runtime.session import onnx_predictor
from support import tiny_networks as tiny
from support.named_outputs import joined

CONFIG = tiny.onnx_config(codec="paf", joint_names=None, input_width=64, input_height=48)
LAST = [("pafs", 38), ("heatmaps", 19)]


def write(path: Path, **fields: Any) -> Path:
    onnx.save(tiny.paf_onnx(**fields), path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 2], ids=["free-batch", "batch-1", "batch-2"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("architecture", ["onnx", "aimet_pose"])
def test_fields_and_heatmaps_of_either_orientation_are_named(
    architecture: str, nhwc: bool, batch: int | str, tmp_path: Path
) -> None:
    layout = "nhwc" if nhwc else "nchw"
    config = CONFIG.model_copy(update={"architecture": architecture, "input_layout": layout, "output_layout": layout})
    shape = (batch, "h", "w", 3) if nhwc else (batch, 3, "h", "w")
    run = onnx_predictor(write(tmp_path / "model.onnx", shape=shape, nhwc=nhwc), config, threads=1)
    for images in tiny.both_orientations(3, config):
        maps = joined(run(images))
        assert maps.dtype == np.float32
        assert maps.shape == (3, 57, images.shape[2] // 8, images.shape[3] // 8)
        # The second output adds 1 to its maps.
        assert abs(maps[:, :38].mean()) < 0.2
        assert abs(maps[:, 38:].mean() - 1) < 0.2


@pytest.mark.parametrize(
    ("outputs", "offsets"),
    [
        pytest.param(LAST, (0, 1), id="by-name"),
        pytest.param(LAST[::-1], (1, 0), id="by-name, other order"),
        pytest.param([("a", 38), ("b", 19)], (0, 1), id="by-channels"),
        pytest.param([("b", 19), ("other", 4), ("a", 38)], (2, 0), id="by-channels, other order"),
        pytest.param([("a", 38), ("b", 19), ("c", 38), ("d", 19)], (2, 3), id="the last stage of two"),
        pytest.param([*LAST, ("c", 38), ("d", 19)], (0, 1), id="names before channels"),
        pytest.param([("heatmaps", 38), ("pafs", 19)], (0, 1), id="names of something else"),
    ],
)
def test_outputs_are_found(outputs: Sequence[tuple[str, int]], offsets: tuple[int, int], tmp_path: Path) -> None:
    run = onnx_predictor(write(tmp_path / "model.onnx", outputs=outputs), CONFIG, threads=1)
    maps = joined(run(np.zeros((1, 3, 48, 64), np.float32)))
    assert (maps[:, :38] == offsets[0]).all()
    assert (maps[:, 38:] == offsets[1]).all()


def test_outputs_without_a_stated_shape_are_found_by_name(tmp_path: Path) -> None:
    model = tiny.paf_onnx()
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    maps = joined(onnx_predictor(tmp_path / "model.onnx", CONFIG)(np.zeros((1, 3, 64, 48), np.float32)))
    assert maps.shape == (1, 57, 8, 6)


@pytest.mark.parametrize(
    ("file", "described", "message"),
    [
        pytest.param(
            {"outputs": [("maps", 57)]}, {}, r"no output 'pafs' and .* 38 .*: maps \(n×57×mh×mw\)", id="joined"
        ),
        pytest.param({"outputs": [("pafs", 38)]}, {}, r"no output 'heatmaps' and none with 19", id="fields-only"),
        pytest.param({"shape": ("n", 3, 48, 64)}, {}, "n×3×48×64, for images of one orientation", id="wide-only"),
        pytest.param({"shape": ("n", 3, 64, 48)}, {}, "high ones as N×3×64×48", id="high-only"),
        pytest.param({"shape": ("n", 3, "h", 48)}, {}, "one orientation", id="one-side-fixed"),
        pytest.param({"shape": ("n", 3, 96, 96)}, {}, r"tensor\(float\) N×3×48×64 \(nchw\)", id="another-size"),
        pytest.param({"shape": ("n", 1, "h", "w")}, {}, r"n×1×h×w; the configuration", id="grey"),
    ],
)
def test_a_file_that_cannot_be_read_that_way_is_refused(
    file: dict[str, Any], described: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    model = tiny.paf_onnx(**file)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=message) as caught:
        onnx_predictor(path, CONFIG.model_copy(update=described))
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_maps_of_another_layout_are_refused_when_they_come(tmp_path: Path) -> None:
    """A file that leaves the size of its maps free does not tell."""
    config = CONFIG.model_copy(update={"output_layout": "nhwc"})
    run = onnx_predictor(write(tmp_path / "model.onnx"), config)
    with pytest.raises(CheckpointError, match=r"'pafs' of .* is 1×38×6×8; pafs .* are N×height×width×38 \(nhwc\)"):
        run(np.zeros((1, 3, 48, 64), np.float32))


def test_a_square_input_has_one_orientation(tmp_path: Path) -> None:
    config = ModelConfig.model_validate(CONFIG.model_dump() | {"input_width": 48})
    run = onnx_predictor(write(tmp_path / "model.onnx", shape=(1, 3, 48, 48)), config)
    assert joined(run(np.zeros((2, 3, 48, 48), np.float32))).shape == (2, 57, 6, 6)
