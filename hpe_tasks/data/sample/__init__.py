"""The sample data set: drawn people in COCO layout, made on the spot, so that the pipeline runs without a download."""

from hpe_tasks.data.sample.dataset import SPLITS, SampleSpec, draw_picture, make_sample

__all__ = ["SPLITS", "SampleSpec", "draw_picture", "make_sample"]
