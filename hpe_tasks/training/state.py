"""What a training goes on from after it was killed: one file, always complete, refused by any other training.

It holds all that decides what comes next: which stage, epoch and batch it is, the network with its batch norms, the
optimizer, the schedule, the random numbers. Crops depend on the seed, the epoch and the person only, so that with the
batch's number the order of data is known as well. It is read without running code that it might hold.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.storage.files import digest_of, sha256_file, storage_errors
from hpe_tasks.storage.temporary import replacing

_VERSION = 1
_MARK = "hpe_training_state"
_SHOWN = 4

_WITHOUT_EFFECT = {"cache_mb", "device", "loading_threads", "state_every_s", "state_every_steps"}
"""Settings that may change between a kill and the next start: what is trained does not depend on them."""

_HINT = "Give what it was begun with, or remove the file to begin anew."


class TrainingState:
    """The file from which one training, of some stages, goes on.

    Args:
        path: The file.
        stages: The training's settings.
    """

    def __init__(self, path: Path, stages: Sequence[TrainingConfig]) -> None:
        self.path = path
        self._settings = [_settings(stage) for stage in stages]
        self._started_s, self._before_s = time.monotonic(), 0.0
        self._saved_s, self._saved_step = self._started_s, 0

    @property
    def seconds(self) -> float:
        """How long the training has taken until now, with what it took before it was killed."""
        return self._before_s + time.monotonic() - self._started_s

    def read(self) -> dict[str, Any] | None:
        """What was saved last; None where nothing was.

        Raises:
            CheckpointError: The file is no training's state.
            ConfigError: It is the state of a training with other settings; names them.
        """
        if not self.path.exists():
            return None
        try:
            held = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            raise CheckpointError(f"{self.path} is no training's state that can be read.", hint=_HINT) from error
        if not isinstance(held, dict) or _MARK not in held:
            raise CheckpointError(f"{self.path} is no training's state.", hint=_HINT)
        if held[_MARK] != _VERSION:
            raise CheckpointError(
                f"{self.path} is the state of a training by another version of this program.", hint=_HINT
            )
        if held["settings"] != self._settings:
            raise ConfigError(
                f"{self.path} is the state of a training with other settings: "
                f"{_differences(held['settings'], self._settings)}.",
                hint=_HINT,
            )
        self._before_s = held["seconds"]
        return dict(held)

    def due(self, step: int, config: TrainingConfig) -> bool:
        """Whether it is time to save, after this step of the stage."""
        steps = config.state_every_steps
        if steps is not None and step - self._saved_step >= steps:
            return True
        return time.monotonic() - self._saved_s >= config.state_every_s

    def write(self, content: dict[str, Any], step: int) -> None:
        """Save in place of what was saved before; raises StorageError."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                held = {_MARK: _VERSION, "settings": self._settings, "seconds": self.seconds, **content}
                torch.save(held, file)
        self._saved_s, self._saved_step = time.monotonic(), step

    def goes_on(self, step: int) -> None:
        """Count what is due from this step, and from now."""
        self._saved_s, self._saved_step = time.monotonic(), step

    def check_dataset(self, held: dict[str, Any], digest: str) -> None:
        """Raise DatasetError where what was saved comes from other data."""
        if held["dataset"] != digest:
            raise DatasetError(f"{self.path} is the state of a training on another data set.", hint=_HINT)

    def remove(self) -> None:
        """The training is done."""
        self.path.unlink(missing_ok=True)


def data_digest(splits: Sequence[CocoDataset]) -> str:
    """What tells data sets apart: annotations to the byte, images by their names and sizes."""
    return digest_of(
        [[split.split, sha256_file(split.annotation_file), *sorted(_sizes(split).items())] for split in splits]
    )


def _sizes(split: CocoDataset) -> dict[str, int | None]:
    # A missing image is named when the training comes to it.
    return {path.name: path.stat().st_size if path.exists() else None for path in split.image_files().values()}


def _settings(stage: TrainingConfig) -> dict[str, Any]:
    settings = stage.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    if stage.initial_weights is not None:
        file = sample_checkpoint(stage.architecture) if stage.initial_weights == SAMPLE else Path(stage.initial_weights)
        settings["initial_weights"] = sha256_file(file) if file.is_file() else "missing"
    return settings


def _differences(held: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    if len(held) != len(ours):
        return f"{len(held)} stages (now {len(ours)})"
    found = []
    for number, (old, new) in enumerate(zip(held, ours, strict=True), start=1):
        stage = f"stage {number}'s " if len(ours) > 1 else ""
        found += [
            f"{stage}{name} {old.get(name)!r} (now {new.get(name)!r})"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
    return ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
