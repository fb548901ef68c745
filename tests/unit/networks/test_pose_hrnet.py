"""HRNet: names and shapes as published, its results against a plain reading of the paper, and int8 from end to end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.networks.pose_hrnet import PoseHRNet
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.signals import decibels

State = dict[str, torch.Tensor]

MODULES = {2: 1, 3: 4, 4: 3}


def config(width: int = 32, **fields: object) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": f"pose_hrnet_w{width}", "checkpoint": "w.pth", **fields})


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with statistics and factors of their own, so that swapping any two would show."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight.data, 0.3, 0.7),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert values is not None
                values.uniform_(low, high, generator=generator)
    return network.eval()


def as_published(state: State, images: torch.Tensor) -> torch.Tensor:
    """The heatmaps, computed layer by layer from the state dict as the paper and the names of its checkpoints say."""

    def layer(x: torch.Tensor, conv: str, norm: str, *, stride: int = 1) -> torch.Tensor:
        kernel = state[f"{conv}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, variance, factor, bias = (
            state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * factor + bias

    def block(x: torch.Tensor, name: str, convolutions: int) -> torch.Tensor:
        shortcut = x
        if f"{name}.downsample.0.weight" in state:
            shortcut = layer(x, f"{name}.downsample.0", f"{name}.downsample.1")
        for number in range(1, convolutions + 1):
            x = layer(x, f"{name}.conv{number}", f"{name}.bn{number}")
            x = torch.relu(x if number < convolutions else x + shortcut)
        return x

    def brought(x: torch.Tensor, name: str, branch: int, to: int) -> torch.Tensor:
        if branch > to:
            x = layer(x, f"{name}.0", f"{name}.1")
            return x.repeat_interleave(2 ** (branch - to), dim=2).repeat_interleave(2 ** (branch - to), dim=3)
        for step in range(to - branch):
            x = layer(x, f"{name}.{step}.0", f"{name}.{step}.1", stride=2)
            x = torch.relu(x) if step < to - branch - 1 else x
        return x

    def module(maps: list[torch.Tensor], name: str, outputs: int) -> list[torch.Tensor]:
        for number in range(4):
            maps = [block(x, f"{name}.branches.{branch}.{number}", 2) for branch, x in enumerate(maps)]
        return [
            torch.relu(
                torch.stack(
                    [
                        x if branch == to else brought(x, f"{name}.fuse_layers.{to}.{branch}", branch, to)
                        for branch, x in enumerate(maps)
                    ]
                ).sum(dim=0)
            )
            for to in range(outputs)
        ]

    x = torch.relu(layer(images, "conv1", "bn1", stride=2))
    x = torch.relu(layer(x, "conv2", "bn2", stride=2))
    for number in range(4):
        x = block(x, f"layer1.{number}", 3)
    maps = [
        torch.relu(layer(x, "transition1.0.0", "transition1.0.1")),
        torch.relu(layer(x, "transition1.1.0.0", "transition1.1.0.1", stride=2)),
    ]
    for stage, count in MODULES.items():
        if stage > 2:
            name = f"transition{stage - 1}.{stage - 1}.0"
            maps = [*maps, torch.relu(layer(maps[-1], f"{name}.0", f"{name}.1", stride=2))]
        for number in range(count):
            last = stage == 4 and number == count - 1
            maps = module(maps, f"stage{stage}.{number}", 1 if last else stage)
    return functional.conv2d(maps[0], state["final_layer.weight"], state["final_layer.bias"])


@pytest.mark.parametrize("width", [32, 48])
def test_it_has_the_published_state_dict(specs: Path, width: int) -> None:
    expected = json.loads((specs / f"pose_hrnet_w{width}_coco.state_dict.json").read_text())
    with torch.device("meta"):
        state = PoseHRNet(width, 17).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


@pytest.mark.parametrize(("width", "millions"), [(32, 28.5), (48, 63.6)])
def test_it_has_the_published_size(width: int, millions: float) -> None:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in PoseHRNet(width, 17).parameters())
    assert round(parameters / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("width", "size"), [pytest.param(32, (192, 256), id="w32, 192x256"), pytest.param(8, (96, 64), id="narrow, 96x64")]
)
def test_its_heatmaps_are_those_of_the_paper(width: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = lively(PoseHRNet(width, 17))
    nn.init.normal_(network.get_parameter("final_layer.weight"), std=0.1)
    images = torch.randn(2, 3, size[1], size[0])
    with torch.inference_mode():
        heatmaps, expected = network(images), as_published(network.state_dict(), images)
    assert heatmaps.shape == (2, 17, size[1] // 4, size[0] // 4)
    assert expected.std() > 0.01
    torch.testing.assert_close(heatmaps, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


def test_no_module_is_used_twice() -> None:
    """AIMET quantizes a module's first use only: a shared ReLU leaves the others in float, without an error."""
    model = PoseHRNet(8, 17).eval()
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    calls: Counter[str] = Counter()
    for name, module in leaves.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    assert calls == dict.fromkeys(leaves, 1)
    # Stem, layer1, transitions; then two in each block, one after each sum, one between two halvings.
    blocks = sum(branches * 4 * count for branches, count in MODULES.items())
    sums = 2 + 4 * 3 + 2 * 4 + 1
    halvings = 4 * 1 + 2 * (1 + 2 + 1)
    expected = 2 + 4 * 3 + 4 + 2 * blocks + sums + halvings
    assert sum(isinstance(module, nn.ReLU) for module in leaves.values()) == expected


