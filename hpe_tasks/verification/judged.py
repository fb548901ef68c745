"""The gate's decision, made again from what a version's manifest and tables say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import DigestError
from hpe_tasks.evaluation.paired import Question, differences
from hpe_tasks.gate.decision import decide
from hpe_tasks.metrics.image_tables import WHOLE
from hpe_tasks.metrics.sequential import nominal_errors
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.records.evaluation import EvaluationReport, FailedImage, QuantizedEvaluation, Runtime
from hpe_tasks.records.network import ExportedModel
from hpe_tasks.registry.manifest import ENCODINGS_ROLE, MODEL_ROLE, ModelManifest
from hpe_tasks.verification.findings import NotMadeError
from hpe_tasks.verification.measured import FORMS, PublishedEvidence, fitting_tables, same

if TYPE_CHECKING:
    from hpe_tasks.records.gate import GateCheck

_NO_ENDS = (None, None)
_OF_PART = ("before", "after", "low", "high", "limit", "probability")


def configuration_of(manifest: ModelManifest) -> RunConfig:
    """The configuration that the manifest's provenance holds.

    Raises:
        NotMadeError: It holds none, or one that this version of the project does not understand.
    """
    if manifest.build is None:
        raise NotMadeError("the manifest does not say what was asked: it is older than provenance")
    try:
        return RunConfig.model_validate(manifest.build.build_definition.external_parameters)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise NotMadeError(f"what was asked is not understood here: {where}: {problem['msg']}") from error


def comparison_found(manifest: ModelManifest, evidence: PublishedEvidence) -> str:
    """Resample the images again; raises DigestError where a difference or an interval comes out otherwise."""
    told = manifest.gate.comparison
    if told is None or not told.parts:
        raise NotMadeError("the gate has compared no tables of images")
    config, tables = configuration_of(manifest), evidence.compared_tables(told.num_images)
    error = _error(told, config)
    limits = {part.part: part.limit for part in told.parts}
    question = Question(limits.get, told.confidence, told.resamples, config.gate.max_looks, config.seed)
    with fitting_tables():
        counted = differences(tables, question, error)
    if [part.part for part in counted] != [part.part for part in told.parts]:
        raise DigestError("the tables are of other parts than were compared")
    for one, other in zip(counted, told.parts, strict=True):
        for field in _OF_PART:
            if not same(getattr(one, field), getattr(other, field)):
                raise DigestError(
                    f"{field} of {one.part} is {getattr(one, field)!r}, the gate says {getattr(other, field)!r}"
                )
    judged = sum(part.low is not None for part in counted)
    return f"{len(counted)} differences over {told.num_images:,} images, {judged} intervals of {told.resamples:,} draws"


def _error(told: PairedComparison, config: RunConfig) -> float | None:
    """One tail of the last look's intervals, as what was spent before it leaves it."""
    if (told.confidence, told.resamples) != (config.gate.confidence, config.gate.resamples):
        raise DigestError("confidence or resamples are not those that were asked for")
    if told.confidence is None:
        return None
    if not told.looks:
        raise DigestError("intervals were asked for, and no look is recorded")
    images = [look.num_images for look in told.looks]
    if images != sorted(set(images)) or images[-1] != told.num_images or len(images) > config.gate.max_looks:
        raise DigestError("the looks are not those of a growing number of images")
    error = (1 - told.confidence) / 2
    errors = [error]
    if config.gate.max_looks > 1:
        errors = list(nominal_errors(error, [min(1.0, count / told.available_images) for count in images]))
    if not all(same(one, look.error) for one, look in zip(errors, told.looks, strict=True)):
        raise DigestError("the looks spend another share of errors than they may")
    whole = told.part(WHOLE)
    if whole is not None and not _ends(told, whole):
        raise DigestError("the last look says something else than the comparison")
    return errors[-1]


def _ends(told: PairedComparison, whole: PartDifference) -> bool:
    last = told.looks[-1]
    return same(last.drop, whole.drop) and same(last.largest_drop, None if whole.low is None else -whole.low)


def gate_found(manifest: ModelManifest) -> str:
    """Decide again; raises DigestError where the decision or a check comes out otherwise, or did not pass."""
    config = configuration_of(manifest)
    reports = {form: _report(manifest, form, runtime) for form, runtime in FORMS}
    decided = decide(
        config.gate,
        reports["fp32"],
        QuantizedEvaluation(
            quantsim=reports["quantsim"],
            onnx=reports["onnx"],
            model_sha256=manifest.file(MODEL_ROLE).sha256,
            kernels=manifest.kernels,
            latency=manifest.latency,
        ),
        _exported(manifest),
        config.destination.processors,
        metric=config.dataset.gate_metric,
        min_persons=config.dataset.min_persons,
        comparison=manifest.gate.comparison,
    )
    told = {check.name: check for check in manifest.gate.checks}
    made = {check.name: check for check in decided.checks}
    if made.keys() != told.keys():
        raise DigestError(f"other checks are asked for: {', '.join(sorted(made.keys() ^ told.keys()))}")
    for name, check in made.items():
        if not _alike(check, told[name]):
            raise DigestError(f"{name}: {check.reason}; the manifest says: {told[name].reason}")
    if not decided.passed or decided.passed != manifest.gate.passed:
        raise DigestError(f"it did not pass: {decided.reason or manifest.gate.reason}")
    return f"{len(made)} checks, all passed again"


def _alike(one: GateCheck, other: GateCheck) -> bool:
    return (
        (one.passed, one.inconclusive, one.comparison) == (other.passed, other.inconclusive, other.comparison)
        and same(one.limit, other.limit)
        and same(one.observed, other.observed)
        and same(one.probability, other.probability)
        and all(same(a, b) for a, b in zip(one.interval or _NO_ENDS, other.interval or _NO_ENDS, strict=True))
    )


def _artifact(manifest: ModelManifest, role: str) -> Artifact:
    file = manifest.file(role)
    return Artifact(uri=file.blob, sha256=file.sha256, size_bytes=file.size_bytes)


def _exported(manifest: ModelManifest) -> ExportedModel:
    return ExportedModel(
        model=_artifact(manifest, MODEL_ROLE),
        encodings=_artifact(manifest, ENCODINGS_ROLE),
        fp32_size_bytes=manifest.fp32_size_bytes,
        opset=manifest.opset,
        inputs=(manifest.serving.input,),
        outputs=tuple(manifest.serving.outputs.values()),
        placement=manifest.placement,
        proof=manifest.proof,
    )


def _report(manifest: ModelManifest, form: str, runtime: Runtime) -> EvaluationReport:
    """A measurement as the gate takes it. Which images failed is not published, only how many."""
    metrics = getattr(manifest, form)
    return EvaluationReport(
        runtime=runtime,
        stats=metrics.stats,
        by_group=metrics.by_group,
        by_joint=metrics.by_joint,
        fingerprint=metrics.fingerprint,
        predictions=_artifact(manifest, MODEL_ROLE),
        failed_images=tuple(FailedImage(name=str(n), reason="") for n in range(metrics.failed_images)),
        images_per_second=0.0,
        cpu_features=metrics.cpu_features,
        person_scores=metrics.person_scores,
    )
