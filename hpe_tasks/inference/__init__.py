"""From photographs to poses: persons' crops or whole images, networks that turn them into maps, and what these show.

Coordinates are pixels of the image as it is stored: an EXIF orientation is not applied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import in_whole_images
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.inference.augmentation import augmented_batches, missing_inputs
from hpe_tasks.inference.crops import (
    CropBatch,
    ImageCrops,
    PosedPersons,
    Region,
    crop_batches,
    find_poses,
    mpii_batches,
    person_batches,
)
from hpe_tasks.inference.fp32_onnx import fp32_onnx_predictor, measured_fp32
from hpe_tasks.inference.images import OnUnreadable, Unreadable, wrong_size
from hpe_tasks.inference.predictors import Predict, fp32_predictor, onnx_predictor
from hpe_tasks.inference.whole_images import (
    ImageMaps,
    PeopleInImage,
    PreparedImage,
    decode_image,
    find_people,
    predict_maps,
    prepare_image,
    whole_image_batches,
)
from hpe_tasks.pose.codecs import CODECS

__all__ = [
    "CropBatch",
    "ImageCrops",
    "ImageMaps",
    "OnUnreadable",
    "PeopleInImage",
    "PosedPersons",
    "Predict",
    "PreparedImage",
    "Region",
    "Unreadable",
    "calibration_batches",
    "crop_batches",
    "decode_image",
    "find_people",
    "find_poses",
    "fp32_onnx_predictor",
    "fp32_predictor",
    "measured_fp32",
    "missing_inputs",
    "mpii_batches",
    "onnx_predictor",
    "person_batches",
    "predict_maps",
    "prepare_image",
    "wrong_size",
]


def calibration_batches(
    dataset: Dataset, model: ModelConfig, batch_size: int, *, augmented: int = 0, seed: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Give a data set as an evaluation shows it to the network: N×3×H×W float32, normalized, every batch of one size.

    These are the crops of all persons, or all whole images, as the model's codec asks.

    Args:
        dataset: What is shown.
        model: The network's input.
        batch_size: Inputs of a batch, at most.
        augmented: So many changed copies of them follow.
        seed: Decides the changes.

    Raises:
        DatasetError: An image cannot be read, or does not fit its record; names the file.
    """
    if CODECS[model.codec].whole_images:
        yield from whole_image_batches(in_whole_images(dataset), model, batch_size)
    else:
        yield from (batch.images for batch in crop_batches(dataset.crops(model.input_size), model, batch_size))
    if augmented:
        yield from augmented_batches(dataset, model, batch_size, augmented, seed)
