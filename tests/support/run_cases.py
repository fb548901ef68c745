"""Runs in every state, for the tests of the report and of the table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.datasets.crowdpose import CROWDPOSE14
from hpe_tasks.gate.accuracy import accuracy_limits
from hpe_tasks.gate.decision import decide
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pose.skeletons import COCO17, MPII16
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.comparison import Look, PairedComparison, PartDifference
from hpe_tasks.records.diagnosis import Diagnosis, Fp32Check, TriedMistake
from hpe_tasks.records.evaluation import (
    CocoStats,
    CrowdPoseStats,
    EvaluationReport,
    FailedImage,
    PckhStats,
    ProtocolFingerprint,
    QuantizedEvaluation,
)
from hpe_tasks.records.execution import (
    FamilyProof,
    KernelAgreement,
    KernelProof,
    Latency,
    LatencyComparison,
    PlacementAudit,
    SpeedUp,
)
from hpe_tasks.records.inputs import DatasetProblem, DatasetValidation, FetchedCheckpoint, FetchedDataset, SplitCounts
from hpe_tasks.records.ladder import RecipeChoice, RungOutcome, TriedRung, TriedState
from hpe_tasks.records.network import ExportedModel, QuantizedModel, TensorSpec
from hpe_tasks.records.preflight import Preflight, PreflightCheck
from hpe_tasks.records.release import PromotedModel, PublishedModel, SmokedImage, SmokeTest
from hpe_tasks.records.run import StepFailure
from hpe_tasks.report.records import RunRecords
from support.losses import LAYERS, PARITY

P = ParamSpec("P")

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>'
CPU = ("x86_64", "avx2", "avx512_vnni")
LATENCY = LatencyComparison(
    speed_ups=(
        SpeedUp(
            threads=1,
            fp32=Latency(median_ms=137.8, p95_ms=141.2, runs=24),
            onnx=Latency(median_ms=38.72, p95_ms=52.3, runs=24),
            ratio=3.56,
            ratio_low=3.51,
            ratio_high=3.6,
            pairs=12,
        ),
        SpeedUp(
            threads=2,
            fp32=Latency(median_ms=71.8, p95_ms=77.3, runs=28),
            onnx=Latency(median_ms=24.2, p95_ms=26.3, runs=28),
            ratio=2.97,
            ratio_low=2.44,
            ratio_high=3.22,
            pairs=14,
        ),
    ),
    input_shape=(1, 3, 256, 192),
    onnxruntime_version="1.31.0",
    processor="AMD EPYC 9R14",
    cpu_features=CPU,
)
KERNELS = KernelAgreement(sqnr_db=72.5, layer="conv1_codes", max_difference=1.0, num_images=16, cpu_features=CPU)

_SIGMAS = (
    0.026,
    *[0.025] * 2,
    *[0.035] * 2,
    *[0.079] * 2,
    *[0.072] * 2,
    *[0.062] * 2,
    *[0.107] * 2,
    *[0.087] * 2,
    *[0.089] * 2,
)


PREFLIGHT = Preflight(
    checks=(
        PreflightCheck(
            name="destination", title="Destination", state="ok", found="s3://hpe-models/registry can be written"
        ),
        PreflightCheck(
            name="disk",
            title="Disk",
            state="warning",
            found="/work: 1.1 GB free, about 0.9 GB needed",
            advice="Free some space, or set HPE_CACHE and HPE_WORKSPACE to folders on a larger disk.",
        ),
    )
)


class Shown:
    """Collected records, by the handles of their steps."""

    def __init__(self, records: RunRecords) -> None:
        self.asked, self.config = records.requested, records.config
        tried = {f"try_{rung.name}": rung.tried for rung in records.rungs}
        self.find: Callable[[Step[Any]], Any] = lambda step: (
            getattr(records, step.shown_as) if step.shown_as else tried.get(step.name)
        )


def judged(records: RunRecords) -> RunRecords:
    """The records with how each step went by them, as they are collected of a run."""
    return replace(records, steps=REQUANTIZE.outcomes(Shown(records), records.failures))


def with_steps(make: Callable[P, RunRecords]) -> Callable[P, RunRecords]:
    """Let a function give judged records."""

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> RunRecords:
        return judged(make(*args, **kwargs))

    return call


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def artifact(name: str, size: int = 1000) -> Artifact:
    return Artifact(uri=f"file:///workspace/{name}", sha256=digest(name), size_bytes=size)


def fingerprint(split: str, persons: int, images: int, *, subset: bool = False) -> ProtocolFingerprint:
    return ProtocolFingerprint(
        dataset_digest=digest("data"),
        split=split,
        image_ids_digest=digest("ids"),
        num_images=images,
        num_persons=persons,
        subset=subset,
        box_source="ground_truth",
        flip_test=False,
        decoder="argmax with quarter-pixel shift",
        input_size=(192, 256),
        joint_map=tuple((name, i, i) for i, name in enumerate(COCO17.joints)),
        sigmas=_SIGMAS,
    )


def evaluation(runtime: str, ap: float | None, protocol: ProtocolFingerprint) -> EvaluationReport:
    def near(offset: float) -> float | None:
        return None if ap is None else min(1.0, ap + offset)

    groups = {
        "head": 0.05,
        "shoulders": 0.11,
        "elbows": -0.02,
        "wrists": -0.10,
        "hips": 0.08,
        "knees": 0.02,
        "ankles": -0.04,
    }
    spread = 0.0 if runtime == "fp32" else 0.01
    return EvaluationReport(
        runtime=runtime,
        stats=CocoStats(
            ap=ap,
            ap50=near(0.27),
            ap75=near(0.06),
            ap_medium=None,
            ap_large=near(0.01),
            ar=near(0.05),
            ar50=near(0.29),
            ar75=near(0.10),
            ar_medium=None,
            ar_large=near(0.05),
        ),
        by_group={name: near(offset * (1 + spread * (offset < 0))) for name, offset in groups.items()},
        by_joint={name: near(0.02 * (i % 5) - 0.04) for i, name in enumerate(COCO17.joints)},
        fingerprint=protocol,
        predictions=artifact(f"{runtime}.json", 80_000),
        images_per_second={"fp32": 41.3, "quantsim": 12.8, "onnxruntime": 66.0}[runtime],
        cpu_features=CPU,
    )


def paired(config: RunConfig, fp32: EvaluationReport, onnx: EvaluationReport, reach: float) -> PairedComparison:
    """Both figures and those of their groups, with intervals that reach as far on either side."""
    limits = accuracy_limits(config.gate, config.dataset.gate_metric)
    figures = {"all": (fp32.accuracy, onnx.accuracy)} | {
        f"group/{group}": (before, onnx.by_group[group]) for group, before in fp32.by_group.items()
    }

    def part(name: str, before: float | None, after: float | None, width: float) -> PartDifference:
        known = before is not None and after is not None
        limit, change = limits.of_part(name), (after - before) if before is not None and after is not None else 0.0
        return PartDifference(
            part=name,
            before=before,
            after=after,
            low=change - width if known else None,
            high=change + width if known else None,
            limit=limit,
            probability=0.998 if known and limit is not None else None,
        )

    images = onnx.fingerprint.num_images
    parts = tuple(part(name, *both, reach * (1 if name == "all" else 1.4)) for name, both in figures.items())
    return PairedComparison(
        num_images=images,
        available_images=images,
        confidence=config.gate.confidence,
        resamples=config.gate.resamples,
        looks=(Look(num_images=images, error=0.025, drop=parts[0].drop, largest_drop=-(parts[0].low or 0.0)),),
        parts=parts,
    )


@with_steps
def complete(
    config: RunConfig | None = None,
    *,
    onnx_ap: float | None = 0.668,
    int8_share: float = 0.986,
    kernels: KernelAgreement = KERNELS,
    unproved: tuple[str, ...] = (),
    latency: LatencyComparison | None = LATENCY,
    persons: int = 312,
    images: int = 156,
    split: str = "val",
    subset: bool = False,
    reach: float = 0.004,
) -> RunRecords:
    """A run whose every step has a result; published when the real gate lets it pass.

    Losses may be larger than they are by `reach`, or smaller.
    """
    config = config or load_config("sample")
    protocol = fingerprint(split, persons, images, subset=subset)
    fp32 = evaluation("fp32", 0.681, protocol)
    quantized = QuantizedEvaluation(
        quantsim=evaluation("quantsim", 0.672, protocol),
        onnx=evaluation("onnxruntime", onnx_ap, protocol),
        kernels=kernels,
        latency=latency,
    )
    file = artifact("export_onnx/model.onnx", 712_345)
    exported = ExportedModel(
        model=file,
        encodings=artifact("export_onnx/encodings.json", 91_000),
        fp32_size_bytes=2_312_345,
        opset=17,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 256, 192)),),
        outputs=(TensorSpec(name="heatmaps", dtype="float32", shape=("batch", 17, 64, 48)),),
        placement=PlacementAudit(
            int8_mac_share=int8_share,
            int8_macs=round(int8_share * 212_000_000),
            total_macs=212_000_000,
            float_operators=("ConvTranspose /deconv.0 (12582912)", "ConvTranspose /deconv.1 (9437184)"),
            onnxruntime_version="1.31.0",
            cpu_features=CPU,
        ),
        proof=KernelProof(
            model_sha256=file.sha256,
            layers=68,
            channels=9_953,
            x86_64=FamilyProof(
                unproved_layers=len(unproved), unproved=unproved, smallest_margin=127, tightest_layer="Conv /stem"
            ),
            arm64=FamilyProof(unproved_layers=0, smallest_margin=255, tightest_layer="Conv /stem"),
        ),
    )
    comparison = paired(config, fp32, quantized.onnx, reach).model_copy(update={"parity": PARITY})
    decision = decide(config.gate, fp32, quantized, exported, metric=config.dataset.gate_metric, comparison=comparison)
    published = PublishedModel(
        registry=config.destination.registry,
        name=config.destination.name,
        version="3f9c2a7b41d0e856",
        manifest=Artifact(
            uri="s3://hpe-models/registry/models/sample-pose/versions/3f9c2a7b41d0e856/manifest.json",
            sha256=digest("manifest"),
            size_bytes=9000,
        ),
        created=True,
        signed_by=digest("key"),
    )
    tested = SmokeTest(
        version=published.version,
        manifest_sha256=published.manifest.sha256,
        package_sha256=digest("package"),
        zipped_bytes=29_300_000,
        unzipped_bytes=88_100_000,
        cold_start_ms=271.4,
        python="3.13",
        cpu_features=CPU,
        images=tuple(
            SmokedImage(image=f"golden-{i}", people=2, expected=2, min_oks=1.0 - i / 100, duration_ms=20.0)
            for i in (1, 2, 3)
        ),
    )
    promoted = PromotedModel(
        registry=published.registry,
        name=published.name,
        version=published.version,
        channel=config.destination.channel,
        previous_version="a81b9935cc02f417",
    )
    return RunRecords(
        config=config,
        run="manual-2026-11-02-a1b2c3d4",
        started=NOON,
        preflight=PREFLIGHT,
        dataset=FetchedDataset(
            source=config.dataset.source, digest=digest("data"), num_files=420, size_bytes=18_200_000
        ),
        checkpoint=FetchedCheckpoint(source=config.model.checkpoint, file=artifact("sample.safetensors", 2_301_234)),
        validation=DatasetValidation(
            passed=True,
            checks_run=31,
            problems=(),
            splits=(
                SplitCounts(split="calibration", images=120, annotations=247, persons=240),
                SplitCounts(split=split, images=images, annotations=persons + 9, persons=persons),
            ),
            data_docs=artifact("data_docs.html", 200_000),
        ),
        fp32=fp32,
        fp32_check=Fp32Check(
            passed=True, metric=config.dataset.gate_metric, observed=0.681, limit=0.6, reason="It is enough"
        ),
        quantized=QuantizedModel(
            recipe=config.recipe,
            model=artifact("quantized.safetensors", 2_290_000),
            encodings=artifact("encodings.json", 91_000),
            calibration_image_ids=tuple(range(1, 121)),
            calibration_persons=240,
            device="cpu",
            tool_versions={"aimet-torch": "2.42.0", "torch": "2.13.0", "onnx": "1.23.0"},
        ),
        exported=exported,
        quantized_evaluation=quantized,
        comparison=comparison,
        decision=decision,
        published=published if decision.passed else None,
        smoke_test=tested if decision.passed and config.destination.smoke_test else None,
        promoted=promoted if decision.passed else None,
        layers=LAYERS,
        git_commit=digest("commit")[:40],
    )


def inconclusive() -> RunRecords:
    """What was lost is within its limit, but on so few images that more may have been lost."""
    return complete(persons=180, images=60, reach=0.011)


def gate_failed() -> RunRecords:
    """Accuracy, int8 share, kernels and size all fail, after a recipe that leaves much to try."""
    config = load_config("sample").model_copy(
        update={
            "gate": GateLimits(min_ap=0.6, max_size_mb=0.5),
            "recipe": QuantizationRecipe(granularity="per_tensor", scheme="min_max", saturation_free=False),
        }
    )
    saturated = KERNELS.model_copy(update={"sqnr_db": 16.6, "max_difference": 40.0, "cpu_features": ("x86_64", "avx2")})
    return complete(
        config,
        onnx_ap=0.574,
        int8_share=0.312,
        kernels=saturated,
        unproved=("Conv up: 3 of 64 channels can clip",),
        persons=96,
        images=40,
        subset=True,
    )


@with_steps
def step_failed() -> RunRecords:
    """The export failed: there is an FP32 baseline and a QuantSim, nothing later."""
    failure = StepFailure(
        step="export_onnx",
        error="QuantizationError",
        message=f"The exported file is refused by onnx.checker: node {HOSTILE} has no output.",
        hint="Write the model as ONNX with opset 13 or later.",
        failed_at=NOON,
    )
    return replace(
        complete(),
        exported=None,
        quantized_evaluation=None,
        comparison=None,
        decision=None,
        published=None,
        smoke_test=None,
        promoted=None,
        layers=None,
        failures=(failure,),
    )


@with_steps
def below_floor() -> RunRecords:
    """The checkpoint takes BGR, and the run was not told: it stopped before quantization."""
    run = complete()
    assert run.fp32 is not None
    fp32 = evaluation("fp32", 0.021, run.fp32.fingerprint)
    order = ("model.channel_order=bgr",)
    swapped = tuple("right" + j[4:] if j.startswith("left") else j.replace("right", "left") for j in COCO17.joints)
    found = TriedMistake(when="the image is BGR", settings=order, accuracy=0.612)
    tried = (
        found,
        TriedMistake(
            when="pixel values are 0 to 255", settings=("model.mean=[0,0,0]", "model.std=[0.00392157]"), accuracy=0.034
        ),
        TriedMistake(when=f"joints lie {HOSTILE} off", settings=(), accuracy=0.02),
        TriedMistake(
            when="left and right joints are swapped",
            settings=(f"model.joint_names=[{','.join(swapped)}]",),
            accuracy=None,
        ),
    )
    check = Fp32Check(
        passed=False,
        metric="ap",
        observed=0.021,
        limit=0.6,
        reason="FP32 AP 0.021 is below 0.600 (gate.min_ap), on 312 persons in 156 images of val",
        diagnosis=Diagnosis(
            split="val",
            num_images=32,
            num_persons=57,
            accuracy=0.018,
            tried=tried,
            found=found,
            summary="AP 0.02 as configured; 0.61 when the image is BGR: set model.channel_order=bgr",
            seconds=6.2,
        ),
    )
    return RunRecords(
        config=run.config,
        run=run.run,
        started=NOON,
        dataset=run.dataset,
        checkpoint=run.checkpoint,
        validation=run.validation,
        preflight=run.preflight,
        fp32=fp32,
        fp32_check=check,
        failures=(
            StepFailure(
                step="check_fp32",
                error="BelowFloorError",
                message=check.reason,
                hint="Start again with --set model.channel_order=bgr.",
                failed_at=NOON,
            ),
        ),
    )


@with_steps
def broken_dataset() -> RunRecords:
    """The data set did not meet its expectations; the run ended there."""
    problems = (
        DatasetProblem(
            check="images_exist", message="2 annotated images are missing.", count=2, examples=("000001.jpg", HOSTILE)
        ),
        DatasetProblem(
            check="boxes_inside",
            message="Boxes lie outside their image.",
            count=14,
            examples=("annotation 3", "annotation 9"),
        ),
    )
    run = complete()
    assert run.validation is not None
    failure = StepFailure(
        step="validate_dataset",
        error="DatasetError",
        message="The data set does not meet 2 of 31 expectations: 2 annotated images are missing (000001.jpg).",
        hint="Mend these files or records; the run's report shows the details.",
        failed_at=NOON,
    )
    return RunRecords(
        config=run.config,
        run=run.run,
        started=NOON,
        preflight=run.preflight,
        dataset=run.dataset,
        checkpoint=run.checkpoint,
        validation=run.validation.model_copy(update={"passed": False, "problems": problems}),
        failures=(failure,),
    )


@with_steps
def unfit() -> RunRecords:
    """The preflight found two things that cannot work; nothing ran after it."""
    failed = (
        PreflightCheck(
            name="destination",
            title="Destination",
            state="failed",
            found="The bucket 'nowhere' does not exist.",
            advice="Create it (`aws s3 mb s3://nowhere`), or correct destination.registry.",
        ),
        PreflightCheck(
            name="checkpoint",
            title="Checkpoint",
            state="failed",
            found=f"The checkpoint {HOSTILE} does not fit the network. Keys: 2 missing: conv1.weight, fc.bias.",
            advice="Set model.architecture to what the file was trained with.",
        ),
    )
    failure = StepFailure(
        step="preflight",
        error="PreflightError",
        message=" ".join(
            ("2 of 4 preflight checks failed.", *(f"{check.title}: {check.found} {check.advice}" for check in failed))
        ),
        hint="",
        failed_at=NOON,
    )
    return RunRecords(
        config=load_config("sample"),
        run="manual-2026-11-02-a1b2c3d4",
        started=NOON,
        preflight=Preflight(checks=(*failed, *PREFLIGHT.checks)),
        failures=(failure,),
    )


@with_steps
def only_config() -> RunRecords:
    """Nothing but what was asked, with values that try to break out of the page."""
    model = ModelConfig(architecture="onnx", checkpoint=HOSTILE, skeleton="efficientpose16")
    return RunRecords(config=load_config("sample").model_copy(update={"model": model}), run=HOSTILE)


def pckh_evaluation(runtime: str, mean: float | None, protocol: ProtocolFingerprint) -> EvaluationReport:
    """Shoulders at 100, ankles the hardest, no labelled hips."""

    def near(offset: float) -> float | None:
        return None if mean is None else min(100.0, mean + offset)

    groups = {"head": near(8), "shoulder": near(20), "elbow": near(1), "wrist": near(-7), "hip": None}
    groups |= {"knee": near(-3), "ankle": near(-11)}
    tight = {"mean_at_01": near(-52), "mean_at_exactly_01": near(-55)}
    speed = {"fp32": 20.5, "quantsim": 6.1, "onnxruntime": 33.0}[runtime]
    return EvaluationReport(
        runtime=runtime,
        stats=PckhStats(**groups, mean=mean, **tight, num_joints=66),
        by_group=groups,
        by_joint={name: near(i % 5 - 2) for i, name in enumerate(MPII16.joints)},
        fingerprint=protocol,
        predictions=artifact(f"{runtime}.json", 80_000),
        images_per_second=speed,
        cpu_features=CPU,
    )


@with_steps
def _remeasured(config: RunConfig, reports: dict[str, EvaluationReport], shape: tuple[int | str, ...]) -> RunRecords:
    """A complete run with other measurements, judged anew."""
    run = complete(config)
    assert run.exported is not None
    quantized = QuantizedEvaluation(quantsim=reports["quantsim"], onnx=reports["onnxruntime"], kernels=KERNELS)
    exported = run.exported.model_copy(
        update={"inputs": (TensorSpec(name="image", dtype="float32", shape=("batch", 3, *shape)),)}
    )
    decision = decide(config.gate, reports["fp32"], quantized, exported, metric=config.dataset.gate_metric)
    return replace(
        run,
        exported=exported,
        fp32=reports["fp32"],
        quantized_evaluation=quantized,
        decision=decision,
        published=run.published if decision.passed else None,
        promoted=run.promoted if decision.passed else None,
        smoke_test=run.smoke_test if decision.passed else None,
    )


def mpii() -> RunRecords:
    """Five persons of MPII with the published preset: the drop is too large, and little can be said of it."""
    config = load_config("pose_resnet_50_mpii", overrides={"dataset.source": "/data/mpii", "gate.min_pckh": 75})
    protocol = ProtocolFingerprint(
        dataset_digest=digest("data"),
        split="valid",
        image_ids_digest=digest("names"),
        num_images=4,
        num_persons=5,
        subset=False,
        box_source="annotated_center_scale",
        flip_test=True,
        decoder="heatmap argmax with a quarter-pixel shift; head size: 0.6 of the head box's diagonal",
        input_size=(256, 256),
        joint_map=tuple((name, i, i) for i, name in enumerate(MPII16.joints)),
        sigmas=(),
        metric="mpii_pckh",
    )
    means = {"fp32": 83.3, "quantsim": 81.8, "onnxruntime": 80.3}
    return _remeasured(
        config, {name: pckh_evaluation(name, mean, protocol) for name, mean in means.items()}, (256, 256)
    )


def bottom_up() -> RunRecords:
    """The zoo's network on a part of val2014, with the published figures beside it; one image could not be measured."""
    config = load_config("aimet_pose_coco2014", overrides={"gate.min_ap": 0.3})
    protocol = fingerprint("val", 312, 156).model_copy(
        update={
            "box_source": "whole_image",
            "input_size": (496, 384),
            "decoder": "peaks above 0.1 after a Gaussian of 3 pixels; limbs by part-affinity fields; OpenPose assembly",
        }
    )
    aps = {"fp32": 0.362, "quantsim": 0.357, "onnxruntime": 0.355}
    failed = (FailedImage(name="images/val/0003.jpg", reason="is cut off"),)
    reports = {
        name: evaluation(name, ap, protocol).model_copy(update={"failed_images": failed}) for name, ap in aps.items()
    }
    return _remeasured(config, reports, ("height", "width"))


