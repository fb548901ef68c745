"""The whole choice on tiny, real networks of both backends: one activation that 8 bits cannot hold is planted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.precision import Budget, choose_precision
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.kernels import compare_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import QuantizedFiles, load_quantsim, quantize_model
from hpe_tasks.records.mixed_precision import MixedPrecision
from support import tiny_networks as tiny
from support.planted_networks import PLANTED, PLANTED_LAYER

pytestmark = pytest.mark.usefixtures("one_thread")

MIXED = QuantizationRecipe(scheme="min_max", mixed_precision=True)


def equally_fast(networks: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Times on a clock that stands still but for one tick a run: which choice is made depends on nothing else."""
    for network in networks:
        network()
    return [[1.0] * len(networks)] * 7


def slow_in_float(networks: Sequence[Callable[[], object]]) -> list[list[float]]:
    return [[3.0, 1.0, *[2.5] * (len(networks) - 2)]] * 7


def quantized(backend: str, folder: Path) -> tuple[QuantizedFiles, Path, ModelConfig, np.ndarray]:
    checkpoint, config = PLANTED[backend](folder / ("model.onnx" if backend == "onnx" else "weights.safetensors"))
    images = tiny.smooth_images(8, config)
    out = folder / "stored"
    out.mkdir()
    return quantize_model(config, MIXED, checkpoint, [images], out, "cpu"), checkpoint, config, images


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_what_8_bits_cannot_hold_stays_float_from_the_simulation_to_the_file(backend: str, tmp_path: Path) -> None:
    files, checkpoint, config, images = quantized(backend, tmp_path)
    before = json.loads(files.encodings.read_text())["activation_encodings"]
    record = choose_precision(config, MIXED, checkpoint, files, [images], Budget(2.0), timing=equally_fast)
    assert record.effects[0].layer == PLANTED_LAYER[backend]
    assert record.effects[0].joint_error > 10 * max(abs(each.joint_error) for each in record.effects[1:])
    assert record.left_float == record.effects[0].tensors
    assert record.curve[record.chosen].joint_error < 0.1 * record.int8_error
    assert record.curve[record.chosen].float_layers == (PLANTED_LAYER[backend],)
    assert MixedPrecision.model_validate_json(record.model_dump_json()) == record
    after = json.loads(files.encodings.read_text())["activation_encodings"]
    assert len(after) == len(before) - 1

    exported = tmp_path / "exported"
    exported.mkdir()
    file = export_onnx(config, MIXED, files.model, files.encodings, exported)
    simulated = load_quantsim(config, MIXED, files.model, files.encodings, "cpu")(images)["heatmaps"]
    ran = onnx_predictor(file, config)(images)["heatmaps"]
    # As without float activations: rounding, which layers pass on.
    assert np.square(simulated - ran).mean() < 0.02 * np.square(simulated).mean()
    assert audit_placement(file).int8_mac_share == pytest.approx(record.curve[record.chosen].int8_mac_share, abs=1e-6)
    assert 0.2 < audit_placement(file).int8_mac_share < 1
    assert all(family.proved for family in prove_kernels(file).families.values())
    # Steps of a quantized value, layer by layer: rounding.
    assert compare_kernels(file, config, [images], num_images=4).max_difference <= 1


@pytest.mark.parametrize("backend", ["onnx", pytest.param("torch", marks=pytest.mark.long)])
def test_the_file_that_was_judged_is_the_file_that_is_exported(backend: str, tmp_path: Path) -> None:
    """The search takes quantizers out of the exported graph; the export leaves out those that are off."""
    from hpe_tasks.joint_search.bench import JointBench

    files, checkpoint, config, images = quantized(backend, tmp_path)
    (tmp_path / "bench").mkdir()
    bench = JointBench(config, MIXED, checkpoint, files, [images], tmp_path / "bench")
    judged = onnx_predictor(bench.write(range(0, len(bench.activations), 3)), config)(images)["heatmaps"]
    from hpe_tasks.quantization import leave_float

    leave_float(config, files, [n for each in bench.activations[::3] for n in each.encodings])
    (tmp_path / "exported").mkdir()
    file = export_onnx(config, MIXED, files.model, files.encodings, tmp_path / "exported")
    np.testing.assert_allclose(onnx_predictor(file, config)(images)["heatmaps"], judged, atol=1e-5)
    quantizers = [
        sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
        for path in (file, tmp_path / "bench" / "tried.onnx")
    ]
    assert quantizers[0] == quantizers[1]


def test_a_budget_that_nothing_meets_leaves_the_simulation_as_it_was(tmp_path: Path) -> None:
    files, checkpoint, config, images = quantized("onnx", tmp_path)
    before = files.encodings.read_bytes()
    with pytest.raises(QuantizationError, match=r"max_slowdown 2: .*2\.50 times as long"):
        choose_precision(config, MIXED, checkpoint, files, [images], Budget(2.0), timing=slow_in_float)
    assert files.encodings.read_bytes() == before
    assert sorted(path.name for path in files.encodings.parent.iterdir()) == ["encodings.json", "model.onnx"]


def test_the_same_images_give_the_same_choice(tmp_path: Path) -> None:
    records = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        files, checkpoint, config, images = quantized("onnx", tmp_path / name)
        records.append(choose_precision(config, MIXED, checkpoint, files, [images], Budget(2.0), timing=equally_fast))
    first, second = (record.model_copy(update={"seconds": 0.0}) for record in records)
    assert first == second
