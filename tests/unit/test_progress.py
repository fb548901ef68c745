"""Progress: what a log and a terminal show of long work."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator

import pytest

from hpe_tasks.progress import duration_text, progress_text, track


class Clock:
    """Time that passes when somebody works."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("hpe_tasks.progress.time.monotonic", clock.monotonic)
    return clock


def work(clock: Clock, items: Iterator[object], seconds: float) -> int:
    done = 0
    for _ in items:
        clock.now += seconds
        done += 1
    return done


def test_a_log_says_how_far_how_fast_and_how_long_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    batches = [[0] * 16] * 20
    shown = track(batches, "Evaluating FP32", total=320, unit="persons", count=len)
    assert work(clock, shown, 2.0) == 20
    assert caplog.messages == [
        "Evaluating FP32: 128 of 320 persons, 8 persons/s, 24 s left",
        "Evaluating FP32: 256 of 320 persons, 8 persons/s, 8 s left",
        "Evaluating FP32: 320 persons, 8 persons/s, after 40 s",
    ]


@pytest.mark.parametrize(
    ("make", "total", "says"),
    [
        pytest.param(lambda: [1, 2], None, "2 of 2 files", id="a list knows its length"),
        pytest.param(lambda: iter([1, 2]), 5, "2 of 5 files, 0.1 files/s, 30 s left", id="the length is told"),
        pytest.param(lambda: iter([1, 2]), None, "2 files, 0.1 files/s", id="nobody knows"),
    ],
)
def test_lengths(
    clock: Clock, caplog: pytest.LogCaptureFixture, make: Callable[[], object], total: int | None, says: str
) -> None:
    caplog.set_level(logging.INFO)
    work(clock, track(make(), "Unpacking", total=total, unit="files"), 10.0)  # type: ignore[arg-type]
    assert caplog.messages[0].startswith(f"Unpacking: {says}")


def test_short_work_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert work(clock, track(range(1000), "Hashing"), 0.01) == 1000
    assert caplog.messages == []


def test_a_terminal_shows_a_bar_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for _ in track([[0] * 4] * 6, "Evaluating", total=24, unit="persons", count=len):
        time.sleep(0.15)
    text = terminal.getvalue()
    assert "Evaluating" in text
    assert "/24" in text
    assert "persons/s" in text


@pytest.mark.parametrize(
    ("done", "total", "unit", "elapsed_s", "says"),
    [
        pytest.param(0, 10, "images", 15.0, "0 of 10 images", id="nothing yet"),
        pytest.param(5, 10, "", 5.0, "5 of 10, 1/s, 5 s left", id="no unit"),
        pytest.param(1, 40, "batches", 30.0, "1 of 40 batches, 0.033 batches/s, 19 min 30 s left", id="slow"),
        pytest.param(2000, 90000, "images", 10.0, "2,000 of 90,000 images, 200 images/s, 7 min 20 s left", id="fast"),
        pytest.param(10, 10, "images", 4.0, "10 of 10 images, 2.5 images/s", id="done"),
        pytest.param(12, 10, "images", 4.0, "12 of 10 images, 3 images/s", id="more than was expected"),
    ],
)
def test_progress_in_words(done: int, total: int, unit: str, elapsed_s: float, says: str) -> None:
    assert progress_text(done, total, unit, elapsed_s) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7320, "2 h 2 min")],
)
def test_durations(seconds: float, says: str) -> None:
    assert duration_text(seconds) == says
