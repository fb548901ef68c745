from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.mpii import load_mpii
from hpe_tasks.errors import CheckpointError, DatasetError
from hpe_tasks.inference import (
    CropBatch,
    calibration_batches,
    find_poses,
    fp32_predictor,
    mpii_batches,
    onnx_predictor,
    person_batches,
)
from hpe_tasks.models import build_model
from hpe_tasks.pose.crops import box_to_center_scale, transform_points
from hpe_tasks.pose.skeletons import COCO17
from support.crop_matrices import inverse_crop_matrix
from support.mpii_factory import write_mpii
from support.named_outputs import heatmap_network, joined

CONFIG = ModelConfig(checkpoint="unused", architecture="onnx", input_width=64, input_height=96)
JOINTS = len(COCO17.joints)
MakeDataset = Callable[..., CocoDataset]


def photograph(width: int, height: int, seed: int) -> np.ndarray:
    """A smooth random picture, H×W×3 BGR."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a split `val` with one image for each list of boxes."""

    def make(*boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int] = (160, 120)) -> CocoDataset:
        folder = tmp_path / "images" / "val"
        folder.mkdir(parents=True)
        (tmp_path / "annotations").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, in_image in enumerate(boxes, start=1):
            name = f"{number:04d}.png"
            cv2.imwrite(str(folder / name), photograph(*size, seed=number))
            images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
            for box in in_image:
                annotations.append(
                    {
                        "id": 1000 + len(annotations),
                        "image_id": number,
                        "category_id": 1,
                        "bbox": list(box),
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                        "num_keypoints": JOINTS,
                        "keypoints": [box[0] + 1, box[1] + 1, 2] * JOINTS,
                    }
                )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
        }
        (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
        return load_coco(tmp_path, "val")

    return make


BOX = (20.0, 10.0, 61.0, 81.0)
SMALL = (70.0, 40.0, 31.0, 31.0)


def pooled(images: np.ndarray) -> np.ndarray:
    """A network without weights: the mean of 4×4 pixels, the same in every channel."""
    count, _, height, width = images.shape
    means = images.reshape(count, 3, height // 4, 4, width // 4, 4).mean(axis=(1, 3, 5))
    return np.repeat(means[:, None], JOINTS, axis=1).astype(np.float32)


def write_onnx(
    path: Path,
    *,
    batch: int | str = "N",
    joints: int = JOINTS,
    layout_in: str = "nchw",
    layout_out: str = "nchw",
    size: tuple[int, int] = (64, 96),
    extra_output: bool = False,
    flat: bool = False,
) -> Path:
    """A small pose network: 4×4 mean, then a 1×1 convolution to the joints."""
    width, height = size
    weights = np.linspace(-1, 1, joints * 3, dtype=np.float32).reshape(joints, 3, 1, 1)
    shape_in = [batch, 3, height, width] if layout_in == "nchw" else [batch, height, width, 3]
    nodes = []
    current = "image"
    if layout_in == "nhwc":
        nodes.append(helper.make_node("Transpose", [current], ["planes"], perm=[0, 3, 1, 2]))
        current = "planes"
    nodes.append(helper.make_node("AveragePool", [current], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]))
    nodes.append(helper.make_node("Conv", ["pooled", "weights"], ["maps"]))
    shape_out = [batch, joints, height // 4, width // 4]
    if layout_out == "nhwc":
        nodes.append(helper.make_node("Transpose", ["maps"], ["heatmaps"], perm=[0, 2, 3, 1]))
        shape_out = [batch, height // 4, width // 4, joints]
    elif flat:
        nodes.append(helper.make_node("Flatten", ["maps"], ["heatmaps"], axis=1))
        shape_out = [batch, joints * height // 4 * width // 4]
    else:
        nodes.append(helper.make_node("Identity", ["maps"], ["heatmaps"]))
    outputs = [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, shape_out)]
    if extra_output:
        outputs.insert(
            0, helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, 3, height // 4, width // 4])
        )
    graph = helper.make_graph(
        nodes,
        "pose",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape_in)],
        outputs,
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def everything(batches: Sequence[CropBatch]) -> np.ndarray:
    return np.concatenate([batch.images for batch in batches])


# Crops


def test_a_crop_shows_the_person_as_the_protocol_says(make_dataset: MakeDataset) -> None:
    """Every crop pixel against the image at the place that the inverse affine names, interpolated by hand."""
    dataset = make_dataset([BOX])
    (batch,) = person_batches(dataset, CONFIG, 8)
    assert batch.images.shape == (1, 3, 96, 64)
    assert batch.images.dtype == np.float32
    center, scale = box_to_center_scale(BOX, (160, 120), (64, 96))
    assert_array_equal(batch.centers, [center])
    assert_array_equal(batch.scales, [scale])

    ys, xs = np.mgrid[0:96, 0:64]
    at = transform_points(np.stack([xs, ys], axis=-1), inverse_crop_matrix(center, scale, (64, 96)))
    pixels = np.pad(photograph(160, 120, seed=1).astype(np.float64), ((200, 200), (200, 200), (0, 0)))  # border 0
    x0, y0 = np.floor(at).astype(int).transpose(2, 0, 1)
    fx, fy = (at - np.floor(at)).transpose(2, 0, 1)[..., None]
    x0, y0 = x0 + 200, y0 + 200
    top = pixels[y0, x0] * (1 - fx) + pixels[y0, x0 + 1] * fx
    bottom = pixels[y0 + 1, x0] * (1 - fx) + pixels[y0 + 1, x0 + 1] * fx
    rgb = (top * (1 - fy) + bottom * fy)[:, :, ::-1] / 255
    expected = ((rgb - CONFIG.mean) / CONFIG.std).transpose(2, 0, 1)
    # OpenCV interpolates at 1/32 pixel and rounds to 8 bits.
    assert_allclose(batch.images[0], expected, atol=0.1)
    assert np.abs(batch.images[0] - expected).mean() < 0.02


def test_persons_come_in_order_and_in_full_batches(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([BOX, SMALL], [], [SMALL], [BOX, BOX, SMALL], [BOX])
    batches = list(person_batches(dataset, CONFIG, 3))
    assert [len(batch.persons) for batch in batches] == [3, 3, 1]
    assert [p.annotation_id for batch in batches for p in batch.persons] == list(range(1000, 1007))
    one_by_one = everything(list(person_batches(dataset, CONFIG, 1)))
    assert_array_equal(everything(batches), one_by_one)


def test_only_the_persons_asked_for_are_cut_out(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([BOX, SMALL], [SMALL], [BOX])
    chosen = [p for p in dataset.all_persons() if p.annotation_id in {1001, 1003}]
    (batch,) = person_batches(dataset, CONFIG, 8, chosen)
    assert batch.persons == tuple(chosen)
    assert list(person_batches(dataset, CONFIG, 8, [])) == []


def test_an_image_is_decoded_once_for_all_its_persons(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset([BOX, SMALL, BOX, SMALL], [SMALL, BOX])
    decoded = []
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(1) or original(*args))
    assert sum(len(batch.persons) for batch in person_batches(dataset, CONFIG, 2)) == 6
    assert len(decoded) == 2


def test_a_consumer_that_stops_leaves_no_thread_and_reads_only_a_little_ahead(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(*[[SMALL]] * 60)
    decoded = []
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(1) or original(*args))
    batches: Any = person_batches(dataset, CONFIG, 1)
    next(batches)
    batches.close()
    assert len(decoded) <= 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hpe-ahead")]


def test_the_exif_orientation_is_not_applied(make_dataset: MakeDataset) -> None:
    """COCO annotates the pixels as they are stored; here a tag asks to turn them by 90 degrees."""
    dataset = make_dataset([BOX])
    path = dataset.image_path(dataset.images[0])
    _, encoded = cv2.imencode(".jpg", photograph(160, 120, seed=1), [cv2.IMWRITE_JPEG_QUALITY, 100])
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    jpeg = encoded.tobytes()
    path.write_bytes(jpeg[:2] + segment + jpeg[2:])
    assert cv2.imread(str(path)).shape == (160, 120, 3)  # the tag is really there
    (batch,) = person_batches(dataset, CONFIG, 8)
    path.write_bytes(jpeg)
    (plain,) = person_batches(dataset, CONFIG, 8)
    assert_array_equal(batch.images, plain.images)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "missing", id="missing"),
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"<html>not found</html>" * 20, "not an image", id="html"),
        pytest.param(cv2.imencode(".jpg", photograph(160, 120, 2))[1].tobytes()[:900], "cut off", id="truncated-jpeg"),
        pytest.param(cv2.imencode(".png", photograph(80, 60, 2))[1].tobytes(), "80×60 pixels", id="another-size"),
    ],
)
def test_a_broken_image_is_named(make_dataset: MakeDataset, content: bytes | None, says: str) -> None:
    dataset = make_dataset([BOX], [BOX], [BOX])
    path = dataset.image_path(dataset.images[1])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=says) as caught:
        list(person_batches(dataset, CONFIG, 1))
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_box_outside_its_image_is_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([BOX], [(500.0, 10.0, 40.0, 40.0)])
    with pytest.raises(DatasetError, match=r"The image .*0002\.png does not fit annotation 1001: .* nothing of"):
        list(person_batches(dataset, CONFIG, 1))


