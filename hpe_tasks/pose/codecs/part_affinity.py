"""Part-affinity fields: how OpenPose describes all people of an image at once, and how people are read from its maps.

A network gives 19 heatmaps (the joints of `OPENPOSE18` and the background) and 38 channels of part-affinity fields: two
for each limb of `OPENPOSE18`, the x and y of a vector that points along the limb where there is one, and is zero
elsewhere. People are given and returned with COCO's 17 joints.

Conventions: sizes are (W, H), arrays H×W; coordinates are (x, y) in image pixels as COCO's annotations have them. The
centre of the first pixel of a map is at (−0.5, −0.5): the published decoder subtracts half a pixel from what it finds,
and `encode_people` puts joints where `decode_people` finds them.

Needs numpy only: AWS Lambda ships this module.
Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017); the AIMET model zoo's
"Pose Estimation".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs.map_peaks import Peaks, find_map_peaks
from hpe_tasks.pose.codecs.paf import HEATMAPS, JOINTS, PAF_CHANNELS
from hpe_tasks.pose.codecs.upsampling import UpsampledMaps
from hpe_tasks.pose.people import People
from hpe_tasks.pose.skeletons import COCO17, OPENPOSE18

Floats = NDArray[np.floating[Any]]

LIMB_CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)
"""The channel of each limb's x component; its y component is in the next one."""

PEAK_SIGMA = 7 / 8
"""Standard deviation of a joint's Gaussian in cells: OpenPose's 7 pixels of the network's input at stride 8."""

LIMB_WIDTH = 1.0
"""Half the breadth of a limb in cells, as OpenPose draws it."""

OFF_GRID = 0.01
"""Pixels by which `encode_people` moves joints. Annotated joints lie at whole pixels, so that in an image with a whole
number of pixels to a cell (as 480 to 48) many would peak midway between two pixels. Both are then peaks, and a person
would be found twice."""

_LIMB_ENDS = OPENPOSE18.limb_indices()
_LIMBS = np.array(_LIMB_ENDS)
# The neck is not a COCO joint; behind COCO's joints it would be the 18th.
_FROM_COCO = [COCO17.joints.index(joint) if joint != "neck" else len(COCO17.joints) for joint in OPENPOSE18.joints]
_TO_COCO = tuple(joint if joint < len(COCO17.joints) else None for joint in _FROM_COCO)
_SHOULDERS = [COCO17.joints.index("left_shoulder"), COCO17.joints.index("right_shoulder")]

_PEAK_THRESHOLD = 0.1
_POINTS = 10
_POINTS_NEEDED = 9
_ALONG_LIMB = 0.05
# Shoulder to ear: these join people, but found none.
_JOINING_LIMBS = 2
_MIN_JOINTS = 4
_MIN_MEAN_SCORE = 0.4
_SCORE_DECIMALS = 9
_PAIRS_AT_ONCE = 4096
# Some seconds of work. A hundred people with ten false peaks for each joint of theirs make fewer.
_MAX_PAIRS = 20_000_000


def decode_people(heatmaps: Floats, pafs: Floats, image_size: tuple[int, int]) -> People:
    """Read the people from a network's maps.

    Both kinds of maps count as upsampled to the image's size (bilinear, as OpenCV does it), though only the pixels that
    matter are worked out. Rounding decides nothing: values within 1e-9 are equal, all neighbours that share a maximum
    are peaks, and among limbs of equal score the one whose first end comes first (by row, then column) goes first, then
    the one whose second end does.

    Args:
        heatmaps: 19×h×w.
        pafs: 38×h×w.
        image_size: (W, H) of the image.

    Returns:
        People in the order in which they were put together.

    Raises:
        ValueError: The maps have other shapes, or hold values that are not finite.
        CheckpointError: There are so many peaks that the maps cannot be those of a trained network.
    """
    if heatmaps.ndim != 3 or len(heatmaps) != HEATMAPS or pafs.shape != (PAF_CHANNELS, *heatmaps.shape[1:]):
        raise ValueError(
            f"heatmaps must be {HEATMAPS}×h×w and pafs {PAF_CHANNELS}×h×w, not {heatmaps.shape}, {pafs.shape}"
        )
    if not (np.isfinite(heatmaps).all() and np.isfinite(pafs).all()):
        raise ValueError("heatmaps and pafs must be finite")
    peaks = find_map_peaks(heatmaps[:JOINTS].astype(np.float64), image_size, _PEAK_THRESHOLD)
    persons = _assemble(_connect(pafs, peaks, image_size), peaks.scores.tolist())
    return _in_coco_order(persons, peaks)


