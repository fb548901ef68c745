"""What a test writes into a page of the documentation, between two lines that name its option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def marks(option: str) -> tuple[str, str]:
    """The lines before and after what pytest writes with an option."""
    return f"<!-- Written by pytest {option}. -->\n", f"<!-- End of what pytest {option} wrote. -->\n"


def rewrite(page: Path, option: str, table: Callable[[str], str]) -> None:
    """Put the table that is made of the one before in its place.

    Raises:
        ValueError: The page lacks the lines between which the table stands.
    """
    begin, end = marks(option)
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    old, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{page} lacks the lines {begin.strip()!r} and {end.strip()!r}.")
    page.write_text(f"{before}{begin}\n{table(old)}\n{end}{after}", encoding="utf-8")
