"""A checkpoint in onnxruntime: as torch runs it, or torch itself."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

import hpe_tasks.models.fp32_onnx as exporting
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.inference import fp32_onnx, fp32_onnx_predictor, fp32_predictor
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.models.interface import input_sizes
from support.tiny_networks import aimet_config, mobilenet_config, write_checkpoint


def shown(config: ModelConfig) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal((3, 3, height, width)).astype(np.float32) for width, height in input_sizes(config)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "hpe_tasks.inference.fp32_onnx"]


@pytest.mark.parametrize(
    "trained",
    [
        pytest.param(True, id="the sample's heatmaps"),
        pytest.param(False, id="whole images, wide and high", marks=pytest.mark.long),
    ],
)
def test_onnxruntime_gives_what_torch_gives(trained: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config("sample", overrides={}).model if trained else aimet_config()
    checkpoint = sample_checkpoint() if trained else write_checkpoint(tmp_path / "weights.safetensors", config)
    with caplog.at_level(logging.INFO):
        quick = fp32_onnx_predictor(config, checkpoint)
    assert [text.partition(",")[0] for text in said(caplog)] == ["FP32 is measured in onnxruntime"]
    plain = fp32_predictor(config, checkpoint, "cpu")
    for images in shown(config):
        expected, found = plain(images), quick(images)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max()


def test_a_file_that_was_found_equal_is_kept_for_the_machines_next_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, cache, checkpoint = load_config("sample", overrides={}).model, tmp_path / "cache", sample_checkpoint()
    (images,) = shown(config)
    first = fp32_onnx_predictor(config, checkpoint, cache=cache)(images)["heatmaps"]
    (folder,) = (path for path in (cache / "fp32").iterdir() if path.is_dir())
    (kept,) = folder.iterdir()
    assert folder.parent.stat().st_mode & 0o007 == 0
    with monkeypatch.context() as patch:
        patch.setattr(fp32_onnx, "fp32_predictor", lambda *_: pytest.fail("loaded in torch a second time"))
        with caplog.at_level(logging.INFO):
            again = fp32_onnx_predictor(
                config.model_copy(update={"checkpoint": "s3://b/w.pth"}), checkpoint, cache=cache
            )
        assert_array_equal(again(images)["heatmaps"], first)
        assert "on this machine before" in said(caplog)[-1]
    # Damaged, it is made again; and other weights have a file of their own.
    kept.write_bytes(kept.read_bytes()[:-1])
    assert_array_equal(fp32_onnx_predictor(config, checkpoint, cache=cache)(images)["heatmaps"], first)
    assert f"{folder} is damaged, and made again" in said(caplog)
    other = tmp_path / "other.safetensors"
    save_file({name: tensor * 1.001 for name, tensor in load_file(checkpoint).items()}, other)
    assert (fp32_onnx_predictor(config, other, cache=cache)(images)["heatmaps"] != first).any()
    assert sum(path.is_dir() for path in (cache / "fp32").iterdir()) == 2


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(
            "far", r"in torch: in onnxruntime its outputs differ by .* of the largest, where 1e-05 may", id="far"
        ),
        pytest.param("unwritten", "in torch, not in onnxruntime: .* cannot be written", id="no file"),
    ],
)
def test_torch_runs_what_onnxruntime_gives_otherwise(
    broken: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = mobilenet_config()
    checkpoint = write_checkpoint(tmp_path / "weights.safetensors", config)
    other = write_checkpoint(tmp_path / "other.safetensors", config)
    save_file({name: tensor * 1.001 for name, tensor in load_file(other).items()}, other)
    export = exporting.export_fp32

    def exported(config: ModelConfig, _: Path, out: Path) -> Path:
        if broken == "unwritten":
            raise CheckpointError("pose_mobilenet cannot be written as a float32 ONNX file")
        return export(config, other, out)

    monkeypatch.setattr(exporting, "export_fp32", exported)
    predict: Any = fp32_onnx_predictor(config, checkpoint, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/fp32").iterdir() if path.is_dir()], "nothing else is kept"
    assert len(said(caplog)) == 1
    assert re.search(says, said(caplog)[0])
    (images,) = shown(config)
    assert_array_equal(predict(images)["heatmaps"], fp32_predictor(config, checkpoint, "cpu")(images)["heatmaps"])
