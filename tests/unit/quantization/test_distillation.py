"""A quantized network that learns what the float one gives, from drawn people and without their labels."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import QuantizationError
from hpe_tasks.inference import calibration_batches, fp32_predictor
from hpe_tasks.inference.lessons import UnlabelledLessons
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import QuantizedFiles, load_quantsim, quantize_model
from hpe_tasks.quantization.onnx_as_torch import OnnxAsTorch, prove_equal
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ModelConfig(architecture="pose_mobilenet", checkpoint="sample", input_width=64, input_height=96)
USERS_OWN = tiny.onnx_config()


def recipe(**fields: Any) -> QuantizationRecipe:
    """Four bits hurt, and ranges of extremes take no time."""
    asked = {"scheme": "min_max", "param_bw": 4, "distillation_steps": 12, "distillation_batch": 6}
    return QuantizationRecipe.model_validate(asked | fields)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("people")
    make_sample(folder, SampleSpec(train=1, calibration=8, val=1, width=200, height=150, seed=2))
    return load_coco(folder, "calibration")


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_onnx(tmp_path_factory.mktemp("onnx") / "users.onnx", shape=("batch", 3, 32, 64))


def lessons_of(dataset: CocoDataset, config: ModelConfig, asked: QuantizationRecipe) -> UnlabelledLessons:
    return UnlabelledLessons(dataset, config, seed=0, batch_size=asked.distillation_batch)


def quantized(
    dataset: CocoDataset, config: ModelConfig, asked: QuantizationRecipe, source: Path, out: Path
) -> QuantizedFiles:
    out.mkdir()
    lessons = lessons_of(dataset, config, asked) if asked.distillation_steps else None
    return quantize_model(config, asked, source, calibration_batches(dataset, config, 8), out, "cpu", lessons)


def squared_error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one - other).sum(axis=(2, 3)).mean())


CASES = [
    pytest.param("torch", recipe(), 0.8, id="torch, weights of 4 bits", marks=pytest.mark.long),
    pytest.param("onnx", recipe(distillation_steps=40), 0.5, id="onnx, weights of 4 bits"),
    pytest.param(
        "onnx", recipe(param_bw=8, granularity="per_tensor", distillation_steps=40), 0.9, id="onnx, 8 bits per tensor"
    ),
]


@pytest.mark.parametrize(("backend", "asked", "gain"), CASES)
def test_what_quantization_took_is_won_back(
    backend: str, asked: QuantizationRecipe, gain: float, dataset: CocoDataset, users_file: Path, tmp_path: Path
) -> None:
    """On images that were not learnt from, by the simulation as it is stored, and by the file that is exported."""
    config, source = (SMALL, sample_checkpoint()) if backend == "torch" else (USERS_OWN, users_file)
    plain = asked.model_copy(update={"distillation_steps": 0})
    before, after = (quantized(dataset, config, r, source, tmp_path / r.name) for r in (plain, asked))
    assert before.distillation is None
    told = after.distillation
    assert told is not None
    assert (told.steps, told.augmented, told.labelled) == (asked.distillation_steps, True, False)
    assert told.num_learnt + told.num_held_out == dataset.num_persons
    assert told.loss_after < gain * told.loss_before
    assert 0 < told.best_step == min(told.curve, key=lambda point: point.held_out).step
    assert told.curve[0].held_out == pytest.approx(told.loss_before, rel=1e-3)

    fp32 = fp32_predictor(config, source, "cpu")
    apart = list(lessons_of(dataset, config, asked).held_out())
    for files, loss in ((before, told.loss_before), (after, told.loss_after)):
        simulated = load_quantsim(config, asked, files.model, files.encodings, "cpu")
        errors = [(squared_error(simulated(x)["heatmaps"], fp32(x)["heatmaps"]), len(x)) for x in apart]
        mean = sum(error * count for error, count in errors) / sum(count for _, count in errors)
        assert mean == pytest.approx(loss, rel=1e-3)
    (exported := tmp_path / "exported").mkdir()
    file = onnx_predictor(export_onnx(config, asked, after.model, after.encodings, exported), config)
    kept = load_quantsim(config, asked, after.model, after.encodings, "cpu")
    assert squared_error(file(apart[0])["heatmaps"], kept(apart[0])["heatmaps"]) < 0.2 * told.loss_after


def test_the_same_seed_learns_the_same(dataset: CocoDataset, users_file: Path, tmp_path: Path) -> None:
    first, second = (quantized(dataset, USERS_OWN, recipe(), users_file, tmp_path / name) for name in ("a", "b"))
    assert first.model.read_bytes() == second.model.read_bytes()
    assert first.encodings.read_bytes() == second.encodings.read_bytes()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_learning_rate_that_is_too_high_is_refused(
    backend: str, dataset: CocoDataset, users_file: Path, tmp_path: Path
) -> None:
    config, source = (SMALL, sample_checkpoint()) if backend == "torch" else (USERS_OWN, users_file)
    asked = recipe(param_bw=8, distillation_learning_rate=1.0)
    with pytest.raises(QuantizationError, match=r"Distillation diverged: .* after step") as refused:
        quantized(dataset, config, asked, source, tmp_path / "out")
    assert "recipe.distillation_learning_rate" in refused.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_are_no_numbers_are_refused(dataset: CocoDataset, users_file: Path, tmp_path: Path) -> None:
    class Broken(UnlabelledLessons):
        def batches(self, first: int, steps: int) -> Any:
            for batch in super().batches(first, steps):
                yield replace(batch, images=np.full_like(batch.images, np.nan))

    asked = recipe()
    with pytest.raises(QuantizationError, match="its loss is nan in step 1"):
        quantize_model(
            USERS_OWN,
            asked,
            users_file,
            calibration_batches(dataset, USERS_OWN, 8),
            tmp_path,
            "cpu",
            Broken(dataset, USERS_OWN, seed=0, batch_size=6),
        )


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_what_has_gained_nothing_stays_as_it_was_calibrated(
    backend: str, dataset: CocoDataset, users_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps too small for a code to change: the files are those of the recipe without distillation."""
    config, source = (SMALL, sample_checkpoint()) if backend == "torch" else (USERS_OWN, users_file)
    asked = recipe(param_bw=8, distillation_learning_rate=1e-12, distillation_steps=2)
    with caplog.at_level(logging.WARNING):
        files = quantized(dataset, config, asked, source, tmp_path / "learnt")
    told = files.distillation
    assert told is not None
    assert (told.best_step, told.loss_after) == (0, told.loss_before)
    assert "found nothing better" in caplog.text
    plain = quantized(dataset, config, recipe(param_bw=8, distillation_steps=0), source, tmp_path / "plain")
    images = tiny.smooth_images(2, config)
    one, other = (
        load_quantsim(config, asked, each.model, each.encodings, "cpu")(images)["heatmaps"] for each in (files, plain)
    )
    np.testing.assert_array_equal(one, other)


