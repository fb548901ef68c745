"""A simulation learns to give what the float network gives: quantization-aware training that needs no labels.

The float network is the teacher, the simulation with its calibrated ranges the student, and the loss is the codec's
own, with the teacher's outputs in the place of targets. Weights, biases and the ranges of activations learn; the steps
of the weights' codes stay as they were calibrated, so that weights which must stay on a grid can (`grid_limit`).

Every tensor is changed in its own measure: the learning rate is a share of the range that an activation's codes cover,
and of the range of a weight's codes by the root of the number of weights that are added up. Adam by itself would move
weights of 0.01 and of 10 by the same amount.

Sources: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015); Esser et al., "Learned Step
Size Quantization" (2020) for ranges that learn.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.full_precision import full_float32
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.models.losses import LOSSES, Tensors
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.progress import track
from hpe_tasks.records.network import Distillation, LossPoint

log = logging.getLogger(__name__)

_MEASUREMENTS = 20
"""Times that what is held out is looked at, evenly spread over the steps."""

_WARM_UP = (0.05, 10)
"""The learning rate rises in this share of the steps, and in so many where there are twice as many: Adam's first steps
are as large as its later ones, and know of one batch."""

_BETAS = (0.9, 0.99)
"""Adam's; its mean of squares forgets sooner than usual, because a distillation has some hundred steps."""

_WORSE = (2.0, 10.0)
"""A held-out loss so many times that of the calibrated simulation is no longer that of a network that learns: the
first where a network that gives nothing but zeros would have less, the second in any case."""

_HINT = "Lower recipe.distillation_learning_rate, or leave distillation out (recipe.distillation_steps 0)."

Network = Callable[[torch.Tensor], "torch.Tensor | Sequence[torch.Tensor]"]
"""Images N×3×H×W to the outputs that the codec reads, in its order, the last ones where there are more."""


class Lesson(Protocol):
    """One step's worth of images, and what labels say that the network should give; nothing without labels."""

    @property
    def images(self) -> NDArray[np.float32]:
        """N×3×H×W float32, normalized."""

    @property
    def targets(self) -> Arrays:
        """By the codec's names; empty without labels."""

    @property
    def weights(self) -> Arrays:
        """By the same names a factor on the loss: N×C, or of the targets' shape."""


class Lessons(Protocol):
    """What a simulation is taught with: views of images that no metric is measured on."""

    augmented: bool
    labelled: bool
    num_learnt: int
    num_held_out: int

    def held_out(self) -> Iterator[NDArray[np.float32]]:
        """Images that are never learnt from, as an evaluation shows them, N×3×H×W float32."""

    def batches(self, first: int, steps: int) -> Iterator[Lesson]:
        """The batches of so many steps from step `first` on: the same whenever they are asked for."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """A tensor that learns.

    Attributes:
        parameter: What the student computes with.
        unit: How much of a change is large, of a shape that broadcasts to the parameter's.
        limit: Moves values back to where they may be; None where they may be anywhere.
    """

    parameter: torch.nn.Parameter
    unit: torch.Tensor
    limit: Callable[[torch.Tensor], torch.Tensor] | None = None


class Exam:
    """What a simulation is measured by: what is held out, and what the float network gives for it.

    Args:
        teacher: The float network.
        lessons: Whose held-out images are taken.
        config: Codec and joints of the network.
        device: Where networks are.
    """

    def __init__(self, teacher: Network, lessons: Lessons, config: ModelConfig, device: str) -> None:
        self._names = tuple(output_shapes(config))
        self._loss = LOSSES[CODECS[config.codec].loss]
        self._teacher, self._device = teacher, device
        with full_float32():
            images = [torch.from_numpy(batch).to(device) for batch in lessons.held_out()]
            self._asked = [(batch, self.taught(batch)) for batch in images]

    def taught(self, images: torch.Tensor) -> Tensors:
        """What the float network gives, by the codec's names."""
        with torch.no_grad():
            return self.outputs(self._teacher, images)

    def outputs(self, network: Network, images: torch.Tensor) -> Tensors:
        """What a network gives, by the codec's names."""
        found = network(images)
        tensors = (found,) if isinstance(found, torch.Tensor) else found[-len(self._names) :]
        # AIMET's tensors remember their codes; here they are numbers.
        return {name: t.as_subclass(torch.Tensor) for name, t in zip(self._names, tensors, strict=True)}

    def loss(self, found: Tensors, wanted: Tensors, weights: Tensors | None = None) -> torch.Tensor:
        """The codec's loss; of all maps or joints alike where no weights are given."""
        equal = {name: torch.ones(tensor.shape[:2], device=tensor.device) for name, tensor in wanted.items()}
        return self._loss(found, wanted, equal if weights is None else weights)

    @torch.no_grad()
    def grade(self, network: Network | None) -> float:
        """The mean loss on what is held out; for None that of a network which gives nothing but zeros."""
        total, count = 0.0, 0
        with full_float32():
            for images, wanted in self._asked:
                zeros = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
                found = zeros if network is None else self.outputs(network, images)
                total += float(self.loss(found, wanted)) * len(images)
                count += len(images)
        return total / count


