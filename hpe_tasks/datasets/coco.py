"""COCO: 17 joints of persons, measured by OKS."""

from hpe_tasks.datasets.kind import DatasetKind, Layout
from hpe_tasks.pose.skeletons import COCO17

_TENTHS = (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
"""Ten times the OKS sigmas, as pycocotools writes them; the tests compare them with its own."""

COCO = DatasetKind(
    name="coco",
    title="COCO",
    format="coco",
    layout=Layout("annotations/person_keypoints_{split}.json", ("images/{split}", "{split}")),
    splits=("train2017", "val2017"),
    skeleton=COCO17,
    sigmas={joint: tenths / 10 for joint, tenths in zip(COCO17.joints, _TENTHS, strict=True)},
    groups={
        "head": ("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
        "shoulders": ("left_shoulder", "right_shoulder"),
        "elbows": ("left_elbow", "right_elbow"),
        "wrists": ("left_wrist", "right_wrist"),
        "hips": ("left_hip", "right_hip"),
        "knees": ("left_knee", "right_knee"),
        "ankles": ("left_ankle", "right_ankle"),
    },
    metric="coco_oks_ap",
    gate_metric="ap",
    agreement="OKS is 1 where a pose equals the truth",
    is_drawn=True,
    has_addresses=True,
    takes_detections=True,
)
