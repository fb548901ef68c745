"""MPII's truth in MATLAB's format, as Simple Baselines lays it out: reading and writing `gt_<split>.mat`."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from hpe_tasks.data.mpii.mat_elements import check_elements
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import MPII16
from hpe_tasks.storage.files import write_atomically

MAT_JOINTS = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)
"""The file's names of the joints, in the order of `MPII16`."""

_HINT = "Give the gt_<split>.mat of the Simple Baselines layout, or convert the original annotations again."

# What SciPy raises for bytes that are not a MATLAB file, as found by cutting and overwriting one.
_BROKEN = (
    *(ValueError, TypeError, MatReadError, OSError, EOFError, IndexError, KeyError, MemoryError, zlib.error),
    UnboundLocalError,
)

_COUNT = len(MPII16.joints)


@dataclass(frozen=True, eq=False)
class MpiiMat:
    """The content of the file; pixels count from 1.

    Attributes:
        joints: N×16×2 float64.
        visible: N×16 booleans: labelled.
        head_boxes: N×2×2, two opposite corners (x, y).
    """

    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    head_boxes: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of persons."""
        return len(self.joints)

    def select(self, indices: list[int]) -> MpiiMat:
        """These persons only, in this order."""
        return replace(
            self, joints=self.joints[indices], visible=self.visible[indices], head_boxes=self.head_boxes[indices]
        )


def read_mat(path: Path, *, hint: str = _HINT) -> dict[str, Any]:
    """The variables of a MATLAB file, with structs as objects.

    Raises:
        DatasetError: The file is missing or is not a MATLAB file that SciPy reads (version 7 or older).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist.", hint=hint) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", hint="Check its rights.") from error
    try:
        check_elements(content)
        variables: dict[str, Any] = scipy.io.loadmat(cast(Any, io.BytesIO(content)), struct_as_record=False)
    except NotImplementedError as error:
        raise DatasetError(
            f"{path} is a MATLAB file of version 7.3.", hint="Save it in MATLAB with the option -v7."
        ) from error
    except _BROKEN as error:
        raise DatasetError(f"{path} is not a MATLAB file, or is cut off: {error}.", hint=hint) from error
    return variables


def try_mat(file: str) -> None:
    """Read a MATLAB file and forget it: for `try_reading`."""
    read_mat(Path(file))


def load_mpii_mat(path: Path) -> MpiiMat:
    """Read a truth file.

    Raises:
        DatasetError: The file cannot be read; a field is missing or has another shape; joints come in another order;
            a number is not finite; a head has no size. Names the file and the field.
    """
    variables = read_mat(path)
    names = _names(_field(variables, "dataset_joints", path), path)
    if names != MAT_JOINTS:
        raise DatasetError(
            f"{path}: dataset_joints names {', '.join(names)}; MPII's order is {', '.join(MAT_JOINTS)}.", hint=_HINT
        )
    missing = _numbers(variables, "jnt_missing", path)
    count = missing.shape[1] if missing.ndim == 2 else 0
    joints = _numbers(variables, "pos_gt_src", path)
    boxes = _numbers(variables, "headboxes_src", path)
    if count == 1:  # MATLAB drops a last dimension of one.
        joints, boxes = joints.reshape(*joints.shape[:2], -1), boxes.reshape(*boxes.shape[:2], -1)
    for field, array, shape in (
        ("jnt_missing", missing, (_COUNT, count)),
        ("pos_gt_src", joints, (_COUNT, 2, count)),
        ("headboxes_src", boxes, (2, 2, count)),
    ):
        if array.shape != shape or not count:
            wanted = "×".join(map(str, (*shape[:-1], count or "N")))
            raise DatasetError(
                f"{path}: {field} is {'×'.join(map(str, array.shape))}, where {wanted} is needed for "
                f"{count or 'N'} persons.",
                hint=_HINT,
            )
    if not np.isin(missing, (0, 1)).all():
        raise DatasetError(f"{path}: jnt_missing holds other values than 0 and 1.", hint=_HINT)
    found = MpiiMat(
        joints=np.ascontiguousarray(joints.transpose(2, 0, 1)),
        visible=np.ascontiguousarray(missing.T == 0),
        head_boxes=np.ascontiguousarray(boxes.transpose(2, 0, 1)),
    )
    _check_values(found, path)
    return found


def write_mpii_mat(path: Path, truth: MpiiMat) -> None:
    """Write a truth file as `load_mpii_mat` and the reference's evaluation read it; raises StorageError."""
    buffer = io.BytesIO()
    scipy.io.savemat(
        cast(Any, buffer),  # The type stubs know file names only.
        {
            "dataset_joints": np.array([MAT_JOINTS], dtype=object),
            "jnt_missing": (~truth.visible.T).astype(np.uint8),
            "pos_gt_src": truth.joints.transpose(1, 2, 0),
            "headboxes_src": truth.head_boxes.transpose(1, 2, 0),
        },
        do_compression=True,  # With a checksum: damage inside an uncompressed file can go unnoticed.
    )
    write_atomically(path, buffer.getvalue())


def _check_values(mat: MpiiMat, path: Path) -> None:
    broken = ~np.isfinite(np.where(mat.visible[..., None], mat.joints, 0)).all(axis=(1, 2))
    if broken.any():
        raise DatasetError(
            f"{path}: pos_gt_src of person number {int(broken.argmax())} is not finite, though labelled.", hint=_HINT
        )
    sized = np.isfinite(mat.head_boxes).all(axis=(1, 2)) & (mat.head_boxes[:, 0] != mat.head_boxes[:, 1]).any(axis=1)
    if not sized.all():
        raise DatasetError(
            f"{path}: headboxes_src of person number {int(sized.argmin())} has no size: PCKh divides by it.",
            hint=_HINT,
        )


def _field(variables: dict[str, Any], name: str, path: Path) -> NDArray[Any]:
    if name not in variables:
        there = ", ".join(sorted(field for field in variables if not field.startswith("__"))) or "nothing"
        raise DatasetError(f"{path} has no field {name!r}; it holds {there}.", hint=_HINT)
    return np.asarray(variables[name])


def _numbers(variables: dict[str, Any], name: str, path: Path) -> NDArray[np.float64]:
    values = _field(variables, name, path)
    if values.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: {name} holds no numbers.", hint=_HINT)
    return values.astype(np.float64)


def _names(cells: NDArray[Any], path: Path) -> tuple[str, ...]:
    """A cell array of strings; each cell is an array around its string."""
    names = [np.asarray(cell).ravel() for cell in cells.ravel()]
    if not all(len(name) == 1 and isinstance(name[0], str) for name in names):
        raise DatasetError(f"{path}: dataset_joints is not a list of names.", hint=_HINT)
    return tuple(str(name[0]) for name in names)
