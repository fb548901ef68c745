"""People for the tests and measurements of part-affinity fields, and their ideal maps."""

from __future__ import annotations

import numpy as np

from hpe_tasks.pose.codecs.part_affinity import encode_people

# A standing person, 100 wide and 160 high, in COCO's joint order.
STANDING = np.array(
    [
        (50, 10), (54, 7), (46, 7), (59, 10), (41, 10), (65, 32), (35, 32), (72, 57), (28, 57),
        (75, 82), (25, 82), (59, 85), (41, 85), (61, 120), (39, 120), (62, 155), (38, 155),
    ],
    dtype=np.float64,
)  # fmt: skip


def map_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Of the network's maps: 496×384 or 384×496 at stride 8."""
    return (62, 48) if image_size[0] > image_size[1] else (48, 62)


def ideal_maps(people: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps and part-affinity fields of people N×17×3."""
    return encode_people(people[..., :2], people[..., 2], image_size, map_size(image_size))


def crowd(random: np.random.Generator, count: int, image_size: tuple[int, int]) -> np.ndarray:
    """People of all sizes anywhere in the image, in front of each other, all joints labelled: N×17×3."""
    width, height = image_size
    scale = random.uniform(0.3, 0.9, (count, 1, 1)) * height / 160
    corner = random.uniform((0, 0), (width, height), (count, 1, 2)) - 50 * scale
    bent = STANDING + random.normal(0, 3, (count, 17, 2))
    return np.concatenate([bent * scale + corner, np.full((count, 17, 1), 2.0)], axis=2)