def original(width: int, joints: int = 17) -> State:
    torch.manual_seed(1)
    return PoseHRNet(width, joints).state_dict()


def prefixed(state: State) -> object:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def of_training(state: State) -> object:
    return {"epoch": 210, "model": "pose_hrnet", "state_dict": prefixed(state), "perf": 0.744}


@pytest.mark.parametrize("form", [dict, prefixed, of_training], ids=["bare", "of several GPUs", "of a training"])
def test_a_checkpoint_of_the_original_is_read(tmp_path: Path, form: Callable[[State], object]) -> None:
    state = original(32)
    torch.save(form(state), tmp_path / "pose_hrnet_w32_256x192.pth")
    model = build_model(config())
    load_checkpoint(model, tmp_path / "pose_hrnet_w32_256x192.pth")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def headless(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("final_layer", "stage4.2"))}


@pytest.mark.parametrize(
    ("width", "joints", "form", "message", "hint"),
    [
        pytest.param(48, 17, dict, "misshapen: .*transition1", "pose_hrnet_w48 for 17 joints", id="other width"),
        pytest.param(48, 17, prefixed, "misshapen", "pose_hrnet_w48 for 17 joints", id="other width, prefixed"),
        pytest.param(32, 16, dict, r"2 misshapen: final_layer\.weight \(16×32", "w32 for 16 joints", id="joints"),
        pytest.param(32, 17, headless, r"missing: stage4\.2.* more", "Set model.architecture", id="missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    tmp_path: Path, width: int, joints: int, form: Callable[[State], object], message: str, hint: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save(form(original(width, joints)), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(build_model(config()), path)
    assert str(path) in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.message) < 1500


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """HRNet with few channels and few blocks in the place of W32: one of each way from branch to branch, or more."""
    listed = ARCHITECTURES["pose_hrnet_w32"]
    entry = replace(listed, build=lambda options: PoseHRNet(8, options.joints, modules=(1, 1, 2), blocks=1))
    monkeypatch.setitem(ARCHITECTURES, listed.name, entry)
    return config(input_width=64, input_height=64)


def test_the_whole_of_it_runs_in_int8(narrow: ModelConfig, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "w.safetensors", narrow)
    images = tiny.smooth_images(8, narrow)
    for name in ("quantsim", "exported"):
        (tmp_path / name).mkdir()
    recipe = QuantizationRecipe(scheme="min_max")
    files = quantize_model(narrow, recipe, checkpoint, [images], tmp_path / "quantsim", "cpu")
    path = export_onnx(narrow, recipe, files.model, files.encodings, tmp_path / "exported")

    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    proof = prove_kernels(path)
    assert not proof.x86_64.unproved
    assert not proof.arm64.unproved

    network = build_model(narrow)
    load_checkpoint(network, checkpoint)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    simulated = load_quantsim(narrow, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
    computed = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    # Random weights amplify: a change of 1e-5 in the images leaves QuantSim 23 dB, and all in 16 bits keeps 61 dB.
    assert decibels(expected, simulated) > 10
    assert decibels(expected, computed) > 10
    assert decibels(simulated, computed) > 15
