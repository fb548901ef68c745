"""SimCC networks through the runtimes: users' files and the project's own, in float, in QuantSim and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import CheckpointError
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.models import build_model
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.models.onnx_model import check_onnx as check_users_onnx
from hpe_tasks.models.onnx_model import describe_onnx
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.onnx_runtime.geometry import read_geometry
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.kernels import compare_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.simcc_networks import simcc_config, simcc_onnx

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = simcc_config()
MIN_MAX = QuantizationRecipe(scheme="min_max")
OWN = tiny.mobilenet_config(codec="simcc", input_width=64, input_height=96)


def write(path: Path, **fields: Any) -> Path:
    onnx.save(simcc_onnx(**fields), path)
    return path


# Users' files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="free-batch"),
        pytest.param({"batch": 1, "product": "MatMul"}, id="batch-1"),
        pytest.param({"names": ("output", "1234")}, id="other-names"),
        pytest.param({"stated": False}, id="no-shapes"),
        pytest.param({"extra": True}, id="another-output"),
        pytest.param({"product": "Gemm"}, id="gemm"),
        pytest.param({"nhwc": True}, id="nhwc"),
        pytest.param({"bins": (64, 32)}, id="one-bin-a-pixel"),
    ],
)
def test_a_users_file_gives_both_vectors(fields: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", **fields)
    config = CONFIG.model_copy(update={"input_layout": "nhwc" if fields.get("nhwc") else "nchw"})
    check_users_onnx(path, config)
    outputs = onnx_predictor(path, config, threads=1)(tiny.smooth_images(3, config))
    bins = fields.get("bins", (128, 64))
    assert {name: array.shape for name, array in outputs.items()} == {
        "simcc_x": (3, 5, bins[0]),
        "simcc_y": (3, 5, bins[1]),
    }
    assert all(array.dtype == np.float32 for array in outputs.values())


@pytest.mark.parametrize(
    ("fields", "described", "message"),
    [
        pytest.param({"names": ("simcc_x", "y")}, {}, "no outputs 'simcc_x' and 'simcc_y'", id="one-name"),
        pytest.param({"bins": (128, 128)}, {}, "simcc_x has 128 and simcc_y 128 bins", id="square"),
        pytest.param({"bins": (64, 128)}, {}, "64 wide and 32 high .* such as 128 and 64", id="swapped"),
        pytest.param({"bins": (127, 64)}, {}, "127 and simcc_y 64", id="one-too-few"),
        pytest.param({"bins": (32, 16)}, {}, "32 and simcc_y 16", id="less-than-one"),
        pytest.param({"joints": 6}, {}, r"×6×128; simcc_x of 5 joints \(custom\) are N×5×bins", id="joints"),
        pytest.param({}, {"input_width": 96, "input_height": 64}, "×3×32×64", id="input-size"),
        pytest.param({}, {"codec": "heatmap"}, "several outputs", id="as-heatmaps"),
    ],
)
def test_a_file_that_is_not_as_configured_is_refused(
    fields: dict[str, Any], described: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", **fields)
    config = CONFIG.model_copy(update=described)
    for load in (check_users_onnx, onnx_predictor):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(path, config)
        assert "m.onnx" in caught.value.message
        assert caught.value.hint


def test_what_a_file_does_not_state_shows_when_it_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", stated=False, bins=(128, 66))
    with pytest.raises(CheckpointError, match="simcc_x has 128 and simcc_y 66 bins"):
        onnx_predictor(path, CONFIG)(tiny.smooth_images(1, CONFIG))


def test_its_input_is_read_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    asked = simcc_config(input_width=192, input_height=256)
    found = read_geometry(asked, path, asked={"codec", "joint_names"}, usual=())
    assert (found.input_size, found.input_layout) == ((64, 32), "nchw")


# Quantized -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
def test_a_users_network_is_quantized_proved_and_agrees_with_quantsim(product: str, tmp_path: Path) -> None:
    source = write(tmp_path / "users.onnx", product=product)
    judge(CONFIG, source, tmp_path)


def test_a_network_with_attention_is_quantized_and_what_is_not_proved_is_named(tmp_path: Path) -> None:
    """As RTMPose's: products of two activations have no weights that a proof could look at."""
    source = write(tmp_path / "users.onnx", attention=True)
    for name in ("quantized", "exported"):
        (tmp_path / name).mkdir()
    images = [tiny.smooth_images(8, CONFIG)]
    files = quantize_model(CONFIG, MIN_MAX, source, images, tmp_path / "quantized", "cpu")
    path = export_onnx(CONFIG, MIN_MAX, files.model, files.encodings, tmp_path / "exported")
    assert audit_placement(path).int8_mac_share > 0.9
    proof = prove_kernels(path)
    assert not proof.x86_64.proved
    assert [name.partition(": ")[2] for name in proof.x86_64.unproved] == ["its weights are computed"] * 2
    unseen = tiny.smooth_images(4, CONFIG, seed=9)
    simulated = load_quantsim(CONFIG, MIN_MAX, files.model, files.encodings, "cpu")(unseen)
    computed = onnx_predictor(path, CONFIG, threads=1)(unseen)
    for name, expected in fp32_predictor(CONFIG, source, "cpu")(unseen).items():
        assert np.corrcoef(computed[name].ravel(), simulated[name].ravel())[0, 1] > 0.999
        assert np.corrcoef(computed[name].ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("scheme", ["min_max", pytest.param("tf_enhanced", marks=pytest.mark.slow)])
def test_the_projects_network_is_quantized_proved_and_agrees_with_quantsim(scheme: str, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", OWN)
    path = judge(OWN, checkpoint, tmp_path, QuantizationRecipe.model_validate({"scheme": scheme}))
    described = describe_onnx(path)
    assert [(t.name, t.shape) for t in described.outputs] == [
        ("simcc_x", ("batch", 17, 128)),
        ("simcc_y", ("batch", 17, 192)),
    ]


def judge(config: ModelConfig, source: Path, folder: Path, recipe: QuantizationRecipe = MIN_MAX) -> Path:
    """Quantize and export: everything runs in int8, no kernel can clip, and the file computes what QuantSim does."""
    for name in ("quantized", "exported"):
        (folder / name).mkdir()
    files = quantize_model(config, recipe, source, [tiny.smooth_images(8, config)], folder / "quantized", "cpu")
    path = export_onnx(config, recipe, files.model, files.encodings, folder / "exported")
    check_onnx(path)
    audit, proof = audit_placement(path), prove_kernels(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    assert proof.x86_64.proved, proof.x86_64
    assert proof.arm64.proved, proof.arm64
    assert proof.layers == sum(node.op_type in {"Conv", "MatMul", "Gemm"} for node in onnx.load(path).graph.node)

    images, users_own = tiny.smooth_images(4, config, seed=9), config.architecture == "onnx"
    float_outputs = fp32_predictor(config, source, "cpu")(images)
    simulated = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)
    computed = onnx_predictor(path, config, threads=1)(images)
    for name, expected in float_outputs.items():
        assert simulated[name].shape == computed[name].shape == expected.shape
        # In 50 random layers a code that rounds the other way moves many more; layer by layer the kernels are compared.
        assert np.corrcoef(computed[name].ravel(), simulated[name].ravel())[0, 1] > (0.999 if users_own else 0.85)
        assert not users_own or np.corrcoef(computed[name].ravel(), expected.ravel())[0, 1] > 0.99
    agreement = compare_kernels(path, config, [images], num_images=2)
    assert agreement.sqnr_db is None or agreement.sqnr_db > 40
    return path


# The project's network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (192, 256)], ids=["square", "high", "rtmpose"])
def test_the_projects_network_has_two_bins_for_each_pixel(size: tuple[int, int]) -> None:
    config = OWN.model_copy(update={"input_width": size[0], "input_height": size[1]})
    simcc_x, simcc_y = build_model(config)(torch.zeros(2, 3, size[1], size[0]))
    assert simcc_x.shape == (2, 17, 2 * size[0])
    assert simcc_y.shape == (2, 17, 2 * size[1])


def test_weights_fit_one_input_size(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", OWN)
    with pytest.raises(CheckpointError, match=r"misshapen: simcc_x\.weight") as caught:
        fp32_predictor(OWN.model_copy(update={"input_width": 96}), checkpoint, "cpu")
    assert "model.input_width" in caught.value.hint


def test_its_float_file_is_the_same_network(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", OWN)
    images = tiny.smooth_images(3, OWN)
    expected = fp32_predictor(OWN, checkpoint, "cpu")(images)
    found = onnx_predictor(export_fp32(OWN, checkpoint, tmp_path / "fp32.onnx"), OWN, threads=1)(images)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=2e-3)
