from __future__ import annotations

import pytest
from hpe_airflow.run_notes import noted, verdict_of_note


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(None, "**Verdict:** Published.", id="no note"),
        pytest.param("", "**Verdict:** Published.", id="empty"),
        pytest.param("drift of 3 joints", "**Verdict:** Published.\n\n---\n\ndrift of 3 joints", id="of the watch"),
        pytest.param("**Verdict:** Failed at gate.", "**Verdict:** Published.", id="of an earlier attempt"),
        pytest.param(
            "**Verdict:** Failed.\n\n---\n\ndrift", "**Verdict:** Published.\n\n---\n\ndrift", id="both, cleared once"
        ),
    ],
)
def test_the_verdict_stands_before_what_was_noted(before: str | None, after: str) -> None:
    assert noted("Published.", before) == after
    assert verdict_of_note(after) == "Published."


def test_a_note_is_as_long_as_airflow_keeps_and_what_a_person_wrote_stays_whole() -> None:
    told = noted("x" * 2000, "Ask Ada first.")
    assert len(told) == 1000
    assert told.endswith("xxx\n\n---\n\nAsk Ada first.")
    assert len(noted("short", "y" * 2000)) == 1000


@pytest.mark.parametrize("note", [None, "", "a person's note"])
def test_a_note_without_a_verdict_has_none(note: str | None) -> None:
    assert verdict_of_note(note) == ""