# Predictions


def test_predictions_are_in_image_pixels(make_dataset: MakeDataset) -> None:
    """The brightest spot of the picture is found where it was painted."""
    dataset = make_dataset([(10, 10, 101, 101)])
    path = dataset.image_path(dataset.images[0])
    picture = np.zeros((120, 160, 3), dtype=np.uint8)
    cv2.circle(picture, (70, 50), 4, (255, 255, 255), -1)
    cv2.imwrite(str(path), picture)
    (found,) = find_poses(person_batches(dataset, CONFIG, 8), heatmap_network(pooled), CONFIG)
    assert [p.annotation_id for p in found.persons] == [1000]
    assert found.poses.joints.shape == (1, JOINTS, 2)
    # A heatmap pixel covers 4 input pixels and stands for their first, hence the bias of a pixel and a half.
    pixel = found.scales[0, 0] * 200 / 16
    assert_allclose(found.poses.joints[0, 0], (70 - pixel * 1.5 / 4, 50 - pixel * 1.5 / 4), atol=pixel)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(lambda x: pooled(x)[:, :16], "2×16×24×16.*17 joints", id="another-joint-count"),
        pytest.param(lambda x: pooled(x)[:, :, 0], "2×17×16", id="another-rank"),
        pytest.param(lambda x: pooled(x)[:1], "1×17×24×16.*2 inputs", id="another-batch"),
        pytest.param(lambda x: pooled(x) * np.nan, "NaN", id="nan"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(
    make_dataset: MakeDataset, broken: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    dataset = make_dataset([BOX, SMALL])
    with pytest.raises(CheckpointError, match=says):
        list(find_poses(person_batches(dataset, CONFIG, 8), heatmap_network(broken), CONFIG))


def test_the_files_whose_maps_are_broken_are_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([BOX], [SMALL, BOX], [BOX], [BOX])

    def broken(images: np.ndarray) -> np.ndarray:
        maps = pooled(images)
        maps[[1, 2, 4], 3, 5, 7] = np.nan, np.inf, np.nan
        return maps

    with pytest.raises(CheckpointError, match=r"outputs of 0002\.png, 0004\.png hold NaN") as caught:
        list(find_poses(person_batches(dataset, CONFIG, 8), heatmap_network(broken), CONFIG))
    assert "model.mean" in caught.value.hint


def test_fp32_runs_without_tf32_and_repeatably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(architecture="pose_mobilenet", checkpoint="unused", input_width=64, input_height=96)
    network = build_model(config)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    monkeypatch.setattr("hpe_tasks.models.build_model", lambda _: network)
    cudnn, seen = torch.backends.cudnn, []
    network.register_forward_pre_hook(lambda *_: seen.append((cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic)))
    fp32_predictor(config, tmp_path / "network.pth", "cpu")(np.zeros((1, 3, 96, 64), np.float32))
    assert seen == [(True, False, True)]
    assert cudnn.allow_tf32  # as it was


def test_fp32_runs_a_torch_network_in_evaluation_mode(tmp_path: Path) -> None:
    config = ModelConfig(architecture="pose_mobilenet", checkpoint="unused", input_width=64, input_height=96)
    torch.manual_seed(0)
    network = build_model(config)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    run = fp32_predictor(config, tmp_path / "network.pth", "cpu")
    images = np.random.default_rng(0).normal(size=(3, 3, 96, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    got = run(images)["heatmaps"]
    assert got.shape == (3, JOINTS, 24, 16)
    assert got.dtype == np.float32
    assert_allclose(got, expected, atol=1e-5)
    assert_array_equal(run(images)["heatmaps"], got)


@pytest.mark.parametrize("size", [(64, 48), (48, 64)], ids=["wide", "high"])
def test_fp32_gives_the_part_affinity_fields_and_then_the_heatmaps(tmp_path: Path, size: tuple[int, int]) -> None:
    config = ModelConfig(architecture="aimet_pose", codec="paf", checkpoint="unused", input_width=64, input_height=48)
    torch.manual_seed(0)
    network = build_model(config)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    images = np.random.default_rng(0).normal(size=(2, 3, size[1], size[0])).astype(np.float32)
    maps = joined(fp32_predictor(config, tmp_path / "network.pth", "cpu")(images))
    assert maps.shape == (2, 57, size[1] // 8, size[0] // 8)
    with torch.inference_mode():
        pafs, heatmaps = (output.numpy() for output in network(torch.from_numpy(images)))
    assert_allclose(maps[:, :38], pafs, atol=1e-5)
    assert_allclose(maps[:, 38:], heatmaps, atol=1e-5)


# Calibration


def test_calibration_sees_the_crops_of_all_persons(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([BOX, SMALL], [], [SMALL])
    batches = list(calibration_batches(dataset, CONFIG, 2))
    assert [batch.shape for batch in batches] == [(2, 3, 96, 64), (1, 3, 96, 64)]
    assert_array_equal(np.concatenate(batches), everything(list(person_batches(dataset, CONFIG, 8))))


def test_calibration_on_mpii_sees_the_crops_of_all_persons(tmp_path: Path) -> None:
    dataset = load_mpii(write_mpii(tmp_path), "train")
    batches = list(calibration_batches(dataset, CONFIG, 3))
    assert [batch.shape for batch in batches] == [(3, 3, 96, 64), (1, 3, 96, 64)]
    assert_array_equal(np.concatenate(batches), everything(list(mpii_batches(dataset, CONFIG, 8))))


# ONNX files


@pytest.mark.parametrize("batch", ["N", 1, 2], ids=["free-batch", "batch-1", "batch-2"])
@pytest.mark.parametrize("layout_out", ["nchw", "nhwc"])
@pytest.mark.parametrize("layout_in", ["nchw", "nhwc"])
def test_every_layout_gives_the_same_heatmaps(
    tmp_path: Path, layout_in: str, layout_out: str, batch: int | str
) -> None:
    images = np.random.default_rng(0).normal(size=(3, 3, 96, 64)).astype(np.float32)
    expected = onnx_predictor(write_onnx(tmp_path / "plain.onnx"), CONFIG)(images)["heatmaps"]
    path = write_onnx(tmp_path / "model.onnx", batch=batch, layout_in=layout_in, layout_out=layout_out)
    config = CONFIG.model_copy(update={"input_layout": layout_in, "output_layout": layout_out})
    got = onnx_predictor(path, config, threads=1)(images)["heatmaps"]
    assert got.shape == (3, JOINTS, 24, 16)
    assert got.dtype == np.float32
    assert_allclose(got, expected, atol=1e-5)
    assert_allclose(fp32_predictor(config, path, "cpu")(images)["heatmaps"], got, atol=1e-6)


def test_the_output_is_chosen_by_name(tmp_path: Path) -> None:
    images = np.zeros((1, 3, 96, 64), dtype=np.float32)
    path = write_onnx(tmp_path / "model.onnx", extra_output=True)
    named = CONFIG.model_copy(update={"output_name": "heatmaps"})
    assert onnx_predictor(path, named)(images)["heatmaps"].shape == (1, JOINTS, 24, 16)
    with pytest.raises(CheckpointError, match="several outputs: pooled, heatmaps"):
        onnx_predictor(path, CONFIG)
    with pytest.raises(CheckpointError, match="no output 'heat'; it has: pooled, heatmaps"):
        onnx_predictor(path, CONFIG.model_copy(update={"output_name": "heat"}))


@pytest.mark.parametrize(
    ("model", "config", "says"),
    [
        pytest.param({"joints": 16}, {}, r"N×16×24×16; heatmaps of 17 joints \(coco17\)", id="joint-count"),
        pytest.param({"flat": True}, {}, r"N×6528; heatmaps of 17 joints", id="rank"),
        pytest.param({"layout_out": "nhwc"}, {}, r"N×24×16×17; heatmaps .* N×17×height×width", id="output-layout"),
        pytest.param({"layout_in": "nhwc"}, {}, r"N×96×64×3; .* N×3×96×64 \(nchw\)", id="input-layout"),
        pytest.param({}, {"input_width": 128}, "N×3×96×64; .* N×3×96×128", id="input-size"),
    ],
)
def test_a_model_that_is_not_as_configured_is_refused(tmp_path: Path, model: dict, config: dict, says: str) -> None:
    path = write_onnx(tmp_path / "model.onnx", **model)
    with pytest.raises(CheckpointError, match=says) as caught:
        onnx_predictor(path, CONFIG.model_copy(update=config))
    assert str(path) in caught.value.message
    assert "model." in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param(b"", "not a model", id="empty"),
        pytest.param(b"not a protobuf" * 9, "not a model", id="junk"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        onnx_predictor(path, CONFIG)
    assert str(path) in caught.value.message


def test_a_model_that_fails_while_running_says_so(tmp_path: Path) -> None:
    """A file may promise a free batch that its inside does not keep."""
    path = write_onnx(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["maps", "shape"], ["heatmaps"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, JOINTS, 24, 16]), "shape"))
    onnx.save(model, path)
    run = onnx_predictor(path, CONFIG)
    assert run(np.zeros((1, 3, 96, 64), dtype=np.float32))["heatmaps"].shape == (1, JOINTS, 24, 16)
    with pytest.raises(CheckpointError, match="2×3×96×64"):
        run(np.zeros((2, 3, 96, 64), dtype=np.float32))
