"""What the pages show, put together from the catalogue, a manifest and the registry's log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpe_tasks.catalogue.comparing import flat
from hpe_tasks.catalogue.runs import RunSummary
from hpe_tasks.catalogue.summaries import SpeedSummary, VersionSummary
from hpe_tasks.gate.accuracy import UNITS, Metric, megabytes_text, metric_named, metric_of
from hpe_tasks.records.gate import GateCheck, GateDecision
from hpe_tasks.registry.log import LogRecord
from hpe_tasks.registry.manifest import GoldenImage, ModelManifest
from hpe_tasks.report.charts import Bullet, DotPlot, bullet, dot_plot
from hpe_tasks.report.records import milliseconds_text, quantities_of, speed_rows
from hpe_tasks.report.templating import signed

_NONE = "–"
_LABELS = {"passed": "✓ passed", "refused": "✕ refused", "inconclusive": "? inconclusive"}
_TONES = {"passed": "pass", "refused": "fail", "inconclusive": "differs"}


@dataclass(frozen=True)
class Cell:
    """A figure of a row: as text, and as what it is sorted by; None sorts last."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class ListedRow:
    """A version in the table of all."""

    version: VersionSummary
    fp32: Cell
    int8: Cell
    drop: Cell
    size: Cell
    speed: Cell
    share: Cell
    verdict: str
    tone: str
    data: str


@dataclass(frozen=True)
class RefusedRow:
    """A run in the table of those that published nothing."""

    run: RunSummary
    fp32: Cell
    int8: Cell
    drop: Cell
    size: Cell
    speed: Cell
    share: Cell
    data: str


@dataclass(frozen=True)
class ShownCheck:
    """A check of the gate as the report's table shows it."""

    check: GateCheck
    observed: str
    limit: str
    margin: str
    chart: Bullet


@dataclass(frozen=True)
class JointChange:
    """A joint's figures as text."""

    joint: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class DrawnPerson:
    """A person of a golden image: limbs as lines, joints as points, in pixels of the image."""

    limbs: tuple[tuple[float, float, float, float], ...]
    joints: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class DrawnPicture:
    """A golden image with what the exported file found in it when it was measured."""

    role: str
    sha256: str
    width: int
    height: int
    stroke: float
    people: tuple[DrawnPerson, ...]


@dataclass(frozen=True)
class Siblings:
    """Other versions, latest first, of the same checkpoint and of the same data; one may be in both."""

    checkpoint: tuple[VersionSummary, ...]
    data: tuple[VersionSummary, ...]


def version_row(row: VersionSummary) -> ListedRow:
    """A version's figures as text."""
    metric = None if row.metric is None else metric_named(row.metric)
    people = "" if row.persons is None else f", {row.persons:,} persons"
    return ListedRow(
        version=row,
        fp32=_accuracy(metric, row.fp32),
        int8=_accuracy(metric, row.int8),
        drop=_lost(metric, row.drop),
        size=_size(row.size_bytes),
        speed=_speed(row.speed),
        share=_share(row.int8_share),
        verdict=_LABELS.get(row.verdict or "", "damaged" if row.problem else _NONE),
        tone=_TONES.get(row.verdict or "", "fail" if row.problem else "differs"),
        data=_NONE if row.dataset is None else f"{row.dataset}, {row.split}{people}",
    )


def run_row(run: RunSummary) -> RefusedRow:
    """The figures of a run that published nothing, as text."""
    metric = None if run.metric is None else metric_named(run.metric)
    return RefusedRow(
        run=run,
        fp32=_accuracy(metric, run.fp32),
        int8=_accuracy(metric, run.int8),
        drop=_lost(metric, run.drop),
        size=_size(run.size_bytes),
        speed=_speed(run.speed),
        share=_share(run.int8_share),
        data=run.dataset or _NONE,
    )


def _lost(metric: Metric | None, drop: float | None) -> Cell:
    if metric is None or drop is None:
        return Cell(_NONE, drop)
    return Cell(metric.text(drop) if drop >= 0 else signed(drop, metric.text), drop)


