"""The pipeline's steps, one function for each task of the DAG, in the order in which they run.

Every step takes a `Run`, finds its inputs in the run's workspace, and leaves its record there; nothing else is passed
between steps. Heavy libraries are imported inside the bodies, because DAG files and `hpe --help` import this module.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.run import SAMPLE, ModelConfig, RunConfig
from hpe_tasks.errors import DatasetError, HpeError, MissingInputError, NotApprovedError
from hpe_tasks.gate.floor import check_floor, refuse_below_floor
from hpe_tasks.pipeline.runs import LATEST, STEPS, Run, open_run, step
from hpe_tasks.preflight import refuse_failed, signature_required_by
from hpe_tasks.progress import track
from hpe_tasks.records import (
    Artifact,
    DatasetValidation,
    EvaluationReport,
    ExportedModel,
    FetchedCheckpoint,
    FetchedDataset,
    Fp32Check,
    GateDecision,
    Preflight,
    PromotedModel,
    PublishedModel,
    QuantizedEvaluation,
    QuantizedModel,
    RunReport,
    Runtime,
    SmokeTest,
)
from hpe_tasks.report.records import RunRecords
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.workspace import Scratch, Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.coco import CocoKeypoints
    from hpe_tasks.data.mpii import MpiiKeypoints
    from hpe_tasks.inference import Predict
    from hpe_tasks.registry.publishing import Registry
    from hpe_tasks.release.golden import ChosenImage

__all__ = ["STEPS", "Run", "open_run"]

log = logging.getLogger(__name__)

_KERNEL_IMAGES = 16
"""Images, or crops of persons, that the int8 kernels are checked on."""


def _network(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides what the network computes, wherever its file lies."""
    return config.model.model_dump(mode="json", exclude={"checkpoint", "checkpoint_sha256", "trained_on"})


def _recipe(config: RunConfig) -> list[Any]:
    """The recipe, and the content of the file that it names."""
    from hpe_tasks.errors import ConfigError

    file = config.recipe.aimet_config
    if file is not None and not Path(file).is_file():
        raise ConfigError(f"recipe.aimet_config: {file} does not exist.", hint="Give the path of an AIMET .json file.")
    return [config.recipe.model_dump(), sha256_file(Path(file)) if file is not None else None]


def _measured(config: RunConfig) -> list[Any]:
    """The part of the configuration that decides what accuracy is measured on, and how."""
    dataset = config.dataset.model_dump(include={"kind", "evaluation_split", "evaluation_images"})
    return [dataset, config.evaluation.model_dump(), config.seed]


@step(Preflight, accept=refuse_failed, reuse=False)
def preflight(run: Run, _: Scratch) -> Preflight:
    """Look at everything that the run needs, before anything long begins; no other step reads its record.

    Raises:
        PreflightError: Something that was given cannot be used; all that was found is in the record.
        TransientError: Only the network failed.
    """
    from hpe_tasks.preflight import preflight as look

    record = look(run.config, workspace=run.workspace, cache=run.cache, s3=run.s3, signing_key=run.signing_key)
    for check in record.warnings:
        log.warning("%s: %s. %s", check.title, check.found.rstrip("."), check.advice)
    return record


def checkpoint_file(model: ModelConfig, cache: Path, s3: Callable[[], S3Client], records: Workspace) -> Path:
    """The checkpoint on this machine, downloaded if it is not there yet.

    Args:
        model: Names the checkpoint, and the SHA-256 that it must have.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.
        records: Keeps what each address gave when it was first used: it must give the same again.
    """
    from hpe_tasks.data.fetch.download import checkpoint_folder, fetch_file
    from hpe_tasks.data.fetch.trust import check_trusted
    from hpe_tasks.models.checkpoint import sample_checkpoint

    if model.checkpoint == SAMPLE:
        return sample_checkpoint()
    folder = checkpoint_folder(cache, model.checkpoint)
    file = fetch_file(model.checkpoint, folder, sha256=model.checkpoint_sha256, s3=s3)
    check_trusted(
        model.checkpoint,
        sha256_file(file),
        model.checkpoint_sha256,
        option="model.checkpoint_sha256",
        read=records.read,
        write=records.write,
    )
    return file


def _checkpoint_digest(run: Run) -> str:
    from hpe_tasks.models.fit import check_fit

    file = checkpoint_file(run.config.model, run.cache, run.s3, run.workspace)
    # Whether it is new here or not: the architecture may be another than the last time.
    check_fit(run.config.model, file)
    return digest_of([run.config.model.checkpoint, file.name, sha256_file(file)])


