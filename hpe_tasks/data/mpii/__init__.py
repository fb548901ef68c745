"""MPII Human Pose in the layout of Simple Baselines: `images/`, `annot/<split>.json` and `annot/gt_<split>.mat`.

Files count pixels from 1, as MATLAB does: `joints`, centres and head boxes are kept as they are in the files. The
crop of a person counts from 0, as every image in memory does: `crop_region` converts, and predictions in image
pixels get +1 before they are compared with the truth (`to_file_pixels`).

A file that counts from 0 gives slightly wrong figures and no error, so it is looked for: see `load_truth` for what
is certain and `annotations.counts_from_zero` for what is likely.
"""

from hpe_tasks.data.mpii.annotations import (
    CENTER_SHIFT,
    FIRST_PIXEL,
    MpiiDataset,
    MpiiPerson,
    annotation_path,
    crop_region,
    load_mpii,
    read_records,
    to_file_pixels,
    truth_path,
)
from hpe_tasks.data.mpii.truth import load_truth

__all__ = [
    "CENTER_SHIFT",
    "FIRST_PIXEL",
    "MpiiDataset",
    "MpiiPerson",
    "annotation_path",
    "crop_region",
    "load_mpii",
    "load_truth",
    "read_records",
    "to_file_pixels",
    "truth_path",
]
