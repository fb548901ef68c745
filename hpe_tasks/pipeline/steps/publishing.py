"""The steps that publish a model that passed: its version, the test of its function, and its channel."""

from __future__ import annotations

import logging
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.errors import DigestError, MissingInputError, NotApprovedError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Results, step
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint, fetch_dataset, split_of
from hpe_tasks.pipeline.steps.ladder import choose_recipe
from hpe_tasks.pipeline.steps.measuring import evaluate_fp32
from hpe_tasks.pipeline.steps.quantizing import compare_accuracy, evaluate_quantized, export_onnx, gate, quantize
from hpe_tasks.preflight import signature_required_by
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.network import ExportedModel
from hpe_tasks.records.release import PromotedModel, PublishedModel, SmokeTest
from hpe_tasks.storage.claims import begin_attempt
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.release.golden import ChosenImage

log = logging.getLogger(__name__)


def _not_approved(results: Results) -> str:
    """Nothing is published that the gate has refused."""
    decision = results.find(gate)
    return "" if decision is None or decision.passed else decision.reason


@step(
    PublishedModel,
    "Publishing",
    needs=(fetch_dataset, fetch_checkpoint, quantize, gate),
    settings=lambda c: c.destination.model_dump(),
    skip=_not_approved,
    reuse=False,
    tell=lambda record: record.manifest.uri,
    shown_as="published",
)
def publish(run: Run, scratch: Scratch) -> PublishedModel:
    """Put the model into the registry, and, if there is a key, sign it; no channel moves.

    What it was judged by goes with it, what it came from, and golden images where a smoke test is asked for.

    Raises:
        NotApprovedError: The gate did not pass.
        DigestError: The exported file is not the one that was measured.
        ConfigError: A signature is required, and there is no key.
        SupersededError: Another attempt at it has begun.
    """
    from hpe_tasks.pipeline.evidence import evidence_files
    from hpe_tasks.pipeline.provenance import build_environment, user
    from hpe_tasks.pipeline.published_origins import published_origins
    from hpe_tasks.registry.build_provenance import describe_build
    from hpe_tasks.registry.describing import build_manifest, tool_versions
    from hpe_tasks.registry.manifest import ENCODINGS_ROLE, MODEL_ROLE
    from hpe_tasks.registry.signing import open_signing_key

    require_last = begin_attempt(run.workspace, f"{run.prefix}/publish")
    config, decision, exported = run.config, run.result(gate), run.result(export_onnx)
    if not decision.passed:
        raise NotApprovedError(f"The gate did not pass: {decision.reason}.", hint="Nothing was published.")
    evaluation = run.result(evaluate_quantized)
    _refuse_unmeasured(run, exported, evaluation)
    key = open_signing_key(run.signing_key(), required_because=signature_required_by(config))
    files = {MODEL_ROLE: run.workspace.local(exported.model), ENCODINGS_ROLE: run.workspace.local(exported.encodings)}
    chosen = _golden(run, files[MODEL_ROLE]) if config.destination.smoke_test else ()
    images = {one.golden.file: scratch.path / f"{one.golden.file}{one.file.suffix}" for one in chosen}
    for one in chosen:
        shutil.copyfile(one.file, images[one.golden.file])
    graphs = _graphs(run, files[MODEL_ROLE], scratch.path)
    fp32, finished = run.result(evaluate_fp32), datetime.now(UTC)
    evidence = evidence_files(run.workspace, (fp32, evaluation.quantsim, evaluation.onnx), run.find(compare_accuracy))
    dataset, checkpoint, quantized = run.result(fetch_dataset), run.result(fetch_checkpoint), run.result(quantize)
    evidence |= published_origins(run.workspace, checkpoint, config.model, scratch)
    environment = build_environment()
    manifest = build_manifest(
        config,
        dataset=dataset,
        checkpoint=checkpoint,
        quantized=quantized,
        exported=exported,
        fp32=fp32,
        evaluation=evaluation,
        gate=decision,
        choice=run.find(choose_recipe),
        run=run.name,
        created_by=user(),
        created_at=finished,
        git_commit=environment.git_commit,
        build=describe_build(
            run.asked,
            environment,
            dataset=dataset,
            checkpoint=checkpoint,
            quantized=quantized,
            protocol=evaluation.onnx.fingerprint,
            tool_versions=tool_versions(quantized, exported),
            run=run.name,
            started=_begun(run, finished),
            finished=finished,
        ),
        golden=[one.golden for one in chosen],
        other_files={role: scratch.artifact(path) for role, path in (images | graphs).items()}
        | {role: artifact for role, (artifact, _) in evidence.items()},
    )
    published = files | images | graphs | {role: path for role, (_, path) in evidence.items()}
    require_last()
    return _registry(run).store(manifest, published, key, channel=config.destination.channel)


