from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.models import build_model


def config(architecture: str, **fields: object) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": architecture, "checkpoint": "weights.pth", **fields})


PUBLISHED = {
    "pose_resnet_18_coco": "coco17",
    "pose_resnet_18_mpii": "mpii16",
    "pose_resnet_34_mpii": "mpii16",
    "pose_resnet_50_coco": "coco17",
    "pose_resnet_50_mpii": "mpii16",
    "pose_resnet_101_mpii": "mpii16",
    "pose_resnet_152_mpii": "mpii16",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_pose_resnet_has_the_published_state_dict(specs: Path, name: str) -> None:
    expected = json.loads((specs / f"{name}.state_dict.json").read_text())
    state = build_model(config(name.rpartition("_")[0], skeleton=PUBLISHED[name])).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


def test_pose_mobilenet_has_the_promised_size() -> None:
    model = build_model(config("pose_mobilenet"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 556_849
    # Channels are width × those of the paper, not rounded to a multiple of 8.
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions[0].out_channels == 16
    assert {8, 12, 16, 32, 48, 80, 160, 128, 17} <= {module.out_channels for module in convolutions}


@pytest.mark.parametrize(
    ("width", "joints"), [pytest.param(0.25, 17, id="narrow"), pytest.param(1.0, 2, id="wide, two joints")]
)
def test_pose_mobilenet_follows_width_and_joints(width: float, joints: int) -> None:
    names = tuple(f"joint_{i}" for i in range(joints))
    model = build_model(config("pose_mobilenet", width_multiplier=width, joint_names=names))
    assert next(m for m in model.modules() if isinstance(m, nn.Conv2d)).out_channels == int(32 * width)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, joints, 16, 16)


@pytest.mark.parametrize(
    ("caffe_style", "strides"),
    [pytest.param(False, (1, 2), id="in the 3x3"), pytest.param(True, (2, 1), id="in the first 1x1, as in Caffe")],
)
def test_the_stride_of_a_bottleneck_lies_where_it_is_asked_for(caffe_style: bool, strides: tuple[int, int]) -> None:
    model = build_model(config("pose_resnet_50", caffe_style=caffe_style))
    for layer, first in {"layer1": (1, 1), "layer2": strides, "layer3": strides, "layer4": strides}.items():
        blocks: list[Any] = list(model.get_submodule(layer).children())
        found = [(block.conv1.stride[0], block.conv2.stride[0]) for block in blocks]
        assert found == [first] + [(1, 1)] * (len(blocks) - 1)


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_caffe_style_differs_in_its_results_only(depth: int) -> None:
    """The checkpoint does not tell: names and shapes are the same."""
    torch.manual_seed(0)
    usual, caffe = (build_model(config(f"pose_resnet_{depth}", caffe_style=style)) for style in (False, True))
    caffe.load_state_dict(usual.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected, heatmaps = usual(images), caffe(images)
    assert heatmaps.shape == expected.shape == (1, 17, 16, 24)
    assert not torch.allclose(heatmaps, expected, rtol=1e-2)


def test_a_width_without_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width_multiplier 0\.01"):
        build_model(config("pose_mobilenet", width_multiplier=0.01))


def test_an_onnx_file_is_not_built() -> None:
    with pytest.raises(ConfigError, match="onnx"):
        build_model(config("onnx"))


@pytest.mark.parametrize("architecture", ["pose_mobilenet", "pose_resnet_18", "pose_resnet_50"])
def test_output_is_a_quarter_of_the_input(architecture: str) -> None:
    model = build_model(config(architecture))
    assert not model.training
    with torch.inference_mode():
        heatmaps = model(torch.randn(2, 3, 96, 64))
    assert heatmaps.shape == (2, 17, 24, 16)
    assert heatmaps.dtype == torch.float32
    assert torch.isfinite(heatmaps).all()


@pytest.mark.parametrize("architecture", ["pose_mobilenet", "pose_resnet_18", "pose_resnet_50"])
def test_no_module_is_used_twice(architecture: str) -> None:
    """AIMET quantizes a module's first use only: a shared ReLU leaves the others in float, without an error."""
    model = build_model(config(architecture))
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        calls[name] += 1

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: count(name))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    assert calls == dict.fromkeys(leaves, 1)
    activations = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    expected = {"pose_mobilenet": 1 + 1 + 16 * 2 + 7, "pose_resnet_18": 1 + 8 * 2 + 3, "pose_resnet_50": 1 + 16 * 3 + 3}
    assert len(activations) == expected[architecture]
