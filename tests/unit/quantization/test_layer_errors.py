"""FP32, QuantSim and the exported file, layer by layer: both backends, and faults that are planted in one layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.layer_codes import CodedTensor, FileLayers, matched
from hpe_tasks.quantization import quantize_model
from hpe_tasks.quantization.layer_errors import compare_layers
from hpe_tasks.quantization.layer_tensors import LayerTensors, open_layers
from hpe_tasks.records.layers import LARGEST_DB, LayerDiagnosis, LayerError
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = QuantizationRecipe(scheme="min_max")


class Made(NamedTuple):
    """A quantized network and its file."""

    config: ModelConfig
    images: np.ndarray
    layers: LayerTensors
    file: Path

    def compare(self, file: Path | None = None, images: np.ndarray | None = None) -> LayerDiagnosis:
        shown = self.images if images is None else images
        errors, unmatched = compare_layers(self.layers, FileLayers(file or self.file, self.config), shown)
        return LayerDiagnosis(recipe=RECIPE, num_images=len(shown), layers=errors, unmatched=unmatched)


def _torch(folder: Path) -> tuple[ModelConfig, Path]:
    config = tiny.mobilenet_config()
    return config, tiny.write_checkpoint(folder / "weights.safetensors", config)


def _onnx(folder: Path) -> tuple[ModelConfig, Path]:
    return tiny.onnx_config(), tiny.write_onnx(folder / "model.onnx")


def _onnx_nhwc(folder: Path) -> tuple[ModelConfig, Path]:
    config = tiny.onnx_config(input_layout="nhwc", output_layout="nhwc")
    return config, tiny.write_onnx(folder / "model.onnx", shape=(1, 32, 64, 3), nhwc=True)


NETWORKS: dict[str, Callable[[Path], tuple[ModelConfig, Path]]] = {
    "torch": _torch,
    "onnx": _onnx,
    "onnx, nhwc": _onnx_nhwc,
}


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=list(NETWORKS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("layers")
    config, checkpoint = request.param(folder)
    images = tiny.smooth_images(4, config)
    for name in ("quantsim", "exported"):
        (folder / name).mkdir()
    files = quantize_model(config, RECIPE, checkpoint, [images], folder / "quantsim", "cpu")
    file = export_onnx(config, RECIPE, files.model, files.encodings, folder / "exported")
    return Made(config, images, open_layers(config, RECIPE, checkpoint, files.model, files.encodings, [images]), file)


def test_every_layer_is_compared_in_order_and_none_parts(made: Made) -> None:
    compared = made.compare()
    assert compared.unmatched == 0
    assert compared.first_parted is None
    assert compared.layers[0].operator == "input"
    assert compared.layers[-1].operator == "output"
    coded = [layer for layer in compared.layers if layer.low is not None]
    assert len(coded) == len(FileLayers(made.file, made.config).tensors)
    for layer in coded:
        assert layer.range_db is not None
        # Weights and the ranges of what it is given can only add to what the range itself costs.
        assert layer.alone_db < layer.range_db + 0.5
        assert 20 < layer.alone_db < LARGEST_DB
        # Calibrated on these images by their extremes: nothing lies outside.
        assert layer.clipped < 0.02
        assert layer.saturated_file == pytest.approx(layer.saturated_quantsim, abs=0.03)
    first, last = coded[0], coded[-1]
    assert first.alone_db == pytest.approx(first.quantsim_db, abs=0.01) == pytest.approx(first.file_db, abs=0.01)
    assert last.quantsim_db < last.alone_db  # errors gather
    assert compared.worst[0].alone_db == min(layer.alone_db for layer in coded)


def test_images_beyond_the_calibrated_ranges_are_clipped(made: Made) -> None:
    compared = made.compare(images=3 * made.images)
    first = compared.layers[0]
    assert 0.01 < first.clipped < 0.9
    assert first.saturated_quantsim >= first.clipped
    assert first.saturated_file == pytest.approx(first.saturated_quantsim, abs=1e-3)
    assert first.range_db is not None
    assert first.range_db < 15
    assert first.float_high > 2 * (first.high or 0)


def test_the_layer_at_which_quantsim_and_file_part_is_named(made: Made, tmp_path: Path) -> None:
    """The weights of the file's second layer are made a fifth larger: all after it differ, it is named."""
    model = onnx.load(made.file)
    wrong = [node for node in model.graph.node if node.op_type == "Conv"][1]
    dequantized = next(node for node in model.graph.node if node.output[0] == wrong.input[1])
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == dequantized.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.2), scale.name))
    # Its bias is in the scale of its weights.
    bias = next(node for node in model.graph.node if node.output[0] == wrong.input[2])
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == bias.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.2), scale.name))
    onnx.save(model, tmp_path / "wrong.onnx")

    compared, healthy = made.compare(tmp_path / "wrong.onnx"), made.compare()
    parted = [layer for layer in compared.layers if layer.parted]
    assert [layer.name for layer in parted] == [compared.first_parted.name if compared.first_parted else ""]
    place = compared.layers.index(parted[0])
    assert parted[0].parted_share > 0.05
    # The file is worse from there on; QuantSim is what it was.
    assert compared.layers[place].file_db < healthy.layers[place].file_db - 3
    assert compared.layers[place - 1] == healthy.layers[place - 1]
    assert compared.layers[place].quantsim_db == healthy.layers[place].quantsim_db
    assert compared.layers[place].alone_db < healthy.layers[place].alone_db - 3


