"""The annotations as MPII publishes them, `mpii_human_pose_v1_u12_1.mat`, turned into the Simple Baselines layout.

The file holds one struct, `RELEASE`: `annolist(i)` with `image.name`, `vididx` and `annorect(j)` (head box `x1 y1 x2
y2`, `scale`, `objpos.x/.y`, `annopoints.point(k)` with `x y id is_visible`), and `img_train(i)`. Persons of test
images have no joints. Pixels count from 1 and stay so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.data.mpii.annotations import annotation_path, truth_path
from hpe_tasks.data.mpii.mat import MpiiMat, read_mat, write_mpii_mat
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import MPII16
from hpe_tasks.storage.files import write_atomically

TRAIN, VALID = "train", "valid"

VALID_SHARE = 0.1
"""Share of the videos whose persons become the split `valid` where no images are named."""

_HINT = "Give mpii_human_pose_v1_u12_1.mat as MPII publishes it."

# What the layout writes for a joint that is not labelled.
_UNLABELLED = -1.0

_JOINTS = len(MPII16.joints)


@dataclass(frozen=True)
class ConvertedMpii:
    """What a conversion wrote.

    Attributes:
        persons: Written for each split.
        skipped: Persons of training images who lack joints, a scale, a position or a head box.
    """

    persons: dict[str, int]
    skipped: int


@dataclass(frozen=True, eq=False)
class _Original:
    image: str
    video: int
    center: tuple[float, float]
    scale: float
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    head_box: NDArray[np.float64]


def convert_original(source: Path, root: Path, *, valid_images: Collection[str] | None = None) -> ConvertedMpii:
    """Write `annot/{train,valid}.json` and `annot/gt_{train,valid}.mat` from MPII's own file.

    The original says which images are for training, not which of them validate: published figures are made on 2,958
    persons that Tompson et al. chose. With `valid_images` those images validate. Without, a tenth of the videos does,
    chosen by the digest of their number, so that frames of one video never are on both sides: good to watch a loss
    of accuracy with, but **not** to be compared with published figures.

    A joint is labelled when the file has a point for it, hidden or not, as in Simple Baselines.

    Args:
        source: The original file.
        root: Folder that gets `annot/`; its `images/` is not looked at.
        valid_images: File names of the images whose persons validate.

    Raises:
        DatasetError: The file is missing or has another structure; a name is not that of a training image; a split
            would be empty.
        StorageError: The files cannot be written.
    """
    images = list(_training_images(_release(source), source))
    everyone = [person for _, persons in images for person in persons]
    people = [person for person in everyone if person is not None]
    chosen = None if valid_images is None else frozenset(valid_images)
    unknown = sorted((chosen or frozenset()).difference(name for name, _ in images))
    if unknown:
        raise DatasetError(
            f"{len(unknown)} of the {len(chosen or ())} images that were named to validate are not training images of "
            f"{source}, first {unknown[0]!r}.",
            hint="Name training images of MPII by their file names.",
        )
    splits: dict[str, list[_Original]] = {TRAIN: [], VALID: []}
    for person in people:
        valid = _validates(person.video) if chosen is None else person.image in chosen
        splits[VALID if valid else TRAIN].append(person)
    for split, members in splits.items():
        if not members:
            raise DatasetError(
                f"{source} would give the split {split!r} no persons: it has {len(people)} annotated persons.",
                hint="Name the images that validate, some of several.",
            )
    for split, members in splits.items():
        _write(root, split, members)
    return ConvertedMpii(
        {split: len(members) for split, members in splits.items()}, skipped=len(everyone) - len(people)
    )


def _validates(video: int) -> bool:
    digest = hashlib.sha256(f"mpii video {video}".encode()).digest()
    return int.from_bytes(digest[:8]) < VALID_SHARE * 2**64


def _write(root: Path, split: str, people: list[_Original]) -> None:
    rows = [
        {
            "image": person.image,
            "center": list(person.center),
            "scale": person.scale,
            "joints": np.where(person.visible[:, None], person.joints, _UNLABELLED).tolist(),
            "joints_vis": person.visible.astype(int).tolist(),
        }
        for person in people
    ]
    write_atomically(annotation_path(root, split), json.dumps(rows).encode())
    write_mpii_mat(
        truth_path(root, split),
        MpiiMat(
            joints=np.stack([person.joints for person in people]),
            visible=np.stack([person.visible for person in people]),
            head_boxes=np.stack([person.head_box for person in people]),
        ),
    )


def _training_images(release: Any, path: Path) -> Iterator[tuple[str, list[_Original | None]]]:
    """Names of the training images in the file's order, and their persons; None for one that cannot be scored."""
    entries = _structs(_field(release, "annolist", path))
    training = np.asarray(_field(release, "img_train", path)).ravel()
    if len(entries) != len(training) or not len(entries):
        raise DatasetError(f"{path}: annolist has {len(entries)} entries, img_train {len(training)}.", hint=_HINT)
    for entry, is_training in zip(entries, training, strict=True):
        if not is_training:
            continue
        images = _structs(_field(entry, "image", path))
        name = "".join(np.asarray(_field(images[0], "name", path)).ravel().tolist()) if images else ""
        if not name:
            raise DatasetError(f"{path}: an entry of annolist has no image.name.", hint=_HINT)
        number = _number(entry, "vididx")
        video = -1 if number is None else int(number)
        yield name, [_person(rectangle, name, video) for rectangle in _structs(_field(entry, "annorect", path))]


def _person(rectangle: Any, image: str, video: int) -> _Original | None:
    corners = [_number(rectangle, side) for side in ("x1", "y1", "x2", "y2")]
    positions = _structs(getattr(rectangle, "objpos", None))
    position = [_number(positions[0], axis) for axis in ("x", "y")] if positions else []
    scale = _number(rectangle, "scale")
    annotated = _structs(getattr(rectangle, "annopoints", None))
    points = _structs(getattr(annotated[0], "point", None)) if annotated else []
    known = [value for value in (*corners, *position, scale) if value is not None]
    if not points or len(known) != 7 or corners[:2] == corners[2:] or known[-1] <= 0:
        return None
    joints = np.zeros((_JOINTS, 2))
    visible = np.zeros(_JOINTS, dtype=np.bool_)
    for point in points:
        joint, x, y = (_number(point, field) for field in ("id", "x", "y"))
        if joint is not None and x is not None and y is not None and 0 <= joint < _JOINTS:
            joints[int(joint)] = x, y
            visible[int(joint)] = True
    x1, y1, x2, y2, center_x, center_y, size = known
    return _Original(
        image, video, (center_x, center_y), size, joints, visible, np.array([[x1, y1], [x2, y2]], dtype=np.float64)
    )


def _release(path: Path) -> Any:
    structs = _structs(read_mat(path, hint=_HINT).get("RELEASE"))
    if len(structs) != 1:
        raise DatasetError(f"{path} holds no struct RELEASE.", hint=_HINT)
    return structs[0]


def _field(struct: Any, name: str, path: Path) -> Any:
    value = getattr(struct, name, None)
    if value is None:
        raise DatasetError(f"{path} has no field {name!r} where MPII's annotations have one.", hint=_HINT)
    return value


def _structs(value: Any) -> list[Any]:
    """The elements of a struct array; an empty field has none."""
    elements = np.asarray(value, dtype=object).ravel()
    return [element for element in elements if hasattr(element, "_fieldnames")]


def _number(struct: Any, name: str) -> float | None:
    """A scalar field; None where it is missing or empty, as fields are that were not annotated."""
    values = np.asarray(getattr(struct, name, ())).ravel()
    if values.size != 1 or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        return None
    return float(values[0])
