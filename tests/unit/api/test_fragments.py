"""What results show in a notebook: closed, offline, escaped, and in styles that reach no further than themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.registry.publishing import StoredVersion
from hpe_tasks.report import fragments
from hpe_tasks.report.pictures import Pictures, pictures_of
from hpe_tasks.report.records import RunRecords
from support.run_cases import HOSTILE, STATES, complete, gate_failed
from support.run_files import report_files

_VOID = {"br", "img"}
_SCOPE = ".hpe-result"


class Piece(HTMLParser):
    """Checks that a piece of HTML is closed, and keeps its text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.styles = ""
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.styles += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words)).replace("\u00a0", " ")


def shown(html: str) -> Piece:
    piece = Piece(html)
    assert not piece.tags & {"script", "object", "embed", "form", "iframe", "link"}
    assert all(value.startswith("data:image/") for name, value in piece.attributes if name in ("src", "href"))
    assert not [name for name, _ in piece.attributes if name.startswith("on")]
    assert HOSTILE not in html
    return piece


def outermost_selectors(css: str) -> list[str]:
    """Selectors of the rules that are inside of no other; those in an at-rule count as outermost."""
    css, found, depth, start = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL), [], 0, 0
    for at, sign in enumerate(css):
        if sign == "{":
            text = css[start:at].strip()
            if depth == 0 and not text.startswith("@"):
                found.append(text)
            depth += 0 if depth == 0 and text.startswith("@") else 1
            start = at + 1
        elif sign == "}":
            depth, start = max(0, depth - 1), at + 1
        elif sign == ";":
            start = at + 1
    return found


@pytest.mark.parametrize("state", STATES)
def test_a_run_in_every_state(state: str) -> None:
    piece = shown(fragments.run_html(STATES[state]()))
    assert "Quantization report of" in piece.text


def test_styles_reach_no_further() -> None:
    selectors = outermost_selectors(Piece(fragments.run_html(complete())).styles)
    assert len(selectors) >= 4
    assert [one for one in selectors if not all(_SCOPE in part for part in one.split(","))] == []


def evaluation(make: Callable[[], RunRecords] = complete) -> EvaluationReport:
    report = make().fp32
    assert report is not None
    return report


@pytest.mark.parametrize("state", [name for name, make in STATES.items() if make().fp32 is not None])
def test_an_evaluation_has_its_parts(state: str) -> None:
    report = evaluation(STATES[state])
    piece = shown(fragments.evaluation_html(report))
    assert "the checkpoint as it came (FP32)" in piece.text
    for part in (*report.by_group, *report.by_joint):
        assert part.replace("_", " ") in piece.text


def test_hostile_names_are_shown_as_they_are() -> None:
    report = evaluation()
    hostile = report.model_copy(update={"by_joint": {HOSTILE: 0.5}, "by_group": {}})
    assert HOSTILE in shown(fragments.evaluation_html(hostile)).text
    failed = decision_of(gate_failed)
    check = failed.checks[0].model_copy(update={"title": HOSTILE, "reason": HOSTILE, "passed": False})
    told = shown(fragments.decision_html(failed.model_copy(update={"checks": (check,)}), HOSTILE))
    assert told.text.count(HOSTILE) == 4
    assert HOSTILE in shown(fragments.facts_html("t", [("a", HOSTILE)])).text
    version = StoredVersion("0123456789abcdef", datetime(2026, 11, 2, tzinfo=UTC), (HOSTILE,))
    assert shown(fragments.registry_html(HOSTILE, {HOSTILE: [version]})).text.count(HOSTILE) == 3
    assert HOSTILE in shown(fragments.pictures_html(Pictures(absent=HOSTILE))).text


def decision_of(make: Callable[[], RunRecords]) -> GateDecision:
    decision = make().decision
    assert decision is not None
    return decision


@pytest.mark.parametrize("make", [complete, gate_failed], ids=["passed", "failed"])
def test_a_decision_says_why(make: Callable[[], RunRecords]) -> None:
    decision = decision_of(make)
    piece = shown(fragments.decision_html(decision, "mine"))
    assert piece.text.count("✓ passed") == sum(check.passed for check in decision.checks) + decision.passed
    for check in decision.checks:
        assert check.title in piece.text
        assert check.reason in piece.text


def test_an_export_says_where_it_runs_and_what_is_proved() -> None:
    records = complete()
    piece = shown(fragments.export_html(replace(records, decision=None)))
    assert records.exported is not None
    assert records.exported.model.sha256 in piece.text
    assert "Where onnxruntime does the arithmetic" in piece.text


def test_older_versions_of_a_registry_are_counted() -> None:
    at = datetime(2026, 11, 2, 12, 30, tzinfo=UTC)
    versions = [StoredVersion(f"{number:016x}", at, ("staging",) if number == 0 else ()) for number in range(13)]
    text = shown(fragments.registry_html("s3://models/registry", {"pose": versions})).text
    assert "… and 3 older." in text
    assert text.count("no channel") == 9
    assert "2026-11-02 12:30 UTC" in text
    assert "no model yet" in shown(fragments.registry_html("s3://models/registry", {})).text


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_as_many_pictures_as_were_asked_for(count: int, tmp_path: Path) -> None:
    html = fragments.pictures_html(
        pictures_of(complete(), report_files(tmp_path, split=evaluation().fingerprint.split), count=count)
    )
    assert "Drawn" in shown(html).text
    assert html.count('src="data:image/jpeg;base64,') == 3 * count
