"""What every evaluation is asked, whatever the data set, and the images that it could not measure."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.errors import DatasetError
from hpe_tasks.evaluation.crop_joints import CropJoints, crop_joints_file
from hpe_tasks.inference import Predict, Unreadable
from hpe_tasks.metrics.image_tables import ImageTable, table_file
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import FailedImage, Runtime
from hpe_tasks.storage.files import write_atomically

RUNTIME_TITLES: dict[Runtime, str] = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX file"}

JointMap = tuple[tuple[str, int, int], ...]
"""(joint, channel of the model, number in the data set) for every joint that is compared."""

ImageT = TypeVar("ImageT", int, str)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationRequest:
    """The arguments of `evaluate`, which describes them."""

    predict: Predict
    model: ModelConfig
    evaluation: EvaluationConfig
    images: Literal["with_persons", "all"]
    boxes: Path | None
    runtime: Runtime
    dataset_digest: str
    seed: int
    predictions_file: Path
    artifact: Callable[[Path], Artifact]
    further: tuple[int, int] | None = None
    keep_table: bool = True

    def kept(self, table: Callable[[], ImageTable]) -> Artifact | None:
        """Write the table of images beside the predictions; None where it is not to be kept."""
        if not self.keep_table:
            return None
        file = table_file(self.predictions_file)
        write_atomically(file, table().to_bytes())
        return self.artifact(file)

    def kept_in_crops(self, joints: CropJoints | None) -> Artifact | None:
        """Write where the joints lie in their crops beside the predictions; None where it is not to be kept."""
        if joints is None or not self.keep_table or self.further is not None:
            return None
        file = crop_joints_file(self.predictions_file)
        write_atomically(file, joints.to_bytes())
        return self.artifact(file)

    @property
    def title(self) -> str:
        """What is done, for a progress bar."""
        return f"Evaluating {RUNTIME_TITLES[self.runtime]}"


def draw(images: Sequence[ImageT], request: EvaluationRequest) -> tuple[list[ImageT], bool]:
    """The images that are measured, and whether they are a subset drawn by seed.

    Further images are those from one number to another of an order of all that the subset has left.
    """
    number = request.evaluation.num_images
    if number is None or number >= len(images):
        return list(images), False
    chosen = random.Random(request.seed).sample(list(images), number)
    if request.further is None:
        return chosen, True
    left = sorted(set(images) - set(chosen))
    begin, end = request.further
    return random.Random(request.seed).sample(left, len(left))[begin:end], True


class FailedImages:
    """Images that could not be read, or do not fit their records, as long as they are few.

    Args:
        root: Folder of the data set: images are named relative to it.
        total: Images that are measured.
        share: Largest share of them that may fail.
    """

    def __init__(self, root: Path, total: int, share: float) -> None:
        self._root = root
        self._total = total
        # 0.29 · 100 is less than 29 in binary.
        self._allowed = math.floor(share * total + 1e-9)
        self._failed: list[FailedImage] = []

    @property
    def images(self) -> tuple[FailedImage, ...]:
        """Those so far."""
        return tuple(self._failed)

    def add(self, image: Unreadable) -> None:
        """Go on without an image; raises DatasetError, naming all so far, when it is one too many."""
        failed = FailedImage(name=image.path.relative_to(self._root).as_posix(), reason=image.reason)
        self._failed.append(failed)
        log.warning("The image %s %s: its persons count as missed.", image.path, image.reason)
        if len(self._failed) > self._allowed:
            named = "; ".join(f"{one.name} {one.reason}" for one in self._failed)
            raise DatasetError(
                f"Of the {self._total} images to measure in {self._root}, {len(self._failed)} cannot be measured, "
                f"where {self._allowed} may fail: {named}.",
                hint="Fetch the files again, or correct or remove their records. evaluation.max_failed_images allows "
                "more failures.",
            )
