"""People in one image: the network between the preprocessing and the codec that it was measured with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.errors import BadInputError, CheckpointError, DatasetError
from hpe_tasks.pose.codecs import CODECS, CropCodec, ImageCodec, crop_codec, image_codec
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import box_to_center_scale, person_score
from hpe_tasks.serving.network import Network
from hpe_tasks.serving.preprocessing import Pixels, crop, normalize, resize
from hpe_tasks.serving.served_model import ServedModel

__all__ = ["FoundPeople", "Pixels", "PoseFinder", "Timings"]

# Pixels; no image is as large.
_FARTHEST = 1e6

_Region = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@frozen(eq=False)
class FoundPeople:
    """N people in pixels of the image, joints in the order of the model's skeleton.

    Attributes:
        joints: N×K×2 float32; NaN where a person has no such joint.
        joint_scores: N×K float32; 0 where a person has no such joint.
        scores: N float32, as the evaluation scores persons.
        boxes: N×4 float32, (x, y, w, h): as they were asked for, or the extent of the joints that were found.
    """

    joints: npt.NDArray[np.float32]
    joint_scores: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]


@frozen
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
        optimized: Whether the file is a graph that onnxruntime has rewritten already.

    Raises:
        CheckpointError: onnxruntime cannot load the file, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, model: ServedModel, file: Path, threads: int, *, optimized: bool = False) -> None:
        self._model = model
        self._network = Network(model, file, threads, optimized=optimized)
        self._levels = self._in_rgb(input_levels(model.mean, model.std))

    def find(self, image: Pixels, boxes: npt.NDArray[np.float64] | None) -> tuple[FoundPeople, Timings]:
        """Find the people in an image.

        Args:
            image: H×W×3 uint8 RGB, or H×W×4 with a value that is not looked at; upright.
            boxes: N×4 (x, y, w, h): one person in each. Where the network is shown crops, None means one person in the
                whole frame; where it is shown whole images, it must be None.

        Raises:
            BadInputError: A box is empty or does not touch the image, boxes were given where whole images are shown, or
                the maps show far more joints than people have.
            CheckpointError: The network gives values that are not finite.
        """
        clock = _Clock()
        name = self._model.codec
        if CODECS[name].whole_images:
            if boxes is not None:
                raise BadInputError(
                    f"The model {self._model.name!r} finds all people by itself and takes no boxes.",
                    hint="Leave the boxes out.",
                )
            found = self._find_everybody(image, image_codec(name), clock)
        else:
            found = self._find_in_boxes(image, boxes, crop_codec(name), clock)
        return found, Timings(*clock.spent_ms)

    def _find_everybody(self, image: Pixels, codec: ImageCodec, clock: _Clock) -> FoundPeople:
        height, width = image.shape[:2]
        # As the evaluation turns the network's input: to the high one unless the image is wider than high.
        size = self._model.input_sizes[0 if width > height else -1]
        inputs = self._network.empty(1, size)
        self._normalize(resize(image, size), self._network.planes(inputs)[0])
        clock.preprocessed()
        outputs = {name: array[0] for name, array in self._network.run(inputs).items()}
        clock.ran()
        self._check_finite(*outputs.values())
        try:
            people = codec.decode(outputs, (width, height))
        except CheckpointError as error:
            # A trained network gives such maps only where an image is made to.
            raise BadInputError(
                "The model sees more joints in the image than can belong to people.", hint="Send a photograph."
            ) from error
        # Without one of COCO's joints there is nothing to show; the evaluation leaves such a person out, too.
        shown = people.found.any(axis=1)
        there = people.found[shown]
        joints = np.where(there[..., None], people.joints[shown], np.float32(np.nan))
        found = FoundPeople(joints, there.astype(np.float32), people.scores[shown], _extents(joints))
        clock.decoded()
        return found

    def _find_in_boxes(
        self, image: Pixels, boxes: npt.NDArray[np.float64] | None, codec: CropCodec, clock: _Clock
    ) -> FoundPeople:
        regions = self._regions(image, boxes)
        size = self._model.input_sizes[0]
        parts = []
        for start in range(0, len(regions), self._network.batch):
            part = regions[start : start + self._network.batch]
            inputs = self._network.empty(len(part), size)
            for (center, scale), planes in zip(part, self._network.planes(inputs), strict=True):
                self._normalize(crop(image, center, scale, size), planes)
            clock.preprocessed()
            outputs = self._outputs(inputs, codec)
            clock.ran()
            centers, scales = (np.stack(one) for one in zip(*part, strict=True))
            joints, scores = codec.decode(outputs, centers, scales)
            # A score is a maximum, which is NaN wherever an output holds one.
            self._check_finite(scores)
            parts.append((joints, scores))
            clock.decoded()
        count = len(self._model.skeleton.joints)
        joints = np.concatenate([np.empty((0, count, 2), np.float32), *(part[0] for part in parts)])
        scores = np.concatenate([np.empty((0, count), np.float32), *(part[1] for part in parts)])
        there = scores > 0
        joints[~there] = np.nan
        # The frame is not a box that was asked for: where not one joint shows, there is none.
        shown = there.any(axis=1) if boxes is None else np.full(len(there), True)
        found = FoundPeople(
            joints=joints[shown],
            joint_scores=np.where(there, scores, np.float32(0))[shown],
            scores=np.array([person_score(one) for one in scores[shown]], np.float32),
            boxes=_extents(joints[shown]) if boxes is None else boxes.astype(np.float32),
        )
        clock.decoded()
        return found

    def _normalize(self, pixels: Pixels, planes: npt.NDArray[np.float32]) -> None:
        normalize(pixels, self._levels, self._in_rgb(planes))

    def _in_rgb(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A view of the network's channels, which are the first axis, in the order of the pixels."""
        return channels[::-1] if self._model.channel_order == "bgr" else channels

    def _outputs(self, inputs: npt.NDArray[np.float32], codec: CropCodec) -> Arrays:
        outputs = self._network.run(inputs)
        if self._model.flip_test:
            planes = self._network.planes(inputs)
            planes[:] = planes[..., ::-1].copy()
            outputs = codec.averaged(outputs, self._network.run(inputs), self._model.flip_pairs)
        return outputs

    def _regions(self, image: Pixels, boxes: npt.NDArray[np.float64] | None) -> Sequence[_Region]:
        height, width = image.shape[:2]
        if boxes is None:
            boxes = np.array([[0, 0, width, height]], np.float64)
        elif boxes.ndim != 2 or boxes.shape[1] != 4:
            raise BadInputError(
                f"The boxes have the shape {boxes.shape}.", hint="Give each box as (x, y, width, height) in pixels."
            )
        return [self._region(box, (width, height)) for box in boxes]

    def _region(self, box: npt.NDArray[np.float64], image_size: tuple[int, int]) -> _Region:
        """The crop of a box, clipped to the image as the evaluation clips annotated boxes."""
        width, height = image_size
        x, y, w, h = box.tolist()
        hint = f"The image has {width}×{height} pixels; give boxes as (x, y, width, height) in it."
        # Not one of these holds for NaN, so that it is refused as well.
        if not (0 < w < _FARTHEST and 0 < h < _FARTHEST and -w < x < width and -h < y < height):
            raise BadInputError(f"The box ({x:g}, {y:g}, {w:g}, {h:g}) shows nothing of the image.", hint=hint)
        try:
            return box_to_center_scale(box, image_size, self._model.input_sizes[0])
        except DatasetError as error:
            raise BadInputError(error.message, hint=hint) from error

    def _check_finite(self, *maps: npt.NDArray[np.float32]) -> None:
        if not all(np.isfinite(one).all() for one in maps):
            raise CheckpointError(
                f"The maps of version {self._model.version} of {self._model.name!r} hold NaN or infinite values.",
                hint="Its weights are broken: serve another version.",
            )


class _Clock:
    """Adds up the time of the three stages, which may be gone through several times."""

    def __init__(self) -> None:
        self.spent_ms = [0.0, 0.0, 0.0]
        self._last = time.perf_counter()

    def preprocessed(self) -> None:
        self._add(0)

    def ran(self) -> None:
        self._add(1)

    def decoded(self) -> None:
        self._add(2)

    def _add(self, stage: int) -> None:
        now = time.perf_counter()
        self.spent_ms[stage] += 1e3 * (now - self._last)
        self._last = now


def _extents(joints: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(x, y, w, h) of the joints that each of N persons has; NaN for a person without any."""
    lowest = np.fmin.reduce(joints, axis=1)
    highest = np.fmax.reduce(joints, axis=1)
    return np.concatenate([lowest, highest - lowest], axis=1)
