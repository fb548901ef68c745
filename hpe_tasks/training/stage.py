"""One stage of a training: its epochs, what is measured and saved between them, and where it goes on after a kill."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.errors import CheckpointError, TrainingError
from hpe_tasks.progress import track
from hpe_tasks.training.course import Course
from hpe_tasks.training.devices import ALONE, Rank
from hpe_tasks.training.loading import Indices, batches, loading_threads, part_of, training_examples
from hpe_tasks.training.measuring import average_precision
from hpe_tasks.training.observing import Observer
from hpe_tasks.training.saving import save_weights, settings_of
from hpe_tasks.training.splits import without_lookalikes
from hpe_tasks.training.starting import initial_model, training_device
from hpe_tasks.training.state import TrainingState, data_digest
from hpe_tasks.training.watching import StepWatch

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a stage is.

    Attributes:
        epoch: Epochs that are done.
        batch: Batches of the next one that are done.
        total: Sum of their losses, each as often as it has examples.
        count: Number of their examples.
        losses: Mean loss of each epoch.
        ap: Of the last epoch's weights; None where it was not measured.
        watch: By what a step is judged.
        best_ap: The highest AP until now; None where nobody asks for it.
        best_epoch: When that was measured.
        worse: Measurements since then.
    """

    epoch: int = 0
    batch: int = 0
    total: float = 0.0
    count: int = 0
    losses: list[float] = field(default_factory=list)
    ap: float | None = None
    watch: StepWatch = field(default_factory=StepWatch)
    best_ap: float | None = None
    best_epoch: int | None = None
    worse: int = 0

    @classmethod
    def restored(cls, fields: dict[str, Any]) -> Progress:
        """What `asdict` made a dictionary of."""
        return cls(**{**fields, "watch": StepWatch(**fields["watch"])})


