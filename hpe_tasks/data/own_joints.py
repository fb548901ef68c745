"""The joints that a data set brings itself: their names, limbs and OKS sigmas."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hpe_tasks.data.json_files import read_json
from hpe_tasks.datasets import COCO, KINDS, DatasetKind
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import Skeleton

UNKNOWN_SIGMA = sorted(COCO.sigmas.values())[len(COCO.sigmas) // 2]
"""OKS sigma of a joint that no known data set names: the median of COCO's joints, that of an elbow."""

_SIGMAS_HINT = "Give a list in the order of the joints, or an object with a number above 0 for each of their names."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnJoints:
    """The joints of one data set.

    Attributes:
        sigmas: OKS sigma of every joint.
        derived: Joints whose sigma no file says.
    """

    skeleton: Skeleton
    sigmas: Mapping[str, float]
    derived: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Left and right joints, which are reported together."""
        joints = self.skeleton.joints
        pairs = [(joints[left], joints[right]) for left, right in self.skeleton.flip_pairs]
        named = {left.removeprefix("left_"): (left, right) for left, right in pairs}
        return {name: pair for name, pair in named.items() if name not in joints}


def read_own_joints(category: Mapping[str, Any] | None, path: Path, kind: DatasetKind, root: Path) -> OwnJoints:
    """The joints that an annotation file's category names, and their sigmas.

    Sigmas come from the kind's file (`annotations/sigmas.json`). Without it a joint has the sigma of the joint of that
    name in COCO or another known data set, and `UNKNOWN_SIGMA` otherwise.

    Args:
        category: The category whose annotations are measured; None where no category names joints.
        path: The annotation file, for messages.
        kind: Of the data set.
        root: Its folder.

    Raises:
        DatasetError: There is no such category; its `skeleton` names joints that it does not have; the sigmas are of
            other joints. Names the file and what is wrong.
    """
    if category is None:
        raise DatasetError(
            f"{path}: no category names joints.",
            hint="Give the category `keypoints`, a list of different joint names, and `skeleton`, pairs of their "
            "numbers from 1.",
        )
    joints = tuple(category["keypoints"])
    if odd := [joint for joint in joints if not joint or ":" in joint]:
        raise DatasetError(f"{path}: {odd[0]!r} cannot be a joint's name.", hint="Use names without colons.")
    skeleton = Skeleton(name="dataset", joints=joints, limbs=_limbs(category, joints, path))
    file = None if kind.layout.sigmas is None else root / kind.layout.sigmas
    if file is not None and file.is_file():
        return OwnJoints(skeleton, _read_sigmas(file, joints, path))
    known = {joint: sigma for other in KINDS.values() for joint, sigma in other.sigmas.items()} | dict(COCO.sigmas)
    derived = tuple(joint for joint in joints if joint not in known)
    return OwnJoints(skeleton, {joint: known.get(joint, UNKNOWN_SIGMA) for joint in joints}, derived)


def _limbs(category: Mapping[str, Any], joints: tuple[str, ...], path: Path) -> tuple[tuple[str, str], ...]:
    pairs = category.get("skeleton") or []
    if not isinstance(pairs, list):
        raise DatasetError(
            f"{path}: the category's skeleton is not a list.", hint="Give pairs of joint numbers from 1."
        )
    limbs = []
    for pair in pairs:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(end, int) and 1 <= end <= len(joints) for end in pair)
        ):
            raise DatasetError(
                f"{path}: the category's skeleton holds {pair!r}, which is not a pair of numbers from 1 to "
                f"{len(joints)}.",
                hint="The numbers count the category's joints from 1.",
            )
        limbs.append((joints[pair[0] - 1], joints[pair[1] - 1]))
    return tuple(limbs)


def _read_sigmas(file: Path, joints: tuple[str, ...], path: Path) -> dict[str, float]:
    content = read_json(file, if_missing=_SIGMAS_HINT)
    if isinstance(content, list) and len(content) == len(joints):
        content = dict(zip(joints, content, strict=True))
    if not isinstance(content, dict) or set(content) != set(joints):
        count = len(content) if isinstance(content, list | dict) else "no"
        raise DatasetError(
            f"{file} holds {count} sigmas, and not those of the {len(joints)} joints of {path.name}: "
            f"{', '.join(joints)}.",
            hint=_SIGMAS_HINT,
        )
    for joint, sigma in content.items():
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma <= sys.float_info.max:
            raise DatasetError(f"{file}: the sigma of {joint} is {sigma!r}, not a number above 0.", hint=_SIGMAS_HINT)
    return {joint: float(content[joint]) for joint in joints}


@cache
def warn_of_derived(path: Path, derived: tuple[str, ...]) -> None:
    """Say once which sigmas of an annotation file's joints are not given: AP depends on them."""
    log.warning(
        "%s: no OKS sigma is known for %s: %g is used. Another figure comes of other sigmas; annotations/sigmas.json "
        "can say them.",
        path.name,
        ", ".join(derived),
        UNKNOWN_SIGMA,
    )