def as_published() -> RunRecords:
    """The zoo's network on all of val2014: FP32 agrees with the publication, W8A8 does not."""
    run = bottom_up()
    assert run.fp32 is not None
    protocol = run.fp32.fingerprint.model_copy(update={"split": "val2014", "num_images": 40_504, "num_persons": 88_153})
    aps = {"fp32": 0.3634, "quantsim": 0.3481, "onnxruntime": 0.3489}
    config = run.config.model_copy(update={"recipe": RECIPES["w8a8_per_tensor"]})
    return _remeasured(config, {name: evaluation(name, ap, protocol) for name, ap in aps.items()}, ("h", "w"))


def detected() -> RunRecords:
    """Crops from a detector's boxes; the data set has warnings."""
    run = complete()
    assert run.validation is not None
    protocol = fingerprint("val", 312, 156).model_copy(
        update={"box_source": "detector", "boxes_digest": digest("boxes"), "flip_test": True}
    )
    warning = DatasetProblem(
        check="no_image_in_both_splits",
        message="Calibration images are copies of evaluation images.",
        count=2,
        examples=("000004.jpg is 000011.jpg", HOSTILE),
    )
    aps = {"fp32": 0.681, "quantsim": 0.672, "onnxruntime": 0.668}
    records = _remeasured(run.config, {name: evaluation(name, ap, protocol) for name, ap in aps.items()}, (192, 128))
    return replace(records, validation=run.validation.model_copy(update={"warnings": (warning,)}))


