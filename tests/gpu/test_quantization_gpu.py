from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.inference import calibration_batches, fp32_predictor
from hpe_tasks.inference.lessons import UnlabelledLessons
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.quantization import best_device, load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.named_outputs import joined

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
    np.testing.assert_array_equal(joined(on_gpu(images)), joined(on_gpu(images)))
    on_cpu = joined(load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images))
    # Sums in another order flip single codes, which later layers spread.
    assert np.corrcoef(joined(on_gpu(images)).ravel(), on_cpu.ravel())[0, 1] > 0.9
    check_onnx(export_onnx(config, recipe, files.model, files.encodings, exported))


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_network_learns_on_the_gpu_and_runs_anywhere(backend: str, tmp_path: Path) -> None:
    make_sample(tmp_path / "people", SampleSpec(train=1, calibration=8, val=1, width=200, height=150, seed=2))
    people = load_coco(tmp_path / "people", "calibration")
    if backend == "torch":
        config = ModelConfig(checkpoint="sample", input_width=64, input_height=96)
        source = sample_checkpoint()
    else:
        config = tiny.onnx_config()
        source = tiny.write_onnx(tmp_path / "users.onnx", shape=("batch", 3, 32, 64))
    recipe = QuantizationRecipe(scheme="min_max", param_bw=4, distillation_steps=60, distillation_batch=8)
    lessons = UnlabelledLessons(people, config, seed=0, batch_size=8)
    (stored := tmp_path / "stored").mkdir()
    batches = calibration_batches(people, config, 8)
    files = quantize_model(config, recipe, source, batches, stored, "cuda", lessons)
    assert files.distillation is not None
    assert files.distillation.loss_after < 0.8 * files.distillation.loss_before
    images = next(iter(lessons.held_out()))
    on_gpu, on_cpu = (
        joined(load_quantsim(config, recipe, files.model, files.encodings, device)(images))
        for device in ("cuda", "cpu")
    )
    assert np.corrcoef(on_gpu.ravel(), on_cpu.ravel())[0, 1] > 0.95


# As large as in practice: 16 images of the published size, in both orientations.
FULL_SIZE = tiny.aimet_config(input_width=496, input_height=384)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_the_bottom_up_network_is_calibrated_and_simulated_on_the_gpu(granularity: str, tmp_path: Path) -> None:
    recipe = QuantizationRecipe.model_validate({"granularity": granularity})
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", FULL_SIZE)
    batches = tiny.both_orientations(8, FULL_SIZE)
    stored, exported = tmp_path / "stored", tmp_path / "exported"
    stored.mkdir()
    exported.mkdir()
    files = quantize_model(FULL_SIZE, recipe, checkpoint, batches, stored, "cuda")
    on_gpu = load_quantsim(FULL_SIZE, recipe, files.model, files.encodings, "cuda")
    on_cpu = load_quantsim(FULL_SIZE, recipe, files.model, files.encodings, "cpu")
    float_network = fp32_predictor(FULL_SIZE, checkpoint, "cuda")
    for images in batches:
        maps = joined(on_gpu(images))
        assert maps.shape == (8, 57, images.shape[2] // 8, images.shape[3] // 8)
        assert np.corrcoef(maps.ravel(), joined(float_network(images)).ravel())[0, 1] > 0.95
        assert np.corrcoef(maps[:1].ravel(), joined(on_cpu(images[:1])).ravel())[0, 1] > 0.95
    check_onnx(export_onnx(FULL_SIZE, recipe, files.model, files.encodings, exported))


def test_the_bottom_up_network_takes_more_than_200_images_in_a_second(tmp_path: Path) -> None:
    """The network alone in float32, transfers included: the rate that is wanted end to end on a data-centre GPU."""
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", FULL_SIZE)
    images = tiny.smooth_images(32, FULL_SIZE)
    predict = fp32_predictor(FULL_SIZE, checkpoint, "cuda")
    for _ in range(3):
        predict(images)
    repeats = 10
    start = time.perf_counter()
    for _ in range(repeats):
        predict(images)
    assert repeats * len(images) / (time.perf_counter() - start) > 200
