"""The function against the evaluation: the same images, people and figures, without OpenCV and with it.

`-s` prints the measured differences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hpe_tasks import inference
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.contract.frozen import replace
from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.calibration import choose_calibration
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import make_sample
from hpe_tasks.errors import CheckpointError
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import onnx_predictor
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.models.interface import find_outputs
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import person_score
from hpe_tasks.pose.people import People
from hpe_tasks.quantization import quantize_model
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.serving.images import decode_image
from hpe_tasks.serving.network import Network
from hpe_tasks.serving.pose_finder import PoseFinder
from hpe_tasks.serving.preprocessing import crop, normalize
from hpe_tasks.serving.served_model import ServedModel
from support import sample_records as records
from support.bgr_network import pose_for_mobile
from support.efficientpose import efficientpose
from support.named_outputs import paf_network
from support.paf_scenes import ideal_maps
from support.simcc_networks import simcc_config, simcc_onnx
from support.tiny_networks import paf_onnx

_LARGEST_AP_DIFFERENCE = 0.002
_MAX_PIXELS = 1_000_000


def served(folder: Path, config: ModelConfig, file: Path, **protocol: object) -> ServedModel:
    """The file as the function would read it from the manifest of a run with this configuration."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = tuple(TensorSpec(name=o.name, dtype="float32", shape=tuple(o.shape)) for o in session.get_outputs())
    assert find_outputs({o.name: o.shape for o in outputs}, config, file)
    described = records.write_files(folder) | {"model": file}
    manifest = records.manifest(
        described, config=records.run_config(model=config), outputs=outputs, protocol=protocol
    ).to_bytes()
    return replace(ServedModel.from_manifest(manifest), input_name=session.get_inputs()[0].name)


def pixels(dataset: CocoDataset, image_id: int) -> np.ndarray:
    """An image as the handler decodes it."""
    image = next(image for image in dataset.images if image.id == image_id)
    return decode_image(dataset.image_path(image).read_bytes(), _MAX_PIXELS)


@dataclass(frozen=True)
class Difference:
    """What the function found, and what the evaluation found in the same boxes; scores are the heatmaps' maxima."""

    points: np.ndarray
    expected: np.ndarray
    scores: np.ndarray
    expected_scores: np.ndarray
    cell: np.ndarray

    @property
    def in_pixels(self) -> np.ndarray:
        return np.linalg.norm(self.points - self.expected, axis=-1)[self.expected_scores > 0]

    @property
    def in_cells(self) -> np.ndarray:
        distance = np.linalg.norm(self.points - self.expected, axis=-1) / self.cell[:, None]
        return distance[self.expected_scores > 0]

    def show(self, title: str) -> None:
        pixels, cells = self.in_pixels, self.in_cells
        print(
            f"\n{title}: {len(self.points)} persons, {len(pixels)} joints; other place: {(pixels > 0).sum()}, "
            f"largest {pixels.max():.3f} px = {cells.max():.3f} cells, 99 % {np.quantile(pixels, 0.99):.3f} px; "
            f"scores differ by at most {np.abs(self.scores - self.expected_scores).max():.2e}"
        )


def compare(dataset: CocoDataset, config: ModelConfig, file: Path, finder: PoseFinder, *, flip: bool) -> Difference:
    """All persons of a data set, in the evaluation's crops and in the function's."""
    batches = inference.person_batches(dataset, config, 16)
    expected = list(inference.find_poses(batches, onnx_predictor(file, config, threads=1), config, flip_test=flip))
    persons = [person for batch in expected for person in batch.persons]
    width = cells_across(config, file)
    points, scores = [], []
    for image_id in dict.fromkeys(person.image_id for person in persons):
        boxes = np.array([person.box for person in persons if person.image_id == image_id], np.float64)
        found, _ = finder.find(pixels(dataset, image_id), boxes)
        points.append(found.joints)
        scores.append(found.joint_scores)
    crops = np.concatenate([batch.scales[:, 0] * 200 for batch in expected])
    return Difference(
        points=np.concatenate(points),
        expected=np.concatenate([batch.poses.joints for batch in expected]),
        scores=np.concatenate(scores),
        expected_scores=np.concatenate([batch.poses.scores for batch in expected]),
        cell=crops / width,
    )


