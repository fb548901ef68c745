"""Training of a pose network by plain regression of the maps that it should give.

Top-down, as Simple Baselines does it: crops of persons, and a Gaussian at a quarter of the input's resolution for each
joint; the loss is the mean squared error over the labelled joints. Bottom-up, as OpenPose does it: whole images, with
the heatmaps and part-affinity fields of `hpe_tasks.pose.codecs.part_affinity` as targets of both stages; the loss
leaves out places where people are without labels.

Every random choice follows from the seed, and with it the crops, so that a training can be repeated. (The weights
still depend on the machine: sums run in another order elsewhere, and in another precision where `bfloat16` is left to
the processor. The checkpoint says which it was.)
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.lookalikes import find_lookalikes
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError
from hpe_tasks.evaluation import evaluate
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, load_common_layers, sample_checkpoint
from hpe_tasks.models.full_precision import as_function
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.models.losses import LOSSES, Tensors
from hpe_tasks.models.training_record import TRAINING_KEY
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.progress import track
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.training.crops import TrainingCrops
from hpe_tasks.training.images import Batch
from hpe_tasks.training.norms import add_batch_norms, without_batch_norms
from hpe_tasks.training.scenes import TrainingScenes

log = logging.getLogger(__name__)

_SHOWN_LOOKALIKES = 5


@dataclass(frozen=True)
class TrainingResult:
    """What a training produced.

    Attributes:
        checkpoint: The weights.
        losses: Mean loss of each epoch.
        ap: COCO AP on the validation split, in ground-truth boxes or, bottom-up, of whole images; None without a split.
        persons: Number of persons trained on.
        seconds: How long it took.
    """

    checkpoint: Path
    losses: tuple[float, ...]
    ap: float | None
    persons: int
    seconds: float


def train(config: TrainingConfig, root: Path, out: Path) -> TrainingResult:
    """Train a network and save it as safetensors.

    The file is written at once when the training is done. Until then the weights of every `save_every`th epoch lie
    beside it under `<name>.interim.safetensors`; they, too, are always complete.

    Args:
        config: Network, schedule and augmentation.
        root: Folder of a data set in the layout of COCO.
        out: The file to write, `*.safetensors`.

    Raises:
        CheckpointError: The initial weights cannot be read or do not fit; or what the network gives after the last
            epoch cannot be read, for example because it learned nothing or diverged. Interim weights then remain.
        ConfigError: `out` has another suffix, or the device is not there.
        DatasetError: The data set is missing or broken.
        StorageError: The file cannot be written.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"A training cannot write {out.name!r}.", hint="Name the file *.safetensors.")
    device = _device(config)
    config = config.model_copy(update={"bfloat16": _in_bfloat16(config, device)})
    started = time.monotonic()
    dataset = load_coco(root, config.train_split)
    validation = load_coco(root, config.val_split) if config.val_split else None
    if validation is not None:
        dataset = _without_lookalikes(dataset, validation)
    # In memory format `channels_last` the depthwise convolutions of a CPU run twice as fast.
    model = _initial_model(config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    examples = _examples(dataset, config)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
    )
    steps = math.ceil(len(examples) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, config))
    interim = out.with_suffix(".interim.safetensors")
    losses: list[float] = []
    ap: float | None = None
    for epoch in range(config.epochs):
        losses.append(_train_epoch(model, optimizer, schedule, examples, epoch, config, device))
        last = epoch + 1 == config.epochs
        ap = None  # Of this epoch's weights, or not measured.
        if validation is not None and (last or (epoch + 1) % config.evaluate_every == 0):
            try:
                ap = _average_precision(model, validation, config, device)
            except CheckpointError as error:
                if last:
                    raise
                # What is to become a bottom-up network may see people everywhere at first.
                log.warning("epoch %d: AP cannot be measured yet: %s", epoch + 1, error)
        note = "" if ap is None else f", AP {ap:.3f}"
        log.info("epoch %d of %d: loss %.6f%s", epoch + 1, config.epochs, losses[-1], note)
        if not last and (epoch + 1) % config.save_every == 0:
            _save(model, interim, config, dataset, epoch + 1, ap)
    _save(model, out, config, dataset, config.epochs, ap)
    interim.unlink(missing_ok=True)
    return TrainingResult(out, tuple(losses), ap, len(dataset.all_persons()), time.monotonic() - started)


def _without_lookalikes(dataset: CocoDataset, validation: CocoDataset) -> CocoDataset:
    """The images that the validation split does not show as well, in the same files or in others.

    Raises:
        DatasetError: None is left.
    """
    found = find_lookalikes(dataset, validation)
    if not found:
        return dataset
    files = dataset.image_files()
    shown = [f"{files[image].name} (like {like})" for image, like in list(found.items())[:_SHOWN_LOOKALIKES]]
    named = ", ".join(shown) + (", …" if len(found) > len(shown) else "")
    kept = [image for image in dataset.image_ids if image not in found]
    if not kept:
        raise DatasetError(
            f"Every image of {dataset.split!r} looks like one of {validation.split!r}: {named}.",
            hint="Name another validation split, or none.",
        )
    ours, theirs = dataset.split, validation.split
    log.warning("Not trained on %d images of %r that %r shows, too: %s.", len(found), ours, theirs, named)
    return dataset.subset(kept)


