"""The HTML report of one run: a single file without network access, complete for whatever the run has produced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hpe_tasks.data.coco import load_coco
from hpe_tasks.drawing import CENTRE, LEFT, RIGHT
from hpe_tasks.errors import DatasetError
from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.charts import Bullet, DotPlot, bullet, dot_plot
from hpe_tasks.report.records import (
    RunRecords,
    Step,
    Verdict,
    ap_text,
    decimals_of,
    margin_of,
    megabytes_text,
    quantity_text,
    steps_of,
    verdict_of,
)
from hpe_tasks.report.side_by_side import SCORE_THRESHOLD, ComparedPerson, compare_persons, read_predictions
from hpe_tasks.results import CocoStats, GateCheck
from hpe_tasks.workspace import write_atomically

__all__ = ["ReportFiles", "RunRecords", "render_report"]

# The largest Data Docs page that is embedded; together with the pictures the report stays below 4 MB.
_MAX_DATA_DOCS_BYTES = 2_500_000

_STATS = (
    ("ap", "AP", "mean over OKS 0.50 to 0.95"),
    ("ap50", "AP50", "OKS 0.50"),
    ("ap75", "AP75", "OKS 0.75"),
    ("ap_medium", "AP medium", "32² to 96² pixels"),
    ("ap_large", "AP large", "over 96² pixels"),
    ("ar", "AR", "mean over OKS 0.50 to 0.95"),
    ("ar50", "AR50", "OKS 0.50"),
    ("ar75", "AR75", "OKS 0.75"),
    ("ar_medium", "AR medium", "32² to 96² pixels"),
    ("ar_large", "AR large", "over 96² pixels"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportFiles:
    """Files on this machine that the report reads; None for what is not at hand.

    Attributes:
        dataset_root: Folder with `images/` and `annotations/`.
        fp32_predictions: COCO results JSON of the FP32 model.
        onnx_predictions: COCO results JSON of the exported file.
        data_docs: One self-contained HTML page of Great Expectations.
    """

    dataset_root: Path | None = None
    fp32_predictions: Path | None = None
    onnx_predictions: Path | None = None
    data_docs: Path | None = None


@dataclass(frozen=True)
class Tile:
    """One number of the summary, with what it is measured on or compared with."""

    label: str
    value: str
    note: str
    quick_look: bool = False


@dataclass(frozen=True)
class CheckRow:
    """A gate check as it is shown."""

    check: GateCheck
    observed: str
    limit: str
    margin: str
    chart: Bullet


@dataclass(frozen=True)
class StatRow:
    """One of the ten COCO statistics for each form of the model."""

    label: str
    meaning: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Pictures:
    """Persons side by side, or why there are none."""

    persons: tuple[ComparedPerson, ...] = ()
    absent: str = ""


def render_report(records: RunRecords, files: ReportFiles, out: Path) -> Path:
    """Write the run's report to the file `out` and return its path.

    Whatever the run has not produced is left out or named as missing: a failed run is when a report is needed most.

    Raises:
        OSError: `out` cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("hpe_tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ap": ap_text, "mb": megabytes_text, "count": "{:,}".format, "units": _unbroken}
    page = environment.get_template("report.html.j2").render(_view(records, files))
    write_atomically(out, page.encode())
    return out


def _view(records: RunRecords, files: ReportFiles) -> dict[str, Any]:
    """Everything that the template shows."""
    verdict: Verdict = verdict_of(records)
    steps: tuple[Step, ...] = steps_of(records)
    groups: DotPlot | None = None
    if records.fp32 and records.onnx:
        groups = dot_plot(records.fp32.by_group, records.onnx.by_group)
    return {
        "r": records,
        "verdict": verdict,
        "steps": steps,
        "failed": [step for step in steps if step.state == "failed"],
        "subset": any(report.fingerprint.subset for _, report in records.measurements if report),
        "tiles": list(_tiles(records)),
        "checks": [_check_row(check) for check in records.decision.checks] if records.decision else [],
        "advice": next_steps(records),
        "stats": _stat_rows(records),
        "groups": groups,
        "pictures": _pictures(records, files),
        "score_threshold": SCORE_THRESHOLD,
        "data_docs": _data_docs(files.data_docs),
        "colours": {"left": LEFT, "right": RIGHT, "centre": CENTRE},
        "protocol": next((report.fingerprint for _, report in reversed(records.measurements) if report), None),
        "settings": list(_flat(records.config.model_dump(mode="json"))),
    }


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return text.replace(" %", "\u00a0%").replace(" MB", "\u00a0MB")


