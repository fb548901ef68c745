"""The steps that make the int8 file, measure it, and decide on it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.recipe import SEARCH_SETTINGS
from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Sharding, step
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint, fetch_dataset, split_of, validate_dataset
from hpe_tasks.pipeline.steps.ladder import choose_recipe
from hpe_tasks.pipeline.steps.measuring import (
    check_fp32,
    evaluate_fp32,
    evaluate_in_shards,
    fp32_network,
    further_table,
    measurement_settings,
    network_settings,
)
from hpe_tasks.pipeline.steps.sharding import num_shards, shard_of
from hpe_tasks.progress import track
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.comparison import PairedComparison, PixelParity
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.joint_ranges import JointRanges
from hpe_tasks.records.mixed_precision import MixedPrecision
from hpe_tasks.records.network import ExportedModel, QuantizedModel
from hpe_tasks.storage.devices import device_held
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.data.calibration import CalibrationDraw
    from hpe_tasks.data.dataset import Dataset
    from hpe_tasks.evaluation.shards import StoredShard
    from hpe_tasks.inference import Predict
    from hpe_tasks.metrics.image_tables import ImageTable
    from hpe_tasks.quantization import QuantizedFiles
    from hpe_tasks.quantization.distillation import Lessons

log = logging.getLogger(__name__)

_COMPARED_LIMITS = {
    *("max_ap_drop", "max_pckh_drop", "max_joint_drop", "max_joint_pckh_drop", "max_size_drop"),
    *("confidence", "resamples", "max_looks"),
}
"""Of the gate's settings, those that decide what a comparison holds."""

_KERNEL_IMAGES = 16
"""Images, or crops of persons, that the int8 kernels are checked on."""


def _recipe(config: RunConfig) -> list[Any]:
    """The recipe, and the content of the file that it names."""
    from hpe_tasks.errors import ConfigError

    file = config.recipe.aimet_config
    if file is not None and not Path(file).is_file():
        raise ConfigError(f"recipe.aimet_config: {file} does not exist.", hint="Give the path of an AIMET .json file.")
    # How the recipe was found changes nothing of what it does.
    recipe = config.recipe.model_dump(exclude=set(SEARCH_SETTINGS))
    return [recipe, sha256_file(Path(file)) if file is not None else None]


def calibration_set(run: Run, num_images: int) -> CalibrationDraw[Dataset]:
    """The images that the recipe calibrates on, or the first of them."""
    from hpe_tasks.data.calibration import calibration_draw

    dataset = run.config.dataset
    alike = () if dataset.calibrate_on_lookalikes else run.result(validate_dataset).lookalikes
    return calibration_draw(
        split_of(run, dataset.calibration_split),
        split_of(run, dataset.evaluation_split),
        num_images=num_images,
        seed=run.config.seed,
        lookalikes={one.image: one.like for one in alike},
    )


