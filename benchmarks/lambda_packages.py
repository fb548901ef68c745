"""The packages that benchmarks/lambda.py compares: ours, and the reference function's with its quantized models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import hpe_tasks.packaging
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.sample.dataset import Picture
from hpe_tasks.local.environment import PYTHON_VERSION
from hpe_tasks.packaging import PackagedModel, build_package
from hpe_tasks.packaging.dependencies import compile_folder
from hpe_tasks.pose.codecs.heatmaps import encode_heatmaps
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import box_to_center_scale, crop_matrix, transform_points

REFERENCE = Path(__file__).with_name("reference_function")
SERVING = "hpe_tasks/serving"
LOCK = Path(hpe_tasks.packaging.__file__).with_name("requirements-x86_64.txt")
SIDE = 256
# Of pose_resnet's heatmaps, and the standard deviation of a joint in them.
HEATMAP_SIDE, SIGMA = 64, 2.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAXIMUM = 0.6

# What is measured is the time: its accuracy is none, and the manifest's figures say so.
_RESNET: dict[str, Any] = {
    "model.input_width": SIDE,
    "model.input_height": SIDE,
    "dataset.source": "sample",
    "dataset.calibration_split": "calibration",
    "dataset.evaluation_split": "val",
    "evaluation.num_images": 4,
    "recipe.calibration_images": 16,
    "recipe.scheme": "min_max",
}
_KEPT = "packages.json"
_NO_SMOKE_TEST = {"destination.smoke_test": False}


@dataclass(frozen=True)
class Unpacked:
    """A package as Lambda unpacks it.

    Attributes:
        folder: Read-only to the function.
        unzipped_bytes: Without the model, to compare what is around it.
        zipped_bytes: Likewise.
        model_bytes: Of model.onnx.
    """

    folder: Path
    unzipped_bytes: int
    zipped_bytes: int
    model_bytes: int


def fitted_resnet(picture: Picture, folder: Path) -> Path:
    """A checkpoint of pose_resnet_50 that sees all joints in one picture, so that there is a skeleton to draw.

    Its weights are random but for those of the last layer, which are fitted by least squares to the first person in
    what both functions make of the picture: ours cuts out the padded frame, the reference squashes it. Scores are high,
    but places are rough: quantization moves many a peak.
    """
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.models import build_model

    path = folder / "pose_resnet_50.safetensors"
    height, width = picture.image.shape[:2]
    center, scale = box_to_center_scale((0, 0, width, height), (width, height), (SIDE, SIDE))
    squash = np.diag((SIDE / width, SIDE / height, 1))[:2]
    joints = np.array(picture.persons[0]["keypoints"], np.float64).reshape(1, -1, 3)
    inputs, targets = [], []
    for matrix in (crop_matrix(center, scale, (SIDE, SIDE)), squash):
        seen = cv2.warpAffine(picture.image, matrix, (SIDE, SIDE))[..., ::-1]
        inputs.append(np.stack([levels[seen[..., i]] for i, levels in enumerate(input_levels(MEAN, STD))]))
        points = transform_points(joints[..., :2], matrix) * (HEATMAP_SIDE / SIDE)
        targets.append(encode_heatmaps(points, joints[..., 2], (HEATMAP_SIDE, HEATMAP_SIDE), SIGMA)[0])

    torch.manual_seed(0)
    network = build_model(ModelConfig(architecture="pose_resnet_50", checkpoint=str(path)))
    last = network.get_submodule("final_layer")
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    network.final_layer = torch.nn.Identity()
    with torch.no_grad():
        features = network(torch.from_numpy(np.stack(inputs))).permute(0, 2, 3, 1).flatten(0, 2).numpy()
        features = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
        wanted = np.concatenate(targets).transpose(0, 2, 3, 1).reshape(len(features), -1)
        weights = np.linalg.lstsq(features, wanted)[0]
        # Least squares leave the peaks low: the weakest shall still be far above the functions' thresholds.
        weights *= MAXIMUM / (features @ weights).reshape(len(inputs), -1, len(weights.T)).max(axis=1).min()
        last.weight.copy_(torch.from_numpy(weights[:-1].T)[..., None, None])
        last.bias.copy_(torch.from_numpy(weights[-1]))
    network.final_layer = last
    save_file(network.state_dict(), path)
    return path


def own_model(preset: str, overrides: dict[str, Any], folder: Path) -> PackagedModel:
    """What the pipeline would publish: its steps up to the gate, and the manifest of their results.

    Nothing is published: no destination is asked.
    """
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.config.loading import load_config
    from hpe_tasks.onnx_runtime.optimized_graph import make_graph
    from hpe_tasks.pipeline import steps
    from hpe_tasks.pipeline.requantize import REQUANTIZE
    from hpe_tasks.pipeline.running import run_steps
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.records.base import Artifact
    from hpe_tasks.registry.describing import build_manifest
    from hpe_tasks.storage.files import sha256_file
    from hpe_tasks.storage.s3 import make_client

    config = load_config(preset, overrides=overrides)
    workspace = (folder / "workspace").absolute().as_uri()
    cache = Settings.from_environment().cache
    run = open_run(config, workspace=workspace, cache=cache, name="benchmark", s3=make_client)
    run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(steps.gate))
    exported = run.result(steps.export_onnx)
    model, graph = run.workspace.local(exported.model), folder / f"{preset}-graph.onnx"
    role = make_graph(model, graph, [tuple(size if isinstance(size, int) else 1 for size in exported.inputs[0].shape)])
    if role is None:
        raise SystemExit("The exported file has layers in float: no graph would be stored for it.")
    manifest = build_manifest(
        config,
        dataset=run.result(steps.fetch_dataset),
        checkpoint=run.result(steps.fetch_checkpoint),
        quantized=run.result(steps.quantize),
        exported=exported,
        fp32=run.result(steps.evaluate_fp32),
        evaluation=run.result(steps.evaluate_quantized),
        gate=run.result(steps.gate),
        run=run.name,
        created_by="benchmark",
        created_at=datetime.now(UTC),
        other_files={role: Artifact(uri=graph.as_uri(), sha256=sha256_file(graph), size_bytes=graph.stat().st_size)},
    )
    return PackagedModel(manifest.to_bytes(), None, model, graph)


def own_package(model: PackagedModel, folder: Path) -> Unpacked:
    """Build our package with a model and unpack it."""
    package = build_package(folder.with_suffix(".zip"), architecture="x86_64", model=model)
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(folder)
    around = [part for part in package.parts if part.name != "model"]
    return Unpacked(
        folder=folder,
        unzipped_bytes=sum(part.unzipped_bytes for part in around),
        zipped_bytes=sum(part.zipped_bytes for part in around),
        model_bytes=model.model.stat().st_size,
    )


def keep(made: dict[str, Unpacked], folder: Path) -> None:
    """Write down which packages lie in a folder, for another run."""
    listed = {name: {**asdict(package), "folder": package.folder.name} for name, package in made.items()}
    (folder / _KEPT).write_text(json.dumps(listed, indent=1) + "\n")


def are_kept(folder: Path) -> bool:
    """Whether an earlier run has left its packages there."""
    return (folder / _KEPT).is_file()


def kept(folder: Path) -> dict[str, Unpacked]:
    """The packages that an earlier run has left there."""
    listed = json.loads((folder / _KEPT).read_text())
    return {name: Unpacked(**{**package, "folder": folder / package["folder"]}) for name, package in listed.items()}


def resnet_package(checkpoint: Path, folder: Path) -> Unpacked:
    """Ours with pose_resnet_50, whose weights need not find anybody."""
    overrides = {**_RESNET, **_NO_SMOKE_TEST, "model.checkpoint": str(checkpoint), "gate.min_ap": 0.0}
    return own_package(own_model("pose_resnet_50", overrides, folder), folder / "resnet")


def sample_package(folder: Path) -> Unpacked:
    """Ours with the sample's pose_mobilenet, as `make run` publishes it."""
    return own_package(own_model("sample", dict(_NO_SMOKE_TEST), folder), folder / "sample")


