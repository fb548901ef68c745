"""The table of how long faults were felt keeps what was measured before."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.marked_pages import marks
from support.recoveries import OPTION, write_recoveries

BEGIN, END = marks(OPTION)


def test_a_row_replaces_the_one_of_the_same_fault_and_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n{END}\nafter\n")
    write_recoveries(page, {"a worker killed in `train`": 61.4, "Redis restarted": 20.0})
    write_recoveries(page, {"Redis restarted": 12.6, "two publishers": 3.0})
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert [line for line in text.splitlines() if line.endswith(" s |")] == [
        "| a worker killed in `train` | 61 s |",
        "| Redis restarted | 13 s |",
        "| two publishers | 3 s |",
    ]


def test_a_page_without_a_place_for_it_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a page\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_recoveries(page, {"two publishers": 3.0})
    assert page.read_text() == "a page\n"


def test_the_page_of_the_documentation_has_the_place(repository: Path) -> None:
    text = (repository / "docs" / "operations.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
