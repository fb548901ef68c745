"""The codec of part-affinity fields; `hpe_tasks.pose.codecs.part_affinity` makes and reads the maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs.codec import FileOutputs, ImageCodec, Shape, Size
from hpe_tasks.pose.skeletons import COCO17, OPENPOSE18

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from hpe_tasks.pose.codecs.arrays import Arrays
    from hpe_tasks.pose.people import People

JOINTS = len(OPENPOSE18.joints)
HEATMAPS = JOINTS + 1
PAF_CHANNELS = 2 * len(OPENPOSE18.limbs)

STRIDE = 8
"""Input pixels in one cell of the maps of the networks that the project trains."""


class PafCodec(ImageCodec):
    """All people of an image, as part-affinity fields and heatmaps of their joints."""

    name = "paf"
    decoder = (
        "part-affinity fields: peaks above 0.1 in heatmaps of the image's size smoothed with sigma 3, limbs taken "
        "greedily, people of at least 4 joints; person score: the sum of joint and limb scores over the COCO joints "
        "found"
    )
    skeleton = COCO17
    settings_hint = "Set model.output_layout to the layout of the maps."

    def outputs(self, joints: int, input_size: Size) -> dict[str, Shape]:
        """`pafs` and `heatmaps`, of any size."""
        return {"pafs": ("N", PAF_CHANNELS, "height", "width"), "heatmaps": ("N", HEATMAPS, "height", "width")}

    def find(self, file: FileOutputs) -> dict[str, str]:
        """`pafs` and `heatmaps`, or else the outputs with 38 and with 19 channels.

        Of several, as in a network that gives all its stages, the last.
        """
        axis = 3 if file.channels_last else 1
        channels = {n: shape[axis] if shape else None for n, shape in file.shapes.items() if len(shape) in (0, 4)}
        chosen = {}
        for kind, wanted in file.wanted.items():
            count = wanted[axis]
            fitting = [n for n, has in channels.items() if has == count or (n == kind and not isinstance(has, int))]
            if not fitting:
                raise CheckpointError(
                    f"{file.path} has no output {kind!r} and none with {count} channels; it has: {file.listed}.",
                    hint="Export the network with its outputs named 'pafs' and 'heatmaps', and check "
                    "model.output_layout.",
                )
            chosen[kind] = kind if kind in fitting else fitting[-1]
        return chosen

    def encode(self, points: ArrayLike, visible: ArrayLike, input_size: Size, sigma: float | None) -> Arrays:
        """Maps at an eighth of the input's resolution; see `encode_people`."""
        from hpe_tasks.pose.codecs.part_affinity import PEAK_SIGMA, encode_people

        width, height = input_size
        spread = PEAK_SIGMA if sigma is None else sigma
        heatmaps, pafs = encode_people(points, visible, input_size, (width // STRIDE, height // STRIDE), sigma=spread)
        return {"pafs": pafs, "heatmaps": heatmaps}

    def decode(self, outputs: Mapping[str, NDArray[np.float32]], image_size: Size) -> People:
        """See `decode_people`."""
        from hpe_tasks.pose.codecs.part_affinity import decode_people

        return decode_people(outputs["heatmaps"], outputs["pafs"], image_size)
