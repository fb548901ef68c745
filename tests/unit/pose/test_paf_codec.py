from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.coco import load_coco
from hpe_tasks.errors import CheckpointError
from hpe_tasks.metrics.oks import coco_sigmas, coco_stats
from hpe_tasks.pose.codecs.map_peaks import find_map_peaks, smoothing_matrix
from hpe_tasks.pose.codecs.part_affinity import LIMB_CHANNELS, OFF_GRID, decode_people, encode_people
from hpe_tasks.pose.codecs.upsampling import UpsampledMaps
from hpe_tasks.pose.people import People
from hpe_tasks.pose.skeletons import COCO17, OPENPOSE18
from support import paf_oracle
from support.paf_scenes import STANDING, crowd, ideal_maps

SIZE = (640, 480)
SPLITS = ("train2017", "val2017")
IDEAL_AP = 0.755

Maps = tuple[np.ndarray, np.ndarray]


def agree(heatmaps: np.ndarray, pafs: np.ndarray, size: tuple[int, int]) -> People:
    """Decode with both decoders, which must find the same persons in the same order."""
    people, expected = decode_people(heatmaps, pafs, size), paf_oracle.decode(heatmaps, pafs, size)
    assert len(people) == len(expected)
    for row, (keypoints, score) in enumerate(expected):
        assert_array_equal(people.joints[row], keypoints[:, :2])
        assert_array_equal(people.found[row], keypoints[:, 2])
        assert people.scores[row] == pytest.approx(score, abs=1e-4)
    return people


def standing(*places: tuple[float, float, float]) -> np.ndarray:
    """People N×17×3 with all joints labelled, by (x, y, scale)."""
    return np.stack([np.c_[STANDING * scale + (x, y), np.full(17, 2.0)] for x, y, scale in places])


def labelled_only(people: np.ndarray, *joints: str) -> np.ndarray:
    people = people.copy()
    people[:, [i for i, joint in enumerate(COCO17.joints) if joint not in joints]] = 0
    return people


def without(people: np.ndarray, *joints: str) -> np.ndarray:
    return labelled_only(people, *(joint for joint in COCO17.joints if joint not in joints))


# The maps as if they were large ----------------------------------------------------------------------------------

AXES = [
    pytest.param((640, 480), (62, 48), id="usual"),
    pytest.param((333, 500), (48, 62), id="high"),
    pytest.param((40, 30), (62, 48), id="image smaller than its maps"),
    pytest.param((5, 3), (6, 4), id="image smaller than the kernel"),
    pytest.param((31, 24), (31, 24), id="same size"),
    pytest.param((17, 33), (1, 2), id="one cell"),
]


@pytest.mark.parametrize(("image_size", "cells"), AXES)
def test_reading_a_pixel_equals_upsampling_and_reading(image_size: tuple[int, int], cells: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, cells[1], cells[0]))
    y, x = np.indices(image_size[::-1])
    for index, coarse in enumerate(maps):
        read = UpsampledMaps(maps, image_size).at(np.asarray(index), x, y)
        assert_allclose(read, cv2.resize(coarse, image_size, interpolation=cv2.INTER_LINEAR), atol=1e-12)


@pytest.mark.parametrize(("image_size", "cells"), AXES)
def test_one_matrix_for_each_axis_upsamples_and_smooths(image_size: tuple[int, int], cells: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).normal(size=cells[::-1])
    rows, columns = smoothing_matrix(image_size[1], cells[1]), smoothing_matrix(image_size[0], cells[0])
    upsampled = cv2.resize(coarse, image_size, interpolation=cv2.INTER_LINEAR)
    assert_allclose(rows @ coarse @ columns.T, gaussian_filter(upsampled, 3), atol=1e-12)
    assert rows.min() >= 0
    assert_allclose(rows.sum(axis=1), 1)


