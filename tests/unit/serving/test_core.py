"""What the function reads from a manifest, what it makes of pixels, and how it finds people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.frozen import replace
from hpe_tasks.errors import BadInputError, CheckpointError, DigestError
from hpe_tasks.inference.images import normalized
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import box_to_center_scale, crop_matrix
from hpe_tasks.pose.skeletons import COCO17, EFFICIENTPOSE16, Skeleton
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.serving.network import Network
from hpe_tasks.serving.pose_finder import PoseFinder
from hpe_tasks.serving.preprocessing import crop, normalize, resize
from hpe_tasks.serving.served_model import ServedModel
from support import sample_records as records
from support.paf_scenes import STANDING, ideal_maps
from support.tiny_networks import paf_onnx, pose_onnx

# The manifest ------------------------------------------------------------------------------------------------------

_PAF = ModelConfig(checkpoint="w.pth", architecture="aimet_pose", codec="paf", input_width=496, input_height=384)
_PAF_OUTPUTS = (
    TensorSpec(name="fields", dtype="float32", shape=("batch", 38, "h", "w")),
    TensorSpec(name="heat", dtype="float32", shape=("batch", 19, "h", "w")),
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return json.loads(records.manifest(records.write_files(tmp_path_factory.mktemp("files"))).to_bytes())


@pytest.fixture(scope="module")
def paf_manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = records.write_files(tmp_path_factory.mktemp("files"))
    made = records.manifest(files, config=records.run_config(model=_PAF), outputs=_PAF_OUTPUTS)
    return json.loads(made.to_bytes())


def test_a_top_down_manifest(tmp_path: Path) -> None:
    files = records.write_files(tmp_path)
    published = records.manifest(files, protocol={"flip_test": True})
    model = ServedModel.from_manifest(published.to_bytes())
    assert (model.name, model.version) == (published.name, published.version)
    assert (model.codec, model.input_name, model.input_layout) == ("heatmap", "image", "nchw")
    assert model.input_sizes == ((192, 256),)
    assert model.channel_order == "rgb"
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.std == (0.229, 0.224, 0.225)
    assert (model.outputs, model.output_layout) == ({"heatmaps": "heatmaps"}, "nchw")
    assert model.skeleton == COCO17
    assert model.flip_pairs == COCO17.flip_pairs
    assert model.flip_test
    assert model.model_sha256 == published.file("model").sha256
    assert model.model_size_bytes == files["model"].stat().st_size


def test_a_manifest_of_a_file_of_ones_own(tmp_path: Path) -> None:
    config = ModelConfig(
        checkpoint="m.onnx", architecture="onnx", skeleton="efficientpose16", input_layout="nhwc", output_layout="nhwc"
    )
    made = records.manifest(records.write_files(tmp_path), config=records.run_config(model=config))
    model = ServedModel.from_manifest(made.to_bytes())
    assert (model.input_layout, model.output_layout, model.flip_test) == ("nhwc", "nhwc", False)
    assert model.skeleton == EFFICIENTPOSE16


def test_a_bottom_up_manifest(paf_manifest: dict[str, Any]) -> None:
    model = ServedModel.from_manifest(json.dumps(paf_manifest).encode())
    assert model.codec == "paf"
    assert model.input_sizes == ((496, 384), (384, 496))
    assert model.outputs == {"pafs": "fields", "heatmaps": "heat"}


def changed(manifest: dict[str, Any], path: tuple[Any, ...], value: Any) -> bytes:
    copy = json.loads(json.dumps(manifest))
    place = copy
    for part in path[:-1]:
        place = place[part]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(copy).encode()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema_version",), 2, r"schema_version is 2; it must be 1, the only one that this function knows"),
        (("schema_version",), ..., r"no schema_version"),
        (("schema_version",), True, r"schema_version is True"),
        (("name",), "../x", r"name is '\.\./x'"),
        (("version",), "ABC", r"version is 'ABC'"),
        (("serving",), [], r"serving is \[\]; it must be an object"),
        (("serving", "codec"), "dsnt", r"serving\.codec is 'dsnt'; it must be 'heatmap' or 'paf' or 'simcc'"),
        (("serving", "channel_order"), "grb", r"serving\.channel_order is 'grb'; it must be 'rgb' or 'bgr'"),
        (("serving", "input"), ..., r"no serving\.input;"),
        (("serving", "input", "name"), "", r"serving\.input\.name is ''"),
        (("serving", "input_layout"), "chw", r"serving\.input_layout"),
        (("serving", "output_layout"), None, r"serving\.output_layout is None"),
        (("serving", "input_sizes"), [], r"serving\.input_sizes is \[\]"),
        (("serving", "input_sizes"), [[192, 256], [256, 192]], r"serving\.input_sizes .* one \(width, height\)"),
        (("serving", "input_sizes"), [[192.0, 256]], r"serving\.input_sizes"),
        (("serving", "input_sizes"), [[0, 256]], r"serving\.input_sizes"),
        (("serving", "mean"), [0.5, 0.5], r"serving\.mean is \[0\.5, 0\.5\]; it must be three numbers"),
        (("serving", "mean"), [0.5, 0.5, float("nan")], r"serving\.mean"),
        (("serving", "mean"), [0.5, 0.5, 10**400], r"serving\.mean"),
        (("serving", "std"), [0.5, 0, 0.5], r"serving\.std .* three positive numbers"),
        (("serving", "outputs"), {}, r"no serving\.outputs\.heatmaps;"),
        (("serving", "outputs", "heatmaps", "name"), 3, r"serving\.outputs\.heatmaps\.name is 3"),
        (("serving", "joints"), ["nose", "nose"], r"serving\.joints"),
        (("serving", "joints"), [], r"serving\.joints"),
        (("serving", "joints"), [["nose"]], r"serving\.joints"),
        (("serving", "limbs"), [[0, 17]], r"serving\.limbs is \[\[0, 17\]\]; it must be pairs of .* 0 to 16"),
        (("serving", "flip_pairs"), [[1, 2, 3]], r"serving\.flip_pairs"),
        (("serving", "flip_pairs"), [[-1, 2]], r"serving\.flip_pairs"),
        (("serving", "skeleton"), ..., r"no serving\.skeleton"),
        (("onnx", "fingerprint", "flip_test"), 1, r"onnx\.fingerprint\.flip_test is 1; it must be true or false"),
        (("onnx", "fingerprint"), ..., r"no onnx\.fingerprint;"),
        (("files",), [], r"files is \[\]; it must be a list with one file of the role 'model'"),
        (("files", 1, "sha256"), "0" * 63, r"files\[role=model\]\.sha256"),
        (("files", 1, "size_bytes"), 0, r"files\[role=model\]\.size_bytes is 0"),
    ],
)
def test_a_wrong_field_is_named(manifest: dict[str, Any], path: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises(DigestError, match=says) as refused:
        ServedModel.from_manifest(changed(manifest, path, value))
    assert refused.value.hint


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("serving", "input_sizes"), [[496, 384]], "and for high images the two swapped"),
        (("serving", "input_sizes"), [[496, 384], [496, 384]], "and for high images the two swapped"),
        (("serving", "outputs", "pafs"), ..., "no serving.outputs.pafs"),
        (("serving", "joints"), ["nose"], "the 17 of coco17"),
        (("onnx", "fingerprint", "flip_test"), True, "false with codec 'paf'"),
    ],
)
def test_a_wrong_field_of_a_bottom_up_manifest(
    paf_manifest: dict[str, Any], path: tuple[Any, ...], value: Any, says: str
) -> None:
    with pytest.raises(DigestError, match=says):
        ServedModel.from_manifest(changed(paf_manifest, path, value))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (b"[]", "a JSON list"),
        (b"null", "a JSON NoneType"),
    ],
    ids=["empty", "binary", "deep", "long-number", "list", "null"],
)
def test_what_is_no_manifest(data: bytes, says: str) -> None:
    with pytest.raises(DigestError, match=says):
        ServedModel.from_manifest(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([1, 2]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *_places(inner, (*path, key)))]


@pytest.mark.parametrize("kind", ["manifest", "paf_manifest"])
def test_no_manifest_breaks_the_reader(kind: str, request: pytest.FixtureRequest) -> None:
    valid = request.getfixturevalue(kind)
    read = [p for p in _places(valid) if p[0] in ("schema_version", "name", "version", "serving", "files", "onnx")]

    @settings(max_examples=400, deadline=None)
    @given(path=st.sampled_from(read), value=_JSON | st.just(...))
    def refused_or_read(path: tuple[Any, ...], value: Any) -> None:
        try:
            model = ServedModel.from_manifest(changed(valid, path, value))
        except DigestError:
            return
        assert len(model.mean) == 3
        assert all(0 <= joint < len(model.skeleton.joints) for pair in model.flip_pairs for joint in pair)

    @settings(max_examples=200, deadline=None)
    @given(data=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
    def anything(data: bytes) -> None:
        with pytest.raises(DigestError):
            ServedModel.from_manifest(data)

    refused_or_read()
    anything()


# Pixels ------------------------------------------------------------------------------------------------------------

_SIDE = st.integers(1, 300)


@st.composite
def _boxes_in_images(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[float, ...], tuple[int, int]]:
    width, height = draw(_SIDE), draw(st.integers(2, 300))
    corner, extent = st.floats(-0.3, 1.3), st.floats(0.01, 1.3)
    box = (draw(corner) * width, draw(corner) * height, draw(extent) * width, draw(extent) * height)
    return (width, height), box, draw(st.sampled_from([(128, 192), (192, 256), (96, 64), (224, 224)]))


@settings(max_examples=300, deadline=None)
@given(case=_boxes_in_images(), clip=st.booleans(), seed=st.integers(0, 5))
def test_a_crop_is_that_of_opencv_to_the_byte(case: Any, clip: bool, seed: int) -> None:
    image_size, box, size = case
    try:
        center, scale = box_to_center_scale(box, image_size, size, clip=clip)
    except BadInputError:
        return
    image = np.random.default_rng(seed).integers(0, 256, (image_size[1], image_size[0], 3), dtype=np.uint8)
    expected = cv2.warpAffine(
        image, crop_matrix(center, scale, size), size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    assert_array_equal(crop(image, center, scale, size), expected)


@settings(max_examples=200, deadline=None)
@given(
    image_size=st.tuples(st.integers(1, 1000), st.integers(1, 1000))
    | st.sampled_from([(992, 768), (496, 384), (992, 384), (1488, 1152), (384, 496), (1, 1), (20_000, 3), (2, 20_000)]),
    size=st.sampled_from([(496, 384), (384, 496), (64, 48)]),
    seed=st.integers(0, 5),
)
def test_a_resized_image_is_that_of_opencv_to_the_byte(
    image_size: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (image_size[1], image_size[0], 3), dtype=np.uint8)
    assert_array_equal(resize(image, size), cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))


def test_mean_and_std_are_in_the_order_of_the_channels() -> None:
    """Blue comes first where the network takes BGR, and the first mean and std are then of blue."""
    config = ModelConfig(checkpoint="sample", channel_order="bgr", mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4))
    bgr = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    expected = (bgr / 255 - config.mean) / config.std
    np.testing.assert_allclose(normalized(bgr, config), expected.transpose(2, 0, 1), rtol=1e-5)


@pytest.mark.parametrize("nhwc", [False, True])
def test_pixels_are_normalized_as_in_the_evaluation(nhwc: bool) -> None:
    config = ModelConfig(checkpoint="sample", mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.4))
    rgb = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    room = np.zeros((64, 48, 3) if nhwc else (3, 64, 48), np.float32)
    normalize(rgb, input_levels(config.mean, config.std), room.transpose(2, 0, 1) if nhwc else room)
    expected = normalized(np.ascontiguousarray(rgb[..., ::-1]), config)
    assert_array_equal(room, expected.transpose(1, 2, 0) if nhwc else expected)


# People ------------------------------------------------------------------------------------------------------------

_NAMES = ("left_hand", "right_hand", "head", "left_foot", "right_foot")
_RED, _SIZE = (255, 0, 0), (64, 32)


def served(**changes: Any) -> ServedModel:
    """A network of five joints on crops of 64×32."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "0123456789abcdef",
        "codec": "heatmap",
        "input_name": "image",
        "input_layout": "nchw",
        "input_sizes": (_SIZE,),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "outputs": {"heatmaps": "heatmaps"},
        "output_layout": "nchw",
        "skeleton": Skeleton("custom", _NAMES, ()),
        "flip_pairs": ((0, 1), (3, 4)),
        "flip_test": False,
        "model_sha256": "0" * 64,
        "model_size_bytes": 1,
    }
    return ServedModel(**(fields | changes))


