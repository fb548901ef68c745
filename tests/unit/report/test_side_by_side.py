from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.dataset import Subject
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.report.page import ReportFiles
from hpe_tasks.report.side_by_side import (
    PICTURE_SIZE,
    compare_images,
    compare_persons,
    crop_window,
    disagreement,
)
from hpe_tasks.report.subjects import (
    PredictedPose,
    Predictions,
    Truth,
    agreement_text,
    read_predictions,
    read_truth,
)
from support.run_cases import fingerprint
from support.run_files import bottom_up_files, mpii_files, report_files, write_predictions

JOINTS = np.arange(17)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return report_files(tmp_path_factory.mktemp("report"))


def person(size: float = 100.0) -> Subject:
    return Subject(
        number=1,
        image=1,
        path=Path("1.jpg"),
        caption="",
        joints=np.arange(34, dtype=np.float64).reshape(17, 2) * 3,
        labelled=np.ones(17, dtype=np.bool_),
        box=(0, 0, 99, 99),
        size=size,
    )


def truth_of(*subjects: Subject) -> Truth:
    return Truth(subjects, COCO17, "size", "agreement")


def test_oks_agrees_with_pycocotools() -> None:
    protocol = fingerprint("val", 1, 1)
    truth = person()
    random = np.random.default_rng(3)
    points = truth.joints + random.normal(0, 6, (17, 2))
    shown = agreement_text(truth, PredictedPose(points, np.ones(17)), protocol)
    oks = float(shown.removeprefix("OKS "))
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": truth.size**2,
        "bbox": list(truth.box), "keypoints": np.column_stack([truth.joints, np.full(17, 2)]).ravel().tolist(),
    }  # fmt: skip
    result = {
        "image_id": 1,
        "category_id": 1,
        "score": 1.0,
        "keypoints": np.column_stack([points, np.ones(17)]).ravel().tolist(),
    }
    stats = coco_stats([annotation], [result], joints=list(range(17)), sigmas=list(protocol.sigmas))
    # With one person, AP is the share of the ten thresholds 0.50 to 0.95 that its OKS reaches.
    assert stats.ap == pytest.approx(np.mean(oks >= np.arange(0.5, 0.96, 0.05)))
    assert 0.5 < oks < 0.95


def test_how_well_a_pose_fits_is_told_in_the_data_set_s_own_terms() -> None:
    protocol, truth = fingerprint("val", 1, 1), person(size=20.0)
    exact = PredictedPose(truth.joints, np.ones(17))
    moved = PredictedPose(truth.joints + np.array([3.0, 4.0]), np.ones(17))
    of_mpii = protocol.model_copy(update={"sigmas": (), "metric": "mpii_pckh"})
    assert agreement_text(truth, exact, protocol) == "OKS 1.000"
    assert agreement_text(truth, moved, of_mpii) == "0.25 heads off"
    unlabelled = replace(truth, labelled=np.zeros(17, dtype=np.bool_))
    assert agreement_text(unlabelled, exact, protocol) == "no labelled joint"


def test_disagreement_counts_where_fp32_is_sure() -> None:
    one = PredictedPose(np.zeros((17, 2)), np.array([0.9] * 4 + [0.1] * 13))
    other = PredictedPose(np.array([(3.0, 4.0)] * 4 + [(500.0, 500.0)] * 13), np.ones(17))
    assert disagreement(person(50.0), one, other, JOINTS) == pytest.approx(0.1)
    lost = PredictedPose(other.joints, np.array([0.0] * 2 + [1.0] * 15))
    assert disagreement(person(50.0), one, lost, JOINTS) == pytest.approx((0.1 + 0.1 + 1 + 1) / 4)