@step(
    QuantizedModel,
    "Quantization",
    needs=(fetch_dataset, fetch_checkpoint, validate_dataset),
    after=(check_fp32, choose_recipe),
    settings=lambda c: [
        network_settings(c),
        [c.dataset.kind, *c.dataset.splits, c.dataset.calibrate_on_lookalikes],
        _recipe(c),
        c.evaluation.batch_size,
        c.seed,
        *([c.gate.min_speedup, c.gate.min_int8_mac_share] if c.recipe.mixed_precision else []),
    ],
    tell=lambda record: record.encodings.uri,
    shown_as="quantized",
)
def quantize(run: Run, scratch: Scratch) -> QuantizedModel:
    """Calibrate QuantSim on images that no metric is measured on."""
    from hpe_tasks.inference import calibration_batches, missing_inputs
    from hpe_tasks.pose.codecs import CODECS
    from hpe_tasks.quantization import best_device, quantize_model, tool_versions

    config, wanted = run.config, run.config.recipe.calibration_images
    if config.recipe.joint_ranges or config.recipe.mixed_precision:
        _check_widths(config)
    draw = calibration_set(run, wanted)
    drawn = draw.images
    added = missing_inputs(drawn, config.model, wanted) if config.recipe.augment_calibration else 0
    device = best_device()
    whole_images = CODECS[config.model.codec].whole_images
    if added:
        inputs = "images" if whole_images else "crops"
        log.info("%d changed %s stand in for the images that the calibration split lacks.", added, inputs)
    batches = track(
        calibration_batches(drawn, config.model, config.evaluation.batch_size, augmented=added, seed=config.seed),
        "Calibrating",
        total=added + (drawn.num_images if whole_images else drawn.num_persons),
        unit="images" if whole_images else "crops",
        count=len,
    )
    checkpoint = run.workspace.local(run.result(fetch_checkpoint).file)
    lessons = _lessons(run, drawn) if config.recipe.distillation_steps else None
    # What a worker has left behind on the device is not shared with its retry.
    with device_held(device):
        files = quantize_model(config.model, config.recipe, checkpoint, batches, scratch.path, device, lessons)
        ranges = _choose_ranges(config, checkpoint, files, drawn, device) if config.recipe.joint_ranges else None
        mixed = _leave_float(config, checkpoint, files, drawn) if config.recipe.mixed_precision else None
    return QuantizedModel(
        recipe=config.recipe,
        model=scratch.artifact(files.model),
        encodings=scratch.artifact(files.encodings),
        calibration_image_ids=drawn.image_ids,
        calibration_persons=drawn.num_persons,
        augmented_inputs=added,
        device=device,
        tool_versions=tool_versions(),
        normal_form=files.normal_form,
        calibration_left_out=draw.left_out,
        joint_ranges=ranges,
        mixed_precision=mixed,
        distillation=files.distillation,
    )


def _check_widths(config: RunConfig) -> None:
    """Find out before the calibration whether there will be anything to choose."""
    from hpe_tasks.joint_search.bench import check_widths

    check_widths(config.recipe)


def _choose_ranges(
    config: RunConfig, checkpoint: Path, files: QuantizedFiles, drawn: Dataset, device: str
) -> JointRanges:
    """Search the ranges of harmful activations on the calibration images, and change the stored simulation so."""
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.joint_search.ranges import choose_ranges

    images = partial(calibration_batches, drawn, config.model, config.evaluation.batch_size)
    return choose_ranges(config.model, config.recipe, checkpoint, files, images, device)


def _leave_float(config: RunConfig, checkpoint: Path, files: QuantizedFiles, drawn: Dataset) -> MixedPrecision:
    """Choose on the calibration images what stays in float, and change the stored simulation so."""
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.joint_search.precision import Budget, choose_precision

    images = calibration_batches(drawn, config.model, config.evaluation.batch_size)
    gate = config.gate
    budget = Budget(config.recipe.max_slowdown, gate.min_speedup, gate.min_int8_mac_share)
    return choose_precision(config.model, config.recipe, checkpoint, files, images, budget)


def _lessons(run: Run, drawn: Dataset) -> Lessons:
    """What a simulation learns from: views of the calibration images, or labelled persons of the training split."""
    from hpe_tasks.data.calibration import draw_calibration
    from hpe_tasks.inference.lessons import UnlabelledLessons
    from hpe_tasks.training.lessons import LabelledLessons

    config, split = run.config, run.config.dataset.training_split
    size, seed = config.recipe.distillation_batch, config.seed
    unlabelled = UnlabelledLessons(drawn, config.model, seed=seed, batch_size=size)
    if not config.recipe.distillation_labels or split is None:
        return unlabelled
    # As for calibration: no image that judges the model, and no more of them than there are steps to see them.
    training, judged = split_of(run, split), split_of(run, config.dataset.evaluation_split)
    most = min(config.recipe.distillation_steps * size, len(training.strata()))
    labelled = draw_calibration(training, judged, num_images=most, seed=seed)
    return LabelledLessons(unlabelled, labelled, config.model, seed=seed, batch_size=size)