@pytest.mark.parametrize(("image_size", "cells"), AXES)
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_peaks_are_those_of_the_large_map(
    image_size: tuple[int, int], cells: tuple[int, int], threshold: float
) -> None:
    maps = np.random.default_rng(1).uniform(-0.5, 1, size=(3, cells[1], cells[0]))
    peaks = find_map_peaks(maps, image_size, threshold)
    for index, coarse in enumerate(maps):
        large = cv2.resize(coarse, image_size, interpolation=cv2.INTER_LINEAR)
        smooth = np.pad(gaussian_filter(large, 3), 1)
        middle = smooth[1:-1, 1:-1]
        neighbours = np.stack([smooth[:-2, 1:-1], smooth[2:, 1:-1], smooth[1:-1, :-2], smooth[1:-1, 2:]])
        expected = np.argwhere((middle > threshold) & (middle >= neighbours - 1e-9).all(axis=0))
        here = peaks.maps == index
        assert_array_equal(np.stack([peaks.y[here], peaks.x[here]], axis=1), expected)
        assert_allclose(peaks.scores[here], large[tuple(expected.T)], atol=1e-12)


def test_every_pixel_of_a_plateau_is_a_peak() -> None:
    peaks = find_map_peaks(np.full((1, 3, 4), 0.3), (20, 18), 0.1)
    assert len(peaks.x) == 20 * 18


# Encoding --------------------------------------------------------------------------------------------------------


