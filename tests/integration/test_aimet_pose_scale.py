"""Quantization of aimet_pose at its published size, 496×384 and 384×496, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.named_outputs import joined
from support.signals import decibels

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.integration]

CONFIG = tiny.aimet_config(input_width=496, input_height=384)


def test_aimet_pose_runs_in_int8_alone_and_better_per_channel(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", CONFIG)
    batches = tiny.both_orientations(1, CONFIG)
    network = build_model(CONFIG)
    load_checkpoint(network, checkpoint)
    with torch.inference_mode():
        expected = [torch.cat(network(torch.from_numpy(images)), dim=1).numpy() for images in batches]
    left: dict[str, list[float]] = {}
    for name in ("w8a8_per_channel", "w8a8_per_tensor"):
        recipe = RECIPES[name].model_copy(update={"scheme": "min_max"})
        simulated, exported = tmp_path / f"{name}-quantsim", tmp_path / f"{name}-exported"
        simulated.mkdir()
        exported.mkdir()
        files = quantize_model(CONFIG, recipe, checkpoint, batches, simulated, "cpu")
        path = export_onnx(CONFIG, recipe, files.model, files.encodings, exported)

        assert 13e6 < files.model.stat().st_size < 14e6
        assert 3.3e6 < path.stat().st_size < 3.6e6
        check_onnx(path)
        assert {i.name for i in onnx.load(path).graph.input} == {"image"}
        audit = audit_placement(path)
        assert audit.float_operators == ()
        assert audit.int8_mac_share == 1
        assert 14.5e9 < audit.total_macs < 14.7e9

        run = onnx_predictor(path, CONFIG, threads=1)
        simulate = load_quantsim(CONFIG, recipe, files.model, files.encodings, "cpu")
        left[name] = []
        for images, maps in zip(batches, expected, strict=True):
            computed, wanted = joined(run(images)), joined(simulate(images))
            assert computed.shape == maps.shape == (1, 57, images.shape[2] // 8, images.shape[3] // 8)
            # Codes that round the other way move those of the layers behind them, as in any two implementations: the
            # error towards FP32 stays the same.
            assert abs(decibels(maps, computed) - decibels(maps, wanted)) < 0.5
            assert np.abs(computed - wanted).mean() < 2 * np.ptp(wanted) / 255
            left[name].append(decibels(maps, computed))
    assert min(left["w8a8_per_tensor"]) > 18
    for better, plain in zip(left["w8a8_per_channel"], left["w8a8_per_tensor"], strict=True):
        assert better > plain
