"""The curves of a training, and the file of JSON lines that they grow in while it runs.

One line for each thing that was told: a stage begins or is taken up again, some steps are done, an epoch was measured,
the stage ends. A killed training leaves a file that can be read: a last line that is not whole does not count, and what
was told after the state that it was taken up from is told again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpe_tasks.contract.canonical import canonical_json
from hpe_tasks.errors import BadInputError

SCHEMA = 1

LOWEST, HIGHEST = "activation_min/", "activation_max/"
"""What the names of figures begin with that are ranges of activations; the layer's name follows."""


@dataclass(frozen=True)
class CurvePoint:
    """Figures by name, as they were after so many steps."""

    step: int
    figures: Mapping[str, float]


@dataclass
class StageCurves:
    """What one stage of a training has told so far.

    Attributes:
        settings: Of the stage, as they are stored with its weights.
        steps: Number of steps of the stage.
        points: Means over the steps since the point before.
        epochs: What was measured after each epoch.
        result: What the stage came to; None while it runs, and of one that was killed.
        taken_up: Steps that were done where a killed training went on.
    """

    settings: Mapping[str, Any]
    steps: int
    points: list[CurvePoint] = field(default_factory=list)
    epochs: list[CurvePoint] = field(default_factory=list)
    result: Mapping[str, float] | None = None
    taken_up: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Steps that were told of."""
        return max((point.step for point in (*self.points, *self.epochs)), default=0)


def stage_name(settings: Mapping[str, Any]) -> str:
    """A name for files of a stage that is the same when it is taken up again, such as `pose_mobilenet-96x128-1a2b3c4d`.

    Args:
        settings: Of the stage, as they are stored with its weights.
    """
    size = f"{settings.get('input_width', '')}x{settings.get('input_height', '')}"
    digest = hashlib.sha256(canonical_json(dict(settings))).hexdigest()
    return f"{settings.get('architecture', 'network')}-{size}-{digest[:8]}"


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are numbers: neither JSON nor a chart has a place for the others."""
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def begun(settings: Mapping[str, Any], *, steps: int, done: int) -> str:
    """The line of a stage that begins, or is taken up again."""
    return _line("begins", schema=SCHEMA, settings=dict(settings), steps=steps, done=done)


def stepped(step: int, figures: Mapping[str, float]) -> str:
    """The line of some steps, the last of which is `step`."""
    return _line("steps", step=step, figures=finite(figures))


def measured(step: int, figures: Mapping[str, float]) -> str:
    """The line of an epoch."""
    return _line("epoch", step=step, figures=finite(figures))


def ended(figures: Mapping[str, float]) -> str:
    """The line of a stage that is done."""
    return _line("ends", figures=finite(figures))


def _line(event: str, **told: Any) -> str:
    return json.dumps({"event": event, **told}) + "\n"


def read_curves(file: Path) -> tuple[StageCurves, ...]:
    """The stages that a file of curves tells of, in their order.

    Raises:
        BadInputError: The file cannot be read, or a line is not one of such a file.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"The curves {file} cannot be read: {error}.", hint="Name the file curves.jsonl of a training."
        ) from error
    # What stands behind the last end of a line was cut off when the training was killed.
    return curves_of(text.split("\n")[:-1], file)


def curves_of(lines: Iterable[str], file: Path) -> tuple[StageCurves, ...]:
    """The stages that lines tell of; `file` is where they come from, for errors."""
    stages: list[StageCurves] = []
    for number, line in enumerate(lines, start=1):
        try:
            _take(stages, json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise BadInputError(
                f"Line {number} of {file} is none of a training's curves.",
                hint="Delete the file: the training begins a new one.",
            ) from error
    return tuple(stages)


def _take(stages: list[StageCurves], told: Mapping[str, Any]) -> None:
    event = told["event"]
    if event == "begins":
        if told["schema"] != SCHEMA:
            raise ValueError(told["schema"])
        if stages and stages[-1].settings == told["settings"]:
            _take_up(stages[-1], told["steps"], told["done"])
        else:
            stages.append(StageCurves(told["settings"], told["steps"]))
    elif event == "ends":
        stages[-1].result = told["figures"]
    elif event in {"steps", "epoch"}:
        points = stages[-1].points if event == "steps" else stages[-1].epochs
        points.append(CurvePoint(told["step"], told["figures"]))
    else:
        raise ValueError(event)


def _take_up(stage: StageCurves, steps: int, done: int) -> None:
    """Go on behind `done` steps: what was told of later ones is told again."""
    stage.steps, stage.result = steps, None
    stage.points = [point for point in stage.points if point.step <= done]
    stage.epochs = [point for point in stage.epochs if point.step <= done]
    if done:
        stage.taken_up.append(done)
