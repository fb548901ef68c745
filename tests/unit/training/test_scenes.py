from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.annotation_files import annotation_path
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.codecs.paf import PAF_CHANNELS
from hpe_tasks.pose.codecs.part_affinity import decode_people
from hpe_tasks.pose.people import People
from hpe_tasks.training.scenes import TrainingScenes
from support.named_outputs import joined
from support.training_factory import MIRRORED, STILL, bottom_up

WIDTH, HEIGHT = 400, 304


def full_size(**fields: Any) -> TrainingConfig:
    """One pixel of the input for each of the image's."""
    return bottom_up(input_width=WIDTH, input_height=HEIGHT, **{**STILL, **fields})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=6, calibration=1, val=2, width=WIDTH, height=HEIGHT, seed=2))
    return folder


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def all_scenes(root: Path, fields: TrainingConfig) -> list[Any]:
    scenes = TrainingScenes(load_coco(root, "train"), fields)
    return [scenes.batch(0, np.array([index])) for index in range(len(scenes))]


def people_in(targets: NDArray[np.float32]) -> People:
    return decode_people(targets[PAF_CHANNELS:], targets[:PAF_CHANNELS], (WIDTH, HEIGHT))


def test_the_people_are_in_the_targets(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    found = expected = 0
    for image, batch in zip(split.images, all_scenes(dataset, full_size()), strict=True):
        people = people_in(joined(batch.targets)[0])
        for person in split.persons(image.id):
            labelled = person.joints[:, 2] > 0
            expected += int(labelled.sum())
            distances = np.abs(people.joints - person.joints[:, :2]).max(axis=-1)
            right = (distances <= 1) & people.found & labelled
            found += int(right.sum(axis=1).max(initial=0))
    assert expected > 150
    # A part of the joints hides behind others of their kind.
    assert found >= 0.85 * expected


def test_a_mirrored_image_shows_the_mirrored_people(dataset: Path) -> None:
    alike = total = 0
    mirrored_scenes = all_scenes(dataset, full_size(flip_probability=1.0))
    for plain, mirrored in zip(all_scenes(dataset, full_size()), mirrored_scenes, strict=True):
        assert np.allclose(mirrored.images[..., ::-1], plain.images, atol=0.02)
        people, turned = people_in(joined(plain.targets)[0]), people_in(joined(mirrored.targets)[0])
        total += len(people)
        # A joint at pixel x is at W-1-x in the mirror, and is the other side's.
        back = turned.joints[:, MIRRORED] * (-1, 1) + (WIDTH - 1, 0)
        for keypoints, found in zip(people.joints, people.found, strict=True):
            same = (turned.found[:, MIRRORED] == found).all(axis=1)
            near = np.abs(np.where(found[:, None], back - keypoints, 0)).max(axis=(1, 2)) <= 1
            alike += bool((same & near).any())
    assert total > 10
    # Where people cross, the order in which joints are found decides, and a mirror turns it round.
    assert alike >= 0.75 * total


def test_augmented_targets_lie_where_the_image_shows_the_joints(copy: Path) -> None:
    """White dots in place of joints: in the warped image, the dots and the targets' peaks agree."""
    split = load_coco(copy, "train")
    content = json.loads(annotation_path(copy, "train").read_text())
    for number, row in enumerate(content["annotations"]):
        row["keypoints"] = [0, 0, 0] * 17
        row["keypoints"][:3] = [60 + 40 * (number % 8), 70 + 30 * (number % 5), 2]
    annotation_path(copy, "train").write_text(json.dumps(content))
    moved = {"rotation_degrees": 20.0, "scale_range": 0.3, "shift_range": 0.1, "flip_probability": 0.5}
    for image in split.images:
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for row in content["annotations"]:
            if row["image_id"] == image.id:
                x, y, _ = row["keypoints"][:3]
                cv2.circle(picture, (x, y), 5, (255, 255, 255), -1)
        path = split.image_path(image)
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    for batch in all_scenes(copy, full_size(**moved)):
        nose = cv2.resize(batch.targets["heatmaps"][0, 0], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        seen = batch.images[0].mean(axis=0) > 0
        inside = np.s_[24:-24, 24:-24]
        dots = cv2.connectedComponentsWithStats(seen.astype(np.uint8))[3][1:]
        for x, y in dots:
            if not (24 <= x < WIDTH - 24 and 24 <= y < HEIGHT - 24):
                continue
            around = nose[int(y) - 12 : int(y) + 14, int(x) - 12 : int(x) + 14]
            rows, columns = np.mgrid[int(y) - 12 : int(y) + 14, int(x) - 12 : int(x) + 14]
            centre = np.array([(columns * around).sum(), (rows * around).sum()]) / around.sum()
            assert np.abs(centre - (x, y)).max() < 1.5
        assert nose[inside].max() > 0.5


@pytest.mark.parametrize("flip", [pytest.param(0.0, id="plain"), pytest.param(1.0, id="mirrored")])
@pytest.mark.parametrize("row", [{"iscrowd": 1, "num_keypoints": 9}, {"iscrowd": 0, "num_keypoints": 0}])
def test_people_without_labels_have_no_weight(copy: Path, row: dict[str, int], flip: float) -> None:
    content = json.loads(annotation_path(copy, "train").read_text())
    first = content["images"][0]["id"]
    box = {"bbox": [84, 44, 112, 152], "area": 1, "keypoints": [0] * 51, "category_id": 1}
    content["annotations"].append({"id": 1, "image_id": first, **box, **row})
    annotation_path(copy, "train").write_text(json.dumps(content))
    marked, other, *_ = all_scenes(copy, full_size(flip_probability=flip))
    weights = joined(marked.weights)[0, :, :, ::-1] if flip else joined(marked.weights)[0]
    assert not weights[:, 5:25, 10:25].any()
    assert np.count_nonzero(weights[0]) == 38 * 50 - 20 * 15
    assert np.count_nonzero(joined(other.weights) == 0) == 0


def test_wide_and_high_images_are_apart(copy: Path) -> None:
    split = load_coco(copy, "train")
    content = json.loads(annotation_path(copy, "train").read_text())
    turned = {image.id for image in split.images[::2]}
    for image in split.images[::2]:
        path = split.image_path(image)
        path.write_bytes(cv2.imencode(".jpg", np.zeros((WIDTH, HEIGHT, 3), np.uint8))[1].tobytes())
    for row in content["images"]:
        if row["id"] in turned:
            row["width"], row["height"] = HEIGHT, WIDTH
    annotation_path(copy, "train").write_text(json.dumps(content))
    scenes = TrainingScenes(load_coco(copy, "train"), bottom_up(batch_size=2))
    plan = scenes.plan(0)
    assert sorted(np.concatenate(plan)) == list(range(6))
    sizes = [scenes.batch(0, indices).images.shape[2:] for indices in plan]
    assert sorted(sizes) == [(48, 64)] * 2 + [(64, 48)] * 2


def test_a_scene_does_not_depend_on_the_batch(dataset: Path) -> None:
    scenes = TrainingScenes(load_coco(dataset, "train"), bottom_up())
    together, alone = scenes.batch(1, np.array([0, 1, 2])), scenes.batch(1, np.array([2]))
    assert together.images.shape == (3, 3, 48, 64)
    assert joined(together.targets).shape == joined(together.weights).shape == (3, 57, 6, 8)
    for ours, one in (
        (together.images, alone.images),
        (joined(together.targets), joined(alone.targets)),
        (joined(together.weights), joined(alone.weights)),
    ):
        assert ours.dtype == np.float32
        assert np.array_equal(ours[2], one[0])
    assert not np.array_equal(scenes.batch(2, np.array([2])).images[0], alone.images[0])


@pytest.mark.parametrize(
    ("change", "names"),
    [
        pytest.param(lambda content: content["categories"][0]["keypoints"].reverse(), "COCO's order", id="joints"),
        pytest.param(
            lambda content: content["annotations"].append({"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 1}),
            "id 7",
            id="crowd without a box",
        ),
    ],
)
def test_annotations_that_cannot_be_learnt_from_are_refused(copy: Path, change: Any, names: str) -> None:
    content = json.loads(annotation_path(copy, "train").read_text())
    change(content)
    annotation_path(copy, "train").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=names):
        TrainingScenes(load_coco(copy, "train"), bottom_up())
