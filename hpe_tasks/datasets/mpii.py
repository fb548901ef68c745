"""MPII Human Pose in the layout of Simple Baselines: 16 joints, measured by PCKh."""

from hpe_tasks.datasets.kind import DatasetKind, Layout
from hpe_tasks.pose.skeletons import MPII16

MPII = DatasetKind(
    name="mpii",
    title="MPII",
    format="mpii",
    # The truth lies beside the annotations: annot/gt_<split>.mat.
    layout=Layout("annot/{split}.json", ("images",), beside=True, originals="mpii_human_pose*.mat"),
    splits=("train", "valid"),
    skeleton=MPII16,
    metric="mpii_pckh",
    gate_metric="pckh",
    agreement="Beside each pose: its mean distance from the truth in sizes of the head",
)
