"""What every evaluation is asked, whatever the data set, and the images that it could not measure."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.errors import DatasetError
from hpe_tasks.evaluation.crop_joints import CropJoints, crop_joints_file
from hpe_tasks.inference import Predict, Unreadable
from hpe_tasks.metrics.image_tables import ImageTable, table_file
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import FailedImage, Runtime
from hpe_tasks.storage.files import write_atomically

if TYPE_CHECKING:
    from hpe_tasks.evaluation.shards import StoredShard

RUNTIME_TITLES: dict[Runtime, str] = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX file"}

JointMap = tuple[tuple[str, int, int], ...]
"""(joint, channel of the model, number in the data set) for every joint that is compared."""

ImageT = TypeVar("ImageT", int, str)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What is shown to a network, and how: of the arguments of `evaluate`, which describes them, those that say so."""

    predict: Predict
    model: ModelConfig
    evaluation: EvaluationConfig
    images: Literal["with_persons", "all"]
    boxes: Path | None
    runtime: Runtime
    seed: int
    further: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """What is done, for a progress bar."""
        return f"Evaluating {RUNTIME_TITLES[self.runtime]}"


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest(PredictionRequest):
    """The arguments of `evaluate`, which describes them."""

    dataset_digest: str
    predictions_file: Path
    artifact: Callable[[Path], Artifact]
    keep_table: bool = True
    shards: Sequence[StoredShard] | None = None

    def seconds(self, elapsed: float) -> float:
        """The time that the network took: of parts that were made before, theirs."""
        return elapsed if self.shards is None else sum(shard.record.seconds for shard in self.shards)

    @property
    def cpu_features(self) -> tuple[str, ...]:
        """int8 features of the CPU that the network ran on; of several, those that all of them have."""
        if not self.shards:
            return cpu_features()
        first, *others = [shard.record.cpu_features for shard in self.shards]
        if any(other != first for other in others):
            log.warning("The parts were measured on different processors: their int8 kernels may round differently.")
        return tuple(feature for feature in first if all(feature in other for other in others))

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


def draw(images: Sequence[ImageT], request: PredictionRequest) -> tuple[list[ImageT], bool]:
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
        self.root = root
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
        failed = FailedImage(name=image.path.relative_to(self.root).as_posix(), reason=image.reason)
        self._failed.append(failed)
        log.warning("The image %s %s: its persons count as missed.", image.path, image.reason)
        if len(self._failed) > self._allowed:
            named = "; ".join(f"{one.name} {one.reason}" for one in self._failed)
            raise DatasetError(
                f"Of the {self._total} images to measure in {self.root}, {len(self._failed)} cannot be measured, "
                f"where {self._allowed} may fail: {named}.",
                hint="Fetch the files again, or correct or remove their records. evaluation.max_failed_images allows "
                "more failures.",
            )