def cells_across(config: ModelConfig, file: Path) -> int:
    maps = onnx_predictor(file, config, threads=1)(
        np.zeros((1, 3, config.input_height, config.input_width), np.float32)
    )
    return int(maps["heatmaps"].shape[3])


def measured(dataset: CocoDataset, config: ModelConfig, predict: Callable, folder: Path) -> EvaluationReport:
    return evaluate(
        dataset,
        predict,
        config,
        EvaluationConfig(),
        runtime="onnxruntime",
        dataset_digest="0" * 64,
        seed=0,
        predictions_file=folder / "predictions.json",
        artifact=lambda file: Artifact(
            uri=file.as_uri(), sha256=hashlib.sha256(file.read_bytes()).hexdigest(), size_bytes=file.stat().st_size
        ),
    )


def served_ap(dataset: CocoDataset, report: EvaluationReport, folder: Path, finder: PoseFinder) -> float:
    """AP when the evaluation's predictions are replaced by what the function finds in the same boxes."""
    rows = json.loads((folder / "predictions.json").read_text())
    boxes = {person.annotation_id: person.box for person in dataset.all_persons()}
    channels = [channel for _, channel, _ in report.fingerprint.joint_map]
    joints = [joint for _, _, joint in report.fingerprint.joint_map]
    by_image: dict[int, list[dict]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], []).append(row)
    for image_id, in_image in by_image.items():
        wanted = np.array([boxes[row["annotation_id"]] for row in in_image], np.float64)
        found, _ = finder.find(pixels(dataset, image_id), wanted)
        for row, points, scores in zip(in_image, found.joints, found.joint_scores, strict=True):
            keypoints = np.zeros((len(dataset.joint_names), 3))
            keypoints[joints] = np.nan_to_num(np.concatenate([points, scores[:, None]], axis=1)[channels])
            row["keypoints"], row["score"] = keypoints.ravel().tolist(), person_score(scores[channels])
    return ap_of(dataset, rows, report)


def ap_of(dataset: CocoDataset, rows: Sequence[dict], report: EvaluationReport) -> float:
    joints = [joint for _, _, joint in report.fingerprint.joint_map]
    images = {person.image_id for person in dataset.all_persons() if (person.joints[joints, 2] > 0).any()}
    assert len(images) == report.fingerprint.num_images
    truth = [row for row in read_annotations(dataset.annotation_file)["annotations"] if row["image_id"] in images]
    rows = [row for row in rows if row["image_id"] in images]
    ap = coco_stats(truth, rows, joints=joints, sigmas=report.fingerprint.sigmas).ap
    assert ap is not None
    return ap


# Top-down ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coco_mini(test_data: Path) -> CocoDataset:
    return load_coco(test_data / "coco-mini", "val2017")


@pytest.mark.parametrize("size", [(128, 192), (192, 256), (256, 256), (288, 384)])
def test_crops_of_coco_mini_are_those_of_the_evaluation_to_the_byte(
    coco_mini: CocoDataset, size: tuple[int, int]
) -> None:
    """Decoding included: by Pillow here, by OpenCV there."""
    config = ModelConfig(checkpoint="unused", input_width=size[0], input_height=size[1])
    levels = input_levels(config.mean, config.std)
    for batch in inference.person_batches(coco_mini, config, 16):
        for person, center, scale, expected in zip(
            batch.persons, batch.centers, batch.scales, batch.images, strict=True
        ):
            planes = np.empty_like(expected)
            normalize(crop(pixels(coco_mini, person.image_id), center, scale, size), levels, planes)
            assert_array_equal(planes, expected)