def test_learnt_weights_are_proved_to_be_free_of_clipping(
    dataset: CocoDataset, users_file: Path, tmp_path: Path
) -> None:
    asked = recipe(param_bw=8, granularity="per_tensor", distillation_steps=20)
    files = quantized(dataset, USERS_OWN, asked, users_file, tmp_path / "out")
    assert files.distillation is not None
    assert files.distillation.best_step
    (exported := tmp_path / "exported").mkdir()
    file = export_onnx(USERS_OWN, asked, files.model, files.encodings, exported)
    assert all(family.proved for family in prove_kernels(file).families.values())


def test_an_operator_that_torch_cannot_have_is_named(dataset: CocoDataset, tmp_path: Path) -> None:
    model = tiny.pose_onnx(shape=("batch", 3, 32, 64))
    # Nothing that quantization minds, and nothing that onnxruntime refuses.
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Shrink", ["before"], ["heatmaps"], lambd=0.0, name="odd"))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(QuantizationError, match=r"cannot convert the operator Shrink \(.*\) to torch") as refused:
        quantized(dataset, USERS_OWN, recipe(), tmp_path / "odd.onnx", tmp_path / "out")
    assert "cannot be distilled" in refused.value.hint


def test_a_network_that_computes_something_else_in_torch_is_refused(users_file: Path) -> None:
    network = OnnxAsTorch(onnx.load(users_file), USERS_OWN)
    images = tiny.smooth_images(2, USERS_OWN)
    wanted = fp32_predictor(USERS_OWN, users_file, "cpu")(images)
    prove_equal(network, images, wanted)
    wanted["heatmaps"][0, 0, 0, 0] += 2e-5 * np.abs(wanted["heatmaps"]).max()
    with pytest.raises(QuantizationError, match=r"computes something else in torch .*'heatmaps' differs by 2\.\de-05"):
        prove_equal(network, images, wanted)


def test_a_recipe_that_distils_needs_something_to_learn_from(users_file: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="12 steps of distillation; there is nothing to learn from"):
        quantize_model(USERS_OWN, recipe(), users_file, [tiny.smooth_images(2, USERS_OWN)], tmp_path, "cpu")


def test_older_records_and_recipes_have_learnt_nothing() -> None:
    assert QuantizationRecipe().name == "w8a8_per_channel"
    assert QuantizationRecipe.model_validate({"param_bw": 8}).distillation_steps == 0
    assert recipe().name == "w4a8_per_channel_min_max_qat"
    assert recipe(distillation_labels=True).name == "w4a8_per_channel_min_max_qat_labels"


NHWC = tiny.onnx_config(input_layout="nhwc", output_layout="nhwc")


def test_channels_last_and_one_image_at_a_time_learn_as_well(dataset: CocoDataset, tmp_path: Path) -> None:
    source = tiny.write_onnx(tmp_path / "nhwc.onnx", shape=(1, 32, 64, 3), nhwc=True)
    files = quantized(dataset, NHWC, recipe(distillation_steps=40), source, tmp_path / "out")
    assert files.distillation is not None
    assert files.distillation.loss_after < 0.9 * files.distillation.loss_before
