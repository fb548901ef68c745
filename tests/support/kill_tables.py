"""How many kills were recovered from, in which steps of which runs: a table, printed and kept in the documentation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hpe_tasks.contract.cpu import processor_name
from support.marked_pages import rewrite

OPTION = "--kills"

_HEAD = "| run | step | points | kills | recovered | min | on |\n|---|---|---|---|---|---|---|\n"
_WHOLE = {True: "all of it", False: "so far"}
_SCENE = re.compile(r"^\| (?P<scene>.+?) \| (all of it|so far) \|.*\n(\| (?P=scene) \|.*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class StepKills:
    """What came of killing a step.

    Attributes:
        step: Its name.
        points: Fault points that it reaches undisturbed.
        kills: How many of them it was killed at.
        recovered: After how many of the kills a second attempt left what an undisturbed one leaves.
    """

    step: str
    points: int
    kills: int
    recovered: int


@dataclass(frozen=True)
class SceneKills:
    """What came of killing the steps of a scene.

    Attributes:
        scene: Its name.
        steps: Those that were killed.
        took_s: How long all of it took, in seconds.
        finished: Whether there are no more steps to come.
    """

    scene: str
    steps: Sequence[StepKills]
    took_s: float
    finished: bool = True

    def rows(self, on: str) -> str:
        """Rows of a table in Markdown, measured on this machine: the scene as a whole, then its steps."""
        sums = [sum(getattr(one, of) for one in self.steps) for of in ("points", "kills", "recovered")]
        counted = " | ".join(map(str, sums))
        whole = f"| {self.scene} | {_WHOLE[self.finished]} | {counted} | {self.took_s / 60:.1f} | {on} |\n"
        each = (f"| {self.scene} | `{s.step}` | {s.points} | {s.kills} | {s.recovered} | | |\n" for s in self.steps)
        return whole + "".join(each)


TellKills: TypeAlias = Callable[[SceneKills], None]
"""Is told what has come of a scene after each of its steps."""


def machine() -> str:
    """The processor that this runs on, with the number of its cores."""
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} cores"


def write_kills(page: Path, kills: SceneKills, on: str) -> None:
    """Put a scene's rows into the table of a page, in place of those that it has; the others stay.

    Raises:
        ValueError: The page lacks the lines between which the table stands.
    """

    def table(old: str) -> str:
        known = {found["scene"]: found[0] for found in _SCENE.finditer(old)}
        return _HEAD + "".join((known | {kills.scene: kills.rows(on)}).values())

    rewrite(page, OPTION, table)
