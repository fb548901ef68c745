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

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.training.devices import Rank
from hpe_tasks.training.log import TrainingLog
from hpe_tasks.training.observing import Observer
from hpe_tasks.training.ranks import other_ranks
from hpe_tasks.training.stage import Stage
from hpe_tasks.training.starting import decided
from hpe_tasks.training.state import TrainingState

log = logging.getLogger(__name__)


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


def train(
    config: TrainingConfig, root: Path, out: Path, observers: Sequence[Observer] = (), state: Path | None = None
) -> TrainingResult:
    """Train a network and save it as safetensors: `train_stages` of one stage."""
    return train_stages([config], root, out, observers, state)


def train_stages(
    stages: Sequence[TrainingConfig],
    root: Path,
    out: Path,
    observers: Sequence[Observer] = (),
    state: Path | None = None,
) -> TrainingResult:
    """Train a network in stages, each of which starts from the weights of the one before; save it as safetensors.

    The file is written at once when the training is done. Until then the weights of every `save_every`th epoch lie
    beside it under `<name>.interim.safetensors`, and between the stages those of the last one under
    `<name>.stage<number>.safetensors`; they, too, are always complete.

    Killed, it goes on: its state is saved every `state_every_s` seconds or `state_every_steps` steps, and when a
    stage begins. Called again with the same arguments it ends with the file that it would have written undisturbed.

    Args:
        stages: Network, schedule and augmentation of at least one; see `hpe_tasks.config.training.SCHEDULES`.
        root: Folder of a data set in the layout of COCO.
        out: The file to write, `*.safetensors`.
        observers: Are told how it goes, as the log is.
        state: Where the state is saved until the training is done; `<name>.state` beside `out` by default.

    Returns:
        The last stage's result, with the time of all of them.

    Raises:
        CheckpointError: The initial weights cannot be read or do not fit; or what the network gives after the last
            epoch cannot be read, for example because it learned nothing or diverged. Interim weights then remain.
        ConfigError: `out` has another suffix, the device is not there, or the state is of other settings.
        DatasetError: The data set is missing or broken, or the state is of another one.
        StorageError: A file cannot be written.
        TrainingError: Loss or gradients are no numbers any more, or the training diverged; names the batch.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"A training cannot write {out.name!r}.", hint="Name the file *.safetensors.")
    stages = [decided(stage) for stage in stages]
    state = out.with_suffix(".state") if state is None else state
    kept = TrainingState(state, stages)
    kept.read()  # refuse what does not fit before anything begins
    with other_ranks(stages, root, out, state) as rank:
        stage = run_stages(stages, root, out, (TrainingLog(), *observers), kept, rank)
    kept.remove()
    return TrainingResult(out, stage.losses, stage.ap, stage.persons, kept.seconds)


def run_stages(
    stages: Sequence[TrainingConfig],
    root: Path,
    out: Path,
    observers: Sequence[Observer],
    kept: TrainingState,
    rank: Rank,
) -> Stage:
    """One process's part of `train_stages`; gives the last stage."""
    held = kept.read()
    first = 1 if held is None else held["stage"]
    for number, settings in enumerate(stages[first - 1 :], start=first):
        if number < len(stages):
            log.info("stage %d of %d", number, len(stages))
        previous = _weights(out, number - 1, len(stages)) if number > 1 else None
        stage = Stage(
            _starting_from(settings, previous),
            root,
            _weights(out, number, len(stages)),
            observers=observers,
            kept=kept,
            number=number,
            held=held,
            rank=rank,
        )
        held = None
        stage.run()
        if previous is not None and rank.first:
            previous.unlink(missing_ok=True)
    return stage


def _weights(out: Path, number: int, stages: int) -> Path:
    return out if number == stages else out.with_suffix(f".stage{number}.safetensors")


def _starting_from(stage: TrainingConfig, weights: Path | None) -> TrainingConfig:
    return stage if weights is None else stage.model_copy(update={"initial_weights": str(weights), "new_head": False})