def _tiles(records: RunRecords) -> Iterator[Tile]:
    onnx, exported = records.onnx, records.exported
    if onnx is not None:
        protocol = onnx.fingerprint
        where = f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {protocol.split}"
        yield Tile("AP of the ONNX file", ap_text(onnx.stats.ap), where, protocol.subset)
    elif records.fp32 is not None:
        protocol = records.fp32.fingerprint
        where = f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {protocol.split}"
        yield Tile("AP of FP32", ap_text(records.fp32.stats.ap), where, protocol.subset)
    if records.ap_drop is not None and records.fp32 is not None and onnx is not None:
        drop = records.ap_drop
        label = "AP lost to quantization" if drop >= 0 else "AP gained by quantization"
        note = f"FP32 {ap_text(records.fp32.stats.ap)}, allowed loss {ap_text(records.config.gate.max_ap_drop)}"
        yield Tile(label, ap_text(abs(drop)), note, onnx.fingerprint.subset or records.fp32.fingerprint.subset)
    if exported is not None:
        before, after = exported.fp32_size_bytes, exported.model.size_bytes
        note = f"{before / after:.1f} times smaller than FP32, {megabytes_text(before)}"
        yield Tile("Size of the ONNX file", megabytes_text(after), note)
        audit = exported.placement
        note = f"of {audit.total_macs / 1e6:,.0f} million multiply-accumulates for one image"
        yield Tile("Arithmetic in int8", f"{100 * audit.int8_mac_share:.1f} %", note)


def _check_row(check: GateCheck) -> CheckRow:
    margin, decimals = margin_of(check), decimals_of(check)
    sign = "" if margin is None else ("+" if margin >= 0 else "−")
    return CheckRow(
        check=check,
        observed=quantity_text(check.observed, check.unit, decimals),
        limit=("≥ " if check.comparison == "at_least" else "≤ ") + quantity_text(check.limit, check.unit, decimals),
        margin=sign + quantity_text(None if margin is None else abs(margin), check.unit, decimals),
        chart=bullet(check),
    )


def _stat_rows(records: RunRecords) -> list[StatRow]:
    stats: list[CocoStats | None] = [report.stats if report else None for _, report in records.measurements]
    if not any(stats):
        return []
    return [StatRow(label, text, tuple(getattr(s, name) if s else None for s in stats)) for name, label, text in _STATS]


def _pictures(records: RunRecords, files: ReportFiles) -> Pictures:
    if files.dataset_root is None or files.fp32_predictions is None or files.onnx_predictions is None:
        return Pictures(absent="They need the data set and the predictions of both the FP32 model and the ONNX file.")
    if records.onnx is None:
        return Pictures(absent="The ONNX file has not been measured.")
    protocol = records.onnx.fingerprint
    try:
        dataset = load_coco(files.dataset_root, protocol.split)
        before, after = read_predictions(files.fp32_predictions), read_predictions(files.onnx_predictions)
        persons = compare_persons(dataset, before, after, protocol, seed=records.config.seed)
    except (DatasetError, OSError) as error:
        # The numbers are worth a report without pictures too; the reader is told why there are none.
        log.warning("The report has no pictures: %s", error)
        return Pictures(absent=f"They could not be made: {error}")
    return Pictures(persons, "" if persons else "FP32 and the ONNX file have no person in common.")


def _data_docs(path: Path | None) -> str | None:
    if path is None:
        return None
    if path.stat().st_size > _MAX_DATA_DOCS_BYTES:
        log.warning("%s is too large for the report and is left out of it.", path)
        return None
    return path.read_text(encoding="utf-8")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys, as `--set` takes them, and values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(item) for item in value)
        else:
            yield prefix + key, "–" if value is None else str(value)
