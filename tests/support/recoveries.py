"""How long faults of a cluster were felt: a table of them, printed and kept in a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

Recoveries: TypeAlias = Callable[[Mapping[str, float]], None]
"""Takes seconds by fault, when all of a cluster's faults are over."""

BEGIN = "<!-- Written by pytest --recoveries. -->\n"
END = "<!-- End of what pytest --recoveries wrote. -->\n"
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
    before, begun, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    old, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{page} lacks the lines {BEGIN.strip()!r} and {END.strip()!r}.")
    known = {fault: float(took_s) for fault, took_s in _ROW.findall(old)}
    page.write_text(f"{before}{BEGIN}\n{table(known | dict(recoveries))}\n{END}{after}", encoding="utf-8")