class Stage:
    """A stage of a training, which `run` brings to its end.

    Args:
        config: The stage's settings, none left open.
        root: Folder of a data set in the layout of COCO.
        out: The weights' file.
        observers: Are told how it goes.
        kept: Where the training's state is saved.
        number: The stage's, from 1.
        held: What the state held of this stage, when it was killed.
        rank: Which of the training's processes this is.

    Raises:
        CheckpointError: The initial weights cannot be read or do not fit.
        DatasetError: The data set is missing or broken, or the state is of another one.
    """

    def __init__(
        self,
        config: TrainingConfig,
        root: Path,
        out: Path,
        *,
        observers: Sequence[Observer],
        kept: TrainingState,
        number: int,
        held: dict[str, Any] | None,
        rank: Rank = ALONE,
    ) -> None:
        self._rank = rank
        self._config, self._out, self._observers = config, out, observers
        self._kept, self._number, self._held = kept, number, held
        self._interim = out.with_suffix(".interim.safetensors")
        self._dataset = load_coco(root, config.train_split)
        self._validation: CocoDataset | None = load_coco(root, config.val_split) if config.val_split else None
        splits = [self._dataset] if self._validation is None else [self._dataset, self._validation]
        self._data_digest = data_digest(splits)
        if held is not None:
            kept.check_dataset(held, self._data_digest)
        if self._validation is not None:
            self._dataset = without_lookalikes(self._dataset, self._validation)
        model = initial_model(config, read=held is None)
        self._examples = training_examples(self._dataset, config)
        steps = math.ceil(len(self._examples) / config.batch_size)
        self._course = Course(model, config, steps, training_device(config), rank)
        self._device = self._course.device
        self._steps_per_epoch = len(self._examples.plan(0))
        self._at = Progress()
        self._best: dict[str, torch.Tensor] | None = None

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean loss of each epoch."""
        return tuple(self._at.losses)

    @property
    def ap(self) -> float | None:
        """AP of the last weights."""
        return self._at.ap

    @property
    def persons(self) -> int:
        """Number of persons trained on."""
        return len(self._dataset.all_persons())

    def run(self) -> None:
        """Train until the stage's end, and save its weights.

        Raises:
            CheckpointError: What the network gives after the last epoch cannot be read.
            DatasetError: An image is missing or cannot be decoded.
            StorageError: A file cannot be written.
            TrainingError: Loss or gradients are no numbers any more, or the training diverged; names the batch.
        """
        with _own_random_numbers(self._config.seed, self._device):
            self._begin()
            try:
                for epoch in range(self._at.epoch, self._config.epochs):
                    self._train_epoch(epoch)
                    if self._end_epoch(last=epoch + 1 == self._config.epochs):
                        break
                self._take_best()
                epochs = self._at.best_epoch or self._at.epoch
                self._save(self._out, epochs, self._at.ap)
                if self._rank.first:
                    self._interim.unlink(missing_ok=True)
                self._course.shared(None)  # the next stage begins with that file
            except BaseException:
                self._end([self._interim, self._kept.path])
                raise
        self._end([self._out])

    def _begin(self) -> None:
        if self._held is not None:
            self._course.restore(self._held["course"])
            self._at = Progress.restored(self._held["progress"])
            self._best = self._held["best"]
            self._held = None
        self._kept.goes_on(self._step)
        if self._number > 1 and self._step == 0:
            # From here on the weights of the stage before are not needed.
            self._save_state()
        for observer in self._observers:
            observer.begins(
                settings_of(self._config),
                self._course.network,
                steps=self._config.epochs * self._steps_per_epoch,
                done=self._step,
            )

    def _end(self, files: Sequence[Path]) -> None:
        figures = {} if not self._at.losses else {"epoch": float(self._at.epoch), "loss": self._at.losses[-1]}
        if self._at.ap is not None:
            figures["ap"] = self._at.ap
        for observer in self._observers:
            observer.ends(figures, [file for file in files if file.exists()])

    @property
    def _step(self) -> int:
        """How many steps of the stage are done."""
        return self._at.epoch * self._steps_per_epoch + self._at.batch

    def _train_epoch(self, epoch: int) -> None:
        at = self._at
        self._course.train()
        threads = loading_threads(self._config, self._device)
        pinned = self._device.type == "cuda"
        made = batches(self._examples, epoch, at.batch, threads=threads, pinned=pinned, rank=self._rank)
        if self._rank.first:
            made = track(made, f"Training, epoch {epoch + 1}", total=self._steps_per_epoch - at.batch, unit="batches")
        since = time.monotonic()
        for indices, batch in made:
            figures = self._course.learn(batch, part_of(indices, self._rank)[1])
            self._guard(indices, figures)
            self._course.update()
            at.total += figures["loss"] * len(indices)
            at.count += len(indices)
            at.batch += 1
            now = time.monotonic()
            figures["examples_per_s"] = len(indices) / max(now - since, 1e-9)
            for observer in self._observers:
                observer.stepped(self._step, figures)
            if self._kept.due(self._step, self._config):
                self._save_state()
            since = time.monotonic()

    def _guard(self, indices: Indices, figures: dict[str, float]) -> None:
        """Stop before a step that harms the weights; they are saved as they are."""
        reason = self._at.watch.reason(figures, self._config, scaled=self._course.scales_gradients)
        if reason is None:
            return
        self._course.take_back()
        self._save(self._interim, self._at.epoch, None)
        images, annotations = self._examples.ids(indices)
        raise TrainingError(
            f"The training stopped in step {self._step + 1}: {reason}, at the learning rate "
            f"{figures['learning_rate']:.3g}. The batch's images: {_listed(images)}; annotations: "
            f"{_listed(annotations)}. The weights before it are in {self._interim}.",
            hint="Look at these annotations, lower learning_rate, or set gradient_clip_norm.",
        )

    def _end_epoch(self, *, last: bool) -> bool:
        """Measure and save; gives whether the stage ends early."""
        at, config = self._at, self._config
        at.losses.append(at.total / at.count)
        at.epoch, at.batch, at.total, at.count = at.epoch + 1, 0, 0.0, 0
        if last or at.epoch % config.evaluate_every == 0:
            at.ap = self._course.shared(self._measure(last=last) if self._rank.first else None)
        else:
            at.ap = None
        self._compare()
        figures = {"epoch": float(at.epoch), "loss": at.losses[-1]} | ({} if at.ap is None else {"ap": at.ap})
        for observer in self._observers:
            observer.measured(self._step, figures)
        stops = config.early_stop is not None and at.worse >= config.early_stop
        last = last or stops
        if not last and at.epoch % config.save_every == 0:
            self._save(self._interim, at.epoch, at.ap)
        if not last and self._kept.due(self._step, config):
            self._save_state()
        return stops

    def _compare(self) -> None:
        """Keep the best weights, where they are the ones that will be saved."""
        at = self._at
        if self._config.early_stop is None or at.ap is None:
            return
        if at.best_ap is not None and at.ap <= at.best_ap:
            at.worse += 1
            return
        at.best_ap, at.best_epoch, at.worse = at.ap, at.epoch, 0
        self._best = {name: tensor.detach().cpu().clone() for name, tensor in self._course.judged.state_dict().items()}

    def _take_best(self) -> None:
        if self._best is None or self._at.best_epoch == self._at.epoch:
            return
        log.info("the weights of epoch %d were the best: AP %.3f", self._at.best_epoch, self._at.best_ap)
        self._course.judged.load_state_dict(self._best)
        self._at.ap = self._at.best_ap

    def _measure(self, *, last: bool) -> float | None:
        if self._validation is None:
            return None
        try:
            return average_precision(self._course.judged, self._validation, self._config, self._device)
        except CheckpointError as error:
            if last:
                raise
            # What is to become a bottom-up network may see people everywhere at first.
            log.warning("epoch %d: AP cannot be measured yet: %s", self._at.epoch, error)
            return None

    def _save(self, file: Path, epochs: int, ap: float | None) -> None:
        if self._rank.first:
            save_weights(self._course.judged, file, self._config, self._dataset, epochs, ap)

    def _save_state(self) -> None:
        if not self._rank.first:
            return
        content = {
            "stage": self._number,
            "dataset": self._data_digest,
            "progress": asdict(self._at),
            "best": self._best,
            "course": self._course.state(),
        }
        self._kept.write(content, self._step)


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of torch that begin with the seed, and leave those outside as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