@step(FetchedCheckpoint, found=_checkpoint_digest)
def fetch_checkpoint(run: Run, scratch: Scratch) -> FetchedCheckpoint:
    """Bring the checkpoint into the workspace.

    Raises:
        CheckpointError: It cannot be read, or does not fit the architecture and the input size.
    """
    from hpe_tasks.data.fetch.transports import shown_address
    from hpe_tasks.models.training_record import trained_on

    file = checkpoint_file(run.config.model, run.cache, run.s3, run.workspace)
    kept = scratch.path / file.name
    shutil.copyfile(file, kept)
    return FetchedCheckpoint(
        source=shown_address(run.config.model.checkpoint), file=scratch.artifact(kept), trained_on=trained_on(file)
    )


def _dataset_digest(run: Run) -> str:
    from hpe_tasks.registry.signing import open_signing_key

    # What publishing would refuse hours later, for those who begin here and not at the preflight.
    open_signing_key(run.signing_key(), required_because=signature_required_by(run.config))
    _, fetched = run.dataset
    return digest_of(fetched.model_dump(mode="json"))


@step(FetchedDataset, found=_dataset_digest)
def fetch_dataset(run: Run, _: Scratch) -> FetchedDataset:
    """Bring the data set to this machine.

    Raises:
        ConfigError: The run could not publish: a signature is required and there is no key, or it is not a key.
    """
    _root, fetched = run.dataset
    return fetched


def _refuse_broken(validation: DatasetValidation) -> None:
    if not validation.passed:
        shown = [f"{p.message} ({', '.join(p.examples)})" if p.examples else p.message for p in validation.problems]
        raise DatasetError(
            f"The data set fails {len(shown)} of {validation.checks_run} checks: " + "; ".join(shown),
            hint="Mend these files or records; the run's report shows the details.",
        )


@step(
    DatasetValidation,
    needs=("fetch_dataset",),
    settings=lambda c: [
        c.dataset.model_dump(include={"kind", "calibration_split", "evaluation_split", "min_persons"}),
        c.evaluation.max_failed_images,
    ],
    accept=_refuse_broken,
)
def validate_dataset(run: Run, scratch: Scratch) -> DatasetValidation:
    """Hold the data set against its expectations."""
    from hpe_tasks.data.validation import validate_dataset as validate

    root, _ = run.dataset
    outcome = validate(
        root,
        run.config.dataset,
        scratch.path,
        run.get(FetchedDataset).digest,
        max_failed=run.config.evaluation.max_failed_images,
    )
    for warning in outcome.warnings:
        log.warning("%s %s", warning.message, ", ".join(warning.examples))
    return DatasetValidation(
        passed=not outcome.problems,
        checks_run=outcome.checks_run,
        problems=outcome.problems,
        warnings=outcome.warnings,
        splits=outcome.splits,
        data_docs=scratch.artifact(outcome.data_docs),
    )


def _evaluate(run: Run, scratch: Scratch, runtime: Runtime, predict: Predict) -> EvaluationReport:
    from hpe_tasks.data.fetch import fetch_boxes
    from hpe_tasks.evaluation import evaluate

    config = run.config
    return evaluate(
        run.split(config.dataset.evaluation_split),
        predict,
        config.model,
        config.evaluation,
        images=config.dataset.evaluation_images,
        boxes=fetch_boxes(config.dataset, run.cache, run.s3),
        runtime=runtime,
        dataset_digest=run.get(FetchedDataset).digest,
        seed=config.seed,
        predictions_file=scratch.path / f"predictions_{runtime}.json",
        artifact=scratch.artifact,
    )


@step(
    EvaluationReport,
    needs=("fetch_dataset", "fetch_checkpoint", "validate_dataset"),
    settings=lambda c: [_network(c), _measured(c)],
)
def evaluate_fp32(run: Run, scratch: Scratch) -> EvaluationReport:
    """Measure the checkpoint as it came: the baseline that int8 is compared with."""
    from hpe_tasks.inference import fp32_predictor
    from hpe_tasks.quantization import best_device

    checkpoint = run.workspace.local(run.get(FetchedCheckpoint).file)
    return _evaluate(run, scratch, "fp32", fp32_predictor(run.config.model, checkpoint, best_device()))


def _floor(config: RunConfig) -> list[Any]:
    """The part of the configuration that decides what is asked of the checkpoint before quantization."""
    limits = config.gate
    return [limits.metric, limits.min_ap if limits.metric == "ap" else limits.min_pckh]


