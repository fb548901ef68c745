"""How many kills were recovered from, in which steps of which runs: a table, printed and kept in the documentation."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hpe_tasks.contract.cpu import processor_name

BEGIN = "<!-- Written by pytest --kills. -->\n"
END = "<!-- End of what pytest --kills wrote. -->\n"

_HEAD = "| run | step | points | kills | recovered | min | on |\n|---|---|---|---|---|---|---|\n"
_SCENE = re.compile(r"^\| (?P<scene>.+?) \| all of it \|.*\n(\| (?P=scene) \|.*\n)*", re.MULTILINE)


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


TellKills: TypeAlias = Callable[[str, Sequence[StepKills], float], None]
"""Takes the name of a scene, what came of its steps, and how long all of it took in seconds."""


def machine() -> str:
    """The processor that this runs on, with the number of its cores."""
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} cores"


def rows(scene: str, steps: Sequence[StepKills], took_s: float, on: str) -> str:
    """Rows of a table in Markdown: the scene as a whole, then its steps."""
    points, kills, recovered = (sum(getattr(one, of) for one in steps) for of in ("points", "kills", "recovered"))
    whole = f"| {scene} | all of it | {points} | {kills} | {recovered} | {took_s / 60:.1f} | {on} |\n"
    each = (f"| {scene} | `{s.step}` | {s.points} | {s.kills} | {s.recovered} | | |\n" for s in steps)
    return whole + "".join(each)


def write_kills(page: Path, scene: str, steps: Sequence[StepKills], took_s: float, on: str) -> None:
    """Put a scene's rows into the table of a page, in place of those that it has; the others stay.

    Raises:
        ValueError: The page lacks the lines between which the table stands.
    """
    before, begun, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    old, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{page} lacks the lines {BEGIN.strip()!r} and {END.strip()!r}.")
    known = {found["scene"]: found[0] for found in _SCENE.finditer(old)}
    known[scene] = rows(scene, steps, took_s, on)
    page.write_text(f"{before}{BEGIN}\n{_HEAD}{''.join(known.values())}\n{END}{after}", encoding="utf-8")
