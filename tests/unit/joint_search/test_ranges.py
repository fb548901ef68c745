"""Ranges by the joints on tiny, real networks of both backends: a channel that is wide and of no use is cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.bench import JointBench, check_widths
from hpe_tasks.joint_search.ranges import _scaled, _walk, choose_ranges
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import QuantizedFiles, load_quantsim, quantize_model
from hpe_tasks.quantization.float_activations import Code, code_range, stored_codes
from hpe_tasks.records.joint_ranges import JointRanges
from support import tiny_networks as tiny
from support.planted_networks import PLANTED, PLANTED_LAYER

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = QuantizationRecipe(scheme="min_max", joint_ranges=True)
WIDE = 40.0


def quantized(backend: str, folder: Path, wide: float) -> tuple[QuantizedFiles, Path, ModelConfig, np.ndarray]:
    path = folder / ("model.onnx" if backend == "onnx" else "weights.safetensors")
    checkpoint, config = PLANTED[backend](path, wide)
    images = tiny.smooth_images(8, config)
    out = folder / "stored"
    out.mkdir()
    return quantize_model(config, RECIPE, checkpoint, [images], out, "cpu"), checkpoint, config, images


@pytest.mark.parametrize("backend", ["onnx", pytest.param("torch", marks=pytest.mark.long)])
def test_what_is_wide_and_of_no_use_is_cut_off_from_the_simulation_to_the_file(backend: str, tmp_path: Path) -> None:
    files, checkpoint, config, images = quantized(backend, tmp_path, WIDE)
    before = stored_codes(files.encodings)
    record = choose_ranges(config, RECIPE, checkpoint, files, lambda: [images], "cpu")
    planted = record.chosen[0]
    assert planted.layer == PLANTED_LAYER[backend]
    assert planted.after[1] < 0.6 * planted.before[1]
    assert planted.harm_after < 0.6 * planted.harm_before
    assert record.error_after < 0.7 * record.error_before
    assert JointRanges.model_validate_json(record.model_dump_json()) == record

    after = stored_codes(files.encodings)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for each in record.chosen for name in each.tensors}
    assert [code_range(after[name]) for name in planted.tensors] == [planted.after] * len(planted.tensors)

    (tmp_path / "exported").mkdir()
    file = export_onnx(config, RECIPE, files.model, files.encodings, tmp_path / "exported")
    simulated = load_quantsim(config, RECIPE, files.model, files.encodings, "cpu")(images)["heatmaps"]
    ran = onnx_predictor(file, config)(images)["heatmaps"]
    assert np.square(simulated - ran).mean() < 0.02 * np.square(simulated).mean()
    assert all(family.proved for family in prove_kernels(file).families.values())


@pytest.mark.parametrize("backend", ["onnx", pytest.param("torch", marks=pytest.mark.long)])
def test_the_file_that_was_judged_is_the_file_that_is_exported(backend: str, tmp_path: Path) -> None:
    """The search gives the exported graph other codes; the export reads them from the encodings."""
    from hpe_tasks.quantization import set_codes

    files, checkpoint, config, images = quantized(backend, tmp_path, 2.0)
    (tmp_path / "bench").mkdir()
    bench = JointBench(config, RECIPE, checkpoint, files, [images], tmp_path / "bench")
    stored = stored_codes(files.encodings)
    narrower = {
        index: _scaled(stored[each.encodings[0]], (True, True), 0.7)
        for index, each in enumerate(bench.activations)
        if index % 2
    }
    judged = constants(bench.write((), codes=narrower))
    set_codes(config, files, {n: code for i, code in narrower.items() for n in bench.activations[i].encodings})
    (tmp_path / "exported").mkdir()
    file = export_onnx(config, RECIPE, files.model, files.encodings, tmp_path / "exported")
    for ours, theirs in zip(constants(file), judged, strict=True):
        # A bias is rounded once more where its layer's input has other codes.
        tolerance = {"atol": 1} if ours.dtype == np.int32 else {"rtol": 1e-6}
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), **tolerance)


def constants(path: Path) -> list[np.ndarray]:
    """Codes, scales and zero points of a file's quantizers, sorted: one array for each type."""
    graph = onnx.load(path).graph
    found: dict[np.dtype, list[np.ndarray]] = {}
    values = {tensor.name: numpy_helper.to_array(tensor).ravel() for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            for name in node.input:
                if name in values:
                    found.setdefault(values[name].dtype, []).append(values[name])
    return [np.sort(np.concatenate(found[kind])) for kind in sorted(found, key=str)]


def test_what_does_not_help_is_not_taken(tmp_path: Path) -> None:
    """Ranges that hold every value of a network without wide channels: few are worth another, and none costs joints."""
    files, checkpoint, config, images = quantized("onnx", tmp_path, 1.0)
    before = stored_codes(files.encodings)
    record = choose_ranges(config, RECIPE, checkpoint, files, lambda: [images], "cpu")
    after = stored_codes(files.encodings)
    assert {name for name in before if before[name] != after[name]} == {
        n for each in record.chosen for n in each.tensors
    }
    assert all(each.harm_after < each.harm_before for each in record.chosen)
    assert record.error_after <= record.error_before
    assert sorted(path.name for path in files.model.parent.iterdir()) == ["encodings.json", "model.onnx"]


def test_without_images_there_is_nothing_to_choose_by(tmp_path: Path) -> None:
    files, checkpoint, config, _ = quantized("onnx", tmp_path, 2.0)
    before = json.loads(files.encodings.read_text())
    with pytest.raises(QuantizationError, match="no calibration image"):
        choose_ranges(config, RECIPE, checkpoint, files, list, "cpu")
    assert json.loads(files.encodings.read_text()) == before


def test_only_codes_of_8_bits_have_ranges_to_choose() -> None:
    with pytest.raises(QuantizationError, match=r"joint_ranges .* 16-bit activations") as caught:
        check_widths(QuantizationRecipe(activation_bw=16, joint_ranges=True))
    assert "recipe.joint_ranges to false" in caught.value.hint


def lost(wanted: float, code: Code) -> float:
    return abs(code_range(code)[1] - wanted)


@pytest.mark.parametrize(
    ("sides", "factor", "harm", "reached"),
    [
        pytest.param((True, True), 0.8, partial(lost, 40.0), (-40.8, 40.5), id="as-far-as-it-helps"),
        pytest.param((True, True), 1.25, partial(lost, 40.0), (-100, 99.2), id="the-wrong-way"),
        pytest.param((False, True), 0.8, partial(lost, 40.0), (-100, 40.9), id="one-side"),
        pytest.param(
            (True, True),
            0.8,
            lambda code: {100: 1.0, 80: 1.1, 64: 0.5}.get(round(-code_range(code)[0]), 2.0),
            (-64, 63.5),
            id="over-a-step-that-does-not",
        ),
    ],
)
def test_a_range_is_followed_while_it_helps(
    sides: tuple[bool, bool], factor: float, harm: Callable[[Code], float], reached: tuple[float, float]
) -> None:
    start = (float(np.float32(100 / 128)), 128)
    assert code_range(_walk(start, sides, factor, harm)) == pytest.approx(reached, rel=0.03)