def test_without_an_image_there_is_nothing_to_compare(made: Made) -> None:
    with pytest.raises(QuantizationError, match="no image to compare"):
        compare_layers(made.layers, FileLayers(made.file, made.config), [])


def _tensor(name: str, scale: float, zero_point: int = 0) -> tuple[CodedTensor, tuple[int, ...]]:
    return CodedTensor(name, scale, zero_point, np.dtype(np.uint8)), (1, 8, 4, 4)


def _range(scale: float, zero_point: int = 0) -> tuple[float | None, float | None, tuple[int, ...]]:
    tensor, shape = _tensor("", scale, zero_point)
    return tensor.low, tensor.high, shape


MATCHES = {
    "in order": ([_tensor("a", 1), _tensor("b", 2)], [_range(1), _range(2)], {"a": 0, "b": 1}),
    "another zero point": ([_tensor("a", 1)], [_range(1, 128)], {}),
    "another shape": ([_tensor("a", 1)], [(0.0, 255.0, (1, 8, 2, 2))], {}),
    "an output in float": ([_tensor("a", 1)], [(None, None, (1, 8, 4, 4)), _range(1)], {"a": 1}),
    "ranges that are the same": (
        [_tensor("a", 1), _tensor("b", 2), _tensor("c", 1)],
        [_range(1), _range(3), _range(2), _range(1)],
        {"a": 0, "b": 2, "c": 3},
    ),
    "pairs that the file has joined": (
        [_tensor("a", 1), _tensor("b", 2)],
        [_range(1), _range(1), _range(2)],
        {"a": 0, "b": 2},
    ),
    "one that the simulation lacks": ([_tensor("a", 1), _tensor("b", 2)], [_range(2)], {"b": 0}),
    "rounded otherwise": ([_tensor("a", 1)], [_range(1.0001)], {"a": 0}),
    "nothing": ([], [], {}),
}


@pytest.mark.parametrize(("file", "ranges", "expected"), MATCHES.values(), ids=MATCHES)
def test_tensors_of_the_file_are_matched_by_their_ranges(
    file: list[tuple[CodedTensor, tuple[int, ...]]],
    ranges: list[tuple[float | None, float | None, tuple[int, ...]]],
    expected: dict[str, int],
) -> None:
    assert matched(file, ranges) == expected


def test_codes_are_rounded_and_restored_as_onnxruntime_does() -> None:
    tensor = CodedTensor("a", 0.5, 10, np.dtype(np.uint8))
    assert tensor.codes(np.array([-9.0, 0.25, 0.75, 1.0, 900.0], np.float32)).tolist() == [0, 10, 12, 12, 255]
    assert tensor.values(np.array([0, 12], np.uint8)).tolist() == [-5.0, 1.0]
    assert (tensor.low, tensor.high) == (-5.0, 122.5)


def test_a_record_names_the_worst_layers_first() -> None:
    def layer(name: str, alone: float, parted: int | None = 0, low: float | None = 0.0) -> LayerError:
        return LayerError(
            name=name, operator="Conv", low=low, high=1.0, float_low=0, float_high=1, alone_db=alone, quantsim_db=1,
            file_db=1, parted_codes=parted,
        )  # fmt: skip

    told = LayerDiagnosis(
        recipe=RECIPE,
        num_images=1,
        layers=(layer("a", 40), layer("b", 20), layer("c", 30, 2), layer("d", 35, 9), layer("o", 10, None, None)),
    )
    assert [one.name for one in told.worst] == ["b", "c", "d", "a"]
    assert told.first_parted is not None
    assert told.first_parted.name == "c"
