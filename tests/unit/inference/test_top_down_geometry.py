"""Crops and decoding against each other at the input sizes of the published models, and the flip test."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.mpii import load_mpii
from hpe_tasks.inference import CropBatch, find_poses, mpii_batches, person_batches
from hpe_tasks.pose.codecs.heatmaps import encode_heatmaps, flip_back
from hpe_tasks.pose.crops import crop_matrix, transform_points
from hpe_tasks.pose.skeletons import COCO17, MPII16, Skeleton
from support.dot_pictures import CONFIG, ONE, TWO, colour_network, joints_at, measure, write_dataset
from support.mpii_factory import write_mpii
from support.named_outputs import heatmap_network

# (W, H), as Simple Baselines was published with.
SIZES = [
    pytest.param((288, 384), id="384x288"),
    pytest.param((192, 256), id="256x192"),
    pytest.param((256, 256), id="256x256"),
]


def model_of(size: tuple[int, int], **changes: object) -> ModelConfig:
    return CONFIG.model_copy(update={"input_width": size[0], "input_height": size[1]} | changes)


def ideal(batch: CropBatch[Any], joints: dict[Any, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The heatmaps at a quarter of the input that a perfect network gives for a batch's crops."""
    maps = (size[0] // 4, size[1] // 4)
    points = [
        transform_points(joints[person], crop_matrix(center, scale, maps))
        for person, center, scale in zip(batch.persons, batch.centers, batch.scales, strict=True)
    ]
    return encode_heatmaps(np.stack(points), np.ones((len(points), len(points[0]))), maps, 2.0)[0]


@pytest.mark.parametrize("size", SIZES)
def test_known_points_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    """Through the crop's matrix, ideal heatmaps and the decoder: within a quarter of a heatmap's pixel."""
    wide = joints_at(10, 10)
    wide[:, 1] = 40 + (wide[:, 1] - 10) / 3
    dataset = write_dataset(tmp_path, [ONE, TWO], [wide])
    truth = {person: person.joints[:, :2] for person in dataset.all_persons()}
    (batch,) = person_batches(dataset, model_of(size), 8)
    assert batch.images.shape == (3, 3, size[1], size[0])
    assert_allclose(batch.scales[:, 0] / batch.scales[:, 1], size[0] / size[1])
    (found,) = find_poses([batch], heatmap_network(lambda _: ideal(batch, truth, size)), model_of(size))
    for person, keypoints, scale in zip(found.persons, found.poses.joints, found.scales, strict=True):
        pixel = scale[0] * 200 / (size[0] / 4)
        assert np.abs(keypoints - truth[person]).max() <= pixel / 4 + 1e-3


def ideal_of(batch: CropBatch[Any], joints: dict[Any, np.ndarray], size: tuple[int, int], _: np.ndarray) -> np.ndarray:
    return ideal(batch, joints, size)


@pytest.mark.parametrize("size", SIZES)
def test_known_points_of_mpii_come_back(tmp_path: Path, size: tuple[int, int]) -> None:
    dataset = load_mpii(write_mpii(tmp_path), "valid")
    model = model_of(size, skeleton="mpii16")
    batches = list(mpii_batches(dataset, model, 2))
    for batch in batches:
        x = batch.centers[:, None, 0] + np.linspace(-30, 30, 16)
        truth = dict(zip(batch.persons, np.stack([x, batch.centers[:, None, 1] + 0 * x + 7], axis=-1), strict=True))
        network = heatmap_network(partial(ideal_of, batch, truth, size))
        (found,) = find_poses([batch], network, model)
        pixel = found.scales[0, 0] * 200 / (size[0] / 4)
        for person, keypoints in zip(found.persons, found.poses.joints, strict=True):
            assert np.abs(keypoints - truth[person]).max() <= pixel / 4 + 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_dots_in_the_picture_are_found_where_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    """The pixels of the crop, not its matrix alone: a network that sees them finds the joints."""
    report, rows = measure(write_dataset(tmp_path, [ONE, TWO], [TWO]), config=model_of(size))
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)
    assert report.fingerprint.input_size == size
    for row, truth in zip(rows, (ONE, TWO, TWO), strict=True):
        assert np.abs(np.array(row["keypoints"]).reshape(17, 3)[:, :2] - truth[:, :2]).max() < 2


# Flip test


def flipped_by_hand(heatmaps: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """As the reference does it, pixel by pixel: mirror, swap, and shift by one to the right."""
    result = np.zeros_like(heatmaps)
    count, joints, height, width = heatmaps.shape
    partner = {a: b for left, right in pairs for a, b in ((left, right), (right, left))}
    for n in range(count):
        for joint in range(joints):
            source = heatmaps[n, partner.get(joint, joint)]
            for y in range(height):
                mirrored = [source[y, width - 1 - x] for x in range(width)]
                result[n, joint, y] = [mirrored[0], *mirrored[:-1]]
    return result


@pytest.mark.parametrize(
    ("joints", "pairs"),
    [
        pytest.param(COCO17, ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)), id="coco"),
        pytest.param(MPII16, ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)), id="mpii"),
    ],
)
def test_mirrored_heatmaps_are_turned_back_as_published(joints: Skeleton, pairs: tuple[tuple[int, int], ...]) -> None:
    assert {tuple(sorted(pair)) for pair in joints.flip_pairs} == set(pairs)
    heatmaps = np.random.default_rng(0).normal(size=(2, len(joints.joints), 4, 5)).astype(np.float32)
    assert_array_equal(flip_back(heatmaps, joints.flip_pairs), flipped_by_hand(heatmaps, pairs))


def test_the_flip_test_averages_both(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [ONE])
    seen: list[np.ndarray] = []
    answers = np.random.default_rng(0).normal(size=(2, 1, 17, 64, 48)).astype(np.float32)

    def network(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        assert images.flags.c_contiguous
        return answers[len(seen) - 1]

    (batch,) = person_batches(dataset, CONFIG, 4)
    (found,) = find_poses([batch], heatmap_network(network), CONFIG, flip_test=True)
    assert_array_equal(seen[0], batch.images)
    assert_array_equal(seen[1], batch.images[:, :, :, ::-1])
    mean = (answers[0] + flipped_by_hand(answers[1], COCO17.flip_pairs)) / 2
    (expected,) = find_poses([batch], heatmap_network(lambda _: mean), CONFIG)
    assert_allclose(found.poses.joints, expected.poses.joints)
    assert_allclose(found.poses.scores, expected.poses.scores, rtol=1e-6)


def sees_left_and_right(images: np.ndarray) -> np.ndarray:
    """Of one person: in the mirror, the dot of the left shoulder is on the other side and must be called the right."""
    maps = colour_network(images)
    left_shoulder, right_shoulder = (maps[0, joint].max(axis=0).argmax() for joint in (5, 6))
    order = np.arange(17)
    if left_shoulder > right_shoulder:
        for left, right in COCO17.flip_pairs:
            order[[left, right]] = right, left
    return maps[:, order]


def test_a_network_that_knows_left_from_right_keeps_its_accuracy(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [ONE, TWO], [TWO])
    report, rows = measure(dataset, sees_left_and_right, flip_test=True, batch_size=1)
    assert report.fingerprint.flip_test
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)
    plain = measure(dataset, sees_left_and_right, batch_size=1)[1]
    assert rows != plain
    for row, before in zip(rows, plain, strict=True):
        found, alone = (np.array(r["keypoints"]).reshape(17, 3) for r in (row, before))
        assert np.abs(found[:, :2] - alone[:, :2]).max() < 3