@step(
    ExportedModel,
    "ONNX export",
    needs=(fetch_checkpoint, quantize),
    settings=lambda c: [network_settings(c), _recipe(c)],
    tell=lambda record: record.model.uri,
    shown_as="exported",
)
def export_onnx(run: Run, scratch: Scratch) -> ExportedModel:
    """Write the file that ships, read back where onnxruntime will run its arithmetic, and prove that it cannot clip."""
    from hpe_tasks.models.onnx_model import describe_onnx
    from hpe_tasks.onnx_export import ENCODINGS_FILE
    from hpe_tasks.onnx_export import export_onnx as export
    from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
    from hpe_tasks.onnx_runtime.placement import audit_placement

    config, quantized = run.config, run.result(quantize)
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
    from hpe_tasks.gate.checks.cost import tells_speed

    return config.gate.min_speedup is None or tells_speed(config.gate.min_speedup, evaluation.latency)


def _simulation(run: Run) -> Predict:
    """QuantSim, as it was calibrated."""
    from hpe_tasks.quantization import best_device, load_quantsim

    config, quantized = run.config, run.result(quantize)
    local = run.workspace.local
    return load_quantsim(config.model, config.recipe, local(quantized.model), local(quantized.encodings), best_device())


def _exported(run: Run) -> Predict:
    """The file that ships, in onnxruntime."""
    from hpe_tasks.inference import onnx_predictor

    return onnx_predictor(run.workspace.local(run.result(export_onnx).model), run.config.model)


def _quantized_shards(run: Run, number: int) -> tuple[StoredShard, ...]:
    """A part of the measurements of QuantSim and of the exported file."""
    return (
        shard_of(run, evaluate_quantized, "quantsim", partial(_simulation, run), number),
        shard_of(run, evaluate_quantized, "onnxruntime", partial(_exported, run), number),
    )


@step(
    QuantizedEvaluation,
    "int8 accuracy",
    needs=(fetch_dataset, fetch_checkpoint, quantize, export_onnx),
    settings=measurement_settings,
    reusable=_tells_speed,
    tell=lambda record: record.onnx.predictions.uri,
    shown_as="quantized_evaluation",
    sharding=Sharding(num_shards, _quantized_shards),
)
def evaluate_quantized(run: Run, scratch: Scratch) -> QuantizedEvaluation:
    """Measure QuantSim and the exported file on FP32's persons, its speed against FP32's, and check its kernels."""
    from hpe_tasks.evaluation.latency import compare_latency
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.onnx_runtime.kernels import compare_kernels

    config, quantized = run.config, run.result(quantize)
    model = run.result(export_onnx).model
    exported = run.workspace.local(model)
    drawn = calibration_set(run, min(_KERNEL_IMAGES, len(quantized.calibration_image_ids))).images
    batches = partial(calibration_batches, drawn, config.model, config.evaluation.batch_size)
    checkpoint = run.workspace.local(run.result(fetch_checkpoint).file)
    # First, while little else is in memory, and because it takes seconds to find that a file cannot be run.
    latency = compare_latency(config.model, checkpoint, exported, next(batches())[0])
    return QuantizedEvaluation(
        quantsim=evaluate_in_shards(run, scratch, evaluate_quantized, "quantsim", partial(_simulation, run)),
        onnx=evaluate_in_shards(run, scratch, evaluate_quantized, "onnxruntime", partial(_exported, run)),
        model_sha256=model.sha256,
        kernels=compare_kernels(exported, config.model, batches(), num_images=_KERNEL_IMAGES),
        latency=latency,
    )