def colour_network(path: Path, *, batch: int | str = "n", nhwc: bool = False, scale: float = 1.0) -> Path:
    """Maps of the input's own size: red, green, blue, 1 − red and −1 everywhere."""
    weights = np.zeros((5, 3, 1, 1), np.float32)
    weights[[0, 1, 2, 3], [0, 1, 2, 0], 0, 0] = np.array([1, 1, 1, -1]) * scale
    bias = np.array([0, 0, 0, scale, -1], np.float32)
    first, last = ("planar", "planes") if nhwc else ("image", "heatmaps")
    nodes = [helper.make_node("Conv", [first, "w", "b"], [last])]
    if nhwc:
        nodes = [
            helper.make_node("Transpose", ["image"], [first], perm=[0, 3, 1, 2]),
            *nodes,
            helper.make_node("Transpose", [last], ["heatmaps"], perm=[0, 2, 3, 1]),
        ]
    dims = (batch, "h", "w", 3) if nhwc else (batch, 3, "h", "w")
    maps = (batch, "h", "w", 5) if nhwc else (batch, 5, "h", "w")
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, maps)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def picture(*dots: tuple[int, int, tuple[int, int, int]], size: tuple[int, int] = (160, 100)) -> np.ndarray:
    """A black image with soft dots (x, y, colour)."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y, colour in dots:
        cv2.circle(image, (x, y), 3, colour, -1)
    return np.asarray(cv2.GaussianBlur(image, (7, 7), 2))


def test_one_person_in_the_whole_frame(tmp_path: Path) -> None:
    finder = PoseFinder(served(), colour_network(tmp_path / "m.onnx"), threads=1)
    found, timings = finder.find(picture((40, 30, _RED), (120, 70, (0, 255, 0)), (80, 50, (0, 0, 255))), None)
    assert found.joints.shape == (1, 5, 2)
    assert_allclose(found.joints[0, :3], [(40, 30), (120, 70), (80, 50)], atol=2.5)
    assert_array_equal(found.joint_scores[0, 4], 0)
    assert np.isnan(found.joints[0, 4]).all()
    assert found.scores[0] == pytest.approx(found.joint_scores[0, :4].mean())
    x, y, width, height = found.boxes[0]
    kept = found.joints[0, :4]
    assert_allclose([(x, y), (x + width, y + height)], [kept.min(axis=0), kept.max(axis=0)], rtol=1e-6)
    assert min(timings.preprocess_ms, timings.network_ms, timings.decode_ms) > 0


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_every_box_has_its_person_whatever_the_batch(tmp_path: Path, batch: int | str, nhwc: bool) -> None:
    layout = "nhwc" if nhwc else "nchw"
    file = colour_network(tmp_path / "m.onnx", batch=batch, nhwc=nhwc)
    finder = PoseFinder(served(input_layout=layout, output_layout=layout), file, threads=1)
    centers = [(20 + 30 * i, 20 + 15 * (i % 4)) for i in range(10)]
    image = picture(*((x, y, _RED) for x, y in centers), size=(320, 100))
    boxes = np.array([(x - 10, y - 7, 20, 14) for x, y in centers], np.float64)
    found, _ = finder.find(image, boxes)
    assert_allclose(found.joints[:, 0], centers, atol=0.6)
    assert_array_equal(found.boxes, boxes)
    nobody, _ = finder.find(image, np.empty((0, 4)))
    assert nobody.joints.shape == (0, 5, 2)
    assert nobody.scores.shape == (0,)


def test_the_flip_test_is_that_of_the_evaluation(tmp_path: Path) -> None:
    file = colour_network(tmp_path / "m.onnx")
    image, box = picture((60, 50, _RED), (100, 50, (0, 255, 0))), np.array([[40.0, 30.0, 80.0, 40.0]])
    plain, _ = PoseFinder(served(), file, threads=1).find(image, box)
    # This network takes red for the left hand in the mirrored image as well, where it is the right one.
    flipped, _ = PoseFinder(served(flip_test=True), file, threads=1).find(image, box)
    assert plain.joint_scores[0, 0] > 0.7
    assert flipped.joint_scores[0, 0] == pytest.approx(plain.joint_scores[0, 0] / 2, rel=0.1)
    alone, _ = PoseFinder(served(flip_test=True, flip_pairs=()), file, threads=1).find(image, box)
    assert alone.joint_scores[0, 0] > 0.65
    assert_allclose(alone.joints[0, 0], plain.joints[0, 0], atol=1.5)


def test_nobody_is_in_a_frame_without_joints(tmp_path: Path) -> None:
    finder = PoseFinder(served(), colour_network(tmp_path / "m.onnx", scale=-1.0), threads=1)
    white = np.full((50, 80, 3), 255, np.uint8)
    white[0] = 0
    black = np.zeros((50, 80, 3), np.uint8)
    assert len(finder.find(black, None)[0].scores) == 0
    asked, _ = finder.find(black, np.array([[0.0, 0.0, 80.0, 50.0]]))
    assert np.isnan(asked.joints).all()
    assert_array_equal(asked.scores, [0])


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 10), (10, 10, -5, 5), (160, 0, 10, 10), (-10, 0, 10, 10), (0, -20, 5, 5), (0, 100, 5, 5),
        (float("nan"), 0, 5, 5), (0, 0, float("inf"), 5), (1e300, 0, 1e300, 5), (0, 0, 1e300, 5),
        (-1e300, 0, 1e300, 5), (0, 0, 0.5, 0.5), (159.5, 99.5, 10, 10),
    ],
)  # fmt: skip
def test_a_box_without_a_person_is_refused(tmp_path: Path, box: tuple[float, ...]) -> None:
    finder = PoseFinder(served(), colour_network(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(BadInputError, match="The box") as refused:
        finder.find(picture(), np.array([(10, 10, 20, 20), box], np.float64))
    assert refused.value.hint


def test_boxes_of_another_shape_are_refused(tmp_path: Path) -> None:
    finder = PoseFinder(served(), colour_network(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(BadInputError, match=r"\(3,\)"):
        finder.find(picture(), np.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (20_000, 1), (3, 20_000)])
def test_odd_images_give_people_or_a_clear_error(tmp_path: Path, size: tuple[int, int]) -> None:
    finder = PoseFinder(served(), colour_network(tmp_path / "m.onnx"), threads=1)
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    if size == (1, 1):
        with pytest.raises(BadInputError, match="1×1"):
            finder.find(image, None)
    else:
        assert len(finder.find(image, None)[0].scores) == 1


@pytest.mark.parametrize(
    ("make", "changes", "says"),
    [
        pytest.param(lambda p: p.write_bytes(b"no model"), {}, "cannot load", id="no-model"),
        pytest.param(lambda p: None, {}, "cannot load", id="missing"),
        pytest.param(colour_network, {"input_name": "x"}, r"serving\.input\.name is 'x'", id="input-name"),
        pytest.param(colour_network, {"input_layout": "nhwc"}, r"serving\.input_sizes", id="input-layout"),
        pytest.param(
            lambda p: onnx.save(pose_onnx(), p), {"input_sizes": ((64, 64),)}, "1×3×32×64.*N×3×64×64", id="input-size"
        ),
        pytest.param(
            colour_network,
            {"outputs": {"heatmaps": "maps"}},
            r"serving\.outputs\.heatmaps\.name is 'maps'",
            id="output",
        ),
        pytest.param(
            colour_network,
            {"skeleton": COCO17},
            r"is n×5×h×w; its manifest says .* N×17×height×width",
            id="number-of-joints",
        ),
    ],
)
def test_a_file_that_is_not_that_of_the_manifest(
    tmp_path: Path, make: Callable[[Path], Any], changes: dict[str, Any], says: str
) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match=says) as refused:
        PoseFinder(served(**changes), tmp_path / "m.onnx", threads=1)
    assert refused.value.hint


def test_a_layout_that_the_file_leaves_free_shows_when_it_runs(tmp_path: Path) -> None:
    finder = PoseFinder(served(output_layout="nhwc"), colour_network(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(CheckpointError, match=r"is 1×5×32×64.*N×height×width×5"):
        finder.find(picture(), None)


def test_maps_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    finder = PoseFinder(served(mean=(-1e6,) * 3), colour_network(tmp_path / "m.onnx", scale=1e35), threads=1)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        finder.find(picture(), None)


# Bottom-up -----------------------------------------------------------------------------------------------------------


def bottom_up(**changes: Any) -> ServedModel:
    return served(
        **{
            "codec": "paf",
            "input_sizes": ((64, 48), (48, 64)),
            "outputs": {"pafs": "pafs", "heatmaps": "heatmaps"},
            "skeleton": COCO17,
            "flip_pairs": COCO17.flip_pairs,
            **changes,
        }
    )


def test_all_people_of_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(paf_onnx(), tmp_path / "m.onnx")
    finder = PoseFinder(bottom_up(), tmp_path / "m.onnx", threads=1)
    missing = np.full((17, 1), 2.0)
    missing[9:11] = 0
    corners = np.array([[20, 40], [180, 30]])
    people = np.stack([np.concatenate([STANDING + corner, missing], axis=1) for corner in corners])
    sizes = []

    def ideal(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(images.shape[2:])
        heatmaps, pafs = ideal_maps(people, (320, 240))
        return {"pafs": pafs[None], "heatmaps": heatmaps[None]}

    monkeypatch.setattr(Network, "run", ideal)
    found, _ = finder.find(np.zeros((240, 320, 3), np.uint8), None)
    assert len(found.scores) == 2
    order = np.argsort(found.joints[:, 0, 0])
    labelled = missing[:, 0] > 0
    assert_allclose(found.joints[order][:, labelled], people[:, labelled, :2], atol=2)
    assert np.isnan(found.joints[:, ~labelled]).all()
    assert_array_equal(found.joint_scores, np.where(labelled, 1, 0)[None].repeat(2, axis=0))
    assert np.isfinite(found.boxes).all()
    finder.find(np.zeros((240, 240, 3), np.uint8), None)
    assert sizes == [(48, 64), (64, 48)]


def test_bottom_up_takes_no_boxes(tmp_path: Path) -> None:
    onnx.save(paf_onnx(), tmp_path / "m.onnx")
    finder = PoseFinder(bottom_up(), tmp_path / "m.onnx", threads=1)
    with pytest.raises(BadInputError, match="takes no boxes"):
        finder.find(np.zeros((240, 320, 3), np.uint8), np.array([[0.0, 0.0, 9.0, 9.0]]))


def test_swapped_outputs_of_a_bottom_up_network_are_noticed(tmp_path: Path) -> None:
    onnx.save(paf_onnx(), tmp_path / "m.onnx")
    model = bottom_up(outputs={"pafs": "heatmaps", "heatmaps": "pafs"})
    with pytest.raises(CheckpointError, match="holds pafs, N×38×height×width"):
        PoseFinder(model, tmp_path / "m.onnx", threads=1)
    assert replace(model, outputs={"pafs": "pafs", "heatmaps": "heatmaps"}) == bottom_up()
