from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.networks.aimet_pose import STRIDE, AimetPose


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if not list(module.children())}


def test_it_has_the_published_state_dict(specs: Path) -> None:
    expected = json.loads((specs / "aimet_pose.state_dict.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in AimetPose().state_dict().items()} == expected


def test_it_has_the_published_size() -> None:
    assert sum(parameter.numel() for parameter in AimetPose().parameters()) == 3_341_874


def test_it_is_built_with_the_maps_that_are_decoded() -> None:
    config = ModelConfig(
        architecture="aimet_pose", codec="paf", checkpoint="pe_weights.pth", input_width=48, input_height=32
    )
    model = build_model(config)
    with torch.inference_mode():
        outputs = model(torch.zeros(2, 3, 32, 48))
    assert [tuple(output.shape) for output in outputs] == [(2, 38, 4, 6), (2, 19, 4, 6)]
    assert model.state_dict().keys() == AimetPose().state_dict().keys()


@pytest.mark.parametrize(
    ("width", "height"),
    [pytest.param(496, 384, id="wide"), pytest.param(384, 496, id="high"), pytest.param(64, 40, id="small")],
)
def test_maps_are_an_eighth_of_the_input(width: int, height: int) -> None:
    model = AimetPose().eval()
    with torch.inference_mode():
        outputs = model(torch.rand(1, 3, height, width) - 0.5)
    shape = (height // STRIDE, width // STRIDE)
    assert [tuple(output.shape) for output in outputs] == [(1, channels, *shape) for channels in (38, 19, 38, 19)]
    assert all(output.dtype == torch.float32 and torch.isfinite(output).all() for output in outputs)


def test_the_last_stage_alone_is_the_last_two_of_all() -> None:
    model = AimetPose().eval()
    images = torch.rand(2, 3, 32, 48) - 0.5
    with torch.inference_mode():
        _, _, pafs, heatmaps = model(images)
        model.last_stage_only = True
        last = model(images)
    assert len(last) == 2
    assert torch.equal(last[0], pafs)
    assert torch.equal(last[1], heatmaps)


def test_the_second_stage_reads_fields_heatmaps_and_features_in_this_order() -> None:
    model = AimetPose().eval()
    seen: dict[str, torch.Tensor] = {}
    for name in ("stage1_1", "stage1_2", "pre_stage"):
        getattr(model, name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    model.stage2_shared.register_forward_pre_hook(lambda _, inputs: seen.update(stage2=inputs[0]))
    with torch.inference_mode():
        model(torch.rand(1, 3, 32, 32) - 0.5)
    assert seen["stage2"].shape[1] == 185
    assert torch.equal(seen["stage2"], torch.cat([seen["stage1_1"], seen["stage1_2"], seen["pre_stage"]], dim=1))


def test_no_module_is_used_twice() -> None:
    """AIMET quantizes a module's first use only: a shared ReLU leaves the others in float, without an error."""
    model = AimetPose().eval()
    calls: Counter[str] = Counter()
    for name, module in leaves(model).items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    assert calls == dict.fromkeys(leaves(model), 1)
    kinds = Counter(type(module) for module in leaves(model).values())
    assert kinds == {nn.Conv2d: 1 + 9 * 2 + 3 + 2 * (4 + 2 * 8), nn.ReLU: 1 + 9 + 2 + 2 * (2 + 2 * 4), nn.MaxPool2d: 3}


def test_a_pair_has_no_bias_on_its_first_convolution_and_nothing_between() -> None:
    pairs = [m for m in AimetPose().modules() if isinstance(m, nn.Sequential) and len(m) == 2]
    assert len(pairs) == 9 + 1 + 2 * (2 + 2 * 3)
    for first, second in pairs:
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert first.bias is None
        assert second.bias is not None


def test_weights_of_a_checkpoint_are_read(tmp_path: Path) -> None:
    """The zoo's file is a bare state dict."""
    source, target = AimetPose(), AimetPose()
    torch.save(source.state_dict(), tmp_path / "pe_weights.pth")
    load_checkpoint(target, tmp_path / "pe_weights.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