@pytest.mark.parametrize(
    ("name", "size", "flip"),
    [
        pytest.param("EfficientPoseRT_LITE_224.onnx", 224, False, id="RT_LITE"),
        pytest.param("EfficientPoseRT_LITE_224.onnx", 224, True, id="RT_LITE-flip-test"),
        pytest.param("EfficientPoseI_LITE_256.onnx", 256, False, id="I_LITE"),
    ],
)
def test_people_of_coco_mini_have_the_joints_of_the_evaluation(
    test_data: Path, coco_mini: CocoDataset, tmp_path: Path, name: str, size: int, flip: bool
) -> None:
    file, config = efficientpose(test_data, name, size)
    finder = PoseFinder(served(tmp_path, config, file, flip_test=flip), file, threads=1)
    difference = compare(coco_mini, config, file, finder, flip=flip)
    difference.show(f"{name}, {'flip test' if flip else 'plain'}")
    assert len(difference.points) >= 66
    assert difference.in_pixels.max() == 0
    assert_array_equal(difference.scores, difference.expected_scores)


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip-test"])
@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
def test_joints_by_coordinate_classification_are_those_of_the_evaluation(
    coco_mini: CocoDataset, tmp_path: Path, product: str, flip: bool
) -> None:
    """Random weights: some joints are not found, which the evaluation gives a score that is not above 0."""
    config = simcc_config(
        joint_names=("left_wrist", "right_wrist", "nose", "left_knee", "right_knee"), mean=(0.4, 0.5, 0.6)
    )
    onnx.save(simcc_onnx(product=product), tmp_path / "m.onnx")
    model = served(tmp_path / "files", config, tmp_path / "m.onnx", flip_test=flip)
    assert (model.codec, model.outputs) == ("simcc", {"simcc_x": "simcc_x", "simcc_y": "simcc_y"})
    finder = PoseFinder(model, tmp_path / "m.onnx", threads=1)
    predict = onnx_predictor(tmp_path / "m.onnx", config, threads=1)
    batches = inference.person_batches(coco_mini, config, 1)
    compared = 0
    for batch in inference.find_poses(batches, predict, config, flip_test=flip):
        (person,) = batch.persons
        found, _ = finder.find(pixels(coco_mini, person.image_id), np.array([person.box], np.float64))
        there = batch.poses.scores > 0
        assert_array_equal(found.joints, np.where(there[..., None], batch.poses.joints, np.nan))
        assert_allclose(found.joint_scores, np.where(there, batch.poses.scores, 0), atol=1e-6)
        assert found.scores[0] == pytest.approx(person_score(batch.poses.scores[0]), abs=1e-6)
        compared += int(there.sum())
    assert compared > 100


def test_a_file_of_other_bins_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    onnx.save(simcc_onnx(), tmp_path / "m.onnx")
    model = served(tmp_path / "files", simcc_config(), tmp_path / "m.onnx")
    for fields, says in (({"bins": (128, 128)}, "simcc_x has 128 and simcc_y 128"), ({"joints": 6}, "n×6×128")):
        onnx.save(simcc_onnx(**fields), tmp_path / "other.onnx")
        with pytest.raises(CheckpointError, match=says):
            PoseFinder(model, tmp_path / "other.onnx", threads=1)
    onnx.save(simcc_onnx(names=("first", "second")), tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"has the outputs first .* serving\.outputs\.simcc_x\.name"):
        PoseFinder(model, tmp_path / "other.onnx", threads=1)


def test_a_network_that_takes_bgr_finds_the_joints_of_the_evaluation(
    test_data: Path, coco_mini: CocoDataset, tmp_path: Path
) -> None:
    """A real one; mean and std are in the order of its channels, which those of each channel here tell apart."""
    file, config = pose_for_mobile(test_data, mean=(0.0, 0.02, 0.05), std=(1 / 255, 1.02 / 255, 1.05 / 255))
    model = served(tmp_path, config, file)
    assert model.channel_order == "bgr"
    difference = compare(coco_mini, config, file, PoseFinder(model, file, threads=1), flip=False)
    assert len(difference.points) >= 66
    assert difference.in_pixels.max() == 0
    assert_array_equal(difference.scores, difference.expected_scores)
    in_rgb = PoseFinder(replace(model, channel_order="rgb"), file, threads=1)
    assert (compare(coco_mini, config, file, in_rgb, flip=False).in_pixels > 0).any()


