"""What a network found in one part of the images that it is measured on."""

from __future__ import annotations

from pydantic import Field

from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.evaluation import FailedImage, Runtime


class PredictedShard(Record):
    """One of several parts of a measurement, before anything is counted.

    Attributes:
        runtime: What ran the network.
        number: Which part, from 0.
        count: How many parts there are.
        inputs: Persons, or images where these are shown whole, that it was to look at; those of unreadable images too.
        poses: Parquet, as `hpe_tasks.evaluation.shards` reads it.
        failed_images: Images of this part that could not be measured, in their order; the neighbouring part names one
            as well whose persons it has some of.
        seconds: Time that the network saw them in, preprocessing and decoding included.
        cpu_features: int8 features of the CPU.
    """

    runtime: Runtime
    number: int = Field(ge=0)
    count: int = Field(ge=1)
    inputs: int = Field(ge=0)
    poses: Artifact
    failed_images: tuple[FailedImage, ...] = ()
    seconds: float
    cpu_features: tuple[str, ...] = ()