def crowdpose() -> RunRecords:
    """A network with vectors over x and y (SimCC) on CrowdPose, in images of which none is hard."""
    config = load_config(
        "rtmpose",
        overrides={
            "model.checkpoint": "rtmpose.onnx",
            "model.skeleton": "crowdpose14",
            "dataset.kind": "crowdpose",
            "dataset.source": "/data/crowdpose",
        },
    )
    joints = CROWDPOSE14.joints
    protocol = fingerprint("test", 312, 156).model_copy(
        update={
            "decoder": "argmax of a vector over x and one over y, 2 bins a pixel",
            "joint_map": tuple((name, i, i) for i, name in enumerate(joints)),
            "sigmas": _SIGMAS[: len(joints)],
            "metric": "crowdpose_oks_ap",
        }
    )

    def measured(runtime: str, ap: float) -> EvaluationReport:
        stats = CrowdPoseStats(
            ap=ap, ap50=0.86, ap75=0.73, ar=0.74, ar50=0.9, ar75=0.78, ap_easy=0.78, ap_medium=ap - 0.01, ap_hard=None
        )
        by_joint = {name: round(ap + 0.02 * (i % 5) - 0.04, 3) for i, name in enumerate(joints)}
        return evaluation(runtime, ap, protocol).model_copy(update={"stats": stats, "by_joint": by_joint})

    aps = {"fp32": 0.681, "quantsim": 0.676, "onnxruntime": 0.672}
    reports = {name: measured(name, ap) for name, ap in aps.items()}
    comparison = paired(config, reports["fp32"], reports["onnxruntime"], 0.004)
    return replace(_remeasured(config, reports, (256, 192)), comparison=comparison)


