"""Quantization at the size of published networks: HRNet-W32 and W48 with random weights at 256×192."""

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

NETWORKS = [
    pytest.param("pose_hrnet_w32", 114.5e6, 7.6e9, id="W32"),
    pytest.param("pose_hrnet_w48", 254.6e6, 15.7e9, id="W48"),
]


@pytest.mark.parametrize(("architecture", "num_bytes", "macs"), NETWORKS)
def test_hrnet_shrinks_to_a_quarter_and_runs_in_int8(
    tmp_path: Path, architecture: str, num_bytes: float, macs: float
) -> None:
    made = exported(ModelConfig(architecture=architecture, checkpoint="random"), tmp_path)
    images, expected, files, path = made.images, made.expected, made.files, made.onnx

    assert files.model.stat().st_size == pytest.approx(num_bytes, rel=0.01)
    assert path.stat().st_size <= 0.28 * num_bytes
    check_onnx(path)
    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    assert audit.total_macs == pytest.approx(macs, rel=0.02)
    proof = prove_kernels(path)
    assert not proof.x86_64.unproved
    assert not proof.arm64.unproved

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    one, three = (session.run(None, {"image": images[:count]})[0] for count in (1, 3))
    assert one.shape == (1, 17, 64, 48)
    np.testing.assert_allclose(three[:1], one)
    assert decibels(expected, three) > 20