def test_maps_of_one_limb() -> None:
    """On an image of the maps' size, a joint at (x, y) lies in the map at (x + 0.5, y + 0.5)."""
    people = np.zeros((1, 17, 3))
    people[0, COCO17.joints.index("right_hip")] = 9.5 - OFF_GRID, 5.5 - OFF_GRID, 1
    people[0, COCO17.joints.index("right_knee")] = 9.5 - OFF_GRID, 11.5 - OFF_GRID, 1
    heatmaps, pafs = encode_people(people[..., :2], people[..., 2], (20, 20), (20, 20))
    hip, knee = heatmaps[OPENPOSE18.joints.index("right_hip")], heatmaps[OPENPOSE18.joints.index("right_knee")]
    assert (hip[6, 10], knee[12, 10]) == pytest.approx((1, 1))
    assert hip[6, 11] == pytest.approx(np.exp(-1 / (2 * 0.875**2)))
    assert_allclose(heatmaps[18], 1 - np.maximum(hip, knee), atol=1e-7)
    ends = ("right_hip", "right_knee")
    assert not heatmaps[[i for i, joint in enumerate(OPENPOSE18.joints) if joint not in ends]].any()
    assert not pafs[[channel for channel in range(38) if channel != 3]].any()
    rows, columns = np.nonzero(pafs[3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 13, 9, 11)
    assert_array_equal(pafs[3, rows, columns], 1)


def test_fields_of_crossing_people_are_averaged() -> None:
    people = np.zeros((2, 17, 3))
    people[:, COCO17.joints.index("left_hip")] = (4.4, 9.4, 2), (9.4, 4.4, 2)
    people[:, COCO17.joints.index("left_knee")] = (14.4, 9.4, 2), (9.4, 14.4, 2)
    _, pafs = encode_people(people[..., :2], people[..., 2], (20, 20), (20, 20))
    channel = LIMB_CHANNELS[OPENPOSE18.limbs.index(("left_hip", "left_knee"))]
    assert_allclose(pafs[channel : channel + 2, 10, 10], (0.5, 0.5))
    assert_allclose(pafs[channel : channel + 2, 10, 6], (1, 0))
    assert_allclose(pafs[channel : channel + 2, 6, 10], (0, 1))


@pytest.mark.parametrize("missing", ["left_shoulder", "right_shoulder"])
def test_the_neck_needs_both_shoulders(missing: str) -> None:
    neck = OPENPOSE18.joints.index("neck")
    people = standing((100, 100, 2))
    assert ideal_maps(people, SIZE)[0][neck].max() > 0.5
    assert not ideal_maps(without(people, missing), SIZE)[0][neck].any()


def test_nobody_is_background() -> None:
    heatmaps, pafs = ideal_maps(np.zeros((0, 17, 3)), SIZE)
    assert (heatmaps.shape, pafs.shape) == ((19, 48, 62), (38, 48, 62))
    assert heatmaps.dtype == pafs.dtype == np.float32
    assert not heatmaps[:18].any()
    assert (heatmaps[18] == 1).all()
    assert not pafs.any()


# Round trip ------------------------------------------------------------------------------------------------------


@given(
    x=st.floats(20, 150), y=st.floats(20, 60), scale=st.floats(1.2, 2.6), high=st.booleans(), people=st.integers(1, 2)
)
@settings(max_examples=40, deadline=None)
def test_people_are_found_again(x: float, y: float, scale: float, high: bool, people: int) -> None:
    size = (480, 640) if high else SIZE
    truth = standing(*((x + i * 230, y + i * 3, scale * 0.9**i) for i in range(people)))
    found = decode_people(*ideal_maps(truth, size), size)
    # A map is flat from the centre of its outermost cell to the border, and draws peaks of the next cell there.
    inside = (truth[..., 0] < size[0] - 16).all(axis=1)
    assert len(found) >= inside.sum()
    for person in truth[inside]:
        distance = np.linalg.norm(found.joints - person[:, :2], axis=2)
        best = distance.max(axis=1).argmin()
        assert found.found[best].all()
        # A peak between two cells of 10 pixels is off by up to a fifth of one.
        assert distance[best].max() < 3


def test_joints_that_nobody_labelled_are_missing() -> None:
    people = agree(*ideal_maps(without(standing((200, 50, 2)), "left_ankle", "nose"), SIZE), SIZE)
    lost = [COCO17.joints.index(joint) for joint in ("nose", "left_ankle")]
    kept = [joint for joint in range(17) if joint not in lost]
    assert not people.found[0, lost].any()
    assert not people.joints[0, lost].any()
    # Without a nose, the eyes hang on nothing but the ears, and those on the shoulders.
    assert people.found[0, kept].all()


# Against the plain decoder ---------------------------------------------------------------------------------------


def coco_maps(root: Path, split: str, limit: int | None = None) -> list[tuple[int, tuple[int, int], Maps]]:
    dataset = load_coco(root / "coco-mini", split)
    images = [image for image in dataset.images if dataset.persons(image.id)]
    scenes = []
    for image in images[:: max(1, len(images) // limit) if limit else 1]:
        size = (image.width, image.height)
        keypoints = np.stack([person.joints for person in dataset.persons(image.id)])
        scenes.append((image.id, size, ideal_maps(keypoints, size)))
    return scenes


def test_a_sample_of_coco_reads_the_same(test_data: Path) -> None:
    scenes = [scene for split in SPLITS for scene in coco_maps(test_data, split, limit=10)]
    assert len(scenes) >= 20
    assert sum(len(agree(*maps, size)) for _, size, maps in scenes) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_all_of_coco_reads_the_same(test_data: Path, split: str) -> None:
    for _, size, maps in coco_maps(test_data, split):
        agree(*maps, size)


def test_average_precision_on_ideal_maps_of_coco(test_data: Path) -> None:
    """A regression figure: what the maps' resolution, unlabelled joints and the rules of assembly leave of 1.0."""
    dataset = load_coco(test_data / "coco-mini", "val2017")
    results = []
    for image_id, size, maps in coco_maps(test_data, "val2017"):
        people = decode_people(*maps, size)
        rows = np.concatenate([people.joints, people.found[..., None]], axis=2).astype(np.float64)
        results += [
            {"image_id": image_id, "keypoints": row.ravel().tolist(), "score": float(score)}
            for row, score in zip(rows, people.scores, strict=True)
        ]
    truth = read_annotations(dataset.annotation_file)["annotations"]
    sigmas = list(coco_sigmas().values())
    assert coco_stats(truth, results, joints=range(17), sigmas=sigmas).ap == pytest.approx(IDEAL_AP, abs=5e-4)


scenes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "people": st.integers(0, 7),
        "size": st.sampled_from([(160, 120), (120, 160), (199, 133), (97, 97), (248, 192)]),
        "missing": st.sampled_from([0.0, 0.2, 0.6]),
        "spread": st.sampled_from([0.0, 0.3, 1.2]),  # 0: all on top of each other; 1.2: across the borders
        "snap": st.sampled_from([None, 0.5, 4.0]),  # joints on a grid: peaks and limbs of equal score
        "twins": st.booleans(),
        "noise": st.sampled_from([0.0, 0.0, 0.02, 0.08]),
    }
)


def random_scene(
    seed: int, people: int, size: tuple[int, int], missing: float, spread: float, snap: float | None, twins: bool,
    noise: float,
) -> Maps:  # fmt: skip
    random = np.random.default_rng(seed)
    cells = (31, 24) if size[0] > size[1] else (24, 31)
    scale = random.uniform(0.4, 1.1, (people, 1, 1)) * size[1] / 160
    corner = np.array(size) * (0.5 + spread * random.uniform(-0.5, 0.5, (people, 1, 2))) - 50 * scale
    joints = (STANDING + random.normal(0, 4, (people, 17, 2))) * scale + corner
    if twins and people:
        joints[1::2] = joints[: people // 2] + np.array([4.0, 0.0])
    if snap is not None:
        joints = np.round(joints / snap) * snap - OFF_GRID
    visible = random.random((people, 17)) >= missing
    heatmaps, pafs = (
        (channel + random.normal(0, noise, channel.shape)).astype(np.float32)
        for channel in encode_people(joints, visible, size, cells)
    )
    return heatmaps, pafs


@given(scene=scenes)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_scenes_read_the_same(scene: dict) -> None:
    agree(*random_scene(**scene), scene["size"])


@pytest.mark.slow
@given(scene=scenes)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_random_scenes_read_the_same(scene: dict) -> None:
    agree(*random_scene(**scene), scene["size"])


@pytest.mark.parametrize(
    ("people", "noise"),
    [
        pytest.param(0, 0.0, id="nobody"),
        pytest.param(0, 0.08, id="noise alone"),
        pytest.param(3, 0.06, id="three in noise"),
        pytest.param(30, 0.0, id="thirty"),
        pytest.param(30, 0.05, id="thirty in noise"),
    ],
)
def test_crowds_read_the_same(people: int, noise: float) -> None:
    random = np.random.default_rng(people)
    heatmaps, pafs = ideal_maps(crowd(random, people, SIZE), SIZE)
    heatmaps += random.normal(0, noise, heatmaps.shape).astype(np.float32)
    pafs += random.normal(0, noise, pafs.shape).astype(np.float32)
    found = agree(heatmaps, pafs, SIZE)
    assert len(found) >= people * 0.7


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([(-60, 100, 2)], id="left border"),
        pytest.param([(500, 250, 2)], id="corner"),
        pytest.param([(100, 60, 2), (100, 60, 2)], id="same place"),
        pytest.param([(100, 60, 2), (140, 60, 2)], id="overlap"),
        pytest.param([(100, 60, 2), (100 + 640 / 62 * 16, 60, 2)], id="equal maps, sixteen cells apart"),
        pytest.param([(100, 60, 2.5), (180, 120, 0.7)], id="child in front"),
    ],
)
def test_places_read_the_same(places: list[tuple[float, float, float]]) -> None:
    agree(*ideal_maps(standing(*places), SIZE), SIZE)