@step(
    PairedComparison,
    "Paired comparison",
    needs=(fetch_dataset, fetch_checkpoint, evaluate_fp32, export_onnx, evaluate_quantized),
    settings=lambda c: [
        network_settings(c),
        measurement_settings(c),
        c.dataset.gate_metric,
        c.gate.model_dump(include=_COMPARED_LIMITS),
    ],
    tell=lambda record: f"{record.num_images:,} images, {len(record.looks)} looks",
    shown_as="comparison",
)
def compare_accuracy(run: Run, scratch: Scratch) -> PairedComparison:
    """Resample FP32's and the file's images in pairs, and measure more of them where they are too few to tell."""
    from hpe_tasks.evaluation.paired import Question, compare_paired
    from hpe_tasks.gate.accuracy import accuracy_limits
    from hpe_tasks.metrics.image_tables import read_table

    config, gate = run.config, run.config.gate
    fp32, onnx = run.result(evaluate_fp32), run.result(evaluate_quantized).onnx
    available = onnx.available_images or onnx.fingerprint.num_images
    parity = _parity(run)
    if fp32.image_table is None or onnx.image_table is None:
        return PairedComparison(
            num_images=onnx.fingerprint.num_images,
            available_images=available,
            confidence=gate.confidence,
            resamples=gate.resamples,
            parity=parity,
        )

    further: list[tuple[ImageTable, ImageTable]] = []

    def measure_further(begin: int, end: int) -> tuple[ImageTable, ImageTable]:
        more = (
            further_table(run, scratch, "fp32", partial(fp32_network, run), (begin, end)),
            further_table(run, scratch, "onnxruntime", partial(_exported, run), (begin, end)),
        )
        further.append(more)
        return more

    before, after = (
        read_table(run.workspace.local(kept).read_bytes()) for kept in (fp32.image_table, onnx.image_table)
    )
    limits = accuracy_limits(gate, config.dataset.gate_metric)
    question = Question(limits.of_part, gate.confidence, gate.resamples, gate.max_looks, config.seed)
    compared = compare_paired((before, after), available, question, measure_further)
    return compared.model_copy(update={"parity": parity, "tables": _compared_tables(scratch, (before, after), further)})


def _compared_tables(
    scratch: Scratch, first: tuple[ImageTable, ImageTable], further: list[tuple[ImageTable, ImageTable]]
) -> tuple[Artifact, ...]:
    """Keep the tables of all images that were compared; nothing where they are those that were measured first."""
    if not further:
        return ()
    kept = []
    for number, runtime in enumerate(("fp32", "onnxruntime")):
        table = first[number]
        for more in further:
            table = table.joined(more[number])
        file = scratch.path / f"compared_{runtime}.npz"
        file.write_bytes(table.to_bytes())
        kept.append(scratch.artifact(file))
    return tuple(kept)


def _parity(run: Run) -> tuple[PixelParity, ...]:
    """How far apart FP32, QuantSim and the file find the joints of the same crops, from what the measurements kept."""
    from hpe_tasks.evaluation.crop_joints import pixel_parity, read_crop_joints

    quantized = run.result(evaluate_quantized)
    reports = (run.result(evaluate_fp32), quantized.quantsim, quantized.onnx)
    return pixel_parity(
        [
            (report.runtime, read_crop_joints(run.workspace.local(report.crop_joints).read_bytes()))
            for report in reports
            if report.crop_joints is not None
        ]
    )


@step(
    GateDecision,
    "Gate",
    needs=(evaluate_fp32, export_onnx, evaluate_quantized, compare_accuracy),
    settings=lambda c: [c.gate.model_dump(), c.destination.processors, c.dataset.gate_metric, c.dataset.min_persons],
    # The speed may have been measured again, for the same inputs.
    reusable=lambda c, _: c.gate.min_speedup is None,
    refused=lambda record: not record.passed,
    tell=lambda record: "passed" if record.passed else record.reason,
    shown_as="decision",
)
def gate(run: Run, _: Scratch) -> GateDecision:
    """Decide whether the exported file may be published."""
    from hpe_tasks.gate.decision import decide

    return decide(
        run.config.gate,
        run.result(evaluate_fp32),
        run.result(evaluate_quantized),
        run.result(export_onnx),
        run.config.destination.processors,
        metric=run.config.dataset.gate_metric,
        min_persons=run.config.dataset.min_persons,
        # Where its tables lie in this workspace is nothing that a manifest should say.
        comparison=run.result(compare_accuracy).model_copy(update={"tables": ()}),
    )
