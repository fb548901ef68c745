"""Bottom-up evaluation around a network that gives the ideal maps of the image that it is shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import calibration_batches, find_people, prepare_image
from hpe_tasks.pose.codecs.part_affinity import decode_people
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.records.evaluation import EvaluationReport
from support.dot_pictures import describe
from support.named_outputs import paf_network
from support.paf_scenes import STANDING, ideal_maps

CONFIG = ModelConfig(
    checkpoint="unused",
    architecture="onnx",
    codec="paf",
    input_width=496,
    input_height=384,
    mean=(128 / 255,) * 3,
    std=(256 / 255,) * 3,
)
WIDE, HIGH, SQUARE = (320, 240), (240, 320), (256, 256)
# AP of the ideal maps of coco-mini's val2017, as the codec's own test has it.
IDEAL_AP = 0.755

Network = Callable[[np.ndarray], np.ndarray]


def person_at(x: float, y: float, scale: float = 1.0) -> np.ndarray:
    return np.concatenate([STANDING * scale + (x, y), np.full((17, 1), 2.0)], axis=1)


ONE, TWO = person_at(20, 40), person_at(130, 30)


Images = Literal["with_persons", "all"]
MakeDataset = Callable[..., CocoDataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a split `val` of (size, persons); image number n is all of the grey level 10·n (modulo 256)."""

    def make(*images: tuple[tuple[int, int], Sequence[np.ndarray]]) -> CocoDataset:
        folder = tmp_path / "images" / "val"
        folder.mkdir(parents=True)
        (tmp_path / "annotations").mkdir()
        records: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, ((width, height), persons) in enumerate(images, start=1):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((height, width, 3), 10 * number % 256, np.uint8))
            records.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
            for keypoints in persons:
                corner, end = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
                annotations.append(
                    {
                        "id": 100 + len(annotations),
                        "image_id": number,
                        "category_id": 1,
                        "bbox": [*corner.tolist(), *(end - corner).tolist()],
                        "area": float((end - corner).prod()),
                        "iscrowd": 0,
                        "num_keypoints": 17,
                        "keypoints": keypoints.ravel().tolist(),
                    }
                )
        content = {
            "images": records,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
        }
        (tmp_path / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
        return load_coco(tmp_path, "val")

    return make


def ideal_network(
    dataset: CocoDataset, *, also: dict[int, np.ndarray] | None = None, certainty: dict[int, float] | None = None
) -> Network:
    """Knows every image by its pixels; by image id, `also` adds people and `certainty` weakens the maps."""
    maps = {}
    for image in dataset.images:
        persons = [person.joints for person in dataset.persons(image.id)]
        persons += [extra for image_id, extra in (also or {}).items() if image_id == image.id]
        people = np.stack(persons) if persons else np.zeros((0, 17, 3))
        heatmaps, pafs = ideal_maps(people, (image.width, image.height))
        maps[prepare_image(dataset, CONFIG, image).pixels.tobytes()] = np.concatenate([pafs, heatmaps]) * np.float32(
            (certainty or {}).get(image.id, 1.0)
        )
    return lambda images: np.stack([maps[image.tobytes()] for image in images])


def measure(
    dataset: CocoDataset,
    network: Network,
    *,
    images: Images = "with_persons",
    **evaluation: object,
) -> tuple[EvaluationReport, list[dict]]:
    file = dataset.root / "out" / "predictions.json"
    return measure_into(file, dataset, network, images=images, **evaluation), json.loads(file.read_text())


def measure_into(
    file: Path,
    dataset: CocoDataset,
    network: Network,
    *,
    images: Images = "with_persons",
    **evaluation: object,
) -> EvaluationReport:
    return evaluate(
        dataset,
        paf_network(network),
        CONFIG,
        EvaluationConfig(**evaluation),
        images=images,
        runtime="fp32",
        dataset_digest="d" * 64,
        seed=0,
        predictions_file=file,
        artifact=describe,
    )


# Results


def test_ideal_maps_find_everybody(make_dataset: MakeDataset) -> None:
    report, rows = measure(
        dataset := make_dataset((WIDE, [ONE, TWO]), (WIDE, []), (HIGH, [ONE])), ideal_network(dataset)
    )
    assert report.stats.ap == pytest.approx(1.0)
    assert list(report.by_group.values()) == [pytest.approx(1.0)] * 7
    assert list(report.by_joint) == list(COCO17.joints)
    assert [row["image_id"] for row in rows] == [1, 1, 3]
    assert sorted(row["annotation_id"] for row in rows) == [100, 101, 102]
    truths = {100: ONE, 101: TWO, 102: ONE}
    for row in rows:
        truth = truths[row["annotation_id"]]
        found = np.array(row["keypoints"]).reshape(17, 3)
        assert_allclose(found[:, :2], truth[:, :2], atol=1.5)
        assert_array_equal(found[:, 2], 1.0)
        assert row["category_id"] == 1


def test_scores_and_missing_joints_are_as_the_codec_gives_them(make_dataset: MakeDataset) -> None:
    half = ONE.copy()
    half[13:, 2] = 0  # knees and ankles
    dataset = make_dataset((WIDE, [half]))
    ((row,), people) = measure(dataset, ideal_network(dataset))[1], decode_people(*ideal_maps(half[None], WIDE), WIDE)
    found = np.array(row["keypoints"]).reshape(17, 3)
    assert_array_equal(found[:, 2], people.found[0])
    assert_array_equal(found[13:], 0)
    assert_allclose(found[:13, :2], people.joints[0, :13], atol=1e-3)
    assert row["score"] == people.scores[0]


def test_the_fingerprint_says_how_the_number_was_made(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((WIDE, [ONE, TWO]), (WIDE, []), (HIGH, [ONE]))
    fingerprint = measure(dataset, ideal_network(dataset))[0].fingerprint
    assert fingerprint.box_source == "whole_image"
    assert fingerprint.boxes_digest is None
    assert fingerprint.input_size == (496, 384)
    assert fingerprint.decoder == (
        "part-affinity fields: peaks above 0.1 in heatmaps of the image's size smoothed with sigma 3, limbs taken "
        "greedily, people of at least 4 joints; person score: the sum of joint and limb scores over the COCO joints "
        "found"
    )
    assert (fingerprint.num_images, fingerprint.num_persons) == (2, 3)
    assert fingerprint.metric == "coco_oks_ap"


def test_people_found_where_nobody_is_count_with_all_images_only(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((WIDE, [ONE]), (WIDE, []))
    network = ideal_network(dataset, also={2: TWO}, certainty={1: 0.9})
    assert measure(dataset, network)[0].stats.ap == pytest.approx(1.0)
    report, rows = measure(dataset, network, images="all")
    assert report.fingerprint.num_images == 2
    assert report.fingerprint.num_persons == 1
    assert [(row["image_id"], row["annotation_id"]) for row in rows] == [(1, 100), (2, None)]
    # The false one comes first: the precision is 1/2 where the other is found.
    assert report.stats.ap == pytest.approx(0.5)


def test_a_pose_that_nobody_takes_has_no_annotation(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((WIDE, [ONE]))
    _, rows = measure(dataset, ideal_network(dataset, also={1: TWO}))
    assert {row["annotation_id"]: row["keypoints"][0] for row in rows} == {
        100: pytest.approx(ONE[0, 0], abs=1.5),
        None: pytest.approx(TWO[0, 0], abs=1.5),
    }


def test_the_real_photographs(test_data: Path, tmp_path: Path) -> None:
    dataset = load_coco(test_data / "coco-mini", "val2017")
    network = ideal_network(dataset)
    wanted: tuple[tuple[Images, int], ...] = (("with_persons", 32), ("all", len(dataset.images)))
    for images, count in wanted:
        report = measure_into(tmp_path / "predictions.json", dataset, network, images=images)
        assert report.stats.ap == pytest.approx(IDEAL_AP, abs=5e-4)
        assert (report.fingerprint.num_images, report.fingerprint.num_persons) == (count, 68)
    rows = json.loads((tmp_path / "predictions.json").read_text())
    matched = [row["annotation_id"] for row in rows if row["annotation_id"] is not None]
    assert len(matched) == len(set(matched)) > 50


# What the network sees


@pytest.mark.parametrize(
    ("size", "input_size"),
    [
        pytest.param(WIDE, (496, 384), id="wide"),
        pytest.param(HIGH, (384, 496), id="high"),
        pytest.param(SQUARE, (384, 496), id="square"),
    ],
)
def test_the_whole_image_is_resized_and_turned(
    make_dataset: MakeDataset, size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    dataset = make_dataset((size, [ONE]))
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    bgr = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(dataset.image_path(dataset.images[0])), bgr)
    seen: list[np.ndarray] = []

    def network(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.zeros((1, 57, images.shape[2] // 8, images.shape[3] // 8), np.float32)

    measure(dataset, network)
    resized = cv2.resize(bgr, input_size, interpolation=cv2.INTER_LINEAR)
    expected = resized[:, :, ::-1].astype(np.float64) / 256 - 0.5
    (image,) = seen[0]
    assert image.dtype == np.float32
    assert_allclose(image.transpose(1, 2, 0), expected, atol=1e-6)
    (batch,) = calibration_batches(dataset, CONFIG, 4)
    assert_array_equal(batch[0], image)


MIXED = (WIDE, HIGH, HIGH, WIDE, SQUARE, WIDE, WIDE)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_wide_and_high_images_share_no_batch_and_keep_their_order(make_dataset: MakeDataset, batch_size: int) -> None:
    dataset = make_dataset(*((size, [ONE]) for size in MIXED))
    ideal, shapes = ideal_network(dataset), []

    def network(images: np.ndarray) -> np.ndarray:
        shapes.append(images.shape)
        return ideal(images)

    report, rows = measure(dataset, network, batch_size=batch_size)
    assert report.stats.ap == pytest.approx(1.0)
    assert [row["image_id"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert {shape[2:] for shape in shapes} == {(384, 496), (496, 384)}
    assert sum(shape[0] for shape in shapes) == 7
    assert max(shape[0] for shape in shapes) <= batch_size
    if batch_size == 64:
        assert [shape[0] for shape in shapes] == [4, 3]


def test_calibration_sees_all_images_in_batches_of_one_size(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*((size, []) for size in MIXED), (WIDE, [ONE]))
    batches = list(calibration_batches(dataset, CONFIG, 4))
    assert [batch.shape for batch in batches] == [
        (2, 3, 384, 496),
        (2, 3, 496, 384),
        (1, 3, 496, 384),
        (3, 3, 384, 496),
    ]
    levels = [round(float(image[0, 0, 0] + 0.5) * 256) for batch in batches for image in batch]
    assert levels == [10, 40, 20, 30, 50, 60, 70, 80]


# The pipeline


def test_the_network_runs_in_the_calling_thread_and_maps_are_read_in_others(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(*[(WIDE, [ONE])] * 6)
    ideal = ideal_network(dataset)
    threads: dict[str, set[threading.Thread]] = {"network": set(), "decode": set()}

    def network(images: np.ndarray) -> np.ndarray:
        threads["network"].add(threading.current_thread())
        return ideal(images)

    def decode(*args: Any) -> object:
        threads["decode"].add(threading.current_thread())
        return decode_people(*args)

    monkeypatch.setattr("hpe_tasks.pose.codecs.part_affinity.decode_people", decode)
    assert [len(found.people) for found in find_people(dataset, paf_network(network), CONFIG, 2)] == [1] * 6
    assert threads["network"] == {threading.current_thread()}
    assert threading.current_thread() not in threads["decode"]


def test_little_is_held_at_a_time(make_dataset: MakeDataset) -> None:
    """However many images there are: a consumer that stops has had few of them made, and leaves no thread."""
    dataset = make_dataset((WIDE, [ONE]), *[(WIDE, [])] * 80)
    shown = 0

    def network(images: np.ndarray) -> np.ndarray:
        nonlocal shown
        shown += len(images)
        return np.zeros((len(images), 57, 48, 62), np.float32)

    found: Any = find_people(dataset, paf_network(network), CONFIG, 2)
    for _ in range(3):
        next(found)
    found.close()
    assert shown <= 3 + 2 * 8 + 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hpe-ahead")]


# What is refused


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        pytest.param(lambda maps: maps[:, 38:], r"'pafs' has the shape 1×19×48×62; .* 1×38", id="channels"),
        pytest.param(lambda maps: maps[0], r"'pafs' has the shape 57×38", id="rank"),
        pytest.param(lambda maps: maps * np.nan, "NaN", id="nan"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(
    make_dataset: MakeDataset, broken: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    dataset = make_dataset((WIDE, [ONE]))
    ideal = ideal_network(dataset)
    with pytest.raises(CheckpointError, match=says):
        measure(dataset, lambda images: broken(ideal(images)))


def test_the_files_whose_maps_are_broken_are_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[(WIDE, [ONE])] * 3)
    ideal = ideal_network(dataset)

    def broken(images: np.ndarray) -> np.ndarray:
        maps = ideal(images)
        maps[1, 40, 3, 3] = np.nan
        return maps

    with pytest.raises(CheckpointError, match=r"outputs of 2\.png hold NaN"):
        measure(dataset, broken)


def test_the_file_whose_maps_cannot_be_decoded_is_named(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[(WIDE, [ONE])] * 3)
    ideal = ideal_network(dataset)
    checkered = np.indices((48, 62)).sum(axis=0) % 2

    def untrained(images: np.ndarray) -> np.ndarray:
        maps = ideal(images)
        maps[2] = checkered
        return maps

    with pytest.raises(CheckpointError, match=r"^3\.png: The heatmaps have [\d,]+ peaks") as caught:
        measure(dataset, untrained)
    assert "trained" in caught.value.hint


def test_an_image_of_another_size_than_its_record_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((WIDE, [ONE]))
    network = ideal_network(dataset)
    cv2.imwrite(str(dataset.image_path(dataset.images[0])), np.zeros((240, 319, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"1\.png is 319×240 pixels, but its record says 320×240"):
        measure(dataset, network)


def test_there_is_no_flip_test(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((WIDE, [ONE]))
    with pytest.raises(ConfigError, match="no flip test"):
        measure(dataset, ideal_network(dataset), flip_test=True)
