"""The sample data set: drawn people in COCO layout, made on the spot, so that the pipeline runs without a download.

Every picture has its own random generator, seeded by the spec's seed, the split and the picture's number: a data set
is the same however many of its pictures are made, and in whatever order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hpe_tasks.data.sample.canvas import Canvas
from hpe_tasks.data.sample.figure import Figure, showing_parts
from hpe_tasks.data.sample.pose import Proportions, Rng, draw_posture, pose_body
from hpe_tasks.data.sample.scene import SCENERIES, develop, paint_background, paint_obstacle, paint_seat, paint_shadow
from hpe_tasks.data.sample.style import Style
from hpe_tasks.datasets import COCO, DatasetKind
from hpe_tasks.errors import ConfigError
from hpe_tasks.pose.skeletons import COCO17, Skeleton
from hpe_tasks.progress import track
from hpe_tasks.storage.files import storage_errors, write_atomically

SPLITS = ("train", "calibration", "val")

FIVE_POINTS = Skeleton(
    name="five_points",
    joints=("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    limbs=(("head", "left_hand"), ("head", "right_hand"), ("head", "left_foot"), ("head", "right_foot")),
)
"""What is annotated where a data set brings its own joints."""

_IDS_PER_SPLIT = 100_000
_IDS_PER_IMAGE = 100
_JPEG_QUALITY = 90
_MIN_JOINTS = 5
_MIN_VISIBLE_SHARE = 0.4


@dataclass(frozen=True)
class SampleSpec:
    """What the sample holds; equal specs give equal files.

    Attributes:
        train: Pictures to train on.
        calibration: Pictures to calibrate on.
        val: Pictures to measure on.
        width: Width of every picture in pixels.
        height: Height of every picture in pixels.
        seed: Seed of everything that is drawn.
    """

    train: int = 1600
    calibration: int = 120
    val: int = 160
    width: int = 400
    height: int = 300
    seed: int = 17

    def __post_init__(self) -> None:
        for split in SPLITS:
            if not 1 <= self.images(split) < _IDS_PER_SPLIT:
                raise ConfigError(
                    f"The sample cannot hold {self.images(split)} images in split {split!r}.",
                    hint=f"Give a number from 1 to {_IDS_PER_SPLIT - 1}.",
                )
        if min(self.width, self.height) < 96:
            raise ConfigError(
                f"The sample's pictures cannot be {self.width}×{self.height} pixels.", hint="Give at least 96×96."
            )
        if self.seed < 0:
            raise ConfigError(f"The sample's seed cannot be {self.seed}.", hint="Give 0 or more.")

    def images(self, split: str) -> int:
        """Number of pictures in a split."""
        return int(getattr(self, split))


@dataclass(frozen=True)
class Picture:
    """One drawn picture and the truth about it.

    Attributes:
        image: H×W×3 uint8 in blue, green, red.
        persons: COCO annotation fields of each person, without ids.
        scenery: Which of SCENERIES is behind them.
    """

    image: npt.NDArray[np.uint8]
    persons: tuple[dict[str, Any], ...]
    scenery: str


def make_sample(
    folder: Path,
    spec: SampleSpec | None = None,
    *,
    splits: Iterable[str] = SPLITS,
    kind: DatasetKind = COCO,
    sceneries: Collection[str] = SCENERIES,
) -> None:
    """Write the sample in the layout of a kind: `images/<split>/*.jpg` and `annotations/person_keypoints_<split>.json`.

    Files that exist are replaced. A split's annotation file is written last and atomically: where it exists, the
    split's images are complete.

    Args:
        folder: Where the data set goes; created when missing.
        spec: What to make; the default is the sample that the project's checkpoint was trained on.
        splits: The splits to make, of `train`, `calibration` and `val`; a split is the same whichever others are made.
        kind: Whose layout and joints the files have. The pictures are the same; a kind that lets each data set bring
            its own joints has bodies of five points.
        sceneries: Pictures with others behind the people are left out, so that there are fewer than the spec says.

    Raises:
        ConfigError: A split that the sample does not have.
        StorageError: The folder cannot be written.
    """
    spec = spec or SampleSpec()
    wanted = tuple(splits)
    unknown = sorted(set(wanted) - set(SPLITS))
    if unknown:
        raise ConfigError(
            f"The sample has no split {unknown[0]!r}.",
            hint=f"It has {', '.join(SPLITS)}: set dataset.calibration_split and dataset.evaluation_split.",
        )
    for split in wanted:
        with storage_errors(folder / kind.layout.image_folders(split)[0]):
            _make_split(folder, spec, split, kind, sceneries)


def _make_split(folder: Path, spec: SampleSpec, split: str, kind: DatasetKind, sceneries: Collection[str]) -> None:
    image_folder = folder / kind.layout.image_folders(split)[0]
    image_folder.mkdir(parents=True, exist_ok=True)
    annotation_file = kind.layout.annotation_path(folder, split)
    skeleton = kind.skeleton or FIVE_POINTS
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    annotation_file.unlink(missing_ok=True)
    first_id = SPLITS.index(split) * _IDS_PER_SPLIT + 1
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def make(index: int) -> tuple[str, tuple[dict[str, Any], ...]] | None:
        picture = draw_picture(spec, split, index, skeleton)
        if picture.scenery not in sceneries:
            return None
        name = f"{first_id + index:012d}.jpg"
        (image_folder / name).write_bytes(_encode(picture.image))
        return name, picture.persons

    # OpenCV and NumPy let go of the interpreter while they draw.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        made = pool.map(make, range(spec.images(split)))
        shown = track(made, f"Drawing {split}", total=spec.images(split), unit="images")
        for index, picture in enumerate(shown):
            if picture is None:
                continue
            name, persons = picture
            image_id = first_id + index
            record = {"id": image_id, "file_name": name, "width": spec.width, "height": spec.height, "license": 1}
            if kind.crowd_levels is not None:
                record[kind.crowd_levels.field] = crowd_index(persons)
            images.append(record)
            annotations += [
                {"id": image_id * _IDS_PER_IMAGE + number, "image_id": image_id, "category_id": 1, **person}
                for number, person in enumerate(persons)
            ]
    content = json.dumps(
        {**_header(spec, skeleton), "images": images, "annotations": annotations}, separators=(",", ":")
    )
    write_atomically(annotation_file, content.encode())


def crowd_index(persons: Sequence[Mapping[str, Any]]) -> float:
    """How crowded an image is, as CrowdPose has it: others' joints in a person's box, over his own; in [0, 1]."""
    shares = []
    for person in persons:
        x, y, width, height = person["bbox"]
        inside = [
            sum(v > 0 and x <= a <= x + width and y <= b <= y + height for a, b, v in _triples(other["keypoints"]))
            for other in persons
        ]
        own = inside[next(i for i, other in enumerate(persons) if other is person)]
        shares.append((sum(inside) - own) / max(own, 1))
    return round(min(1.0, float(sum(shares)) / max(len(shares), 1)), 4)


def _triples(joints: Sequence[float]) -> Iterator[tuple[float, ...]]:
    return zip(joints[::3], joints[1::3], joints[2::3], strict=True)


def _header(spec: SampleSpec, skeleton: Skeleton) -> dict[str, Any]:
    index = {joint: i + 1 for i, joint in enumerate(skeleton.joints)}
    return {
        "info": {"description": "Drawn people, made by hpe_tasks.data.sample", "version": "1", "spec": asdict(spec)},
        "licenses": [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "categories": [
            {
                "id": 1,
                "name": "person",
                "supercategory": "person",
                "keypoints": list(skeleton.joints),
                "skeleton": [[index[a], index[b]] for a, b in skeleton.limbs],
            }
        ],
    }


def _encode(image: npt.NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise OSError("the JPEG encoder failed")
    return data.tobytes()


def draw_picture(spec: SampleSpec, split: str, index: int, skeleton: Skeleton = COCO17) -> Picture:
    """Draw one picture of the sample; the same arguments always give the same picture.

    Args:
        spec: The sample.
        split: `train`, `calibration` or `val`.
        index: Number of the picture in its split, from 0.
        skeleton: The joints that are annotated; the picture does not depend on them.
    """
    attempt = 0
    while True:
        picture = _compose(np.random.default_rng((spec.seed, SPLITS.index(split), index, attempt)), spec, skeleton)
        if picture is not None:
            return picture
        attempt += 1


def _compose(rng: Rng, spec: SampleSpec, skeleton: Skeleton) -> Picture | None:
    """Draw a scene; None when a person in it is too hidden to be annotated, and the scene must be drawn anew."""
    canvas, horizon, scenery = paint_background(rng, spec.width, spec.height)
    figures = _place_figures(rng, spec, horizon)
    full_areas = []
    for owner, (figure, kind) in enumerate(figures, start=1):
        _paint_ground(rng, canvas, figure, kind)
        figure.paint(canvas, owner)
        full_areas.append(int((canvas.owner == owner).sum()))
    if rng.random() < 0.3:
        x, y = rng.uniform(0, spec.width), rng.uniform(0.75, 1.1) * spec.height
        paint_obstacle(rng, canvas, x, y, rng.uniform(0.12, 0.35) * spec.height)
    persons = []
    for owner, (figure, _) in enumerate(figures, start=1):
        person = _annotate(canvas, figure, owner)
        if person["num_keypoints"] < _MIN_JOINTS or person["area"] < _MIN_VISIBLE_SHARE * full_areas[owner - 1]:
            return None
        persons.append(person if skeleton == COCO17 else _annotate(canvas, figure, owner, skeleton))
    return Picture(develop(rng, canvas.image), tuple(persons), scenery)


def _place_figures(rng: Rng, spec: SampleSpec, horizon: float) -> list[tuple[Figure, str]]:
    """Choose who stands where, the farthest first."""
    count = int(rng.choice((1, 2, 3, 4, 5), p=(0.18, 0.3, 0.28, 0.16, 0.08)))
    camera_height, camera_pitch = rng.uniform(0.8, 1.4), rng.uniform(-4, 10)
    nearest = 0.62 if count <= 2 else 0.5
    scales = np.sort(np.exp(rng.uniform(np.log(0.22), np.log(nearest), count))) * spec.height
    placed: list[tuple[Figure, str]] = []
    boxes: list[npt.NDArray[np.float64]] = []
    for scale in scales:
        for _ in range(8):
            posture = draw_posture(rng)
            body = pose_body(Proportions.draw(rng), posture, camera_pitch)
            lowest = max(point[1] for point in body.points.values())
            ground = horizon + scale * camera_height * 0.8 + rng.uniform(-0.06, 0.06) * spec.height
            lift = rng.uniform(0, 0.25) * scale if posture.kind == "jumping" else 0.0
            # At least a head and shoulders stay in the picture.
            ground = min(ground, spec.height + 0.75 * scale)
            origin = np.array([rng.uniform(0.02, 0.98) * spec.width, ground - lowest * scale - lift])
            figure = Figure(body, Style.draw(rng), origin, float(scale))
            points, _ = figure.joints()
            box = np.concatenate([points.min(axis=0), points.max(axis=0)]) + 0.08 * scale * np.array([-1, -1, 1, 1])
            if all(_overlap(box, other) < 0.45 for other in boxes):
                placed.append((figure, posture.kind))
                boxes.append(box)
                break
    return placed


def _overlap(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Intersection of two boxes (x1, y1, x2, y2) as a share of the smaller one."""
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    smaller = min(np.prod(first[2:] - first[:2]), np.prod(second[2:] - second[:2]))
    return float(np.prod(np.maximum(size, 0)) / smaller)