def test_the_ap_of_coco_mini_is_that_of_the_evaluation(test_data: Path, coco_mini: CocoDataset, tmp_path: Path) -> None:
    file, config = efficientpose(test_data, "EfficientPoseRT_LITE_224.onnx", 224)
    report = measured(coco_mini, config, onnx_predictor(file, config, threads=1), tmp_path)
    finder = PoseFinder(served(tmp_path / "files", config, file), file, threads=1)
    ap = served_ap(coco_mini, report, tmp_path, finder)
    print(f"\ncoco-mini val2017, RT_LITE: evaluation {report.stats.ap:.4f}, function {ap:.4f}")
    assert ap == pytest.approx(report.stats.ap, abs=_LARGEST_AP_DIFFERENCE)


@dataclass(frozen=True)
class Sample:
    """The sample's validation split and the int8 file of its preset."""

    dataset: CocoDataset
    config: ModelConfig
    file: Path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder / "data", splits=("calibration", "val"))
    run = load_config("sample")
    calibration = load_coco(folder / "data", "calibration")
    drawn = choose_calibration(calibration, num_images=run.recipe.calibration_images, seed=run.seed)
    batches = inference.calibration_batches(calibration.subset(drawn), run.model, run.evaluation.batch_size)
    checkpoint = files("hpe_tasks") / "assets" / "pose_mobilenet_sample.safetensors"
    (folder / "quantized").mkdir()
    (folder / "exported").mkdir()
    with as_file(checkpoint) as weights:
        quantized = quantize_model(run.model, run.recipe, weights, batches, folder / "quantized", "cpu")
    file = export_onnx(run.model, run.recipe, quantized.model, quantized.encodings, folder / "exported")
    return Sample(load_coco(folder / "data", "val"), run.model, file)


@pytest.mark.slow
def test_people_of_the_sample_have_the_joints_and_the_ap_of_the_evaluation(sample: Sample, tmp_path: Path) -> None:
    dataset, config, file = sample.dataset, sample.config, sample.file
    finder = PoseFinder(served(tmp_path / "files", config, file), file, threads=1)
    difference = compare(dataset, config, file, finder, flip=False)
    difference.show("Sample, int8")
    # Integer sums do not depend on their order; only a few operators are float.
    assert (difference.in_cells > 0).mean() <= 0.001
    assert difference.in_cells.max() <= 1

    report = measured(dataset, config, onnx_predictor(file, config, threads=1), tmp_path)
    ap = served_ap(dataset, report, tmp_path, finder)
    print(f"sample val: evaluation {report.stats.ap:.4f}, function {ap:.4f}")
    assert report.stats.ap is not None
    assert report.stats.ap > 0.7
    assert ap == pytest.approx(report.stats.ap, abs=_LARGEST_AP_DIFFERENCE)


# Bottom-up -----------------------------------------------------------------------------------------------------------

_BOTTOM_UP = ModelConfig(
    checkpoint="unused",
    architecture="onnx",
    codec="paf",
    input_width=496,
    input_height=384,
    mean=(128 / 255,) * 3,
    std=(256 / 255,) * 3,
)