@step(
    Fp32Check,
    needs=("fetch_dataset", "fetch_checkpoint", "evaluate_fp32"),
    settings=_floor,
    accept=refuse_below_floor,
)
def check_fp32(run: Run, _: Scratch) -> Fp32Check:
    """Hold the checkpoint against the gate's floor, and find out why where it stays below.

    Raises:
        BelowFloorError: It stays below; says what mends it, where that was found.
    """
    from hpe_tasks.diagnosis import diagnose
    from hpe_tasks.gate.accuracy import METRICS
    from hpe_tasks.inference import fp32_predictor
    from hpe_tasks.quantization import best_device

    config = run.config
    check = check_floor(config.gate, run.get(EvaluationReport))
    if check.passed or check.observed is None:
        if check.passed and check.observed is not None and check.observed < check.limit:
            log.warning("%s.", check.reason)
        return check
    checkpoint = run.workspace.local(run.get(FetchedCheckpoint).file)
    diagnosis = diagnose(
        run.split(config.dataset.evaluation_split),
        fp32_predictor(config.model, checkpoint, best_device()),
        config.model,
        METRICS[check.metric],
        batch_size=config.evaluation.batch_size,
        seed=config.seed,
    )
    for tried in diagnosis.tried:
        log.info("%s when %s", METRICS[check.metric].text(tried.accuracy), tried.when)
    return check.model_copy(update={"diagnosis": diagnosis})


def _draw_calibration(run: Run, num_images: int) -> CocoKeypoints | MpiiKeypoints:
    """The images that the recipe calibrates on, or the first of them."""
    from hpe_tasks.data.calibration import draw_calibration

    dataset = run.config.dataset
    judged = run.split(dataset.evaluation_split)
    return draw_calibration(run.split(dataset.calibration_split), judged, num_images=num_images, seed=run.config.seed)


@step(
    QuantizedModel,
    needs=("fetch_dataset", "fetch_checkpoint", "validate_dataset"),
    after=("check_fp32",),
    settings=lambda c: [
        _network(c),
        [c.dataset.kind, c.dataset.calibration_split, c.dataset.evaluation_split],
        _recipe(c),
        c.evaluation.batch_size,
        c.seed,
    ],
)
def quantize(run: Run, scratch: Scratch) -> QuantizedModel:
    """Calibrate QuantSim on images that no metric is measured on."""
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.pose.codecs import CODECS
    from hpe_tasks.quantization import best_device, quantize_model, tool_versions

    config = run.config
    drawn = _draw_calibration(run, config.recipe.calibration_images)
    device = best_device()
    whole_images = CODECS[config.model.codec].whole_images
    batches = track(
        calibration_batches(drawn, config.model, config.evaluation.batch_size),
        "Calibrating",
        total=len(drawn.images) if whole_images else drawn.num_persons,
        unit="images" if whole_images else "crops",
        count=len,
    )
    checkpoint = run.workspace.local(run.get(FetchedCheckpoint).file)
    files = quantize_model(config.model, config.recipe, checkpoint, batches, scratch.path, device)
    return QuantizedModel(
        recipe=config.recipe,
        model=scratch.artifact(files.model),
        encodings=scratch.artifact(files.encodings),
        calibration_image_ids=drawn.image_ids,
        calibration_persons=drawn.num_persons,
        device=device,
        tool_versions=tool_versions(),
    )


@step(ExportedModel, needs=("fetch_checkpoint", "quantize"), settings=lambda c: [_network(c), _recipe(c)])
def export_onnx(run: Run, scratch: Scratch) -> ExportedModel:
    """Write the file that ships, read back where onnxruntime will run its arithmetic, and prove that it cannot clip."""
    from hpe_tasks.export import ENCODINGS_FILE
    from hpe_tasks.export import export_onnx as export
    from hpe_tasks.models.onnx_model import describe_onnx
    from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
    from hpe_tasks.onnx_runtime.placement import audit_placement

    config, quantized = run.config, run.get(QuantizedModel)
    local = run.workspace.local
    model = export(config.model, config.recipe, local(quantized.model), local(quantized.encodings), scratch.path)
    described = describe_onnx(model)
    return ExportedModel(
        model=scratch.artifact(model),
        encodings=scratch.artifact(scratch.path / ENCODINGS_FILE),
        fp32_size_bytes=quantized.model.size_bytes,
        opset=described.opset,
        inputs=described.inputs,
        outputs=described.outputs,
        placement=audit_placement(model),
        proof=prove_kernels(model),
    )


def _tells_speed(config: RunConfig, evaluation: QuantizedEvaluation) -> bool:
    """Whether a stored measurement of the speed tells what the gate asks; one that is too noisy is made again."""
    from hpe_tasks.gate.decision import tells_speed

    return config.gate.min_speedup is None or tells_speed(config.gate.min_speedup, evaluation.latency)


