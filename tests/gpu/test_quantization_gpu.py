from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_networks as tiny
import torch

from hpe_tasks.config import QuantizationRecipe
from hpe_tasks.export import check_onnx, export_onnx
from hpe_tasks.quantization import best_device, load_quantsim, quantize_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("scheme", ["min_max", "tf_enhanced"])
def test_calibration_on_the_gpu_gives_a_simulation_that_runs_anywhere(scheme: str, tmp_path: Path) -> None:
    config = tiny.mobilenet_config()
    recipe = QuantizationRecipe.model_validate({"scheme": scheme, "cross_layer_equalization": True})
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", config)
    images = tiny.smooth_images(4, config)
    stored, exported = tmp_path / "stored", tmp_path / "exported"
    stored.mkdir()
    exported.mkdir()
    assert best_device() == "cuda"
    files = quantize_model(config, recipe, checkpoint, [images], stored, "cuda")
    on_gpu = load_quantsim(config, recipe, files.model, files.encodings, "cuda")
    np.testing.assert_array_equal(on_gpu(images), on_gpu(images))
    on_cpu = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)
    # Sums in another order flip single codes, which later layers spread.
    assert np.corrcoef(on_gpu(images).ravel(), on_cpu.ravel())[0, 1] > 0.9
    check_onnx(export_onnx(config, recipe, files.model, files.encodings, exported))