def test_a_peak_between_two_pixels_is_two_peaks() -> None:
    """At eight pixels to a cell, the middle of a cell lies between pixels: four of them share the maximum."""
    size = (496, 384)
    people = standing((0, 0, 1))
    people[..., :2] = np.round((people[..., :2] + (100, 100)) / 8) * 8 + 3 - OFF_GRID
    heatmaps, pafs = ideal_maps(people, size)
    peaks = find_map_peaks(heatmaps[:1].astype(np.float64), size, 0.1)
    assert len(peaks.x) == 4
    agree(heatmaps, pafs, size)


# Assembly --------------------------------------------------------------------------------------------------------


def test_a_head_and_a_body_join_at_the_ear() -> None:
    """Without neck to nose, both are persons of their own until shoulder and ear merge them."""
    heatmaps, pafs = ideal_maps(standing((200, 50, 2)), SIZE)
    channel = LIMB_CHANNELS[OPENPOSE18.limbs.index(("neck", "nose"))]
    pafs[channel : channel + 2] = 0
    people = agree(heatmaps, pafs, SIZE)
    assert people.found.tolist() == [[True] * 17]


def test_an_ear_between_two_people_goes_to_the_first() -> None:
    """The shoulder's person and the ear's have joints in common: they stay two, and the first takes the ear."""
    first, second = standing((60, 50, 2), (330, 60, 2))
    swapped = np.stack([first, second])
    ear = COCO17.joints.index("right_ear")
    heatmaps, pafs = ideal_maps(swapped, SIZE)
    # The field from each one's shoulder to the other's ear, in place of their own.
    crossed = without(np.stack([first, second]), "right_eye")
    crossed[[0, 1], ear] = crossed[[1, 0], ear]
    channel = LIMB_CHANNELS[OPENPOSE18.limbs.index(("right_shoulder", "right_ear"))]
    pafs[channel : channel + 2] = ideal_maps(crossed, SIZE)[1][channel : channel + 2]
    people = agree(heatmaps, pafs, SIZE)
    assert len(people) == 2
    # Each limb met both; as published, the first took the second's ear and then its own again, which counts once more.
    assert_array_equal(people.joints[0, ear], people.joints[1, ear])