@step(
    QuantizedEvaluation,
    needs=("fetch_dataset", "fetch_checkpoint", "quantize", "export_onnx"),
    settings=_measured,
    reusable=_tells_speed,
)
def evaluate_quantized(run: Run, scratch: Scratch) -> QuantizedEvaluation:
    """Measure QuantSim and the exported file on FP32's persons, its speed against FP32's, and check its kernels."""
    from hpe_tasks.evaluation.latency import compare_latency
    from hpe_tasks.inference import calibration_batches, onnx_predictor
    from hpe_tasks.onnx_runtime.kernels import compare_kernels
    from hpe_tasks.quantization import best_device, load_quantsim

    config, quantized = run.config, run.get(QuantizedModel)
    exported = run.workspace.local(run.get(ExportedModel).model)
    drawn = _draw_calibration(run, min(_KERNEL_IMAGES, len(quantized.calibration_image_ids)))
    batches = partial(calibration_batches, drawn, config.model, config.evaluation.batch_size)
    checkpoint = run.workspace.local(run.get(FetchedCheckpoint).file)
    # First, while little else is in memory, and because it takes seconds to find that a file cannot be run.
    latency = compare_latency(config.model, checkpoint, exported, next(batches())[0])
    simulation = load_quantsim(
        config.model,
        config.recipe,
        run.workspace.local(quantized.model),
        run.workspace.local(quantized.encodings),
        best_device(),
    )
    return QuantizedEvaluation(
        quantsim=_evaluate(run, scratch, "quantsim", simulation),
        onnx=_evaluate(run, scratch, "onnxruntime", onnx_predictor(exported, config.model)),
        kernels=compare_kernels(exported, config.model, batches(), num_images=_KERNEL_IMAGES),
        latency=latency,
    )


@step(
    GateDecision,
    needs=("evaluate_fp32", "export_onnx", "evaluate_quantized"),
    settings=lambda c: [c.gate.model_dump(), c.destination.processors, c.dataset.min_persons],
    # The speed may have been measured again, for the same inputs.
    reusable=lambda c, _: c.gate.min_speedup is None,
)
def gate(run: Run, _: Scratch) -> GateDecision:
    """Decide whether the exported file may be published."""
    from hpe_tasks.gate.decision import decide

    return decide(
        run.config.gate,
        run.get(EvaluationReport),
        run.get(QuantizedEvaluation),
        run.get(ExportedModel),
        run.config.destination.processors,
        min_persons=run.config.dataset.min_persons,
    )


@step(
    PublishedModel,
    needs=("fetch_dataset", "fetch_checkpoint", "quantize", "gate"),
    settings=lambda c: c.destination.model_dump(),
    reuse=False,
)
def publish(run: Run, scratch: Scratch) -> PublishedModel:
    """Put the model into the registry, and, if there is a key, sign it; no channel moves.

    Golden images go with it where a smoke test is asked for.

    Raises:
        NotApprovedError: The gate did not pass.
        ConfigError: A signature is required, and there is no key.
    """
    from hpe_tasks.pipeline.provenance import git_commit, user
    from hpe_tasks.registry.manifest import ENCODINGS_ROLE, MODEL_ROLE, build_manifest
    from hpe_tasks.registry.signing import open_signing_key

    config, decision, exported = run.config, run.get(GateDecision), run.get(ExportedModel)
    if not decision.passed:
        raise NotApprovedError(f"The gate did not pass: {decision.reason}.", hint="Nothing was published.")
    key = open_signing_key(run.signing_key(), required_because=signature_required_by(config))
    files = {MODEL_ROLE: run.workspace.local(exported.model), ENCODINGS_ROLE: run.workspace.local(exported.encodings)}
    chosen = _golden(run, files[MODEL_ROLE]) if config.destination.smoke_test else ()
    images = {one.golden.file: scratch.path / f"{one.golden.file}{one.file.suffix}" for one in chosen}
    for one in chosen:
        shutil.copyfile(one.file, images[one.golden.file])
    graphs = _graphs(run, files[MODEL_ROLE], scratch.path)
    manifest = build_manifest(
        config,
        dataset=run.get(FetchedDataset),
        checkpoint=run.get(FetchedCheckpoint),
        quantized=run.get(QuantizedModel),
        exported=exported,
        fp32=run.get(EvaluationReport),
        evaluation=run.get(QuantizedEvaluation),
        gate=decision,
        run=run.name,
        created_by=user(),
        created_at=datetime.now(UTC),
        git_commit=git_commit(),
        golden=[one.golden for one in chosen],
        other_files={role: scratch.artifact(path) for role, path in (images | graphs).items()},
    )
    return _registry(run).store(manifest, files | images | graphs, key, channel=config.destination.channel)


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
    dataset = run.split(config.dataset.evaluation_split)
    predict = onnx_predictor(model, config.model)
    return choose_golden(dataset, predict, config.model, config.evaluation, seed=config.seed)


