"""The codec of coordinate classification (SimCC), as RTMPose has it: for each joint one vector over x and one over y.

A vector has some bins for each pixel of the input, usually two: bin b of x is the coordinate b · W / bins.
Sources: Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation" (2022); Jiang et
al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose" (2023), and mmpose's `SimCCLabel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs.codec import CropCodec, FileOutputs, Shape, Size, fits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from hpe_tasks.pose.codecs.arrays import Arrays

NAMES = ("simcc_x", "simcc_y")

SPLIT_RATIO = 2
"""Bins for each pixel of the input in the networks that the project trains; a file's own follow from its outputs."""

BETA = 10.0
"""Factor on logits and targets before the softmax of the loss."""

_SIGMAS = 3  # how far beyond the bins a joint may lie to be learnt


class SimccCodec(CropCodec):
    """One vector for each axis of each joint; a joint is where both are largest."""

    name = "simcc"
    decoder = "SimCC argmax of each axis; joint score: the smaller of the two maxima"
    takes_flip_test = True
    float_outputs = True
    loss = "divergence"
    settings_hint = (
        "Set model.input_width and model.input_height to the crops that the network was trained on, and model.skeleton "
        "or model.joint_names to the joints that it predicts."
    )

    def outputs(self, joints: int, input_size: Size) -> dict[str, Shape]:
        """`simcc_x` and `simcc_y`, a vector for each joint."""
        return {"simcc_x": ("N", joints, "bins"), "simcc_y": ("N", joints, "bins")}

    def fault(self, shapes: Mapping[str, Shape], input_size: Size) -> str | None:
        """Both axes must have the same number of bins for each pixel, and no less than one."""
        bins = [shapes[name][-1] if shapes[name] else None for name in NAMES]
        ratios = [has / side for has, side in zip(bins, input_size, strict=True) if isinstance(has, int)]
        if len(set(ratios)) <= 1 and all(ratio >= 1 for ratio in ratios):
            return None
        width, height = input_size
        return (
            f"simcc_x has {bins[0]} and simcc_y {bins[1]} bins, but an input {width} wide and {height} high has the "
            f"same number of bins for each pixel of both sides, such as {SPLIT_RATIO * width} and "
            f"{SPLIT_RATIO * height}"
        )

    def find(self, file: FileOutputs) -> dict[str, str]:
        """The outputs of these names, or else the only two of such a shape, first x and then y."""
        if set(NAMES) <= file.shapes.keys():
            return {name: name for name in NAMES}
        fitting = [name for name, shape in file.shapes.items() if fits(shape, file.wanted["simcc_x"])]
        if len(fitting) != len(NAMES) or set(NAMES) & file.shapes.keys():
            raise CheckpointError(
                f"{file.path} has no outputs 'simcc_x' and 'simcc_y', and not two others that could be these; it has: "
                f"{file.listed}.",
                hint="Export the network with its outputs named 'simcc_x' and 'simcc_y', N×joints×bins each.",
            )
        return dict(zip(NAMES, fitting, strict=True))

    def encode(
        self, points: ArrayLike, visible: ArrayLike, input_size: Size, sigma: float | None
    ) -> tuple[Arrays, Arrays]:
        """Gaussians over the bins around the bin next to each joint, with 1 at their top.

        Without `sigma` their width is RTMPose's, which grows with the root of the side: 4.9 bins for 192 pixels, 5.66
        for 256. A joint is learnt if any of its Gaussian lies on both axes.
        """
        import numpy as np

        joints = np.asarray(points, dtype=np.float64)
        labelled = np.asarray(visible) > 0
        targets, near = [], []
        for axis, side in enumerate(input_size):
            bins = np.arange(side * SPLIT_RATIO)
            spread = (side / 8) ** 0.5 if sigma is None else sigma
            middle = np.rint(joints[..., axis] * SPLIT_RATIO)
            targets.append(np.exp(-((bins - middle[..., None]) ** 2) / (2 * spread**2)).astype(np.float32))
            near.append((middle >= -_SIGMAS * spread) & (middle < len(bins) + _SIGMAS * spread))
        weights = (labelled & near[0] & near[1]).astype(np.float32)
        learnt = {name: target * weights[..., None] for name, target in zip(NAMES, targets, strict=True)}
        return learnt, dict.fromkeys(NAMES, weights)

    def decode(
        self, outputs: Mapping[str, NDArray[np.float32]], centers: ArrayLike, scales: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The bins of the two maxima; a joint whose score is not above 0 lies one bin outside of its crop."""
        import numpy as np

        from hpe_tasks.pose.crops import from_crops

        vectors = [outputs[name] for name in NAMES]
        best = np.stack([vector.argmax(axis=2) for vector in vectors], axis=-1)
        scores: NDArray[np.float32] = np.minimum(*(vector.max(axis=2) for vector in vectors)).astype(np.float32)
        best[scores <= 0] = -1
        # Both axes have as many bins to a pixel, so that bins are the pixels of a larger crop.
        return from_crops(best, (vectors[0].shape[2], vectors[1].shape[2]), centers, scales), scores

    def flip_back(self, outputs: Mapping[str, NDArray[np.float32]], flip_pairs: Iterable[tuple[int, int]]) -> Arrays:
        """Left and right joints swap, and the bins of x are read from the right."""
        import numpy as np

        order = np.arange(outputs["simcc_x"].shape[1])
        for left, right in flip_pairs:
            order[[left, right]] = right, left
        return {"simcc_x": outputs["simcc_x"][:, order, ::-1], "simcc_y": outputs["simcc_y"][:, order]}

    def best_cells(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
        """The bins of the two maxima, as a cell of their product."""
        x, y = (outputs[name].argmax(axis=2) for name in NAMES)
        best: NDArray[np.int64] = y * self.cells_across(outputs) + x
        return best

    def cells_across(self, outputs: Mapping[str, NDArray[np.float32]]) -> int:
        """The bins of x."""
        bins: int = outputs["simcc_x"].shape[2]
        return bins
