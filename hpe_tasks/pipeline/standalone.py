"""What is done outside of a run: measuring one model file, and training a network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline.steps.inputs import checkpoint_file
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.storage.devices import device_held, devices_held
from hpe_tasks.storage.files import sha256_file, storage_errors
from hpe_tasks.storage.local_workspace import LocalWorkspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.config.training import TrainingConfig
    from hpe_tasks.training.regression import TrainingResult


def read_model(
    config: RunConfig,
    cache: Path,
    s3: Callable[[], S3Client],
    *,
    asked: Collection[str] | None,
    usual: Collection[str] = (),
) -> tuple[Path, ModelConfig]:
    """The checkpoint of a configuration on this machine, and its description with what an ONNX file says of itself.

    Args:
        config: Its `model.checkpoint` is the file.
        cache: Folder of this machine for downloads, and for what addresses gave when they were first used.
        s3: Makes the S3 client, when one is needed.
        asked: Dotted keys of `config` that the user has set: the file must not contradict them. None where `config`
            alone says what the file is like.
        usual: Dotted keys that a preset has set: they count where the file leaves something open.

    Raises:
        CheckpointError: onnxruntime does not run the file, or leaves open what is not set either; names the setting.
            Or weights do not fit, or the file takes more than the limits of `hpe_tasks.untrusted`.
        ConfigError: The user's setting contradicts the file.
    """
    model, allowed = config.model, config.dataset.allow_private_addresses
    file = checkpoint_file(model, cache, s3, LocalWorkspace(cache), allow_private_addresses=allowed)
    if model.network.from_file:
        model = _read_graph(model, file, cache, asked, usual)
    else:
        from hpe_tasks.data.fetch.taken_in import check_checkpoint

        check_checkpoint(model, file, cache)
    return file, model


def _read_graph(
    model: ModelConfig, file: Path, cache: Path, asked: Collection[str] | None, usual: Collection[str]
) -> ModelConfig:
    """The description with what the file says of itself, which a process of its own has read and run first.

    Not `check_checkpoint`: what is only measured may be quantized already.
    """
    from hpe_tasks.data.fetch.taken_in import try_graph
    from hpe_tasks.onnx_runtime.geometry import read_geometry, try_network

    given = None if asked is None else sorted(_of_model(asked))
    described = {"model": model.model_dump(mode="json"), "asked": given, "usual": sorted(_of_model(usual))}
    try_graph(try_network, file, described, cache)
    if given is None:
        return model
    return read_geometry(model, file, asked=given, usual=_of_model(usual))


def evaluate_file(
    config: RunConfig,
    cache: Path,
    s3: Callable[[], S3Client],
    predictions: Path | None = None,
    *,
    asked: Collection[str] | None = None,
    usual: Collection[str] = (),
) -> EvaluationReport:
    """Measure one model file outside of a run, exactly as the runs do.

    Args:
        config: Its `model.checkpoint` is the file and its `dataset` the images.
        cache: Folder of this machine for downloads, and for what addresses gave when they were first used.
        s3: Makes the S3 client, when one is needed.
        predictions: Where to keep the predictions; by default in the cache's folder `predictions`, by their digest.
        asked: Dotted keys of `config` that the user has set. With them, input size and layouts of an ONNX file are
            read from it, and must not contradict it; without, `config` alone says them.
        usual: Dotted keys that a preset has set: they count where the file leaves something open.
    """
    from hpe_tasks.data.fetch import fetch_boxes
    from hpe_tasks.data.fetch import fetch_dataset as fetch
    from hpe_tasks.data.splits import load_split
    from hpe_tasks.evaluation import evaluate
    from hpe_tasks.inference import measured_fp32
    from hpe_tasks.quantization import best_device

    # Nothing is calibrated here: the split that is measured is all that the data set must hold.
    one_split = config.dataset.model_copy(update={"calibration_split": config.dataset.evaluation_split})
    root, fetched = fetch(one_split, cache, s3)
    checkpoint, model = read_model(config, cache, s3, asked=asked, usual=usual)
    kept = cache / "predictions"
    with storage_errors(kept):
        kept.mkdir(parents=True, exist_ok=True)
    device = "cpu" if model.network.from_file else best_device()
    with tempfile.TemporaryDirectory(dir=kept) as folder, device_held(device):
        predict = measured_fp32(model, checkpoint, device, config.evaluation.fp32_runtime, cache=cache)
        file = predictions or Path(folder) / "predictions.json"
        return evaluate(
            load_split(config.dataset.kind, root, config.dataset.evaluation_split),
            predict,
            model,
            config.evaluation,
            images=config.dataset.evaluation_images,
            boxes=fetch_boxes(config.dataset, cache, s3),
            runtime="onnxruntime" if model.network.from_file else "fp32",
            dataset_digest=fetched.digest,
            seed=config.seed,
            predictions_file=file,
            keep_table=False,
            artifact=_described if predictions is not None else lambda path: _kept(path, kept),
        )


def _of_model(keys: Collection[str]) -> set[str]:
    return {key.removeprefix("model.") for key in keys if key.startswith("model.")}


def _described(path: Path) -> Artifact:
    return Artifact(uri=path.absolute().as_uri(), sha256=sha256_file(path), size_bytes=path.stat().st_size)


def _kept(path: Path, folder: Path) -> Artifact:
    """The file, moved where it stays: equal predictions are one file."""
    return _described(path.replace(folder / f"{sha256_file(path)}{path.suffix}"))


def train_network(
    stages: Sequence[TrainingConfig],
    dataset: str,
    cache: Path,
    s3: Callable[[], S3Client],
    out: Path,
    *,
    curves: Path | None = None,
    allow_private_addresses: bool = False,
) -> TrainingResult:
    """Train a network, stage by stage; a killed training goes on.

    Args:
        stages: Each starts from the weights of the one before.
        dataset: Address of a COCO-layout data set, as `dataset.source` of a run.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.
        out: The file to write, `*.safetensors`.
        curves: Folder for the training's curves; by default `<name>.curves` beside `out`.
        allow_private_addresses: As `dataset.allow_private_addresses` of a run.
    """
    from hpe_tasks.data.fetch import fetch_dataset as fetch
    from hpe_tasks.quantization import best_device
    from hpe_tasks.training.observers import observers_for
    from hpe_tasks.training.regression import train_stages

    first = stages[0]
    splits = {"calibration_split": first.train_split, "evaluation_split": first.val_split or first.train_split}
    config = DatasetConfig(source=dataset, allow_private_addresses=allow_private_addresses, **splits)
    root, _ = fetch(config, cache, s3)
    observers = observers_for(
        curves or out.with_suffix(".curves"), os.environ, go_on=out.with_suffix(".state").exists()
    )
    device = "cpu" if first.device == "cpu" else best_device()
    with devices_held(device, max(stage.devices for stage in stages)):
        return train_stages(stages, root, out, observers)
