"""Codecs: how joints become network targets, and network outputs become joints.

A further codec is a file beside these, its class in `CODECS` and its name in `CodecName`. None needs
NumPy to be imported.
"""

from collections.abc import Mapping
from typing import Literal

from hpe_tasks.pose.codecs.codec import Codec, CropCodec, ImageCodec
from hpe_tasks.pose.codecs.heatmap import HeatmapCodec
from hpe_tasks.pose.codecs.paf import PafCodec
from hpe_tasks.pose.codecs.simcc import SimccCodec

__all__ = ["CODECS", "Codec", "CodecName", "CropCodec", "ImageCodec", "crop_codec", "image_codec"]

CodecName = Literal["heatmap", "paf", "simcc"]

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (HeatmapCodec(), PafCodec(), SimccCodec())}
"""Every codec, by its name."""


def crop_codec(name: str) -> CropCodec:
    """The codec of this name; raises TypeError where it is one of whole images."""
    codec = CODECS[name]
    if not isinstance(codec, CropCodec):
        raise TypeError(f"codec {name!r} is shown whole images, not crops")
    return codec


def image_codec(name: str) -> ImageCodec:
    """The codec of this name; raises TypeError where it is one of crops."""
    codec = CODECS[name]
    if not isinstance(codec, ImageCodec):
        raise TypeError(f"codec {name!r} is shown crops, not whole images")
    return codec