@pytest.mark.parametrize(
    ("nhwc", "order"), [pytest.param(False, "rgb", id="nchw"), pytest.param(True, "rgb", id="nhwc"), (False, "bgr")]
)
def test_maps_of_whole_images_are_those_of_the_evaluation(
    coco_mini: CocoDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nhwc: bool,
    order: str,
) -> None:
    layout = "nhwc" if nhwc else "nchw"
    config = _BOTTOM_UP.model_copy(update={"input_layout": layout, "output_layout": layout, "channel_order": order})
    file = tmp_path / "m.onnx"
    onnx.save(paf_onnx(shape=("n", "h", "w", 3) if nhwc else ("n", 3, "h", "w"), nhwc=nhwc), file)
    finder = PoseFinder(served(tmp_path / "files", config, file), file, threads=1)
    seen: list[np.ndarray] = []

    def keep(heatmaps: np.ndarray, pafs: np.ndarray, image_size: tuple[int, int]) -> People:
        seen.append(np.concatenate([pafs, heatmaps]))
        return People(np.zeros((0, 17, 2), np.float32), np.zeros((0, 17), np.bool_), np.zeros(0, np.float32))

    # A network that has learnt nothing fills its maps with peaks, which no people are read from.
    monkeypatch.setattr("hpe_tasks.pose.codecs.part_affinity.decode_people", keep)
    predict = onnx_predictor(file, config, threads=1)
    for image in coco_mini.images:
        finder.find(pixels(coco_mini, image.id), None)
        prepared = inference.prepare_image(coco_mini, config, image)
        assert isinstance(prepared, inference.PreparedImage)
        [expected] = inference.predict_maps([prepared], predict, config)
        assert_array_equal(seen.pop(), np.concatenate(list(expected.outputs.values())))


def test_people_of_coco_mini_found_bottom_up_are_those_of_the_evaluation(
    coco_mini: CocoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around a network that gives the ideal maps of the image that it is shown, which it knows by every byte."""
    onnx.save(paf_onnx(), tmp_path / "m.onnx")
    finder = PoseFinder(served(tmp_path / "files", _BOTTOM_UP, tmp_path / "m.onnx"), tmp_path / "m.onnx", 1)
    maps = {}
    for image in coco_mini.images:
        people = np.array([p.joints for p in coco_mini.persons(image.id)]).reshape(-1, 17, 3)
        prepared = inference.prepare_image(coco_mini, _BOTTOM_UP, image)
        assert isinstance(prepared, inference.PreparedImage)
        maps[prepared.pixels.tobytes()] = ideal_maps(people, (image.width, image.height))

    def ideal(images: np.ndarray) -> np.ndarray:
        return np.stack([np.concatenate(maps[image.tobytes()][::-1]) for image in images])

    def served_ideal(network: Network, images: np.ndarray) -> dict[str, np.ndarray]:
        heatmaps, pafs = maps[images[0].tobytes()]
        return {"pafs": pafs[None], "heatmaps": heatmaps[None]}

    monkeypatch.setattr(Network, "run", served_ideal)
    report = measured(coco_mini, _BOTTOM_UP, paf_network(ideal), tmp_path)
    rows = []
    expected = {
        found.image.id: found.people for found in inference.find_people(coco_mini, paf_network(ideal), _BOTTOM_UP, 8)
    }
    for image in coco_mini.images:
        found, _ = finder.find(pixels(coco_mini, image.id), None)
        measured_people = expected[image.id]
        assert_array_equal(np.nan_to_num(found.joints), measured_people.joints)
        assert_array_equal(found.joint_scores > 0, measured_people.found)
        assert_array_equal(found.scores, measured_people.scores)
        rows += [
            {
                "image_id": image.id,
                "category_id": 1,
                "keypoints": np.nan_to_num(np.concatenate([points, scores[:, None]], axis=1)).ravel().tolist(),
                "score": float(score),
            }
            for points, scores, score in zip(found.joints, found.joint_scores, found.scores, strict=True)
        ]
    ap = ap_of(coco_mini, rows, report)
    print(f"\ncoco-mini val2017, ideal maps: evaluation {report.stats.ap:.4f}, function {ap:.4f}; {len(rows)} people")
    assert report.stats.ap == pytest.approx(0.755, abs=0.01)
    assert ap == pytest.approx(report.stats.ap, abs=_LARGEST_AP_DIFFERENCE)