def own_joints() -> RunRecords:
    """Birds with joints of their own: none has a left and a right, and one a long name in one word."""
    joints = (
        "beak",
        "crown",
        "nape_of_the_neck",
        "long_digital_extensor_tendon_insertion",
        "tail",
        "Schwanzfederspulenansatzmittelpunkt",
    )
    config = load_config(
        "efficientpose_rt_lite",
        overrides={
            "model.checkpoint": "birds.onnx",
            "model.joint_names": list(joints),
            "dataset.kind": "custom",
            "dataset.source": "/data/birds",
        },
    )
    protocol = fingerprint("val", 312, 156).model_copy(
        update={"joint_map": tuple((name, i, i) for i, name in enumerate(joints)), "sigmas": (0.072,) * len(joints)}
    )

    def measured(runtime: str, ap: float) -> EvaluationReport:
        by_joint = {name: round(ap + 0.03 * i - 0.08, 3) for i, name in enumerate(joints)}
        return evaluation(runtime, ap, protocol).model_copy(update={"by_group": {}, "by_joint": by_joint})

    aps = {"fp32": 0.681, "quantsim": 0.672, "onnxruntime": 0.668}
    reports = {name: measured(name, ap) for name, ap in aps.items()}
    comparison = paired(config, reports["fp32"], reports["onnxruntime"], 0.004)
    return replace(_remeasured(config, reports, (224, 224)), comparison=comparison)


