"""What a run came to as JUnit XML, which CI systems show beside the results of other tests."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from hpe_tasks.errors import HpeError
from hpe_tasks.gate.accuracy import UNITS
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.records.run import StepOutcome
from hpe_tasks.report.records import RunRecords, interval_text, quantities_of, verdict_of

# What XML 1.0 has no way to write: names in messages come from files of unknown origin.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_GATE, _STEPS = "gate", "steps"


def junit_xml(records: RunRecords, *, report: str | None = None) -> bytes:
    """A suite with each check of the gate, with its figures, and each step of the run.

    A check that failed is a failure with its reason, an inconclusive one as well; a step that failed is an error, one
    that was left out is skipped. A checkpoint below its floor is a failure of the step that says so.

    Args:
        records: What the run has produced.
        report: Address of its HTML report.
    """
    name = records.config.destination.name
    suite = Element("testsuite", name=f"hpe {name}")
    if records.started is not None:
        suite.set("timestamp", f"{records.started:%Y-%m-%dT%H:%M:%S}")
    verdict = verdict_of(records)
    facts = {"run": records.run, "verdict": verdict.title, "report": report, "commit": records.git_commit}
    metric = records.metric
    for label, measured in records.measurements:
        if measured is not None:
            facts[f"{metric.name}, {label}"] = metric.text(measured.accuracy)
    properties = SubElement(suite, "properties")
    for key, value in facts.items():
        if value:
            SubElement(properties, "property", name=key, value=_clean(value))
    for step in records.steps:
        _add_step(suite, step, records)
    for check in records.decision.checks if records.decision is not None else ():
        _add_check(suite, check)
    return _written(suite)


def junit_of_error(error: HpeError) -> bytes:
    """A suite with one error: a run that could not begin."""
    suite = Element("testsuite", name="hpe")
    case = SubElement(suite, "testcase", classname=_STEPS, name="configuration")
    _add_problem(case, "error", type(error).__name__, error.message, error.hint)
    return _written(suite)


def start_junit(file: Path) -> None:
    """Make sure that a file can be written, and is no earlier run's.

    Raises:
        StorageError: It cannot.
    """
    from hpe_tasks.storage.files import write_atomically

    write_atomically(file, _written(Element("testsuite", name="hpe")))


def _add_step(suite: Element, step: StepOutcome, records: RunRecords) -> None:
    case = SubElement(suite, "testcase", classname=_STEPS, name=step.name)
    if step.failure is not None and step.state == "failed":
        _add_problem(case, "error", step.failure.error, step.failure.message, step.failure.hint)
    elif step.state == "failed":
        _add_problem(case, "error", "failed", verdict_of(records).detail)
    elif step.state == "refused" and records.below_floor is not None and records.decision is None:
        verdict = verdict_of(records)
        _add_problem(case, "failure", verdict.title, verdict.detail)
    elif step.state in {"skipped", "not_run"}:
        SubElement(case, "skipped", message=step.state.replace("_", " "))


def _add_check(suite: Element, check: GateCheck) -> None:
    case = SubElement(suite, "testcase", classname=_GATE, name=check.title)
    if not check.passed:
        _add_problem(case, "failure", "inconclusive" if check.inconclusive else "refused", check.reason)
    observed, limit, margin = quantities_of(check)
    figures = f"{check.name}: {observed}{interval_text(check)}, limit {limit}, margin {margin}"
    exact = f"observed={check.observed!r} limit={check.limit!r} unit={UNITS[check.unit].suffix.strip() or check.unit}"
    SubElement(case, "system-out").text = _clean(f"{figures}\n{exact}")


def _add_problem(case: Element, kind: str, error: str, message: str, hint: str = "") -> None:
    problem = SubElement(case, kind, type=_clean(error), message=_clean(message))
    problem.text = _clean(f"{message}\n{hint}".strip())


def _written(suite: Element) -> bytes:
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(1 for _ in suite.iter(tag))))
    for case in suite.iter("testcase"):
        case.set("time", "0")
    suites = Element("testsuites")
    suites.append(suite)
    indent(suites)
    return bytes(tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _clean(text: str) -> str:
    return _NO_XML.sub("�", text)
