"""How papers trained their networks on COCO, as settings of a training.

What these trainings had and this one has not: crops of half a body (HRNet), and a rate and a decay of its own for each
kind of layer (Lightweight OpenPose). Crops are turned and scaled evenly within the limits, where the papers' programs
draw from normal distributions that are cut off at them. All networks but `aimet_pose` began with ImageNet's weights:
`initial_weights` and `new_head` take them from a file, such as torchvision's resnet50.
"""

from __future__ import annotations

from typing import Any

_COCO_2017: dict[str, Any] = {
    "train_split": "train2017",
    "val_split": "val2017",
    "evaluate_every": 10,
    "save_every": 1,
    "warm_up_epochs": 0.0,
    "shift_range": 0.0,
    "colour_jitter": 0.0,
}

SIMPLE_BASELINES: dict[str, Any] = {
    **_COCO_2017,
    "input_width": 192,
    "input_height": 256,
    "epochs": 140,
    # 32 on each of four GPUs.
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    # Its configuration has a weight decay of 1e-4, but its program gives that to SGD alone.
    "weight_decay": 0.0,
    "drop_epochs": (90, 120),
    "sigma": 2.0,
    "rotation_degrees": 40.0,
    "scale_range": 0.3,
}
"""Xiao, Wu and Wei, "Simple Baselines for Human Pose Estimation and Tracking" (2018), section 3, and
github.com/microsoft/human-pose-estimation.pytorch, experiments/coco/resnet50/256x192_d256x3_adam_lr1e-3.yaml."""

HRNET: dict[str, Any] = {
    **SIMPLE_BASELINES,
    "epochs": 210,
    "drop_epochs": (170, 200),
    "rotation_degrees": 45.0,
    "scale_range": 0.35,
}
"""Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation" (2019), section 4.1, and
github.com/leoxiaobin/deep-high-resolution-net.pytorch, experiments/coco/hrnet/w32_256x192_adam_lr1e-3.yaml and
w48_384x288_adam_lr1e-3.yaml."""

SIMCC: dict[str, Any] = {**SIMPLE_BASELINES, "architecture": "pose_mobilenet", "codec": "simcc", "sigma": None}
"""Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation" (2022), which trains as
Simple Baselines does: github.com/leeyegy/SimCC, experiments/coco/resnet. Targets and their width are RTMPose's, as
everywhere in the codec `simcc`, and the network is `pose_mobilenet`: no other here has a head of two vectors."""

TWO_STAGES: dict[str, Any] = {
    **_COCO_2017,
    "architecture": "aimet_pose",
    "train_split": "train2014",
    "val_split": "val2014",
    "input_width": 496,
    "input_height": 384,
    "epochs": 280,
    "batch_size": 80,
    "optimizer": "adam",
    "learning_rate": 4e-5,
    "weight_decay": 5e-4,
    "drop_epochs": (100, 200, 260),
    "drop_factor": 0.333,
    "rotation_degrees": 40.0,
    "scale_range": 0.3,
}
"""The loss of both stages, masked where people are not labelled: Cao et al., "Realtime Multi-Person 2D Pose Estimation
using Part Affinity Fields" (2017). The AIMET model zoo does not say how it trained its network; the schedule is that of
Osokin, "Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose" (2018), whose network has two stages as
well: github.com/Daniil-Osokin/lightweight-human-pose-estimation.pytorch, train.py."""

_RESNETS = tuple(f"pose_resnet_{depth}" for depth in (18, 34, 50, 101, 152))

PAPER_SCHEDULES: dict[str, dict[str, Any]] = {
    **{name: {**SIMPLE_BASELINES, "architecture": name} for name in _RESNETS},
    "pose_hrnet_w32": {**HRNET, "architecture": "pose_hrnet_w32"},
    "pose_hrnet_w48": {**HRNET, "architecture": "pose_hrnet_w48"},
    "pose_hrnet_w48_384x288": {
        **HRNET,
        "architecture": "pose_hrnet_w48",
        "input_width": 288,
        "input_height": 384,
        "sigma": 3.0,
        # 24 on each of four GPUs, where smaller inputs have 32.
        "batch_size": 96,
    },
    "simcc": SIMCC,
    "aimet_pose": TWO_STAGES,
}
"""Settings of one stage, by the schedule's name."""
