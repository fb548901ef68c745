"""Joint names, mirror pairs and limbs of the annotation schemes that the pipeline knows.

Names are canonical across schemes (`left_wrist` is the same joint in COCO and in MPII), so that a model which
predicts other joints than a data set holds can be compared on the joints that both have.
"""

from __future__ import annotations

from hpe_tasks.contract.frozen import frozen


@frozen
class Skeleton:
    """An ordered set of joints.

    Attributes:
        name: Identifier in configurations and manifests.
        joints: Canonical joint names in channel order.
        limbs: Pairs of joint names to draw.
        mirrored: Pairs of joint names (left, right) that swap when the image is mirrored; by default those whose names
            differ in `left_` and `right_` alone.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    mirrored: tuple[tuple[str, str], ...] | None = None

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Index pairs (left, right) that swap when the image is mirrored."""
        index = {joint: i for i, joint in enumerate(self.joints)}
        if self.mirrored is not None:
            return tuple((index[left], index[right]) for left, right in self.mirrored)
        return tuple(
            (index[joint], index["right" + joint[4:]])
            for joint in self.joints
            if joint.startswith("left_") and "right" + joint[4:] in index
        )

    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        """Limbs as index pairs, leaving out those whose joints this skeleton lacks."""
        index = {joint: i for i, joint in enumerate(self.joints)}
        return tuple((index[a], index[b]) for a, b in self.limbs if a in index and b in index)


_BODY_LIMBS = (
    ("left_shoulder", "right_shoulder"),
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
)

COCO17 = Skeleton(
    name="coco17",
    # Order of the annotations of COCO.
    joints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
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
    ),
    limbs=(
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
        *_BODY_LIMBS,
    ),
)

MPII16 = Skeleton(
    name="mpii16",
    # Order of the MPII annotations in the Simple Baselines layout.
    joints=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    limbs=(
        ("head_top", "upper_neck"),
        ("upper_neck", "thorax"),
        ("thorax", "pelvis"),
        ("pelvis", "right_hip"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
        ("pelvis", "left_hip"),
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("thorax", "right_shoulder"),
        ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("thorax", "left_shoulder"),
        ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
    ),
)

EFFICIENTPOSE16 = Skeleton(
    name="efficientpose16",
    # The 16 MPII joints in the order in which the EfficientPose networks emit them.
    joints=(
        "head_top",
        "upper_neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "thorax",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "pelvis",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
    ),
    limbs=MPII16.limbs,
)

OPENPOSE18 = Skeleton(
    name="openpose18",
    # The joint heatmaps of OpenPose, which a heatmap of the background follows. The neck is not a COCO joint: it lies
    # midway between the shoulders.
    joints=(
        "nose",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ),
    # In the order in which OpenPose assembles people from them; each has a part-affinity field from the first joint
    # to the second.
    limbs=(
        ("neck", "right_shoulder"),
        ("neck", "left_shoulder"),
        ("right_shoulder", "right_elbow"),
        ("right_elbow", "right_wrist"),
        ("left_shoulder", "left_elbow"),
        ("left_elbow", "left_wrist"),
        ("neck", "right_hip"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
        ("neck", "left_hip"),
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("neck", "nose"),
        ("nose", "right_eye"),
        ("right_eye", "right_ear"),
        ("nose", "left_eye"),
        ("left_eye", "left_ear"),
        ("right_shoulder", "right_ear"),
        ("left_shoulder", "left_ear"),
    ),
)

SKELETONS: dict[str, Skeleton] = {s.name: s for s in (COCO17, MPII16, EFFICIENTPOSE16, OPENPOSE18)}


def common_joints(model: Skeleton, dataset: Skeleton) -> tuple[tuple[str, int, int], ...]:
    """The joints that both schemes hold, as (name, index in the model, index in the data set), in data-set order."""
    in_model = {joint: i for i, joint in enumerate(model.joints)}
    return tuple((joint, in_model[joint], i) for i, joint in enumerate(dataset.joints) if joint in in_model)
