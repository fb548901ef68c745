"""People in one image: the network between the preprocessing and the codec that it was measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpe_tasks.serving.served_model import ServedModel

Pixels = npt.NDArray[np.uint8]
"""H×W×3, RGB."""


@dataclass(frozen=True, eq=False)
class FoundPeople:
    """N people in pixels of the image, joints in the order of the model's skeleton.

    Attributes:
        keypoints: N×K×2 float32; NaN where a person has no such joint.
        joint_scores: N×K float32; 0 where a person has no such joint.
        scores: N float32, as the evaluation scores persons.
        boxes: N×4 float32, (x, y, w, h): as they were asked for, or the extent of the joints that were found.
    """

    keypoints: npt.NDArray[np.float32]
    joint_scores: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Milliseconds of the stages of one image."""

    preprocess_ms: float
    network_ms: float
    decode_ms: float


class PoseFinder:
    """A loaded network.

    Args:
        model: How it is fed and read.
        file: model.onnx; its digest has been verified.
        threads: Threads of onnxruntime.

    Raises:
        CheckpointError: onnxruntime cannot load the file, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, model: ServedModel, file: Path, threads: int) -> None:
        raise NotImplementedError

    def find(self, image: Pixels, boxes: npt.NDArray[np.float64] | None) -> tuple[FoundPeople, Timings]:
        """Find the people in an image.

        Args:
            image: H×W×3 uint8 RGB, upright.
            boxes: N×4 (x, y, w, h): one person in each. With codec `heatmap` None means one person in the whole frame;
                with codec `paf` it must be None.

        Raises:
            BadInputError: A box is empty or does not touch the image, or boxes were given to codec `paf`.
        """
        raise NotImplementedError
