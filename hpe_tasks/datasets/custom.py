"""Any data set in COCO's layout with joints of its own: hands, animals, bodies of five points.

The annotation files say the joints (`keypoints` of the category) and limbs (`skeleton`). OKS sigmas come from
`annotations/sigmas.json`, or are derived; see `hpe_tasks.data.own_joints`.
"""

from hpe_tasks.datasets.kind import DatasetKind, Layout

CUSTOM = DatasetKind(
    name="custom",
    title="custom",
    format="coco",
    layout=Layout(
        "annotations/{split}.json",
        ("images/{split}", "{split}", "images"),
        beside=True,
        sigmas="annotations/sigmas.json",
        also="person_keypoints_{split}.json",
    ),
    splits=("train", "val"),
    skeleton=None,
    metric="coco_oks_ap",
    gate_metric="ap",
    agreement="OKS is 1 where a pose equals the truth",
    is_drawn=True,
    takes_detections=True,
)
