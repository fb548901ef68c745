"""Parts of the report as pieces of HTML that stand in another page: what results show in a notebook.

Each brings its styles along, fetches nothing, and holds whatever it shows escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpe_tasks.gate.accuracy import Metric, metric_of, sample_text
from hpe_tasks.pose.drawing import CENTRE, LEFT, RIGHT
from hpe_tasks.records.evaluation import EvaluationReport, Runtime
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.registry.publishing import StoredVersion
from hpe_tasks.report.files import ReportFiles
from hpe_tasks.report.ladder import ladder_view
from hpe_tasks.report.page import check_row, view_of
from hpe_tasks.report.pictures import Pictures
from hpe_tasks.report.records import RunRecords, cpu_text, notes_of
from hpe_tasks.report.templating import templates_for

_FORMS: Mapping[Runtime, str] = {
    "fp32": "the checkpoint as it came (FP32)",
    "quantsim": "QuantSim",
    "onnxruntime": "the exported file in onnxruntime",
}
_MOST_VERSIONS = 10


@dataclass(frozen=True)
class PartBar:
    """The figure of one joint or group; `share` is its part of the best there can be, in percent."""

    label: str
    text: str
    share: float | None


@dataclass(frozen=True)
class ListedModel:
    """A model of a registry with its latest versions; `older` is how many are not shown."""

    name: str
    versions: tuple[StoredVersion, ...]
    older: int


def run_html(records: RunRecords) -> str:
    """Verdict, figures, gate, and the accuracy of FP32, QuantSim and the exported file beside each other."""
    return _render("run_result", records.metric, view_of(records, ReportFiles()))


def ladder_html(records: RunRecords) -> str:
    """The recipes that were tried: accuracy, speed and size of each, and what became of it."""
    return _render("ladder_result", records.metric, {"ladder": ladder_view(records), "metric": records.metric})


def decision_html(decision: GateDecision, name: str) -> str:
    """The gate's checks, each with what was observed and its limit.

    Args:
        decision: The gate's.
        name: Of the model.
    """
    checks = [check_row(check) for check in decision.checks]
    return _render("decision", None, {"decision": decision, "checks": checks, "name": name})


def evaluation_html(report: EvaluationReport) -> str:
    """The statistics of one measurement, and the main figure of each group and joint."""
    metric = metric_of(report.stats)
    view = {
        "report": report,
        "metric": metric,
        "form": _FORMS[report.runtime],
        "sample": sample_text(report),
        "rows": [(column, metric.text(getattr(report.stats, column.field))) for column in metric.columns],
        "groups": list(_bars(report.by_group, metric)),
        "joints": list(_bars(report.by_joint, metric)),
        "notes": (*notes_of(metric), f"Measured on {cpu_text(report)}.", metric.explanation),
    }
    return _render("evaluation", metric, view)


def _bars(values: Mapping[str, float | None], metric: Metric) -> Iterator[PartBar]:
    for name, value in values.items():
        share = None if value is None else round(100 * value / metric.maximum, 1)
        yield PartBar(name.replace("_", " "), metric.text(value), share)


def export_html(records: RunRecords) -> str:
    """Size of the exported file, where its arithmetic runs, and what was proved of it."""
    return _render("export_result", records.metric, {"r": records, "groups": None})


def facts_html(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """A title and (label, text) below it."""
    return _render("facts", None, {"title": title, "facts": list(facts)})


def registry_html(address: str, models: Mapping[str, Sequence[StoredVersion]]) -> str:
    """The models of a registry: their versions, latest first, and the channels that serve them.

    Args:
        address: Of the registry.
        models: Versions by the model's name.
    """
    listed = [
        ListedModel(name, tuple(versions[:_MOST_VERSIONS]), max(0, len(versions) - _MOST_VERSIONS))
        for name, versions in models.items()
    ]
    return _render("registry", None, {"address": address, "models": listed})


def pictures_html(pictures: Pictures) -> str:
    """Truth, FP32 and int8 of the same persons side by side, as images inside of the HTML."""
    colours = {"left": LEFT, "right": RIGHT, "centre": CENTRE}
    return _render("pictures_result", None, {"pictures": pictures, "colours": colours})


def _render(template: str, metric: Metric | None, view: Mapping[str, Any]) -> str:
    return templates_for(metric).get_template(f"{template}.html.j2").render(view)