@pytest.mark.parametrize(
    ("joints", "found"),
    [
        pytest.param(("left_hip", "left_knee", "left_ankle"), 0, id="three joints"),
        pytest.param(("left_shoulder", "right_shoulder", "left_elbow"), 1, id="three joints and their neck"),
        pytest.param(("left_shoulder", "left_ear"), 0, id="shoulder and ear alone"),
    ],
)
def test_a_person_needs_four_joints(joints: tuple[str, ...], found: int) -> None:
    people = agree(*ideal_maps(labelled_only(standing((200, 50, 2)), *joints), SIZE), SIZE)
    assert len(people) == found


def test_a_person_of_low_score_is_dropped() -> None:
    heatmaps, pafs = ideal_maps(standing((200, 50, 2)), SIZE)
    assert len(agree(heatmaps * np.float32(0.3), pafs * np.float32(0.3), SIZE)) == 1
    assert len(agree(heatmaps * np.float32(0.2), pafs * np.float32(0.2), SIZE)) == 0


def test_the_score_is_the_total_over_coco_joints() -> None:
    """17 limbs of score near 1 and 18 peaks, over 17 joints; the two limbs of the ears add nothing to one person."""
    people = agree(*ideal_maps(standing((200, 50, 2)), SIZE), SIZE)
    assert 1.6 < people.scores[0] < (17 + 18) / 17


# The module ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heatmaps", "pafs"),
    [
        pytest.param((18, 48, 62), (38, 48, 62), id="no background"),
        pytest.param((19, 48, 62), (19, 48, 62), id="one component"),
        pytest.param((19, 48, 62), (38, 62, 48), id="turned"),
        pytest.param((1, 19, 48, 62), (1, 38, 48, 62), id="batch"),
    ],
)
def test_other_shapes_are_refused(heatmaps: tuple[int, ...], pafs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be 19×h×w"):
        decode_people(np.zeros(heatmaps, np.float32), np.zeros(pafs, np.float32), SIZE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1], ids=["heatmaps", "pafs"])
def test_values_that_are_not_finite_are_refused(which: int, value: float) -> None:
    maps = ideal_maps(standing((200, 50, 2)), SIZE)
    maps[which][3, 4, 5] = value
    with pytest.raises(ValueError, match="finite"):
        decode_people(*maps, SIZE)


def test_maps_full_of_peaks_are_refused() -> None:
    """Each pixel of a plateau is a peak; pairing them would take hours."""
    heatmaps, pafs = np.full((19, 12, 16), 0.5, np.float32), np.zeros((38, 12, 16), np.float32)
    with pytest.raises(CheckpointError, match="345600 peaks"):
        decode_people(heatmaps, pafs, (160, 120))


def test_inputs_are_left_as_they_are_and_half_precision_is_read() -> None:
    maps = ideal_maps(standing((200, 50, 2)), SIZE)
    copies = [channel.copy() for channel in maps]
    decode_people(*maps, SIZE)
    for channel, copy in zip(maps, copies, strict=True):
        assert_array_equal(channel, copy)
    assert len(decode_people(maps[0].astype(np.float16), maps[1].astype(np.float16), SIZE)) == 1


def test_it_needs_numpy_only() -> None:
    code = (
        "import sys, hpe_tasks.pose.codecs.part_affinity\n"
        "heavy = {'cv2', 'scipy', 'torch', 'PIL', 'pydantic', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
