"""Crops of persons: where they lie in an image, how points get into them and back, and what a person's score is.

Conventions: sizes are (W, H), arrays H×W; coordinates are (x, y) in pixels, the centre of the first pixel is (0, 0).
A person's crop is described by a `center` (x, y) in image pixels and a `scale` (w, h) in units of 200 pixels. All
mappings between image, network input and the network's output are a translation and one factor, taken from the widths;
none has a half-pixel correction, because the published results were made without.

Needs numpy only: AWS Lambda ships this module.
Source: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking" (2018) and its reference code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.errors import DatasetError

PIXEL_STD = 200.0
"""Pixels in one unit of `scale`."""

BOX_PADDING = 1.25
"""A crop is this much larger than the person's box."""

JOINT_SCORE_THRESHOLD = 0.2
"""A person's score counts the joints whose score is above this."""


@frozen
class Poses:
    """Joints of several persons.

    Attributes:
        joints: N×K×2 float32, (x, y) in image pixels.
        scores: N×K float32, the heatmap maximum of each joint.
    """

    joints: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.joints.ndim != 3 or self.joints.shape[2] != 2:
            raise ValueError(f"joints must be N×K×2, not {self.joints.shape}")
        if self.scores.shape != self.joints.shape[:2]:
            raise ValueError(f"scores must be {self.joints.shape[:2]} like joints, not {self.scores.shape}")
        if self.joints.dtype != np.float32 or self.scores.dtype != np.float32:
            raise ValueError(f"joints and scores must be float32, not {self.joints.dtype}, {self.scores.dtype}")

    def __len__(self) -> int:
        return len(self.joints)


def box_to_center_scale(
    box_xywh: ArrayLike, image_size: tuple[int, int], input_size: tuple[int, int], *, clip: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a person's box into the centre and scale of its crop.

    The box is clipped to the image, its shorter side grown to the aspect ratio of the input, and both padded by 1.25.

    Args:
        box_xywh: (x, y, w, h) in image pixels.
        image_size: (W, H) of the image.
        input_size: (W, H) of the network's input.
        clip: False takes the box as it is: the reference clips annotated boxes, but not those of a detector.

    Returns:
        `center` (x, y) in image pixels and `scale` (w, h) in units of 200 pixels.

    Raises:
        DatasetError: The box has no extent, is not finite, or covers nothing of the image.
    """
    x, y, width, height = (float(v) for v in np.asarray(box_xywh, dtype=np.float64))
    image_width, image_height = image_size
    left, top, w, h = x, y, width, height
    if clip:
        left, top = max(0.0, x), max(0.0, y)
        # As the reference clips: the far corner is the last pixel of the box, so a box loses one pixel of each side.
        w = min(image_width - 1.0, left + max(0.0, width - 1.0)) - left
        h = min(image_height - 1.0, top + max(0.0, height - 1.0)) - top
        empty = min(w, h) < 0 or max(w, h) == 0
    else:
        empty = min(w, h) <= 0 or left + w <= 0 or top + h <= 0 or left >= image_width or top >= image_height
    if empty or not np.isfinite((x, y, width, height)).all():
        raise DatasetError(
            f"The box (x, y, w, h) = ({x:g}, {y:g}, {width:g}, {height:g}) covers nothing of an image of "
            f"{image_width}×{image_height} pixels.",
            hint="Correct the box, or remove its record.",
        )
    center = np.array([left + w * 0.5, top + h * 0.5])
    aspect = input_size[0] / input_size[1]
    if w > aspect * h:
        h = w / aspect
    else:
        w = h * aspect
    return center, np.array([w, h]) / PIXEL_STD * BOX_PADDING


def crop_matrix(center: ArrayLike, scale: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Give the 2×3 affine matrix from image pixels to a crop.

    `center` lands on (W/2, H/2); the factor is W/(scale_w·200) in both directions.

    Args:
        center: (x, y) in image pixels.
        scale: (w, h) in units of 200 pixels.
        size: (W, H) of the crop: the network's input, or its heatmaps.
    """
    x, y = np.asarray(center, dtype=np.float64)
    factor = size[0] / (float(np.asarray(scale, dtype=np.float64)[0]) * PIXEL_STD)
    return np.array([[factor, 0.0, size[0] / 2 - factor * x], [0.0, factor, size[1] / 2 - factor * y]])


def from_crops(points: ArrayLike, size: tuple[int, int], centers: ArrayLike, scales: ArrayLike) -> NDArray[np.float32]:
    """Map joints of several crops back to their images, by the inverse of `crop_matrix`.

    Args:
        points: N×K×2, (x, y) in pixels, or cells, of crops of this size.
        size: (W, H) of each crop.
        centers: N×2, of the crops in image pixels.
        scales: N×2, of the crops in units of 200 pixels.

    Returns:
        N×K×2 float32, (x, y) in image pixels.
    """
    found = np.asarray(points, dtype=np.float64)
    middle, extent = np.asarray(centers, dtype=np.float64), np.asarray(scales, dtype=np.float64)
    count = len(found)
    if middle.shape != (count, 2) or extent.shape != (count, 2):
        raise ValueError(f"centers and scales must be {(count, 2)}, not {middle.shape} and {extent.shape}")
    width, height = size
    factors = extent[:, 0] * PIXEL_STD / width
    joints = (found - (width / 2, height / 2)) * factors[:, None, None] + middle[:, None, :]
    return joints.astype(np.float32)


def transform_points(points: ArrayLike, matrix: ArrayLike) -> NDArray[np.float64]:
    """Map points, given as …×2, by a 2×3 affine matrix."""
    affine = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ affine[:, :2].T + affine[:, 2]


def person_score(joint_scores: NDArray[np.float32]) -> float:
    """Score a crop by the mean of its joint scores above 0.2, and 0 where none is."""
    confident = joint_scores[joint_scores > JOINT_SCORE_THRESHOLD]
    return float(confident.mean()) if confident.size else 0.0
