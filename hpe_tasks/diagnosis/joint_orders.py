"""Orders in which published networks emit their joints: what a wrong `model.skeleton` is usually meant to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpe_tasks.config.model import MODEL_SKELETONS, ModelConfig
from hpe_tasks.pose.skeletons import COCO17, OPENPOSE18, SKELETONS

_RIGHT_ARM = ("right_shoulder", "right_elbow", "right_wrist")
_LEFT_ARM = ("left_shoulder", "left_elbow", "left_wrist")
_RIGHT_LEG = ("right_hip", "right_knee", "right_ankle")
_LEFT_LEG = ("left_hip", "left_knee", "left_ankle")
_HEAD = ("head_top", "upper_neck")

JOINT_ORDERS: dict[str, tuple[str, ...]] = {
    **{name: skeleton.joints for name, skeleton in SKELETONS.items()},
    # OpenPose's heatmaps without the neck, which COCO does not label.
    "openpose17": tuple(joint for joint in OPENPOSE18.joints if joint != "neck"),
    # COCO's order with OpenPose's neck behind it.
    "coco18": (*COCO17.joints, "neck"),
    # Leeds Sports Pose.
    "lsp14": (*_RIGHT_LEG[::-1], *_LEFT_LEG, *_RIGHT_ARM[::-1], *_LEFT_ARM, "upper_neck", "head_top"),
    # AI Challenger.
    "ai_challenger14": (*_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG, *_HEAD),
    # PoseEstimationForMobile, and others that were trained on AI Challenger in OpenPose's order.
    "pose_for_mobile14": (*_HEAD, *_RIGHT_ARM, *_LEFT_ARM, *_RIGHT_LEG, *_LEFT_LEG),
    "crowdpose14": (
        *(
            f"{side}_{part}"
            for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
            for side in ("left", "right")
        ),
        *_HEAD,
    ),
    # Human3.6M as 2D and 3D networks are trained on it.
    "h36m17": (
        "pelvis",
        *_RIGHT_LEG,
        *_LEFT_LEG,
        *("spine", "thorax", "nose", "head_top"),
        *_LEFT_ARM,
        *_RIGHT_ARM,
    ),
}
"""Joint names in channel order, by the name of the order."""


def other_orders(model: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Known orders of as many joints as the model predicts, but for its own: name, joints, and settings that say so."""
    own = model.joints.joints
    for name, joints in JOINT_ORDERS.items():
        if len(joints) == len(own) and joints != own:
            yield name, joints, joint_settings(joints, model)


def joint_settings(joints: Sequence[str], model: ModelConfig) -> tuple[str, ...]:
    """The settings that give a model these joints, in channel order."""
    for name, known in MODEL_SKELETONS.items():
        if known.joints == tuple(joints):
            reset = () if model.joint_names is None else ("model.joint_names=null",)
            return (f"model.skeleton={name}", *reset)
    return (f"model.joint_names=[{','.join(joints)}]",)