def test_mpii_pixels_and_sizes_are_those_of_the_image(tmp_path: Path) -> None:
    files = mpii_files(tmp_path)
    assert files.dataset_root is not None
    assert files.fp32_predictions is not None
    truth = read_truth("mpii", files.dataset_root, "valid")
    found = read_predictions(files.fp32_predictions)
    assert len(truth.subjects) == len(found.persons) == 8
    for subject in truth.subjects:
        # The head's box is 28 pixels wide and high; its diagonal counts 0.6.
        assert subject.size == pytest.approx(0.6 * 28 * 2**0.5)
        # Noise of two pixels around the truth: files that count from 1 would shift it by one.
        offset = (found.persons[subject.number].joints - subject.joints).mean(axis=0)
        assert np.abs(offset).max() < 1.6
        assert subject.path.is_file()
    mean = np.mean([found.persons[s.number].joints - s.joints for s in truth.subjects], axis=(0, 1))
    assert np.abs(mean).max() < 0.5


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((10, 10, 50, 120), (640, 480)),
        ((600, 300, 40, 180), (640, 480)),
        ((0, 0, 640, 480), (640, 480)),
        ((100, 100, 300, 40), (640, 480)),
        ((5, 5, 1, 1), (640, 480)),
    ],
    ids=["tall", "corner", "whole image", "wide", "tiny"],
)
def test_crop_window_holds_the_person_in_the_shape_of_a_picture(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    left, top, width, height = crop_window(box, size)
    assert width / height == pytest.approx(PICTURE_SIZE[0] / PICTURE_SIZE[1], rel=0.05)
    assert left <= box[0]
    assert top <= box[1]
    assert left + width >= box[0] + box[2]
    assert top + height >= box[1] + box[3]
    if width <= size[0] and height <= size[1]:
        assert left >= 0
        assert top >= 0
        assert left + width <= size[0]
        assert top + height <= size[1]


def test_the_worst_come_first_and_the_others_depend_on_the_seed(files: ReportFiles, tmp_path: Path) -> None:
    truth, before = drawn_truth(files, tmp_path)
    after = dict(before.persons)
    moved = truth.subjects[5].number
    after[moved] = PredictedPose(after[moved].joints + 9, after[moved].scores)
    chosen = [
        [
            person.number
            for person in compare_persons(
                truth, before, Predictions(after, {}), fingerprint("val", 8, 4), seed=seed, count=4
            )
        ]
        for seed in (0, 0, 1, 2)
    ]
    assert all(ids[0] == moved and len(set(ids)) == 4 for ids in chosen)
    assert chosen[0] == chosen[1]
    assert len({tuple(ids) for ids in chosen}) > 1


def drawn_truth(files: ReportFiles, folder: Path) -> tuple[Truth, Predictions]:
    """The drawn persons, and exact poses of them."""
    assert files.dataset_root is not None
    exact = write_predictions(load_coco(files.dataset_root, "val"), folder / "a.json", noise=0.0, seed=0)
    return read_truth("coco", files.dataset_root, "val"), read_predictions(exact)


def test_a_person_whom_one_model_lacks_is_shown_once_for_each_model(files: ReportFiles, tmp_path: Path) -> None:
    truth, before = drawn_truth(files, tmp_path)
    here, there, *both = (subject.number for subject in truth.subjects)
    fp32 = {number: before.persons[number] for number in (here, *both)}
    int8 = {number: before.persons[number] for number in (there, *both)}
    compared = compare_persons(truth, Predictions(fp32, {}), Predictions(int8, {}), fingerprint("val", 8, 4), seed=0)
    notes = {person.number: (person.reason, person.fp32_note, person.int8_note) for person in compared}
    assert notes[here] == ("found by FP32 only", "OKS 1.000", "not found")
    assert notes[there] == ("found by int8 only", "not found", "OKS 1.000")
    assert len(compared) == 6
    assert [person.disagreement for person in compared if person.number in (here, there)] == [None, None]


def test_nobody_found_is_nobody_shown(files: ReportFiles, tmp_path: Path) -> None:
    truth, before = drawn_truth(files, tmp_path)
    nobody = Predictions({}, {})
    protocol = fingerprint("val", 8, 4)
    assert compare_persons(truth, nobody, nobody, protocol, seed=0) == ()
    assert [p.int8_note for p in compare_persons(truth, before, nobody, protocol, seed=0)] == ["not found"]
    assert compare_images(truth, nobody, before, protocol, seed=0) == ()


def test_predictions_of_nobody_annotated_belong_to_the_image_alone(tmp_path: Path) -> None:
    files = bottom_up_files(tmp_path)
    assert files.fp32_predictions is not None
    found = read_predictions(files.fp32_predictions)
    assert 11 not in found.persons
    assert len(found.persons) == 7
    assert {image: len(poses) for image, poses in found.images.items()} == {1: 2, 2: 2, 3: 2, 4: 2}


def test_of_several_poses_of_a_person_the_best_counts(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "annotation_id": 5, "keypoints": [x, 0, 1] * 17, "score": score}
        for x, score in ((1, 0.3), (2, 0.9), (3, 0.5))
    ]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(rows))
    found = read_predictions(path)
    assert found.persons[5].joints[0, 0] == 2
    assert len(found.images[1]) == 3


def test_a_joint_that_was_not_found_is_not_drawn(files: ReportFiles, tmp_path: Path) -> None:
    truth, before = drawn_truth(files, tmp_path)
    first = truth.subjects[0].number
    pose = before.persons[first]
    scores = pose.scores.copy()
    scores[:] = 0
    points = np.zeros_like(pose.joints)
    lost = Predictions({first: PredictedPose(points, scores)}, {})
    protocol = fingerprint("val", 8, 4).model_copy(update={"box_source": "whole_image"})
    empty = compare_persons(truth, Predictions({first: pose}, {}), lost, protocol, seed=0)[0]
    absent = compare_persons(truth, Predictions({first: pose}, {}), Predictions({}, {}), protocol, seed=0)[0]
    assert empty.int8 == absent.int8
    assert empty.int8 != empty.fp32


def test_pictures_show_what_the_networks_saw(files: ReportFiles, tmp_path: Path) -> None:
    truth, found = drawn_truth(files, tmp_path)
    grey = (np.full((240, 320), 100, dtype=np.uint16)) * 256
    Image.fromarray(grey).save(tmp_path / "deep.png")
    rotated = Image.new("RGB", (320, 240), (100, 100, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, which COCO's annotations do not follow
    rotated.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    for name, expected in (("deep.png", (100, 100, 100)), ("turned.jpg", (100, 100, 200))):
        subject = replace(truth.subjects[0], path=tmp_path / name)
        shown = compare_persons(replace(truth, subjects=(subject,)), found, found, fingerprint("val", 8, 4), seed=0)[
            0
        ].truth
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))
        assert np.abs(pixels[200, -20].astype(int) - expected).max() < 6


def test_whole_images_hold_several_people(files: ReportFiles, tmp_path: Path) -> None:
    truth, found = drawn_truth(files, tmp_path)
    most = {**found.images, 3: found.images[3] * 2}
    images = compare_images(truth, Predictions(found.persons, most), found, fingerprint("val", 8, 4), seed=0)
    assert [image.reason for image in images] == ["most people found", "drawn by seed"]
    assert (images[0].caption, images[0].truth_count) == ("Image 3, 0003.jpg", 2)
    assert (images[0].fp32_count, images[0].int8_count) == (4, 2)
    picture = Image.open(io.BytesIO(base64.b64decode(images[0].fp32.partition(",")[2])))
    assert picture.size == (560, 420)
    assert images == compare_images(truth, Predictions(found.persons, most), found, fingerprint("val", 8, 4), seed=0)
