from __future__ import annotations

import logging
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.mpii import crop_region, load_mpii
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.inference import Predict, find_poses, fp32_predictor, onnx_predictor, person_batches, prepare_image
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pose.crops import box_to_center_scale
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.registry.manifest import GoldenPerson
from hpe_tasks.release.golden import choose_golden, is_clear, similarity
from support.named_outputs import paf_network
from support.paf_scenes import ideal_maps

MODEL = load_config("sample").model
EVALUATION = EvaluationConfig()


@pytest.fixture(scope="module")
def network() -> Predict:
    return fp32_predictor(MODEL, sample_checkpoint(), "cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    root = tmp_path_factory.mktemp("drawn")
    make_sample(root, SampleSpec(train=1, calibration=1, val=20))
    return load_coco(root, "val")


@pytest.fixture
def own(drawn: CocoDataset, tmp_path: Path) -> CocoDataset:
    """A copy of the drawn images that a test may change."""
    shutil.copytree(drawn.root, tmp_path / "data")
    return load_coco(tmp_path / "data", "val")


def test_golden_people_are_those_of_the_evaluation(drawn: CocoDataset, network: Predict) -> None:
    chosen = choose_golden(drawn, network, MODEL, EVALUATION, seed=0)
    assert [one.golden.file for one in chosen] == ["golden-1", "golden-2", "golden-3"]
    images = {drawn.image_path(image): image for image in drawn.images}
    for one in chosen:
        image = images[one.file]
        assert (one.golden.width, one.golden.height) == (image.width, image.height)
        persons = drawn.persons(image.id)
        assert [person.box for person in one.golden.people] == [person.box for person in persons]
        (batch,) = find_poses(person_batches(drawn, MODEL, 16, persons), network, MODEL)
        joints = np.array([[joint or (np.nan,) * 3 for joint in person.joints] for person in one.golden.people])
        assert_allclose(joints[..., :2], batch.poses.joints, atol=0.006)
        assert_allclose(joints[..., 2], batch.poses.scores, atol=0.0006)
    assert any(is_clear(person) for person in chosen[0].golden.people)


def test_the_seed_decides_which_images_are_looked_at(drawn: CocoDataset, network: Predict) -> None:
    once, again, other = (choose_golden(drawn, network, MODEL, EVALUATION, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert {one.file for one in once} != {one.file for one in other}


def test_small_files_are_preferred(drawn: CocoDataset, network: Predict) -> None:
    sizes = [one.file.stat().st_size for one in choose_golden(drawn, network, MODEL, EVALUATION, seed=0)]
    every = sorted(drawn.image_path(image).stat().st_size for image in drawn.images)
    assert sizes == sorted(sizes)
    assert sizes[-1] < every[len(every) // 2]


def turn(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def whiten(path: Path) -> None:
    Image.new("CMYK", Image.open(path).size).save(path)


def fatten(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4_000_000))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def blow_up(path: Path) -> None:
    """A PNG of some hundred bytes whose header promises 3.6 gigapixels."""
    header = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    made = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(made))


def convert(path: Path) -> None:
    Image.open(path).save(path, "BMP")


def animate(path: Path) -> None:
    image = Image.open(path)
    image.save(path, "WEBP", save_all=True, append_images=[Image.new("RGB", image.size)])


def make_transparent(path: Path) -> None:
    Image.open(path).save(path, "PNG", transparency=(0, 0, 0))


@pytest.mark.parametrize("spoil", [turn, whiten, fatten, cut, blow_up, convert, animate, make_transparent, Path.unlink])
def test_an_image_that_readers_may_show_differently_is_none(own: CocoDataset, network: Predict, spoil: object) -> None:
    first, second, *others = own.images
    for image in (first, *others):
        spoil(own.image_path(image))
    (only,) = choose_golden(own, network, MODEL, EVALUATION, seed=0)
    assert only.file == own.image_path(second)


def test_a_split_without_a_usable_image_gives_none_and_says_so(
    own: CocoDataset, network: Predict, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(own.root / "images/val")
    with caplog.at_level(logging.WARNING):
        assert choose_golden(own, network, MODEL, EVALUATION, seed=0) == ()
    assert "no golden images" in caplog.text


def test_mpii_persons_stand_in_the_squares_of_their_crops(test_data: Path) -> None:
    dataset = load_mpii(test_data / "mpii-mini", "valid")
    model = load_config(
        "efficientpose_rt_lite",
        overrides={
            "model.checkpoint": str(test_data / "models/EfficientPoseRT_LITE_224.onnx"),
            "dataset.source": str(test_data / "mpii-mini"),
        },
    ).model
    chosen = choose_golden(dataset, onnx_predictor(Path(model.checkpoint), model), model, EVALUATION, seed=0)
    assert len(chosen) == 3
    inside = 0
    for one in chosen:
        persons = [person for person in dataset.persons if dataset.image_path(person) == one.file]
        for person, golden in zip(persons, one.golden.people, strict=True):
            assert golden.box is not None
            center, scale = box_to_center_scale(golden.box, (one.golden.width, one.golden.height), model.input_size)
            x, y, width, height = golden.box
            if x >= 0 and y >= 0 and x + width <= one.golden.width and y + height <= one.golden.height:
                inside += 1
                assert_allclose((center, scale), crop_region(person), rtol=1e-9)
            assert is_clear(golden)
    print(f"{inside} squares lie inside their images")


def test_bottom_up_people_have_no_boxes(drawn: CocoDataset) -> None:
    model = ModelConfig(
        checkpoint="unused",
        architecture="onnx",
        codec="paf",
        input_width=496,
        input_height=384,
        mean=(128 / 255,) * 3,
        std=(256 / 255,) * 3,
    )
    maps = {}
    for image in drawn.images:
        people = np.stack([person.joints for person in drawn.persons(image.id)])
        heatmaps, pafs = ideal_maps(people, (image.width, image.height))
        maps[prepare_image(drawn, model, image).pixels.tobytes()] = np.concatenate([pafs, heatmaps])
    chosen = choose_golden(
        drawn,
        paf_network(lambda images: np.stack([maps[one.tobytes()] for one in images])),
        model,
        EVALUATION,
        seed=0,
    )
    assert len(chosen) == 3
    found = [person for one in chosen for person in one.golden.people]
    assert found
    assert all(person.box is None for person in found)
    assert {joint[2] for person in found for joint in person.joints if joint is not None} == {1.0}


def standing(*, moved: float = 0.0, score: float = 0.9, known: int = 17) -> GoldenPerson:
    joints = [(100.0 + 10 * (i % 4) + moved, 50.0 + 20 * (i // 4), score) for i in range(known)]
    return GoldenPerson(box=None, joints=(*joints, *[None] * (17 - known)))


def test_similarity_is_one_for_the_same_joints_and_falls_with_their_distance() -> None:
    values = [similarity(standing(), standing(moved=moved), COCO17.joints) for moved in (0, 1, 5, 30)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[1] > 0.9
    assert values[3] < 0.3


def test_a_joint_that_is_not_found_is_nowhere_near() -> None:
    assert similarity(standing(), standing(known=8), COCO17.joints) == pytest.approx(8 / 17)


def test_only_confident_joints_of_the_expected_person_count() -> None:
    unsure = standing().model_copy(update={"joints": (*standing().joints[:10], *[(0.0, 0.0, 0.1)] * 7)})
    assert similarity(unsure, standing(), COCO17.joints) == 1


@pytest.mark.parametrize(
    ("known", "score", "clear"), [(17, 0.9, True), (5, 0.9, True), (4, 0.9, False), (17, 0.1, False)]
)
def test_five_confident_joints_show_where_a_person_is(known: int, score: float, clear: bool) -> None:
    assert is_clear(standing(known=known, score=score)) is clear


def test_the_area_is_that_of_the_box_or_of_the_smallest_person_with_keypoints() -> None:
    face = standing(known=5).model_copy(update={"joints": (*((100.0 + i, 50.0, 0.9) for i in range(5)), *[None] * 12)})
    beside = face.model_copy(update={"joints": ((104.0, 50.0, 0.9), *face.joints[1:])})
    boxed = [face.model_copy(update={"box": (80.0, 40.0, 64.0, side)}) for side in (64.0, 256.0)]
    values = [similarity(one, beside, COCO17.joints) for one in (face, *boxed)]
    assert values == sorted(values)
    # The nose's sigma is 0.026: four pixels off in 32² pixels.
    assert values[0] == pytest.approx((4 + np.exp(-16 / (2 * 32**2 * 0.052**2))) / 5)
    assert values[2] == pytest.approx((4 + np.exp(-16 / (2 * 64 * 256 * 0.052**2))) / 5)
