"""A published version as a model card in Markdown, in the format of Hugging Face's hub.

Every figure is the manifest's own; what the manifest does not say, the card says that it does not know. The metadata
at its head follow the hub's specification of model cards, with the evaluation as a `model-index`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from hpe_tasks.gate.accuracy import Metric, megabytes_text, metric_named
from hpe_tasks.records.evaluation import ProtocolFingerprint
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.registry.manifest import MODEL_ROLE, Metrics, ModelManifest
from hpe_tasks.report.card_snippet import snippet
from hpe_tasks.report.records import interval_text, quantities_of, speed_rows

SAMPLE = "sample"
"""Source of the checkpoint and of the drawn data that come with this project, under its licence."""

_BOXES = {
    "ground_truth": "crops by annotated boxes",
    "detector": "crops by a detector's boxes",
    "annotated_center_scale": "crops by annotated centre and scale",
    "whole_image": "whole images",
}
_PROCESSORS = {
    "any": "any processor: no int8 kernel can clip a sum of this file",
    "x86_64": "x86-64: no int8 kernel of it can clip a sum of this file",
    "arm64": "arm64: no int8 kernel of it can clip a sum of this file",
    "x86_64_vnni": "x86-64 with VNNI",
}


def model_card(manifest: ModelManifest, *, channels: Sequence[str] = ()) -> str:
    """The card of a version.

    Args:
        manifest: What the registry says of it.
        channels: Those that serve it now.
    """
    head = yaml.safe_dump(_metadata(manifest), sort_keys=False, allow_unicode=True, width=120)
    sections = (_accuracy, _cost, _gate, _use, _data, _limits, _licence, _files, _origin)
    told = (_title(manifest, channels), *(section(manifest) for section in sections))
    body = "\n\n".join("\n".join(lines) for lines in told)
    return f"---\n{head}---\n\n{body}\n"


def _metadata(manifest: ModelManifest) -> dict[str, Any]:
    protocol, metric = manifest.onnx.fingerprint, _metric(manifest)
    values: list[dict[str, Any]] = []
    for column in metric.columns:
        value = getattr(manifest.onnx.stats, column.field, None)
        if value is not None:
            values.append(
                {"type": column.field, "name": f"{column.label} (int8, onnxruntime)", "value": round(value, 4)}
            )
    result = {
        "task": {"type": "keypoint-detection", "name": "Human pose estimation"},
        "dataset": {
            "type": _last_part(manifest.provenance.dataset_source),
            "name": f"{_last_part(manifest.provenance.dataset_source)}, {protocol.split}",
            "split": protocol.split,
            "revision": protocol.dataset_digest[:16],
        },
        "metrics": values,
    }
    own = _is_sample(manifest)
    return {
        "license": "apache-2.0" if own else "other",
        **({} if own else {"license_name": "not-stated"}),
        "library_name": "onnx",
        "pipeline_tag": "keypoint-detection",
        "tags": ["onnx", "onnxruntime", "int8", "quantized", "human-pose-estimation", manifest.serving.architecture],
        "model-index": [{"name": manifest.name, "results": [result]}],
    }


def _title(manifest: ModelManifest, channels: Sequence[str]) -> Iterator[str]:
    serving, metric = manifest.serving, _metric(manifest)
    sizes = " or ".join(f"{width} × {height}" for width, height in serving.input_sizes)
    yield f"# {_text(manifest.name)}, version {manifest.version}"
    yield ""
    yield (
        f"An int8 ONNX model that finds {len(serving.joints)} joints of people ({_text(serving.skeleton)}) in images "
        f"of {sizes} pixels: {metric.name} {metric.text(_value(manifest.onnx))} in onnxruntime, measured on the file "
        f"itself; its float model has {metric.text(_value(manifest.fp32))}. Architecture "
        f"{_code(serving.architecture)}, recipe {_code(manifest.recipe.name)}."
    )
    if channels:
        yield ""
        yield f"Served by {', '.join(map(_code, channels))} when this was written."


def _accuracy(manifest: ModelManifest) -> Iterator[str]:
    metric = _metric(manifest)
    forms = (("FP32", manifest.fp32), ("QuantSim", manifest.quantsim), ("int8, onnxruntime", manifest.onnx))
    yield "## Accuracy"
    yield ""
    yield f"{metric.title}. {metric.explanation} {_protocol(manifest.onnx.fingerprint)}"
    yield ""
    rows = [
        (column.label, *(metric.text(getattr(form.stats, column.field, None)) for _, form in forms))
        for column in metric.columns
    ]
    yield from _table(("", *(name for name, _ in forms)), rows)
    yield ""
    yield f"By group of joints, {metric.name}:"
    yield ""
    yield from _table(
        ("", *(name for name, _ in forms)),
        [(name, *(metric.text(form.by_group.get(name)) for _, form in forms)) for name in manifest.onnx.by_group],
    )


def _cost(manifest: ModelManifest) -> Iterator[str]:
    model = manifest.file(MODEL_ROLE)
    yield "## Size and speed"
    yield ""
    yield (
        f"- {megabytes_text(model.size_bytes)}; the float weights have {megabytes_text(manifest.fp32_size_bytes)}.\n"
        f"- {100 * manifest.placement.int8_mac_share:.1f} % of the multiply-accumulates run in int8 (onnxruntime "
        f"{manifest.placement.onnxruntime_version} on {', '.join(manifest.placement.cpu_features)})."
    )
    yield from _speed(manifest.latency)


def _speed(latency: LatencyComparison | None) -> Iterator[str]:
    if latency is None:
        yield "- Speed was not measured."
    for label, text in speed_rows(latency):
        yield f"- {label}: {_text(text)}." if label else f"  - {_text(text)}."


def _gate(manifest: ModelManifest) -> Iterator[str]:
    yield "## What it had to pass"
    yield ""
    rows = []
    for check in manifest.gate.checks:
        observed, limit, _ = quantities_of(check)
        rows.append((check.title, f"{observed}{interval_text(check)}", limit, "passed" if check.passed else "failed"))
    yield from _table(("Check", "Observed", "Limit", ""), rows)


def _use(manifest: ModelManifest) -> Iterator[str]:
    yield "## How to run it"
    yield ""
    yield from snippet(manifest.serving)


def _data(manifest: ModelManifest) -> Iterator[str]:
    provenance, calibration = manifest.provenance, manifest.provenance.calibration
    yield "## Data"
    yield ""
    trained = _text(provenance.trained_on) if provenance.trained_on else "not stated"
    yield f"- Trained on: {trained}."
    yield (
        f"- Calibrated on {calibration.num_images:,} images of {_code(calibration.split)} with "
        f"{calibration.num_persons:,} persons (seed {calibration.seed}, SHA-256 of their ids "
        f"{_code(calibration.image_ids_digest[:16])})."
    )
    yield f"- Evaluated on {_protocol(manifest.onnx.fingerprint)}"
    yield f"- Data set: {_code(_last_part(provenance.dataset_source))}, digest {_code(provenance.dataset_digest)}."


def _limits(manifest: ModelManifest) -> Iterator[str]:
    protocol, serving = manifest.onnx.fingerprint, manifest.serving
    yield "## Limits"
    yield ""
    yield "- The figures hold for this data and this protocol. Nothing was measured on other cameras, scenes or people."
    if protocol.subset:
        yield "- They were measured on a part of the split."
    if manifest.onnx.failed_images:
        yield f"- {manifest.onnx.failed_images:,} images could not be read; their persons count as missed."
    if protocol.box_source == "ground_truth":
        yield "- Annotated boxes flatter it: with a detector's boxes it finds less."
    if _is_sample(manifest):
        yield "- It was trained and measured on drawn figures, to try the pipeline: it finds no real people."
    if serving.processors is not None:
        yield f"- Made for {_PROCESSORS[serving.processors]}."
    elif manifest.proof is None:
        yield "- Nothing was proved of its sums: x86-64 processors without VNNI may compute something else."
    yield "- Speeds are of the processor named above."


def _licence(manifest: ModelManifest) -> Iterator[str]:
    yield "## Licences"
    yield ""
    if _is_sample(manifest):
        yield "Checkpoint and drawn data come with the project that made this file, under Apache-2.0."
        return
    yield (
        "The manifest states none. The licence of the checkpoint and the terms of the data that it was trained on "
        "count for this file as well: look them up before you pass it on, and put the licence into the metadata above."
    )


def _files(manifest: ModelManifest) -> Iterator[str]:
    yield "## Files"
    yield ""
    rows = [(_code(file.role), f"{file.size_bytes:,}", _code(file.sha256)) for file in manifest.files]
    yield from _table(("File", "Bytes", "SHA-256"), rows, right=(1,))


def _origin(manifest: ModelManifest) -> Iterator[str]:
    provenance = manifest.provenance
    yield "## Origin"
    yield ""
    published = f"{provenance.created_at:%Y-%m-%d %H:%M} UTC by {_text(provenance.created_by)}"
    yield f"- Published {published}, run {_code(provenance.run)}."
    source = _last_part(provenance.checkpoint_source)
    yield f"- Checkpoint {_code(source)}, SHA-256 {_code(provenance.checkpoint_sha256)}."
    if provenance.recipe_found:
        yield f"- Recipe: {_text(provenance.recipe_found)}"
    tools = ", ".join(f"{_text(name)} {_text(version)}" for name, version in sorted(provenance.tool_versions.items()))
    yield f"- Made with {tools}; quantized on {_text(provenance.quantized_on)}."
    commit = provenance.git_commit
    yield f"- Code: {_code(commit)}." if commit else "- Code: outside a checkout."


def _protocol(protocol: ProtocolFingerprint) -> str:
    flipped = ", with flip test" if protocol.flip_test else ""
    width, height = protocol.input_size
    return (
        f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {_code(protocol.split)}, "
        f"{_BOXES[protocol.box_source]}, {width} × {height} pixels{flipped}, decoded by {_text(protocol.decoder)}."
    )


def _metric(manifest: ModelManifest) -> Metric:
    return metric_named(manifest.onnx.fingerprint.metric)


def _value(form: Metrics) -> float | None:
    return form.stats.accuracy


def _is_sample(manifest: ModelManifest) -> bool:
    sources = (manifest.provenance.checkpoint_source, manifest.provenance.dataset_source)
    return sources == (SAMPLE, SAMPLE)


def _last_part(source: str) -> str:
    """What a card tells of an address: no folders of a machine, no query."""
    return source.split("?", maxsplit=1)[0].rstrip("/").rpartition("/")[2] or source


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] | None = None) -> Iterator[str]:
    aligned = range(1, len(head)) if right is None else right
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if place in aligned else '---' for place in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(cell if cell.startswith('`') else _text(cell) for cell in row)} |"


def _text(text: str) -> str:
    """Words in which nothing is markup, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name between backquotes, of which it may not hold any itself."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "/")
    return f"`{plain}`"
