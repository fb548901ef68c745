"""Quantization at the size of a published network: HRNet-W32 with random weights at 256×192."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.onnx_export import check_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from support.published_size import exported
from support.signals import decibels

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.integration]

CONFIG = ModelConfig(architecture="pose_hrnet_w32", checkpoint="random")


def test_pose_hrnet_w32_shrinks_to_a_quarter_and_runs_in_int8(tmp_path: Path) -> None:
    made = exported(CONFIG, tmp_path)
    images, expected, files, path = made.images, made.expected, made.files, made.onnx

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
    assert decibels(expected, three) > 20
