"""What a piece of work takes: by the clock, and by what Linux counts of this process."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from hpe_tasks.pipeline.spending import spending

SIZE = 200_000_000


def test_the_peak_is_that_of_the_work_alone() -> None:
    # Pages of their own: an array may come to lie in memory that earlier tests left behind.
    with spending() as first, mmap.mmap(-1, SIZE) as memory:
        for page in range(0, SIZE, mmap.PAGESIZE):
            memory[page] = 1
    with spending() as second:
        pass
    assert first.peak_memory_bytes is not None
    assert second.peak_memory_bytes is not None
    assert first.peak_memory_bytes > second.peak_memory_bytes + SIZE / 2
    assert first.seconds > 0


def test_it_is_told_of_work_that_failed() -> None:
    with pytest.raises(ValueError, match="no"), spending() as spent:
        raise ValueError("no")
    assert spent.seconds > 0


@pytest.mark.parametrize("files", [(), ("clear_refs",)], ids=["no such files", "nothing is told"])
def test_where_the_system_does_not_tell_the_peak_it_is_unknown(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).touch()
    with spending(tmp_path) as spent:
        pass
    assert spent.peak_memory_bytes is None