def _registry(run: Run) -> Registry:
    from hpe_tasks.pipeline.provenance import user
    from hpe_tasks.registry.publishing import Registry
    from hpe_tasks.storage.s3 import S3Location

    return Registry(run.s3(), S3Location.parse(run.config.destination.registry), actor=user())


@step(SmokeTest, needs=("publish",), reuse=False)
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

    published, registry = run.get(PublishedModel), _registry(run)
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


@step(PromotedModel, needs=("publish",), settings=lambda c: c.destination.model_dump(), reuse=False)
def promote(run: Run, _: Scratch) -> PromotedModel:
    """Point the channel to the published version.

    Raises:
        MissingInputError: A smoke test was asked for, and the published version has not passed it.
        ChannelConflictError: Somebody else moved the channel since the version was published.
    """
    destination, published = run.config.destination, run.get(PublishedModel)
    if destination.smoke_test and not _smoke_tested(run, published):
        raise MissingInputError(
            f"Version {published.version} of {published.name!r} has not passed the smoke test.",
            hint="Run smoke_test_lambda, or set destination.smoke_test=false.",
        )
    return _registry(run).promote(published.name, published.version, destination.channel, published=published)


def _smoke_tested(run: Run, published: PublishedModel) -> bool:
    """Whether the last smoke test passed, and was of what was published."""
    tested = run.load(SmokeTest)
    if tested is None or run.failure("smoke_test_lambda") is not None:
        return False
    return (tested.version, tested.manifest_sha256) == (published.version, published.manifest.sha256)


def records_of(run: Run, *, looking_back: bool = False) -> RunRecords:
    """What the run's steps have produced so far, for the report and the table.

    Args:
        run: The run.
        looking_back: Show what is recorded, also when inputs or code have changed since.
    """
    from hpe_tasks.data.fetch.transports import shown_address
    from hpe_tasks.pipeline.provenance import git_commit

    load = run.recorded if looking_back else run.load
    model, dataset = run.config.model, run.config.dataset
    # Addresses may hold passwords and signatures; what is shown must not.
    shown = run.config.model_copy(
        update={
            "model": model.model_copy(update={"checkpoint": shown_address(model.checkpoint)}),
            "dataset": dataset.model_copy(
                update={
                    "source": shown_address(dataset.source),
                    "image_archives": dataset.image_archives and tuple(map(shown_address, dataset.image_archives)),
                    "boxes": dataset.boxes and shown_address(dataset.boxes),
                }
            ),
        }
    )
    return RunRecords(
        config=shown,
        run=run.name,
        started=run.started,
        git_commit=git_commit(),
        preflight=load(Preflight),
        dataset=load(FetchedDataset),
        checkpoint=load(FetchedCheckpoint),
        validation=load(DatasetValidation),
        fp32=load(EvaluationReport),
        fp32_check=load(Fp32Check),
        quantized=load(QuantizedModel),
        exported=load(ExportedModel),
        quantized_evaluation=load(QuantizedEvaluation),
        decision=load(GateDecision),
        published=load(PublishedModel),
        smoke_test=load(SmokeTest),
        promoted=load(PromotedModel),
        failures=run.failures(),
    )


@step(RunReport, reuse=False)
def report(run: Run, scratch: Scratch) -> RunReport:
    """Write the report that a person reads, whatever the run has come to."""
    from hpe_tasks.report.page import ReportFiles, render_report

    records = records_of(run)

    def at_hand(find: Callable[[], Path]) -> Path | None:
        """What can be found; a report without its pictures is better than none, and says that they are missing."""
        try:
            return find()
        except HpeError as error:
            log.warning("The report goes without a part of it: %s", error)
            return None

    def local(artifact: Artifact) -> Path | None:
        return at_hand(lambda: run.workspace.local(artifact))

    files = ReportFiles(
        dataset_root=None if records.dataset is None else at_hand(lambda: run.dataset[0]),
        fp32_predictions=None if records.fp32 is None else local(records.fp32.predictions),
        onnx_predictions=None if records.onnx is None else local(records.onnx.predictions),
        data_docs=None if records.validation is None else local(records.validation.data_docs),
    )
    html = render_report(records, files, scratch.path / "report.html")
    run.workspace.write(LATEST, json.dumps({"run": run.name}).encode())
    return RunReport(html=scratch.artifact(html))