def _paint_ground(rng: Rng, canvas: Canvas, figure: Figure, kind: str) -> None:
    """Draw the shadow under a person, and the seat of one who sits."""
    scale = figure.pixels_per_metre
    feet = np.array([figure.pixel(figure.body.points[f"{side}_ankle"]) for side in ("left", "right")])
    x, ground = float(feet[:, 0].mean()), float(feet[:, 1].max()) + 0.07 * scale
    paint_shadow(canvas, x, ground, 0.38 * scale)
    if kind == "sitting":
        seat = float(figure.origin[1]) + 0.1 * scale
        paint_seat(rng, canvas, float(figure.origin[0]), seat, ground, 0.4 * scale)


def _annotate(canvas: Canvas, figure: Figure, owner: int, skeleton: Skeleton = COCO17) -> dict[str, Any]:
    mask = (canvas.owner == owner).astype(np.uint8)
    points, known = figure.joints(skeleton.joints)
    joints: list[float] = []
    for (x, y), shown, parts in zip(np.round(points, 1), known, showing_parts(skeleton.joints), strict=True):
        if not shown or not (0 <= x <= canvas.width - 1 and 0 <= y <= canvas.height - 1):
            joints += [0, 0, 0]
            continue
        rows = slice(max(round(y) - 1, 0), round(y) + 2)
        columns = slice(max(round(x) - 1, 0), round(x) + 2)
        mine = canvas.owner[rows, columns] == owner
        seen = bool((mine & np.isin(canvas.part[rows, columns], list(parts))).any())
        joints += [float(x), float(y), 2 if seen else 1]
    x, y, width, height = cv2.boundingRect(mask)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return {
        "iscrowd": 0,
        "num_keypoints": sum(v > 0 for v in joints[2::3]),
        "keypoints": joints,
        "bbox": [x, y, width, height],
        "area": int(mask.sum()),
        "segmentation": [contour.reshape(-1).tolist() for contour in contours if len(contour) >= 3],
    }