def _size(size_bytes: int | None) -> Cell:
    return Cell(_NONE if size_bytes is None else megabytes_text(size_bytes), size_bytes)


def _speed(speed: SpeedSummary | None) -> Cell:
    if speed is None:
        return Cell(_NONE, None)
    return Cell(f"{milliseconds_text(speed.int8_ms)} ({UNITS['times'].text(speed.ratio)})", speed.int8_ms)


def _share(share: float | None) -> Cell:
    return Cell(_NONE if share is None else UNITS["share"].text(share), share)


def _accuracy(metric: Metric | None, value: float | None) -> Cell:
    return Cell(_NONE if metric is None or value is None else f"{metric.text(value)} {metric.name}", value)


def gate_rows(decision: GateDecision) -> tuple[ShownCheck, ...]:
    """The checks, those first that did not pass."""
    ordered = sorted(decision.checks, key=lambda check: check.passed)
    return tuple(ShownCheck(check, *quantities_of(check), bullet(check)) for check in ordered)


def group_plot(manifest: ModelManifest) -> DotPlot | None:
    """FP32 and int8 of each group of joints; None where the protocol has none."""
    return dot_plot(manifest.fp32.by_group, manifest.onnx.by_group, metric_of(manifest.onnx.stats))


def joint_plot(manifest: ModelManifest) -> DotPlot | None:
    """FP32 and int8 of each joint."""
    return dot_plot(manifest.fp32.by_joint, manifest.onnx.by_joint, metric_of(manifest.onnx.stats))


def joint_rows(manifest: ModelManifest) -> tuple[JointChange, ...]:
    """Every joint's figure before and after."""
    metric, before, after = metric_of(manifest.onnx.stats), manifest.fp32.by_joint, manifest.onnx.by_joint
    rows = []
    for joint in dict.fromkeys((*before, *after)):
        old, new = before.get(joint), after.get(joint)
        change = None if old is None or new is None else new - old
        rows.append(
            JointChange(joint.replace("_", " "), metric.text(old), metric.text(new), signed(change, metric.text))
        )
    return tuple(rows)


def pictures(manifest: ModelManifest) -> tuple[DrawnPicture, ...]:
    """The version's golden images, drawn upon."""
    return tuple(drawn(manifest, golden, manifest.file(golden.file).sha256) for golden in manifest.golden)


def drawn(manifest: ModelManifest, golden: GoldenImage, sha256: str = "") -> DrawnPicture:
    """The people in an image, with the limbs and joints of a version."""
    names, people = manifest.serving.joints, []
    for person in golden.people:
        points = [joint if joint is not None and joint[2] > 0 else None for joint in person.joints]
        limbs = [
            (points[a][0], points[a][1], points[b][0], points[b][1])  # type: ignore[index]
            for a, b in manifest.serving.limbs
            if points[a] is not None and points[b] is not None
        ]
        joints = [(point[0], point[1], name) for point, name in zip(points, names, strict=True) if point is not None]
        people.append(DrawnPerson(tuple(limbs), tuple(joints)))
    return DrawnPicture(
        role=golden.file,
        sha256=sha256,
        width=golden.width,
        height=golden.height,
        stroke=max(golden.width, golden.height) / 160,
        people=tuple(people),
    )


def shared_pictures(manifests: Sequence[ModelManifest]) -> tuple[tuple[DrawnPicture | None, ...], ...]:
    """Golden images that at least two of the versions hold: in each row the same image, by its digest."""
    by_digest: list[Mapping[str, DrawnPicture]] = [{one.sha256: one for one in pictures(m)} for m in manifests]
    digests = dict.fromkeys(digest for held in by_digest for digest in held)
    rows = (tuple(held.get(digest) for held in by_digest) for digest in digests)
    return tuple(row for row in rows if sum(one is not None for one in row) > 1)