def _begun(run: Run, finished: datetime) -> datetime | None:
    """When the run began; None where that was told by a clock that is ahead of this machine's, and would be its end."""
    began = run.started
    if began is not None and began > finished:
        log.warning("the run began at %s by the clock of another machine, which is ahead of this one's", began)
        return None
    return began


def _refuse_unmeasured(run: Run, exported: ExportedModel, evaluation: QuantizedEvaluation) -> None:
    """Raise where the figures are of another file, and have them measured again.

    Steps know each other by their inputs: where an export has been lost and made again, and came out otherwise, the
    stored figures of the first one would count for it.
    """
    measured, model = evaluation.model_sha256, exported.model
    if measured != model.sha256:
        for step in (evaluate_quantized, compare_accuracy, gate):
            run.workspace.forget(step.name, run.key(step))
        raise DigestError(
            f"The exported file has the SHA-256 {model.sha256}, but the one that was measured has {measured}.",
            hint="Nothing was published, and these figures are no longer used. Run the whole again, or "
            "evaluate_quantized, compare_accuracy, gate and publish: the file is measured and judged anew.",
        )


def _graphs(run: Run, model: Path, folder: Path) -> dict[str, Path]:
    """The graph that functions may load in place of the model, by its role; none where it would not be the same."""
    from hpe_tasks.models.interface import input_sizes
    from hpe_tasks.onnx_runtime.optimized_graph import make_graph

    last = run.config.model.input_layout == "nhwc"
    shapes = [(1, h, w, 3) if last else (1, 3, h, w) for w, h in input_sizes(run.config.model)]
    graph = folder / "graph.onnx"
    role = make_graph(model, graph, shapes)
    return {} if role is None else {role: graph}


def _golden(run: Run, model: Path) -> tuple[ChosenImage, ...]:
    from hpe_tasks.inference import onnx_predictor
    from hpe_tasks.release.golden import choose_golden

    config = run.config
    dataset = split_of(run, config.dataset.evaluation_split)
    predict = onnx_predictor(model, config.model)
    return choose_golden(dataset, predict, config.model, config.evaluation, seed=config.seed)


def _registry(run: Run, approved_by: str | None = None) -> ModelRegistry:
    from hpe_tasks.pipeline.provenance import user
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location

    actor = user() if approved_by is None else f"{user()}, approved by {approved_by}"
    return ModelRegistry(run.s3(), S3Location.parse(run.config.destination.registry), actor=actor)


def _not_asked_for(results: Results) -> str:
    """A smoke test is the user's choice."""
    return "" if results.config.destination.smoke_test else "destination.smoke_test is off."