def distil(
    student: Network,
    exam: Exam,
    learnt: Sequence[Learnt],
    lessons: Lessons,
    recipe: QuantizationRecipe,
    device: str,
) -> Distillation:
    """Teach a simulation, and leave it in the best state that was found, which may be the one that it began in.

    Args:
        student: The simulation, calibrated.
        exam: The float network, and what is held out.
        learnt: What changes in the student.
        lessons: Images, and with labels what the network should give for them.
        recipe: Number of steps and learning rate.
        device: Where both networks are.

    Raises:
        QuantizationError: The loss is not a number, or grows far above where it began: the learning rate is too high.
    """
    started, steps, rate = time.monotonic(), recipe.distillation_steps, recipe.distillation_learning_rate
    before, nothing = exam.grade(student), exam.grade(None)
    worst = max(_WORSE[0] * before, min(_WORSE[1] * before, nothing))
    course = _Course(student, exam, learnt, device)
    curve = [LossPoint(step=0, held_out=before)]
    best, best_step, kept = before, 0, course.state()
    every = max(1, steps // _MEASUREMENTS)
    losses: list[float] = []
    batches = lessons.batches(0, steps)
    for step, lesson in enumerate(track(batches, "Distilling", total=steps, unit="steps"), start=1):
        losses.append(course.step(lesson, _rate(step, steps) * rate))
        if not math.isfinite(losses[-1]):
            raise QuantizationError(f"Distillation diverged: its loss is {losses[-1]} in step {step}.", hint=_HINT)
        if step % every and step != steps:
            continue
        found = exam.grade(student)
        if not found <= worst:
            raise QuantizationError(
                f"Distillation diverged: on held-out images the loss is {found:.3g} after step {step}, and was "
                f"{before:.3g} before.",
                hint=_HINT,
            )
        curve.append(LossPoint(step=step, held_out=found, learnt=float(np.mean(losses))))
        losses.clear()
        log.info("Distilling, step %d of %d: held-out loss %.3g, at the start %.3g", step, steps, found, before)
        if found < best:
            best, best_step, kept = found, step, course.state()
    course.restore(kept)
    if not best_step:
        log.warning("Distillation has found nothing better: the simulation stays as it was calibrated.")
    return Distillation(
        steps=steps,
        learning_rate=rate,
        best_step=best_step,
        loss_before=before,
        loss_after=best,
        num_learnt=lessons.num_learnt,
        num_held_out=lessons.num_held_out,
        augmented=lessons.augmented,
        labelled=lessons.labelled,
        seconds=time.monotonic() - started,
        curve=tuple(curve),
    )


class _Course:
    """One simulation that learns."""

    def __init__(self, student: Network, exam: Exam, learnt: Sequence[Learnt], device: str) -> None:
        self._student, self._exam, self._learnt, self._device = student, exam, learnt, device
        self._optimizer = torch.optim.Adam([one.parameter for one in learnt], lr=1.0, betas=_BETAS, eps=1e-12)

    def step(self, lesson: Lesson, rate: float) -> float:
        """Learn from one batch; gives its loss, and where that is no number the simulation stays as it is."""
        with full_float32():
            images = torch.from_numpy(lesson.images).to(self._device)
            wanted, found = self._exam.taught(images), self._exam.outputs(self._student, images)
            loss = self._exam.loss(found, wanted)
            if lesson.targets:
                loss = loss + self._exam.loss(found, self._on(lesson.targets), self._on(lesson.weights))
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        value = float(loss.detach())
        if math.isfinite(value):
            self._move(rate)
        return value

    def _on(self, arrays: Arrays) -> Tensors:
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    @torch.no_grad()
    def _move(self, rate: float) -> None:
        """Adam's step, in each tensor's own unit, and back to where values may be."""
        before = self.state()
        self._optimizer.step()
        for one, was in zip(self._learnt, before, strict=True):
            moved = was + (one.parameter - was) * (rate * one.unit)
            one.parameter.copy_(moved if one.limit is None else one.limit(moved))

    def state(self) -> list[torch.Tensor]:
        """What has been learnt."""
        return [one.parameter.detach().clone() for one in self._learnt]

    @torch.no_grad()
    def restore(self, state: Sequence[torch.Tensor]) -> None:
        """Go back to what was learnt then."""
        for one, values in zip(self._learnt, state, strict=True):
            one.parameter.copy_(values)


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate: a linear rise over the warm-up, then a cosine down to nearly zero."""
    share, fewest = _WARM_UP
    warm_up = max(1, round(share * steps), min(fewest, steps // 2))
    if step <= warm_up:
        return step / warm_up
    return max(0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))), 1e-3)