def card(manifest: ModelManifest) -> Iterator[tuple[str, str]]:
    """(label, text) of what a user of the version wants to know first."""
    serving, origin, protocol = manifest.serving, manifest.provenance, manifest.onnx.fingerprint
    metric = metric_of(manifest.onnx.stats)
    yield "Network", f"{serving.architecture}, codec {serving.codec}, decoder {serving.decoder}"
    yield "Input", ", ".join(f"{w}×{h}" for w, h in serving.input_sizes) + f" pixels, {serving.channel_order}"
    yield "Joints", f"{len(serving.joints)} ({serving.skeleton})"
    yield "Recipe", manifest.recipe.name + (f": {origin.recipe_found}" if origin.recipe_found else "")
    yield "Trained on", origin.trained_on or _NONE
    yield (
        "Measured on",
        f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {origin.dataset_source}, "
        f"{protocol.split}" + (" (a seeded subset)" if protocol.subset else ""),
    )
    yield (
        metric.name,
        " → ".join(
            f"{form} {metric.text(getattr(stats.stats, metric.columns[0].field))}"
            for form, stats in (("FP32", manifest.fp32), ("QuantSim", manifest.quantsim), ("int8 file", manifest.onnx))
        ),
    )
    size = manifest.file("model").size_bytes
    yield "Size", f"{megabytes_text(size)} (FP32 {megabytes_text(manifest.fp32_size_bytes)})"
    yield "int8", f"{UNITS['share'].text(manifest.placement.int8_mac_share)} of the multiply-accumulates"
    yield from speed_rows(manifest.latency)
    yield "May be served on", serving.processors or "not said"


def fingerprints(manifest: ModelManifest) -> Iterator[tuple[str, str]]:
    """(label, text) of what the version is made of and was measured by."""
    origin, calibration, protocol = manifest.provenance, manifest.provenance.calibration, manifest.onnx.fingerprint
    drawn = f"{calibration.num_images:,} images ({calibration.num_persons:,} persons) of {calibration.split}"
    yield "Calibration", f"{drawn}, seed {calibration.seed}"
    yield "Calibration images", calibration.image_ids_digest
    yield "Data set", origin.dataset_digest
    yield "Evaluation images", protocol.image_ids_digest
    yield "Boxes", protocol.box_source.replace("_", " ")
    yield "Checkpoint", origin.checkpoint_sha256
    yield "Code", origin.git_commit or _NONE
    yield "Tools", ", ".join(f"{name} {version}" for name, version in origin.tool_versions.items())


def settings(manifest: ModelManifest) -> tuple[tuple[str, str], ...]:
    """What the run was asked, by dotted keys; empty where the manifest does not say it."""
    if manifest.build is None:
        return ()
    asked = manifest.build.build_definition.external_parameters
    return tuple((key, _NONE if value is None else str(value)) for key, value in flat(asked))


def siblings(manifest: ModelManifest, versions: Iterable[VersionSummary]) -> Siblings:
    """What else is made of a version's checkpoint, and of its data."""
    origin, own = manifest.provenance, (manifest.name, manifest.version)
    others = [row for row in versions if (row.name, row.version) != own]
    return Siblings(
        checkpoint=tuple(row for row in others if row.checkpoint_sha256 == origin.checkpoint_sha256),
        data=tuple(row for row in others if row.dataset_digest == origin.dataset_digest),
    )


def first_promotion(records: Iterable[LogRecord], version: str) -> LogRecord | None:
    """The move by which a channel first served a version in place of another; None where there is none."""
    moves = (one for one in records if one.action == "promote" and one.previous_version not in (None, version))
    return min(moves, key=lambda one: one.recorded_at, default=None)


def proof_text(manifest: ModelManifest) -> str:
    """On which processors the file is proved to compute the same."""
    if manifest.proof is None:
        return "nothing was examined: the version is older than the proof"
    proved = [name for name, family in manifest.proof.families.items() if family.proved]
    if not proved:
        return "not proved: on some processors an int8 kernel may clip a sum"
    return f"proved from its weights that no int8 kernel clips a sum on {' or '.join(proved)}"
