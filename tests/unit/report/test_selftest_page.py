"""The page and the table of the self-test."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from hpe_tasks.records.selftest import HEALTHY, GuardOutcome, GuardTrial, SelfTest
from hpe_tasks.report.selftest_page import selftest_page, selftest_table, selftest_title
from hpe_tasks.selftest.running import SelfTestError, refuse_failed


def trial(name: str, outcome: GuardOutcome, message: str = "It is <b>not</b> signed") -> GuardTrial:
    return GuardTrial(
        name=name, planted=f"Fault {name}", guard=f"guard of {name}", outcome=outcome, message=message, seconds=1.25
    )


def selftest(*trials: GuardTrial) -> SelfTest:
    at = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
    return SelfTest(started=at, seconds=70.0, trials=trials, git_commit="abc", processor="some processor")


GOOD = selftest(trial(HEALTHY, "passed"), trial("bgr", "refused"))
CASES = [
    pytest.param(GOOD, True, "All 1 faults were refused by their guards", id="all refused"),
    pytest.param(
        selftest(trial(HEALTHY, "passed"), trial("bgr", "let_through"), trial("leak", "refused")),
        False,
        "1 of 2 faults got past their guards",
        id="one let through",
    ),
    pytest.param(
        selftest(trial(HEALTHY, "passed"), trial("bgr", "broke")),
        False,
        "1 of 1 faults got past their guards",
        id="one broke off",
    ),
    pytest.param(
        selftest(trial(HEALTHY, "refused")),
        False,
        "The healthy run did not pass: nothing could be planted",
        id="healthy run refused",
    ),
    pytest.param(selftest(), False, "The healthy run did not pass: nothing could be planted", id="nothing tried"),
]


@pytest.mark.parametrize(("record", "passed", "title"), CASES)
def test_the_outcome_is_told(record: SelfTest, passed: bool, title: str) -> None:
    assert (record.passed, selftest_title(record)) == (passed, title)


@pytest.mark.parametrize(("record", "passed", "title"), CASES[:4])
def test_page_and_table_hold_every_trial(record: SelfTest, passed: bool, title: str) -> None:
    page, text = selftest_page(record), io.StringIO()
    Console(file=text, width=200).print(selftest_table(record))
    for one in record.trials:
        for shown in (page, text.getvalue()):
            assert one.planted in shown
            assert one.name in shown
            assert one.guard[1:] in shown
    assert "&lt;b&gt;not&lt;/b&gt;" in page
    assert "<b>not</b>" not in page
    assert title in page
    assert page.count('class="failure"') == len(record.failed)
    assert "http" not in page.replace("http-equiv", "")


def test_a_record_comes_back_as_it_was_written() -> None:
    assert SelfTest.model_validate_json(GOOD.model_dump_json()) == GOOD


def test_what_failed_is_raised_with_its_guard() -> None:
    refuse_failed(GOOD)
    with pytest.raises(SelfTestError, match=r"Fault bgr: guard of bgr: It is <b>not</b> signed\.") as caught:
        refuse_failed(selftest(trial(HEALTHY, "passed"), trial("bgr", "let_through")))
    assert "--only" in caught.value.hint