def dynamic_models(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """pose_resnet_50 as the reference quantizes it, with unsigned and with signed weights."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.torch import load_file

    from hpe_tasks.models import build_model

    network = build_model(ModelConfig(architecture="pose_resnet_50", checkpoint=str(checkpoint)))
    network.load_state_dict(load_file(checkpoint))
    fp32 = folder / "pose_resnet_50.onnx"
    torch.onnx.export(network.eval(), (torch.zeros(1, 3, SIDE, SIDE),), fp32, opset_version=17, dynamo=False)
    models = {}
    for name, kind in (("unsigned", QuantType.QUInt8), ("signed", QuantType.QInt8)):
        models[name] = folder / f"pose_resnet_50_{name}.onnx"
        quantize_dynamic(fp32, models[name], weight_type=kind)
    return models


def reference_packages(models: dict[str, Path], folder: Path, python: Path) -> dict[str, Unpacked]:
    """The reference function with each of the models: compiled as ours is, for it would otherwise start later still."""
    from uv import find_uv_bin

    function = folder / "reference"
    command: list[str | Path] = [
        find_uv_bin(),
        "pip",
        "install",
        "--quiet",
        "--target",
        function,
        "--only-binary",
        ":all:",
    ]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--python-version", PYTHON_VERSION]
    command += ["--constraints", LOCK, "--requirements", REFERENCE / "requirements.txt"]
    subprocess.run(command, check=True)
    # The emulator invokes every package by the name of our handler.
    (function / SERVING).mkdir(parents=True)
    shutil.copy(REFERENCE / "handler.py", function / SERVING)
    compile_folder(function, python)
    unzipped = sum(file.stat().st_size for file in function.rglob("*") if file.is_file())
    zipped = _zipped_bytes(function)
    packages = {}
    for name, model in models.items():
        package = shutil.copytree(function, folder / name, copy_function=os.link)
        shutil.copy(model, package / SERVING / "model.onnx")
        packages[name] = Unpacked(package, unzipped, zipped, model.stat().st_size)
    return packages


def _zipped_bytes(folder: Path) -> int:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    size = path.stat().st_size
    path.unlink()
    return size
