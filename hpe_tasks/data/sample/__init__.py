"""The sample data set: drawn people in COCO layout, made on the spot, so that the pipeline runs without a download."""

from hpe_tasks.data.sample.dataset import SPLITS, SampleSpec, draw_picture, make_sample
from hpe_tasks.data.sample.scene import SCENERIES

__all__ = ["SCENERIES", "SPLITS", "SampleSpec", "draw_picture", "make_sample"]
