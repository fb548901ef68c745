"""A run as JUnit XML: what CI systems count, and the figures that people read there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree.ElementTree import Element, fromstring

import pytest

from hpe_tasks.errors import ConfigError
from hpe_tasks.report.junit import junit_of_error, junit_xml
from hpe_tasks.report.records import RunRecords
from support import run_cases


def suite_of(data: bytes) -> Element:
    suites = fromstring(data)
    assert suites.tag == "testsuites"
    [suite] = suites
    counted = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for attribute, tag in counted.items():
        assert suite.get(attribute) == str(len(list(suite.iter(tag))))
    for case in suite.iter("testcase"):
        assert case.get("classname")
        assert case.get("name")
        assert case.get("time") == "0"
    return suite


def problems(suite: Element, kind: str) -> dict[str, str]:
    return {
        str(case.get("name")): str(found.get("message")) for case in suite.iter("testcase") for found in case.iter(kind)
    }


def test_a_run_that_passed_has_no_failure_and_all_its_figures() -> None:
    records = run_cases.judged(run_cases.complete())
    assert records.decision is not None
    suite = suite_of(junit_xml(records, report="file:///r/report.html"))
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    checks = [case for case in suite.iter("testcase") if case.get("classname") == "gate"]
    assert [case.get("name") for case in checks] == [check.title for check in records.decision.checks]
    for case, check in zip(checks, records.decision.checks, strict=True):
        told = case.findtext("system-out")
        assert told is not None
        assert told.startswith(f"{check.name}: ")
        assert f"observed={check.observed!r} limit={check.limit!r}" in told
    facts = {str(one.get("name")): one.get("value") for one in suite.iter("property")}
    assert facts["report"] == "file:///r/report.html"
    assert facts["AP, ONNX int8"] == f"{records.onnx.accuracy:.3f}"


@pytest.mark.parametrize(
    ("case", "failures", "errors"),
    [
        pytest.param(run_cases.gate_failed, 1, 0, id="refused"),
        pytest.param(run_cases.inconclusive, 1, 0, id="inconclusive"),
        pytest.param(run_cases.below_floor, 1, 0, id="below the floor"),
        pytest.param(run_cases.step_failed, 0, 1, id="a step failed"),
        pytest.param(run_cases.broken_dataset, 0, 1, id="broken data"),
        pytest.param(run_cases.unfit, 0, 1, id="preflight"),
    ],
)
def test_what_went_wrong_is_counted_with_its_reason(case: Callable[[], RunRecords], failures: int, errors: int) -> None:
    records = case()
    suite = suite_of(junit_xml(records))
    refused, broken = problems(suite, "failure"), problems(suite, "error")
    assert (len(refused) >= failures, bool(refused), len(broken)) == (True, bool(failures), errors)
    assert all(message for message in (*refused.values(), *broken.values()))
    if records.decision is not None:
        assert refused == {check.title: check.reason for check in records.decision.checks if not check.passed}


def test_what_xml_cannot_hold_is_replaced() -> None:
    suite = suite_of(junit_of_error(ConfigError("a\x00b\x1b[31m<c> ]]> \ud800", hint="Say & mend.")))
    [message] = problems(suite, "error").values()
    assert message == "a�b�[31m<c> ]]> �"
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    case = suite.find("testcase/error")
    assert case is not None
    assert str(case.text).endswith("Say & mend.")


def test_a_run_that_has_just_begun_is_a_suite_as_well() -> None:
    records = replace(run_cases.only_config())
    assert suite_of(junit_xml(records)).get("failures") == "0"
