"""Encoding and decoding of poses: how joints become network targets and network outputs become joints.

Sizes are (W, H), arrays H×W×C. These modules need numpy only, because AWS Lambda ships them.
"""

from hpe_tasks.codecs.heatmap import (
    Poses,
    box_to_center_scale,
    crop_matrix,
    decode_heatmaps,
    encode_heatmaps,
    find_peaks,
    inverse_crop_matrix,
    transform_points,
)
from hpe_tasks.codecs.paf import People, decode_people, encode_people

__all__ = [
    "People",
    "Poses",
    "box_to_center_scale",
    "crop_matrix",
    "decode_heatmaps",
    "decode_people",
    "encode_heatmaps",
    "encode_people",
    "find_peaks",
    "inverse_crop_matrix",
    "transform_points",
]
