"""How long faults of a cluster were felt: a table of them, printed and kept in a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from support.marked_pages import rewrite

Recoveries: TypeAlias = Callable[[Mapping[str, float]], None]
"""Takes seconds by fault, when all of a cluster's faults are over."""

OPTION = "--recoveries"
_HEAD = "| fault | until the task that it hit has ended well |\n|---|---|\n"
_ROW = re.compile(r"^\| (.+) \| (\d+) s \|$", re.MULTILINE)


def table(recoveries: Mapping[str, float]) -> str:
    """Time to recovery, in Markdown."""
    return _HEAD + "".join(f"| {fault} | {took_s:.0f} s |\n" for fault, took_s in recoveries.items())


def write_recoveries(page: Path, recoveries: Mapping[str, float]) -> None:
    """Put rows into the table of a page, in place of those of the same faults; the others stay.

    Raises:
        ValueError: The page lacks the lines between which the table stands.
    """
    rewrite(page, OPTION, lambda old: table({fault: float(s) for fault, s in _ROW.findall(old)} | dict(recoveries)))
