"""Why a checkpoint is worse than it should be: the same few labelled images under the usual mistakes.

A network is usually fine where its figure is not: it was trained on another order of colour channels, on pixel values
of another scale, or its channels are other joints than those configured. Each of these is tried, alone and together
with the others, and the simplest that explains the figure is named with the settings that mend it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import in_whole_images
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.diagnosis.bottom_up import read_images, try_images
from hpe_tasks.diagnosis.hypotheses import Mistake, input_mistakes
from hpe_tasks.diagnosis.people import cut_persons
from hpe_tasks.diagnosis.top_down import try_crops
from hpe_tasks.diagnosis.trials import Trial, explanation, ranked
from hpe_tasks.gate.accuracy import Metric
from hpe_tasks.inference import Predict
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.progress import track
from hpe_tasks.records.diagnosis import Diagnosis, TriedMistake

__all__ = ["diagnose"]

_BUDGET_S = 40.0
"""About how long all trials may take; a slow network is tried on fewer persons."""

_FEWEST = 12


class _Sample(Protocol):
    @property
    def num_images(self) -> int: ...
    @property
    def num_persons(self) -> int: ...
    def __len__(self) -> int: ...
    def first(self, count: int, /) -> Self: ...


SampleT = TypeVar("SampleT", bound=_Sample)
_Look = Callable[[SampleT, Mistake, ModelConfig, Predict, int], list[Trial]]


def diagnose(
    dataset: Dataset,
    predict: Predict,
    model: ModelConfig,
    metric: Metric,
    *,
    batch_size: int,
    seed: int,
) -> Diagnosis:
    """Try the usual mistakes on labelled images.

    Args:
        dataset: The split that the images are drawn from.
        predict: The network.
        model: How it is fed and read so far.
        metric: The figure that is judged.
        batch_size: Crops, or whole images, in a forward pass.
        seed: Of the draw.

    Raises:
        DatasetError: None of the images can be read, or the truth of an MPII split cannot be used.
    """
    began = time.perf_counter()
    if CODECS[model.codec].whole_images:
        shown = read_images(in_whole_images(dataset), model, seed=seed)
        images, trials = _search(shown, try_images, predict, model, batch_size)
        num_images, num_persons = images.num_images, images.num_persons
    else:
        persons, trials = _search(cut_persons(dataset, model, seed=seed), try_crops, predict, model, batch_size)
        num_images, num_persons = persons.num_images, persons.num_persons
    configured, found = trials[0], explanation(trials, metric.maximum)
    tried = [_tried(trial) for trial in _worth_showing(trials[1:], found)]
    return Diagnosis(
        split=dataset.split,
        num_images=num_images,
        num_persons=num_persons,
        accuracy=configured.accuracy,
        tried=tuple(tried),
        found=None if found is None else _tried(found),
        summary=_summary(metric, configured, found, tried),
        seconds=time.perf_counter() - began,
    )


def _search(
    sample: SampleT, look: _Look[SampleT], predict: Predict, model: ModelConfig, batch_size: int
) -> tuple[SampleT, list[Trial]]:
    """All trials, that of the configuration first, and what they were made on."""
    inputs = list(input_mistakes(model))
    began = time.perf_counter()
    trials = look(sample, *inputs[0], predict, batch_size)
    needed = (time.perf_counter() - began) * len(inputs)
    if needed > _BUDGET_S and len(sample) > _FEWEST:
        sample = sample.first(max(_FEWEST, int(len(sample) * _BUDGET_S / needed)))
        trials = look(sample, *inputs[0], predict, batch_size)
    for mistake, fed in track(inputs[1:], "Looking for the usual mistakes"):
        trials += look(sample, mistake, fed, predict, batch_size)
    return sample, trials


def _worth_showing(trials: Sequence[Trial], found: Trial | None) -> list[Trial]:
    """Every simple mistake, and the combination that was found to explain the figure; best first."""
    return ranked([trial for trial in trials if trial is found or trial.mistake.parts == 1])


def _tried(trial: Trial) -> TriedMistake:
    return TriedMistake(when=trial.mistake.when, settings=trial.mistake.settings, accuracy=trial.accuracy)


def _summary(metric: Metric, configured: Trial, found: Trial | None, tried: Sequence[TriedMistake]) -> str:
    # A decimal less than where a whole split was measured: so few persons do not give more.
    def text(accuracy: float | None) -> str:
        return metric.unit.text(accuracy, metric.unit.decimals - 1)

    start = f"{metric.name} {text(configured.accuracy)} as configured; "
    if found is None:
        best = f": the best, when {tried[0].when}, gives {text(tried[0].accuracy)}" if tried else ""
        return f"{start}no usual mistake explains it{best}"
    mended = f"{start}{text(found.accuracy)} when {found.mistake.when}: "
    if found.mistake.settings:
        return f"{mended}set {' '.join(found.mistake.settings)}"
    return f"{mended}no setting moves joints, so mend it where the network is exported"