def train_stages(stages: Sequence[TrainingConfig], root: Path, out: Path) -> TrainingResult:
    """Train a network in several stages, each of which starts from the weights of the one before.

    Between the stages the weights lie beside `out` under `<name>.stage<number>.safetensors`.

    Args:
        stages: At least one; see `hpe_tasks.config.training.SCHEDULES`.
        root: Folder of a data set in the layout of COCO.
        out: The file to write, `*.safetensors`.

    Returns:
        The last stage's result, with the time of all of them.

    Raises:
        As `train`.
    """
    *before, last = stages
    started = time.monotonic()
    previous: Path | None = None
    for number, stage in enumerate(before, start=1):
        log.info("stage %d of %d", number, len(stages))
        path = out.with_suffix(f".stage{number}.safetensors")
        train(_starting_from(stage, previous), root, path)
        if previous is not None:
            previous.unlink()
        previous = path
    result = train(_starting_from(last, previous), root, out)
    if previous is not None:
        previous.unlink()
    return replace(result, seconds=time.monotonic() - started)


def _starting_from(stage: TrainingConfig, weights: Path | None) -> TrainingConfig:
    return stage if weights is None else stage.model_copy(update={"initial_weights": str(weights), "new_head": False})


def _device(config: TrainingConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but there is none.", hint="Use device 'cpu' or 'auto'.")
    return torch.device(config.device)


def _in_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    if config.bfloat16 is not None:
        return config.bfloat16
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def _initial_model(config: TrainingConfig) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model_config_for("unused"), all_stages=True)
    if config.initial_weights is not None:
        file = (
            sample_checkpoint(config.architecture) if config.initial_weights == SAMPLE else Path(config.initial_weights)
        )
        if config.new_head:
            log.info("layers that start at random: %s", ", ".join(load_common_layers(model, file)) or "none")
        else:
            load_checkpoint(model, file)
    elif not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        add_batch_norms(model)
    return model


def _examples(dataset: CocoDataset, config: TrainingConfig) -> TrainingCrops | TrainingScenes:
    whole_images = CODECS[config.model_config_for("unused").codec].whole_images
    return TrainingScenes(dataset, config) if whole_images else TrainingCrops(dataset, config)


def _rate(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Factor on the learning rate: a linear rise over the warm-up, then a cosine down to nearly zero."""
    warm_up = max(1, config.warm_up_epochs * steps_per_epoch)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, config.epochs * steps_per_epoch - warm_up)
    return max(0.5 * (1 + math.cos(math.pi * min(done, 1.0))), 1e-3)


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    examples: TrainingCrops | TrainingScenes,
    epoch: int,
    config: TrainingConfig,
    device: torch.device,
) -> float:
    model.train()
    loss_of = LOSSES[CODECS[config.model_config_for("unused").codec].loss]
    total, count = 0.0, 0
    steps = math.ceil(len(examples) / config.batch_size)
    for batch in track(_prefetch(examples, epoch), f"Training, epoch {epoch + 1}", total=steps, unit="batches"):
        images = torch.from_numpy(batch.images).to(device).to(memory_format=torch.channels_last)
        targets, weights = _on(device, batch.targets), _on(device, batch.weights)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bfloat16)):
            stages = _outputs_of_stages(model, images, tuple(targets))
        # Each stage learns the same.
        loss = torch.stack([loss_of(found, targets, weights) for found in stages]).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(batch.images)
        count += len(batch.images)
    return total / count


def _outputs_of_stages(model: nn.Module, images: torch.Tensor, names: Sequence[str]) -> list[Tensors]:
    """The outputs of each of the network's stages, by the codec's names."""
    output = model(images)
    tensors = (output,) if isinstance(output, torch.Tensor) else output
    stages = (tensors[i : i + len(names)] for i in range(0, len(tensors), len(names)))
    return [dict(zip(names, stage, strict=True)) for stage in stages]


def _on(device: torch.device, arrays: Arrays) -> Tensors:
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def _prefetch(examples: TrainingCrops | TrainingScenes, epoch: int) -> Iterator[Batch]:
    """Give the epoch's batches in order, while a thread makes the next one."""
    plan = examples.plan(epoch)
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for indices in plan:
            following = pool.submit(examples.batch, epoch, indices)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _average_precision(
    model: nn.Module, validation: CocoDataset, config: TrainingConfig, device: torch.device
) -> float | None:
    plain, described = without_batch_norms(model).eval(), config.model_config_for("unused")
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(
            validation,
            as_function(plain, tuple(output_shapes(described)), device),
            described,
            EvaluationConfig(batch_size=config.batch_size),
            runtime="fp32",
            dataset_digest="",
            seed=config.seed,
            predictions_file=Path(folder) / "predictions.json",
            artifact=lambda path: Artifact(uri=path.as_uri(), sha256="", size_bytes=path.stat().st_size),
        )
    return report.accuracy


def _save(
    model: nn.Module, path: Path, config: TrainingConfig, dataset: CocoDataset, epochs: int, ap: float | None
) -> None:
    """Write weights and how they came about, under a temporary name first."""
    plain = without_batch_norms(model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
    training = config.model_dump(mode="json")
    if config.initial_weights is not None:
        # The folder's name concerns this machine only.
        training["initial_weights"] = Path(config.initial_weights).name
    about: dict[str, Any] = {
        "architecture": config.architecture,
        "skeleton": config.skeleton,
        "input_size": [config.input_width, config.input_height],
        "epochs": epochs,
        "seed": config.seed,
        "training": training,
        "dataset": _describe(dataset),
        "torch": torch.__version__,
    }
    if ap is not None:
        about["ap"] = round(ap, 4)
    # One entry: safetensors writes several in random order, and equal trainings should give equal files.
    write_atomically(path, save(state, metadata={TRAINING_KEY: json.dumps(about, sort_keys=True)}))


def _describe(dataset: CocoDataset) -> object:
    """The data set's own description, as its annotation file has it."""
    return read_annotations(dataset.annotation_file).get("info", {})