def ladder() -> RunRecords:
    """A search for a recipe: the last of the rungs that were tried passes, the ones before it in every other way."""
    asked = load_config("sample", overrides={"recipe": "auto"})
    run = complete(asked.model_copy(update={"recipe": RECIPES["equalized"]}))
    assert run.exported is not None
    exported = run.exported

    def tried(name: str, state: TriedState, drop: float | None, speed: float = 3.5, **more: Any) -> RungOutcome:
        recipe, reason = RECIPES[name], str(more.pop("reason", ""))
        told = TriedRung(
            rung=name, recipe=recipe, state=state, reason=reason, seconds=83.0, peak_memory_bytes=1_900_000_000
        )
        if drop is not None:
            low, high = -drop - 0.006, -drop + 0.005
            change = PartDifference(part="all", before=0.681, after=0.681 - drop, low=low, high=high, limit=0.02)
            one = LATENCY.speed_ups[0]
            onnx = one.onnx.model_copy(update={"median_ms": one.fp32.median_ms / speed})
            latency = LATENCY.model_copy(update={"speed_ups": (one.model_copy(update={"onnx": onnx, "ratio": speed}),)})
            measured = {
                **{"fp32": 0.681, "quantsim": 0.682 - drop, "onnx": 0.681 - drop, "change": change, "latency": latency},
                **{"size_bytes": exported.model.size_bytes, "fp32_size_bytes": exported.fp32_size_bytes},
                **{"int8_mac_share": 0.986, "float_operators": exported.placement.float_operators, **more},
            }
            told = told.model_copy(update=measured)
        summary = next(rung.summary for rung in RUNGS if rung.name == name)
        return RungOutcome(name=name, summary=summary, state=state, reason=reason, tried=told)

    rungs = (
        tried("min_max", "refused", 0.061, 3.56, reason="the exported file loses AP 0.061, more than 0.020"),
        tried("tf_enhanced", "inconclusive", 0.017, 3.52, reason="AP may have lost 0.023, more than 0.020"),
        tried("min_max_weights", "impossible", None, reason=f"AIMET cannot trace {HOSTILE}."),
        tried("equalized", "passed", 0.009, 3.49).model_copy(update={"chosen": True}),
        RungOutcome(
            name="mixed", summary="Leave in float what costs most.", state="skipped", reason="equalized has passed."
        ),
    )
    choice = RecipeChoice(
        search="first",
        rung="equalized",
        recipe=run.config.recipe,
        passed=True,
        reason="the first of 4 rungs tried that passes the gate.",
    )
    return judged(replace(run, asked=asked, rungs=rungs, choice=choice))


STATES: dict[str, Callable[[], RunRecords]] = {
    "published": complete,
    "gate_failed": gate_failed,
    "inconclusive": inconclusive,
    "below_floor": below_floor,
    "step_failed": step_failed,
    "broken_dataset": broken_dataset,
    "unfit": unfit,
    "only_config": only_config,
    "mpii": mpii,
    "bottom_up": bottom_up,
    "as_published": as_published,
    "detected": detected,
    "crowdpose": crowdpose,
    "own_joints": own_joints,
    "ladder": ladder,
}