@step(
    SmokeTest,
    "Smoke test",
    needs=(publish,),
    skip=_not_asked_for,
    reuse=False,
    tell=lambda record: record.package_sha256,
    shown_as="smoke_test",
)
def smoke_test_lambda(run: Run, _: Scratch) -> SmokeTest:
    """Run the built Lambda package with the published version, and compare what it finds in the golden images.

    The version is read back from the registry: what is tested is what will be served. A version that was published
    before without golden images keeps its manifest, and is tested with those of this run.

    Raises:
        SmokeTestError: The function cannot serve the version, or the golden images hold no person to compare.
        ConfigError: The version is signed and the key is not at hand, or the emulator is not installed here.
    """
    from hpe_tasks.packaging import PackagedModel, packaged_graph_role
    from hpe_tasks.registry.manifest import MODEL_ROLE
    from hpe_tasks.registry.signing import open_signing_key
    from hpe_tasks.release.smoke_test import local_architecture, smoke_test

    published, registry = run.result(publish), _registry(run)
    name, version = published.name, published.version
    stored = registry.stored(name, version, sha256=published.manifest.sha256)
    # An unsigned version is served without a key, whatever lies here by now.
    key = None
    if published.signed_by is not None:
        key = open_signing_key(run.signing_key(), required_because=f"version {version} of {name!r} is signed")
    with tempfile.TemporaryDirectory(prefix="hpe-smoke-test-") as temporary:
        manifest, folder = stored.manifest, Path(temporary)
        model = registry.download(manifest, MODEL_ROLE, folder / MODEL_ROLE)
        role = packaged_graph_role(manifest.file(MODEL_ROLE).sha256, local_architecture())
        graph = registry.download_graph(manifest, role, folder / "graph")
        images = {one.file: registry.download(manifest, one.file, folder / one.file) for one in manifest.golden}
        if not images:
            chosen = _golden(run, model)
            manifest = manifest.model_copy(update={"golden": tuple(one.golden for one in chosen)})
            images = {one.golden.file: one.file for one in chosen}
        return smoke_test(
            manifest,
            PackagedModel(stored.data, registry.signature(name, version), model, graph),
            images,
            public_key=None if key is None else key.public_bytes,
        )


def _channel_pinned(results: Results) -> str:
    """A channel that was pinned to another version stays as it is."""
    published = results.find(publish)
    return "" if published is None else published.kept_by_pin


@step(
    PromotedModel,
    "Promotion",
    needs=(publish,),
    follows=(smoke_test_lambda,),
    settings=lambda c: c.destination.model_dump(),
    skip=_channel_pinned,
    reuse=False,
    tell=lambda record: record.version,
    shown_as="promoted",
)
def promote(run: Run, _: Scratch) -> PromotedModel:
    """Point the channel to the published version, and sign the pointer as the version is signed.

    A channel that is pinned to another version when this one is published is left alone.

    Raises:
        BadInputError: The channel was pinned since, or the version is retired.
        ConfigError: The version or the channel is signed, or a signature is required, and there is no key.
        MissingInputError: A smoke test was asked for, and the published version has not passed it.
        NotApprovedError: The channel moves only when a person has approved it, and nobody has.
        ChannelConflictError: Another publisher moved the channel since the version was published.
        SupersededError: Another attempt at it has begun.
    """
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.pipeline.approvals import approver_of
    from hpe_tasks.registry.channel_keys import keys_at_hand

    require_last = begin_attempt(run.workspace, f"{run.prefix}/promote")
    destination, published = run.config.destination, run.result(publish)
    if not _not_asked_for(run) and not _smoke_tested(run, published):
        raise MissingInputError(
            f"Version {published.version} of {published.name!r} has not passed the smoke test.",
            hint="Run smoke_test_lambda, or set destination.smoke_test=false.",
        )
    approved_by = approver_of(run, published)
    signed = f"version {published.version} of {published.name!r} is signed" if published.signed_by else None
    required = signature_required_by(run.config) or signed
    keys = keys_at_hand(run.signing_key(), Settings.from_environment().public_key, required_because=required)
    registry = _registry(run, approved_by)
    require_last()
    return registry.promote(published.name, published.version, destination.channel, published=published, keys=keys)


def _smoke_tested(run: Run, published: PublishedModel) -> bool:
    """Whether the last smoke test passed, and was of what was published."""
    tested = run.find(smoke_test_lambda)
    if tested is None or run.failure(smoke_test_lambda.name) is not None:
        return False
    return (tested.version, tested.manifest_sha256) == (published.version, published.manifest.sha256)
