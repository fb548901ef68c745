"""The packages that benchmarks/lambda.py compares: ours, and the reference function's with its quantized models."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpe_tasks.config import ModelConfig
from hpe_tasks.lambda_environment import PYTHON_VERSION
from hpe_tasks.packaging import PackagedModel, build_package
from hpe_tasks.packaging.dependencies import compile_folder

REFERENCE = Path(__file__).with_name("reference_function")
SERVING = "hpe_tasks/serving"
SIDE = 256

# Random weights find nobody: what is measured is the time, and the manifest's figures say what they are.
_RANDOM_RESNET: dict[str, Any] = {
    "model.input_width": SIDE,
    "model.input_height": SIDE,
    "dataset.source": "sample",
    "dataset.calibration_split": "calibration",
    "dataset.evaluation_split": "val",
    "evaluation.num_images": 4,
    "recipe.calibration_images": 16,
    "recipe.scheme": "min_max",
}
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


def random_resnet(folder: Path) -> Path:
    """A checkpoint of pose_resnet_50 with random weights."""
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.models import build_model

    path = folder / "pose_resnet_50.safetensors"
    torch.manual_seed(0)
    network = build_model(ModelConfig(architecture="pose_resnet_50", checkpoint=str(path)))
    save_file(network.state_dict(), path)
    return path


def own_model(preset: str, overrides: dict[str, Any], folder: Path) -> PackagedModel:
    """What the pipeline would publish: all its steps up to the gate, and the manifest of their results."""
    from hpe_tasks.presets import load_config
    from hpe_tasks.registry.manifest import build_manifest
    from hpe_tasks.results import (
        EvaluationReport,
        ExportedModel,
        FetchedCheckpoint,
        FetchedDataset,
        GateDecision,
        QuantizedEvaluation,
        QuantizedModel,
    )
    from hpe_tasks.s3 import make_client
    from hpe_tasks.settings import Settings
    from hpe_tasks.steps import STEPS, open_run

    config = load_config(preset, overrides=overrides)
    workspace = (folder / "workspace").absolute().as_uri()
    cache = Settings.from_environment().cache
    run = open_run(config, workspace=workspace, cache=cache, name="benchmark", s3=make_client)
    for name, step in STEPS.items():
        step.execute(run)
        if name == "gate":
            break
    exported = run.get(ExportedModel)
    manifest = build_manifest(
        config,
        dataset=run.get(FetchedDataset),
        checkpoint=run.get(FetchedCheckpoint),
        quantized=run.get(QuantizedModel),
        exported=exported,
        fp32=run.get(EvaluationReport),
        evaluation=run.get(QuantizedEvaluation),
        gate=run.get(GateDecision),
        run=run.name,
        created_by="benchmark",
        created_at=datetime.now(UTC),
    )
    return PackagedModel(manifest.to_bytes(), None, run.workspace.local(exported.model))


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


def resnet_package(checkpoint: Path, folder: Path) -> Unpacked:
    """Ours with pose_resnet_50."""
    overrides = {**_RANDOM_RESNET, **_NO_SMOKE_TEST, "model.checkpoint": str(checkpoint)}
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


def reference_function(folder: Path, python: Path) -> Path:
    """The reference function without a model: compiled as ours is, for it would otherwise start later still."""
    from uv import find_uv_bin

    function = folder / "reference"
    command = [find_uv_bin(), "pip", "install", "--quiet", "--target", function, "--only-binary", ":all:"]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--python-version", PYTHON_VERSION]
    subprocess.run([*command, "--requirements", REFERENCE / "requirements.txt"], check=True)
    # The emulator invokes every package by the name of our handler.
    (function / SERVING).mkdir(parents=True)
    shutil.copy(REFERENCE / "handler.py", function / SERVING)
    compile_folder(function, python)
    return function


def reference_package(function: Path, model: Path, folder: Path) -> Unpacked:
    """The reference function with a model; its files are linked, not copied."""
    shutil.copytree(function, folder, copy_function=os.link)
    unzipped = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    zipped = _zipped_bytes(folder)
    shutil.copy(model, folder / SERVING / "model.onnx")
    return Unpacked(folder, unzipped, zipped, model.stat().st_size)


def _zipped_bytes(folder: Path) -> int:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    size = path.stat().st_size
    path.unlink()
    return size
