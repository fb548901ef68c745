"""Encoding and decoding of poses: how joints become network targets and network outputs become joints.

Sizes are (W, H), arrays H×W×C. These modules need numpy only, because AWS Lambda ships them.
"""

from hpe_tasks.pose.codecs.heatmap import decode_heatmaps, encode_heatmaps, find_peaks, flip_back
from hpe_tasks.pose.codecs.outputs import OUTPUT_NAMES, Codec
from hpe_tasks.pose.codecs.paf import decode_people, encode_people
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import (
    Poses,
    box_to_center_scale,
    crop_matrix,
    inverse_crop_matrix,
    person_score,
    transform_points,
)
from hpe_tasks.pose.people import People

__all__ = [
    "OUTPUT_NAMES",
    "Codec",
    "People",
    "Poses",
    "box_to_center_scale",
    "crop_matrix",
    "decode_heatmaps",
    "decode_people",
    "encode_heatmaps",
    "encode_people",
    "find_peaks",
    "flip_back",
    "input_levels",
    "inverse_crop_matrix",
    "person_score",
    "transform_points",
]
