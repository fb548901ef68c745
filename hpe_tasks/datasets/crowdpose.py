"""CrowdPose: 14 joints of persons in crowds, measured by OKS, and by how crowded the images are.

Facts of the data set (https://arxiv.org/abs/1812.00324) and of its authors' fork of the COCO API, whose
`keypoints_crowd` evaluation this is. Its annotations have no areas: there, as here, a person's area is 0.53 of the box.
"""

from hpe_tasks.datasets.kind import CrowdLevels, DatasetKind, Layout
from hpe_tasks.pose.skeletons import Skeleton

CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    joints=(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "top_head",
        "neck",
    ),
    limbs=(
        ("top_head", "neck"),
        ("neck", "left_shoulder"),
        ("neck", "right_shoulder"),
        ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
        ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("left_hip", "right_hip"),
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
    ),
)

_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)

CROWDPOSE = DatasetKind(
    name="crowdpose",
    title="CrowdPose",
    format="coco",
    layout=Layout("json/crowdpose_{split}.json", ("images",)),
    splits=("train", "test"),
    skeleton=CROWDPOSE14,
    sigmas=dict(zip(CROWDPOSE14.joints, _SIGMAS, strict=True)),
    groups={
        "head": ("top_head", "neck"),
        "shoulders": ("left_shoulder", "right_shoulder"),
        "elbows": ("left_elbow", "right_elbow"),
        "wrists": ("left_wrist", "right_wrist"),
        "hips": ("left_hip", "right_hip"),
        "knees": ("left_knee", "right_knee"),
        "ankles": ("left_ankle", "right_ankle"),
    },
    metric="crowdpose_oks_ap",
    gate_metric="ap",
    agreement="OKS is 1 where a pose equals the truth",
    area_of_box=0.53,
    crowd_levels=CrowdLevels("crowdIndex", medium=0.1, hard=0.8),
    # Files in circulation call the last two joints differently.
    renames=True,
    is_drawn=True,
    takes_detections=True,
)
