"""Quantization at the size of a published network: pose_resnet_50 with random weights at 256×256."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import load_quantsim
from support.published_size import MIN_MAX, exported
from support.signals import decibels

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.integration]

CONFIG = ModelConfig(architecture="pose_resnet_50", checkpoint="random", input_width=256, input_height=256)


def test_pose_resnet_50_shrinks_to_a_quarter_and_runs_in_int8(tmp_path: Path) -> None:
    made = exported(CONFIG, tmp_path)
    images, expected, files, path = made.images, made.expected, made.files, made.onnx

    assert 130e6 < files.model.stat().st_size < 140e6
    assert path.stat().st_size <= 36e6
    check_onnx(path)
    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    assert 7e9 < audit.total_macs < 7.5e9

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    one, three = (session.run(None, {"image": images[:count]})[0] for count in (1, 3))
    assert one.shape == (1, 17, 64, 64)
    np.testing.assert_allclose(three[:1], one)

    # The same codes with the deconvolutions as they were, in float: what rounds the other way moves codes behind it.
    transposed = tmp_path / "transposed"
    transposed.mkdir()
    plain = MIN_MAX.model_copy(update={"subpixel_deconvolution": False})
    before = export_onnx(CONFIG, plain, files.model, files.encodings, transposed)
    audit = audit_placement(before)
    assert 0.7 < audit.int8_mac_share < 0.75
    assert [name.split()[0] for name in audit.float_operators] == ["ConvTranspose"] * 3
    assert path.stat().st_size - before.stat().st_size < 0.1e6
    unchanged = ort.InferenceSession(before, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    assert np.count_nonzero(three != unchanged) < 0.01 * three.size
    assert decibels(unchanged, three) > 45

    heatmaps = load_quantsim(CONFIG, MIN_MAX, files.model, files.encodings, "cpu")(images)["heatmaps"]
    step = np.ptp(heatmaps) / 255
    difference = np.abs(three - heatmaps)
    # A code that rounds the other way moves a few codes of the next layer; 54 layers leave about one step.
    assert difference.mean() < step
    assert np.quantile(difference, 0.99) < 4 * step
    assert decibels(expected, heatmaps) > 20
    assert decibels(expected, three) > 20
    assert {i.name for i in onnx.load(path).graph.input} == {"image"}
