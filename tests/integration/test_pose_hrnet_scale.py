"""Quantization at the size of a published network: HRNet-W32 with random weights at 256×192."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file

from hpe_tasks.config.run import ModelConfig, QuantizationRecipe
from hpe_tasks.export import check_onnx, export_onnx
from hpe_tasks.models import build_model
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import quantize_model
from support import tiny_networks as tiny

pytestmark = [pytest.mark.slow, pytest.mark.integration]

CONFIG = ModelConfig(architecture="pose_hrnet_w32", checkpoint="random")
RECIPE = QuantizationRecipe(scheme="min_max")


def test_pose_hrnet_w32_shrinks_to_a_quarter_and_runs_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = tmp_path / "weights.safetensors"
    network = build_model(CONFIG)
    save_file(network.state_dict(), checkpoint)
    images = tiny.smooth_images(3, CONFIG)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()

    simulated, exported = tmp_path / "quantsim", tmp_path / "exported"
    simulated.mkdir()
    exported.mkdir()
    files = quantize_model(CONFIG, RECIPE, checkpoint, [images], simulated, "cpu")
    path = export_onnx(CONFIG, RECIPE, files.model, files.encodings, exported)

    assert 110e6 < files.model.stat().st_size < 120e6
    assert path.stat().st_size <= 32e6
    check_onnx(path)
    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    assert 7e9 < audit.total_macs < 8e9
    proof = prove_kernels(path)
    assert not proof.x86_64.unproved
    assert not proof.arm64.unproved

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    one, three = (session.run(None, {"image": images[:count]})[0] for count in (1, 3))
    assert one.shape == (1, 17, 64, 48)
    np.testing.assert_allclose(three[:1], one)
    assert _decibels(expected, three) > 20


def _decibels(signal: np.ndarray, noisy: np.ndarray) -> float:
    return float(10 * np.log10((signal**2).sum() / ((signal - noisy) ** 2).sum()))