def encode_people(
    joints: ArrayLike,
    visible: ArrayLike,
    image_size: tuple[int, int],
    map_size: tuple[int, int],
    *,
    sigma: float = PEAK_SIGMA,
    limb_width: float = LIMB_WIDTH,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the maps that a network should give for people: the inverse of `decode_people`.

    A joint's heatmap is the largest of the Gaussians around everyone's joint; the background is 1 − the largest of all
    joints. A limb's field is the unit vector along it in the cells near it, and where several people's limbs cross, the
    mean of theirs. The neck lies midway between the shoulders when both are labelled.

    Args:
        joints: N×17×2, (x, y) in image pixels.
        visible: N×17; joints with 0 are not labelled.
        image_size: (W, H) of the image.
        map_size: (W, H) of the maps: an eighth of the network's input.
        sigma: Standard deviation of a joint's Gaussian, in cells of the map.
        limb_width: How far from a limb, sideways and beyond its ends, cells belong to it, in cells.

    Returns:
        Heatmaps 19×h×w float32 in [0, 1], and part-affinity fields 38×h×w float32.
    """
    coco = np.asarray(joints, dtype=np.float64).reshape(-1, len(COCO17.joints), 2)
    labelled = np.asarray(visible).reshape(coco.shape[:2]) > 0
    width, height = map_size
    # Half a pixel as `decode_people` takes it off, then OpenCV's half-pixel centres.
    points = (_with_neck(coco) + 1.0 + OFF_GRID) * (width / image_size[0], height / image_size[1]) - 0.5
    shown = np.concatenate([labelled, labelled[:, _SHOULDERS].all(axis=1, keepdims=True)], axis=1)[:, _FROM_COCO]

    spread = 2 * sigma**2
    rows = np.exp(-((np.arange(height) - points[..., 1:]) ** 2) / spread) * shown[..., None]
    columns = np.exp(-((np.arange(width) - points[..., :1]) ** 2) / spread)
    heatmaps = np.zeros((HEATMAPS, height, width), np.float32)
    for person_rows, person_columns in zip(rows, columns, strict=True):
        around = person_rows[:, :, None] * person_columns[:, None, :]
        np.maximum(heatmaps[:JOINTS], around, out=heatmaps[:JOINTS], casting="same_kind")
    heatmaps[JOINTS] = 1 - heatmaps[:JOINTS].max(axis=0)

    pafs = np.zeros((PAF_CHANNELS, height, width), np.float32)
    for (first, second), channel in zip(_LIMB_ENDS, LIMB_CHANNELS, strict=True):
        both = shown[:, first] & shown[:, second]
        pafs[channel : channel + 2] = _limb_field(points[both, first], points[both, second], map_size, limb_width)
    return heatmaps, pafs


def _with_neck(coco: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring COCO's joints into the order of `OPENPOSE18`."""
    neck = coco[:, _SHOULDERS].mean(axis=1, keepdims=True)
    return np.concatenate([coco, neck], axis=1)[:, _FROM_COCO]


def _limb_field(
    starts: NDArray[np.float64], ends: NDArray[np.float64], map_size: tuple[int, int], limb_width: float
) -> NDArray[np.float64]:
    """Average the limbs of N people, given in cells as N×2: 2×h×w."""
    width, height = map_size
    x, y = np.arange(width), np.arange(height)[:, None]
    total, overlap = np.zeros((2, height, width)), np.zeros((height, width))
    for start, end in zip(starts, ends, strict=True):
        length = float(np.hypot(*(end - start)))
        if length == 0:
            continue
        unit_x, unit_y = (end - start) / length
        along = (x - start[0]) * unit_x + (y - start[1]) * unit_y
        across = np.abs((x - start[0]) * unit_y - (y - start[1]) * unit_x)
        inside = (across <= limb_width) & (along >= -limb_width) & (along <= length + limb_width)
        total[0, inside] += unit_x
        total[1, inside] += unit_y
        overlap[inside] += 1
    return total / np.maximum(overlap, 1)


# Limbs -----------------------------------------------------------------------------------------------------------


@frozen
class _Limbs:
    """Candidates for a limb, or limbs: which one of `OPENPOSE18`, its ends as indices of peaks, its score."""

    limb: NDArray[np.intp]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    score: NDArray[np.float64]


def _connect(pafs: Floats, peaks: Peaks, image_size: tuple[int, int]) -> list[tuple[int, int, int, float]]:
    """Take limbs greedily by score, each end once: (limb, first peak, second peak, score), in limb order."""
    candidates = _candidates(pafs, peaks, image_size)
    # Rounded, so that equal scores tie; the ends then decide, as peaks are in row-major order.
    keys = (candidates.second, candidates.first, -np.round(candidates.score, _SCORE_DECIMALS), candidates.limb)
    order = np.lexsort(keys)
    taken = []
    used: set[tuple[int, int]] = set()
    columns = (candidates.limb, candidates.first, candidates.second, candidates.score)
    for limb, first, second, score in zip(*(column[order].tolist() for column in columns), strict=True):
        # Peaks are numbered across all joints, so a limb's two kinds of ends do not mix.
        if (limb, first) not in used and (limb, second) not in used:
            used |= {(limb, first), (limb, second)}
            taken.append((limb, first, second, score))
    return taken


def _candidates(pafs: Floats, peaks: Peaks, image_size: tuple[int, int]) -> _Limbs:
    """Score every pair of peaks that a limb could join, in portions of bounded memory, and keep those that pass."""
    x_channels = list(LIMB_CHANNELS)
    y_channels = [channel + 1 for channel in LIMB_CHANNELS]
    # A vector as one complex number: half the look-ups.
    fields = UpsampledMaps(pafs[x_channels] + 1j * pafs[y_channels].astype(np.float64), image_size)
    start = np.searchsorted(peaks.maps, np.arange(JOINTS + 1))
    count = np.diff(start)
    last = np.cumsum(count[_LIMBS[:, 0]] * count[_LIMBS[:, 1]])
    total = int(last[-1])
    if total > _MAX_PAIRS:
        raise CheckpointError(
            f"The heatmaps have {len(peaks.maps)} peaks, far more than people have joints.",
            hint="Check that the network is trained and that its input is normalized as in its training.",
        )
    portions = []
    for begin in range(0, total, _PAIRS_AT_ONCE):
        pair = np.arange(begin, min(begin + _PAIRS_AT_ONCE, total))
        limb = np.searchsorted(last, pair, side="right")
        firsts, seconds = _LIMBS[limb].T
        i, j = np.divmod(pair - (last[limb] - count[firsts] * count[seconds]), count[seconds])
        portions.append(_score(fields, peaks, image_size[1], limb, start[firsts] + i, start[seconds] + j))
    if not portions:
        nothing = np.empty(0, np.intp)
        return _Limbs(nothing, nothing, nothing, np.empty(0))
    return _Limbs(
        np.concatenate([portion.limb for portion in portions]),
        np.concatenate([portion.first for portion in portions]),
        np.concatenate([portion.second for portion in portions]),
        np.concatenate([portion.score for portion in portions]),
    )


def _score(
    fields: UpsampledMaps[np.complex128],
    peaks: Peaks,
    image_height: int,
    limb: NDArray[np.intp],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
) -> _Limbs:
    """Score candidates by the field along them, and keep those that follow it."""
    along = np.arange(_POINTS)
    # One of the ten points may miss, so a pair whose two middle points both miss is out; most are.
    for points in (along[4:6], along):
        dx, dy = peaks.x[second] - peaks.x[first], peaks.y[second] - peaks.y[first]
        length = np.hypot(dx, dy)
        # Two joints on one pixel have no direction, so that their products are 0.
        direction = (dx + 1j * dy) / np.maximum(length, 1)
        # Whole numbers: truncation is then exact.
        x = ((_POINTS - 1) * peaks.x[first][:, None] + dx[:, None] * points) // (_POINTS - 1)
        y = ((_POINTS - 1) * peaks.y[first][:, None] + dy[:, None] * points) // (_POINTS - 1)
        vectors = fields.at(limb[:, None], x, y)
        products = vectors.real * direction.real[:, None] + vectors.imag * direction.imag[:, None]
        misses = np.count_nonzero(products <= _ALONG_LIMB, axis=1)
        keep = misses <= _POINTS - _POINTS_NEEDED
        limb, first, second = limb[keep], first[keep], second[keep]
    products, length = products[keep], length[keep]
    score = products.mean(axis=1) + np.minimum(0.5 * image_height / length - 1, 0)
    positive = score > 0
    return _Limbs(limb[positive], first[positive], second[positive], score[positive])


# People ----------------------------------------------------------------------------------------------------------


class _PartialPerson:
    """A person that is being put together: the peak of each joint, how many were added, and their scores."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.peaks: dict[int, int] = {}
        self.count = 0
        self.score = 0.0


def _assemble(limbs: Iterable[tuple[int, int, int, float]], scores: list[float]) -> list[_PartialPerson]:
    """Put people together from limbs, in the order of the limbs, as OpenPose does it.

    One person holds either end: it takes the second end, unless it has it. Two hold them: they become one if they have
    no joint in common, else the first of them takes the second end; as published, also where it has it already, so that
    its count and score grow without a new joint. No person holds one: a new person, but not from shoulder and ear.
    """
    persons: dict[int, _PartialPerson] = {}
    holders: dict[int, dict[int, _PartialPerson]] = {}  # of each peak, by their number

    def take(person: _PartialPerson, joint: int, peak: int) -> None:
        before = person.peaks.get(joint)
        if before is not None:
            holders[before].pop(person.number, None)
        person.peaks[joint] = peak
        holders.setdefault(peak, {})[person.number] = person

    number = 0
    for limb, first, second, limb_score in limbs:
        first_joint, second_joint = _LIMB_ENDS[limb]
        either = {**holders.get(first, {}), **holders.get(second, {})}
        holding = [either[key] for key in sorted(either)]
        if len(holding) > 1 and not holding[0].peaks.keys() & holding[1].peaks.keys():
            person, other = holding[:2]
            for joint, peak in other.peaks.items():
                holders[peak].pop(other.number, None)
                take(person, joint, peak)
            person.count += other.count
            person.score += other.score + limb_score
            del persons[other.number]
        elif holding:
            person = holding[0]
            if len(holding) > 1 or person.peaks.get(second_joint) != second:
                take(person, second_joint, second)
                person.count += 1
                person.score += scores[second] + limb_score
        elif limb < len(_LIMB_ENDS) - _JOINING_LIMBS:
            person = persons[number] = _PartialPerson(number)
            number += 1
            take(person, first_joint, first)
            take(person, second_joint, second)
            person.count = 2
            person.score = scores[first] + scores[second] + limb_score
    return [p for p in persons.values() if p.count >= _MIN_JOINTS and p.score / p.count >= _MIN_MEAN_SCORE]


def _in_coco_order(persons: list[_PartialPerson], peaks: Peaks) -> People:
    joints = np.zeros((len(persons), len(COCO17.joints), 2), np.float32)
    found = np.zeros(joints.shape[:2], np.bool_)
    scores = np.zeros(len(persons), np.float32)
    for row, person in enumerate(persons):
        for joint, peak in person.peaks.items():
            coco = _TO_COCO[joint]
            if coco is not None:
                joints[row, coco] = peaks.x[peak] - 0.5, peaks.y[peak] - 0.5
                found[row, coco] = True
        scores[row] = person.score / np.count_nonzero(found[row])
    return People(joints, found, scores)
