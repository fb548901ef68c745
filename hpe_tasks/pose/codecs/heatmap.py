"""The codec of top-down heatmaps; `hpe_tasks.pose.codecs.heatmaps` makes and reads the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs.codec import CropCodec, FileOutputs, Shape, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from hpe_tasks.pose.codecs.arrays import Arrays

STRIDE = 4
"""Input pixels in one heatmap pixel of the networks that the project trains."""

SIGMA = 1.25
"""Standard deviation of a target, in heatmap pixels, for crops of the sample's size."""


class HeatmapCodec(CropCodec):
    """One heatmap for each joint of the person in a crop, as Simple Baselines has it."""

    name = "heatmap"
    decoder = "heatmap argmax with a quarter-pixel shift"
    takes_flip_test = True
    settings_hint = (
        "Set model.skeleton or model.joint_names to the joints that the network predicts, "
        "and model.output_layout and model.output_name to where the heatmaps are."
    )

    def outputs(self, joints: int, input_size: Size) -> dict[str, Shape]:
        """`heatmaps`, of any size."""
        return {"heatmaps": ("N", joints, "height", "width")}

    def find(self, file: FileOutputs) -> dict[str, str]:
        """`model.output_name`, or the only output."""
        names = ", ".join(file.shapes)
        if file.output_name is None:
            if len(file.shapes) > 1:
                raise CheckpointError(
                    f"{file.path} has several outputs: {names}.",
                    hint="Set model.output_name to the one that holds heatmaps.",
                )
            return {"heatmaps": next(iter(file.shapes))}
        if file.output_name not in file.shapes:
            raise CheckpointError(
                f"{file.path} has no output {file.output_name!r}; it has: {names}.",
                hint="Set model.output_name to one of them.",
            )
        return {"heatmaps": file.output_name}

    def encode(
        self, points: ArrayLike, visible: ArrayLike, input_size: Size, sigma: float | None
    ) -> tuple[Arrays, Arrays]:
        """Gaussians at a quarter of the input's resolution; see `encode_heatmaps`."""
        import numpy as np

        from hpe_tasks.pose.codecs.heatmaps import encode_heatmaps

        width, height = input_size
        size = width // STRIDE, height // STRIDE
        cells = np.asarray(points, dtype=np.float64) / STRIDE
        targets, weights = encode_heatmaps(cells, visible, size, SIGMA if sigma is None else sigma)
        return {"heatmaps": targets}, {"heatmaps": weights}

    def decode(
        self, outputs: Mapping[str, NDArray[np.float32]], centers: ArrayLike, scales: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `decode_heatmaps`."""
        from hpe_tasks.pose.codecs.heatmaps import decode_heatmaps

        return decode_heatmaps(outputs["heatmaps"], centers, scales)

    def flip_back(self, outputs: Mapping[str, NDArray[np.float32]], flip_pairs: Iterable[tuple[int, int]]) -> Arrays:
        """See `flip_back`."""
        from hpe_tasks.pose.codecs.heatmaps import flip_back

        return {"heatmaps": flip_back(outputs["heatmaps"], flip_pairs)}

    def best_cells(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
        """The largest value of each heatmap; the first of several."""
        maps = outputs["heatmaps"]
        best: NDArray[np.int64] = maps.reshape(*maps.shape[:2], -1).argmax(axis=2)
        return best

    def cells_across(self, outputs: Mapping[str, NDArray[np.float32]]) -> int:
        """The heatmaps' width."""
        width: int = outputs["heatmaps"].shape[3]
        return width
