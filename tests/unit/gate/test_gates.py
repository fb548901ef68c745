from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.gate.accuracy import METRICS, UNITS
from hpe_tasks.gate.checks import CHECKS
from hpe_tasks.gate.checks.accuracy import fingerprint_differences
from hpe_tasks.gate.checks.base import Evidence
from hpe_tasks.gate.checks.cost import tells_speed
from hpe_tasks.gate.decision import decide
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.gate import GateCheck, GateDecision
from hpe_tasks.records.network import ExportedModel
from support import sample_records as records

LIMITS = GateLimits(min_ap=0.5, max_ap_drop=0.02, max_quantsim_gap=0.02, min_int8_mac_share=0.5, max_size_mb=40)


def judge(**changes: Any) -> GateDecision:
    """The decision on a model that passes everything, but for the changes."""
    reports = {
        "fp32": records.report("fp32", 0.62),
        "quantsim": records.report("quantsim", 0.615),
        "onnx": records.report("onnxruntime", 0.612),
        "exported": records.exported(),
    } | changes
    quantized = QuantizedEvaluation(
        quantsim=reports["quantsim"], onnx=reports["onnx"], kernels=changes.get("kernels", records.kernels())
    )
    return decide(LIMITS, reports["fp32"], quantized, reports["exported"])


def failed(decision: GateDecision) -> dict[str, GateCheck]:
    return {check.name: check for check in decision.failed}


def test_a_check_that_says_no_is_told_before_one_that_cannot_tell() -> None:
    passed, unsure, broken = (
        GateCheck(
            name=name,
            title=name,
            passed=name == "passed",
            observed=1.0,
            limit=1.0,
            comparison="at_least",
            unit="",
            reason=name,
            inconclusive=name == "unsure",
        )
        for name in ("passed", "unsure", "broken")
    )
    decision = GateDecision(passed=False, checks=(passed, unsure, broken))
    assert (decision.failed, decision.reason, decision.inconclusive) == ((broken, unsure), "broken; unsure", False)
    assert GateDecision(passed=False, checks=(passed, unsure)).inconclusive
    assert GateDecision(passed=True, checks=(passed,)).failed == ()


def test_a_good_model_passes_and_every_check_says_why() -> None:
    decision = judge()
    assert decision.passed
    assert decision.reason == ""
    assert {check.name: check.reason for check in decision.checks} == {
        "min_ap": "ONNX AP 0.612 is at least 0.500",
        "max_ap_drop": "AP drop from FP32 to ONNX 0.008 is at most 0.020",
        "quantsim_gap": "AP gap between QuantSim and ONNX 0.003 is at most 0.020",
        "int8_mac_share": "Int8 share of multiply-accumulates 80.0 % is at least 50.0 %",
        "kernel_proof_any": "No sum of 26,000 channels in 53 layers can leave its range on x86-64 and arm64",
        "kernel_sqnr_db": "Signal-to-noise ratio of int8 kernels 72.5 dB is at least 40.0 dB",
        "size_mb": "Size 34.5 MB is at most 40.0 MB",
    }
    assert [(c.comparison, c.unit, c.limit) for c in decision.checks] == [
        ("at_least", "AP", 0.5),
        ("at_most", "AP", 0.02),
        ("at_most", "AP", 0.02),
        ("at_least", "share", 0.5),
        ("at_most", "layers", 0.0),
        ("at_least", "dB", 40.0),
        ("at_most", "MB", 40.0),
    ]
    assert [c.observed for c in decision.checks] == pytest.approx([0.612, 0.008, 0.003, 0.8, 0, 72.5, 34.5])


@pytest.mark.parametrize(
    ("fp32", "quantsim", "onnx", "names"),
    [
        pytest.param(0.51, 0.51, 0.499, {"min_ap"}, id="below-the-floor"),
        pytest.param(0.51, 0.51, 0.5, set(), id="at-the-floor"),
        pytest.param(0.65, 0.62, 0.62, {"max_ap_drop"}, id="lost-too-much"),
        # 0.62 - 0.60 is 0.020000000000000018 in floating point.
        pytest.param(0.62, 0.6, 0.6, set(), id="loss-at-the-limit"),
        pytest.param(0.6, 0.62, 0.61, set(), id="onnx-better-than-fp32"),
        pytest.param(0.6, 0.62, 0.59, {"quantsim_gap"}, id="quantsim-too-high"),
        pytest.param(0.6, 0.58, 0.61, {"quantsim_gap"}, id="quantsim-too-low"),
        pytest.param(0.9, 0.6, 0.1, {"min_ap", "max_ap_drop", "quantsim_gap"}, id="all-accuracy"),
    ],
)
def test_accuracy(fp32: float, quantsim: float, onnx: float, names: set[str]) -> None:
    decision = judge(
        fp32=records.report("fp32", fp32),
        quantsim=records.report("quantsim", quantsim),
        onnx=records.report("onnxruntime", onnx),
    )
    assert set(failed(decision)) == names
    assert decision.passed == (not names)


@pytest.mark.parametrize("ap", [None, float("nan")], ids=["none", "nan"])
@pytest.mark.parametrize(
    ("which", "runtime", "names"),
    [
        ("fp32", "fp32", {"max_ap_drop"}),
        ("quantsim", "quantsim", {"quantsim_gap"}),
        ("onnx", "onnxruntime", {"min_ap", "max_ap_drop", "quantsim_gap"}),
    ],
)
def test_a_missing_number_fails(which: str, runtime: str, ap: float | None, names: set[str]) -> None:
    decision = judge(**{which: records.report(runtime, ap, num_persons=0)})
    checks = failed(decision)
    assert not decision.passed
    assert names <= set(checks)
    for name in names:
        assert checks[name].observed is None
        assert "AP is missing" in checks[name].reason


@pytest.mark.parametrize("ap", [-1.0, 1.5, float("inf")])
def test_a_number_that_is_no_ap_fails(ap: float) -> None:
    decision = judge(onnx=records.report("onnxruntime", ap))
    assert "is not a number in [0, 1]" in failed(decision)["min_ap"].reason


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"split": "train"}, "split (val / train)", id="split"),
        pytest.param({"dataset_digest": "9" * 64}, "dataset_digest (dddddddddddd… / 999999999999…)", id="data"),
        pytest.param({"num_images": 99, "subset": True}, "num_images (100 / 99), subset (False / True)", id="subset"),
        pytest.param({"flip_test": True}, "flip_test (False / True)", id="flip"),
        pytest.param({"input_size": (256, 256)}, "input_size ((192, 256) / (256, 256))", id="input"),
        pytest.param({"sigmas": (0.1, 0.1)}, "sigmas", id="sigmas"),
        pytest.param({"joint_map": (("nose", 1, 0),)}, "joint_map", id="joints"),
    ],
)
def test_numbers_of_different_protocols_are_not_compared(changes: dict[str, Any], named: str) -> None:
    decision = judge(onnx=records.report("onnxruntime", 0.612, **changes))
    checks = failed(decision)
    assert set(checks) == {"max_ap_drop", "quantsim_gap"}
    for check in checks.values():
        assert check.observed is None
        assert "cannot be compared" in check.reason
        assert named in check.reason
    assert "FP32 and ONNX" in checks["max_ap_drop"].reason
    assert "QuantSim and ONNX" in checks["quantsim_gap"].reason


def test_only_the_pair_that_differs_fails() -> None:
    decision = judge(quantsim=records.report("quantsim", 0.612, decoder="argmax"))
    assert set(failed(decision)) == {"quantsim_gap"}


def test_a_report_of_another_runtime_is_not_taken_for_the_exported_file() -> None:
    decision = judge(onnx=records.report("quantsim", 0.62))
    assert set(failed(decision)) == {"min_ap", "max_ap_drop", "quantsim_gap"}
    assert failed(decision)["min_ap"].reason == (
        "ONNX AP is missing: the report in its place was measured with QuantSim"
    )


def test_a_subset_may_pass_and_is_named() -> None:
    small: dict[str, Any] = {"subset": True, "num_images": 20, "num_persons": 61}
    decision = judge(
        fp32=records.report("fp32", 0.62, **small),
        quantsim=records.report("quantsim", 0.615, **small),
        onnx=records.report("onnxruntime", 0.612, **small),
    )
    assert decision.passed
    for check in decision.checks:
        assert ("(measured on a subset: 20 images, 61 persons)" in check.reason) == (check.unit == "AP")


def test_each_limit_belongs_to_one_check_that_says_all_of_it() -> None:
    names = [name for check in CHECKS for name in check.names]
    assert len(set(names)) == len(names)
    assert all(check.title and check.unit in {"", *UNITS} for check in CHECKS)
    assert len({check.title for check in CHECKS}) == len(CHECKS)


def test_every_limit_is_judged_by_a_check() -> None:
    reports = {runtime: records.report(runtime, 0.6) for runtime in ("fp32", "quantsim", "onnxruntime")}
    quantized = QuantizedEvaluation(quantsim=reports["quantsim"], onnx=reports["onnxruntime"])

    parts = tuple(PartDifference(part=part, before=0.6, after=0.6) for part in ("all", "size/large", "group/head"))
    compared = PairedComparison(num_images=9, available_images=9, confidence=0.95, resamples=200, parts=parts)

    def asked(limits: GateLimits) -> list[float | None]:
        both = [
            Evidence(limits, metric, reports["fp32"], quantized, records.exported(), "any", 1, compared)
            for metric in METRICS.values()
        ]
        return [check.limit(evidence) for evidence in both for check in CHECKS]

    # These say how losses are compared, and not how large they may be.
    limits = GateLimits.model_fields.keys() - {"confidence", "resamples", "max_looks"}
    changed = {name: asked(LIMITS.model_copy(update={name: 0.123})) for name in sorted(limits)}
    assert [name for name, limits in changed.items() if limits == asked(LIMITS)] == []


def measured_on(persons: int, *, onnx: float = 0.612, min_persons: int, **protocol: Any) -> GateDecision:
    """The decision on a model whose three forms were measured on so many persons."""
    reports = {
        runtime: records.report(runtime, value, num_persons=persons, **protocol)
        for runtime, value in (("fp32", 0.62), ("quantsim", 0.615), ("onnxruntime", onnx))
    }
    quantized = QuantizedEvaluation(
        quantsim=reports["quantsim"], onnx=reports["onnxruntime"], kernels=records.kernels()
    )
    return decide(LIMITS, reports["fp32"], quantized, records.exported(), min_persons=min_persons)


@pytest.mark.parametrize(
    ("persons", "min_persons", "passes"),
    [
        pytest.param(9, 300, False, id="quick look"),
        pytest.param(299, 300, False, id="one too few"),
        pytest.param(300, 300, True, id="just enough"),
        pytest.param(9, 9, True, id="little is asked"),
    ],
)
@pytest.mark.parametrize("subset", [True, False], ids=["subset", "whole split"])
def test_a_figure_on_too_few_persons_never_passes(persons: int, min_persons: int, passes: bool, subset: bool) -> None:
    decision = measured_on(persons, min_persons=min_persons, subset=subset, num_images=3)
    assert decision.passed is passes
    assert set(failed(decision)) == (set() if passes else {"min_ap"})
    named = ", a subset of 3 images" if subset else ""
    said = f"Measured on {persons} persons{named}: fewer than the {min_persons} that dataset.min_persons asks for"
    assert decision.reason == ("" if passes else said)
    # The figure is still shown, and what names a version stays: the checks and their limits.
    assert [check.observed for check in decision.checks[:1]] == [0.612]
    assert [(c.name, c.limit) for c in decision.checks] == [(c.name, c.limit) for c in judge().checks]


def test_too_low_on_too_few_says_both() -> None:
    decision = measured_on(9, onnx=0.41, min_persons=50, subset=True)
    assert failed(decision)["min_ap"].reason == (
        "ONNX AP 0.410 is below 0.500 (measured on a subset: 100 images, 9 persons); besides, measured on 9 persons, "
        "a subset of 100 images: fewer than the 50 that dataset.min_persons asks for"
    )


def test_float_activations_fail_and_are_named() -> None:
    decision = judge(exported=records.exported(share=0.04))
    assert failed(decision)["int8_mac_share"].reason == (
        "Int8 share of multiply-accumulates 4.0 % is below 50.0 % "
        "(still float: ConvTranspose up.0 (120), ConvTranspose up.1 (60), Gemm a (3))"
    )


def test_an_audit_that_found_nothing_fails() -> None:
    decision = judge(exported=records.exported(share=1.0, total_macs=0))
    assert failed(decision)["int8_mac_share"].observed is None


@pytest.mark.parametrize(
    ("size_bytes", "reason"),
    [
        (40_000_000, None),
        (40_000_001, "Size 40.000001 MB is above 40.000000 MB"),
        (136_000_000, "Size 136.0 MB is above 40.0 MB"),
        (0, "The size of the exported file is unknown: 0 bytes are recorded"),
    ],
)
def test_size(size_bytes: int, reason: str | None) -> None:
    model = Artifact(uri="file:///m.onnx", sha256="b" * 64, size_bytes=size_bytes)
    checks = failed(judge(exported=records.exported(model)))
    assert (checks["size_mb"].reason if checks else None) == reason


def test_numbers_that_differ_are_shown_differently() -> None:
    decision = judge(onnx=records.report("onnxruntime", 0.49996))
    assert failed(decision)["min_ap"].reason == "ONNX AP 0.49996 is below 0.50000"


def test_the_decision_joins_the_reasons_and_survives_storage() -> None:
    decision = judge(onnx=records.report("onnxruntime", float("nan")), exported=records.exported(share=0.1))
    assert decision.reason.count("; ") == 3
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision


def test_fingerprint_differences_of_equal_protocols_are_none() -> None:
    assert fingerprint_differences(records.fingerprint(), records.fingerprint()) == ()


def test_kernels_that_saturate_fail_and_the_reason_says_where_and_what_helps() -> None:
    checks = failed(judge(kernels=records.kernels(16.6)))
    assert set(checks) == {"kernel_sqnr_db"}
    assert checks["kernel_sqnr_db"].reason == (
        "Signal-to-noise ratio of int8 kernels 16.6 dB is below 40.0 dB (in conv1_codes: sums of full 8-bit weights "
        "saturate on x86-64 without VNNI, see recipe.saturation_free; this processor is x86_64, avx2, avx512_vnni)"
    )


CLIPPED = ("Conv up: 3 of 64 channels can clip", "Einsum mix: quantized constants of Einsum are not known to the proof")


@pytest.mark.parametrize(
    ("processors", "unproved", "passed", "reason"),
    [
        (
            "any",
            CLIPPED,
            False,
            "in 2 of 53 layers: on x86-64 Conv up: 3 of 64 channels can clip",
        ),
        ("x86_64", CLIPPED, False, "on x86-64 Conv up"),
        ("arm64", CLIPPED, True, "No sum of 26,000 channels in 53 layers can leave its range on arm64"),
        ("x86_64_vnni", CLIPPED, True, "No proof is needed: the model is for x86-64 with VNNI only"),
        ("x86_64", (), True, "can leave its range on x86-64"),
    ],
    ids=["any", "x86", "arm64", "vnni", "x86-proved"],
)
def test_the_destination_decides_what_must_be_proved(
    processors: Any, unproved: tuple[str, ...], passed: bool, reason: str
) -> None:
    check = proof_check(records.exported(unproved=unproved), processors)
    assert (check.name, check.passed, check.limit) == (f"kernel_proof_{processors}", passed, 0)
    assert reason in check.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"proof": None}, "Nothing is proved"),
        ({"model": "edited"}, "The proof is of another file than the exported one"),
    ],
    ids=["no proof", "edited after the proof"],
)
def test_without_a_proof_of_this_very_file_nothing_is_published(changes: dict[str, Any], reason: str) -> None:
    exported = records.exported()
    if "model" in changes:
        changes = {"model": exported.model.model_copy(update={"sha256": "9" * 64})}
    check = proof_check(exported.model_copy(update=changes), "any")
    assert not check.passed
    assert check.observed is None
    assert check.reason.startswith(reason)
    assert "run the step export_onnx again" in check.reason


def proof_check(exported: ExportedModel, processors: Any) -> GateCheck:
    quantized = QuantizedEvaluation(
        quantsim=records.report("quantsim", 0.615), onnx=records.report("onnxruntime", 0.612), kernels=records.kernels()
    )
    decision = decide(LIMITS, records.report("fp32", 0.62), quantized, exported, processors)
    return next(check for check in decision.checks if check.name.startswith("kernel_proof"))


def test_kernels_that_compute_the_same_pass_without_a_ratio() -> None:
    decision = judge(kernels=records.kernels(None))
    check = next(check for check in decision.checks if check.name == "kernel_sqnr_db")
    assert decision.passed
    assert check.observed is None
    assert check.reason == "The int8 kernels compute the same as the unoptimized graph on 16 inputs"


@pytest.mark.parametrize(
    ("limit", "speed", "reason"),
    [
        pytest.param(3.0, (3.5, 3.4, 3.6), None, id="faster"),
        pytest.param(3.5, (3.5, 3.5, 3.5), None, id="at the limit, without noise"),
        pytest.param(
            4.0,
            (3.5, 3.4, 3.6),
            "Speed with one thread, against FP32, 3.50× is below 4.00× (± 3 % on AMD EPYC 9R14)",
            id="slower",
        ),
        pytest.param(
            3.5,
            (3.55, 3.4, 3.7),
            "Speed with one thread, against FP32, is too noisy to tell: 3.55×, 95 % interval 3.40× to 3.70×, where at "
            "least 3.50× is asked",
            id="too noisy, though above",
        ),
        pytest.param(
            3.5,
            (3.45, 2.0, 3.5),
            "Speed with one thread, against FP32, is too noisy to tell: 3.45×, 95 % interval 2.00× to 3.50×, where at "
            "least 3.50× is asked",
            id="too noisy, though below",
        ),
        pytest.param(3.0, None, "The speed against FP32 is unknown: it was not measured", id="not measured"),
    ],
)
def test_speed_is_judged_where_it_is_asked(
    limit: float, speed: tuple[float, float, float] | None, reason: str | None
) -> None:
    latency = None if speed is None else records.latency(*speed)
    quantized = QuantizedEvaluation(
        quantsim=records.report("quantsim", 0.615),
        onnx=records.report("onnxruntime", 0.612),
        kernels=records.kernels(),
        latency=latency,
    )
    limits = LIMITS.model_copy(update={"min_speedup": limit})
    decision = decide(limits, records.report("fp32", 0.62), quantized, records.exported())
    assert decision.passed == (reason is None)
    assert decision.reason == (reason or "")
    assert decision.checks[-1].name == "min_speedup"
    assert decision.checks[-1].observed == (None if speed is None else speed[0])
    assert tells_speed(limit, latency) == (speed is not None and "noisy" not in (reason or ""))
    # Off by default, whatever was measured.
    off = decide(LIMITS, records.report("fp32", 0.62), quantized, records.exported())
    assert off.passed
    assert "min_speedup" not in {check.name for check in off.checks}


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_speed_that_nothing_can_have_is_no_limit(limit: float) -> None:
    with pytest.raises(ValidationError, match="min_speedup"):
        GateLimits(min_speedup=limit)


PCKH = GateLimits(min_pckh=86, max_pckh_drop=1, max_quantsim_pckh_gap=1, max_size_mb=40)


def judge_pckh(fp32: float | None, quantsim: float | None, onnx: float | None, **changes: Any) -> GateDecision:
    """The decision on PCKh, measured on few persons unless the changes say otherwise."""
    protocol = {"num_persons": 5, "num_images": 4} | changes
    reports = {
        runtime: records.report(runtime, value, metric="pckh", **protocol)
        for runtime, value in (("fp32", fp32), ("quantsim", quantsim), ("onnxruntime", onnx))
    }
    quantized = QuantizedEvaluation(
        quantsim=reports["quantsim"], onnx=reports["onnxruntime"], kernels=records.kernels()
    )
    return decide(PCKH, reports["fp32"], quantized, records.exported(), metric="pckh")


def test_pckh_is_judged_in_percent_and_every_reason_says_on_how_many_persons() -> None:
    decision = judge_pckh(87.0, 86.5, 84.2)
    assert {check.name: (check.reason, check.unit) for check in decision.checks[:3]} == {
        "min_pckh": ("ONNX PCKh 84.2 is below 86.0 (5 persons)", "PCKh"),
        "max_pckh_drop": ("PCKh drop from FP32 to ONNX 2.8 is above 1.0 (5 persons)", "PCKh"),
        "quantsim_gap": ("PCKh gap between QuantSim and ONNX 2.3 is above 1.0 (5 persons)", "PCKh"),
    }
    assert [check.passed for check in decision.checks] == [False, False, False, True, True, True, True]
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision


def test_a_good_pckh_passes() -> None:
    decision = judge_pckh(88.5, 88.1, 87.9, num_persons=2958)
    assert decision.passed
    assert decision.checks[0].reason == "ONNX PCKh 87.9 is at least 86.0"


def test_pckh_has_its_own_limits() -> None:
    # A loss of 0.4 is within max_pckh_drop, and far beyond max_ap_drop.
    assert judge_pckh(87.0, 86.8, 86.6).passed


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "ONNX PCKh is missing: 5 persons were measured"),
        (float("nan"), "ONNX PCKh is missing: 5 persons were measured"),
        (100.5, "ONNX PCKh 100.5 is not a number in [0, 100]"),
        (-1.0, "ONNX PCKh -1.0 is not a number in [0, 100]"),
    ],
)
def test_a_number_that_is_no_pckh_fails(value: float | None, reason: str) -> None:
    assert failed(judge_pckh(87.0, 86.8, value))["min_pckh"].reason == reason


def test_a_report_of_the_other_metric_fails_and_says_so() -> None:
    reports = {runtime: records.report(runtime, 0.99) for runtime in ("fp32", "quantsim", "onnxruntime")}
    quantized = QuantizedEvaluation(
        quantsim=reports["quantsim"], onnx=reports["onnxruntime"], kernels=records.kernels()
    )
    checks = failed(decide(PCKH, reports["fp32"], quantized, records.exported(), metric="pckh"))
    assert set(checks) == {"min_pckh", "max_pckh_drop", "quantsim_gap"}
    assert checks["min_pckh"].reason == "ONNX PCKh is missing: the report in its place holds AP"
    other = judge(onnx=records.report("onnxruntime", 0.99, metric="pckh"))
    assert "ONNX AP is missing: the report in its place holds PCKh" in other.reason


def test_unreadable_images_are_noted() -> None:
    lost: dict[str, Any] = {"failed": ("a.jpg", "b.jpg", "c.jpg"), "num_images": 200}
    decision = judge(
        fp32=records.report("fp32", 0.62, **lost),
        quantsim=records.report("quantsim", 0.615, **lost),
        onnx=records.report("onnxruntime", 0.612, **lost, num_persons=20),
    )
    assert decision.checks[0].reason == (
        "ONNX AP 0.612 is at least 0.500 (20 persons; 3 of 200 images could not be measured)"
    )


def test_measurements_that_could_not_read_the_same_images_are_not_compared() -> None:
    decision = judge(fp32=records.report("fp32", 0.62, failed=("a.jpg",)))
    assert set(failed(decision)) == {"max_ap_drop"}
    assert failed(decision)["max_ap_drop"].reason == (
        "FP32 and ONNX AP cannot be compared: only one of them could read a.jpg"
    )


def test_kernels_that_were_not_compared_are_no_evidence() -> None:
    decision = judge(kernels=None)
    assert not decision.passed
    (check,) = [check for check in decision.checks if not check.passed]
    assert (check.name, check.observed) == ("kernel_sqnr_db", None)
    assert check.reason == "The signal-to-noise ratio of int8 kernels is unknown: they were not compared"
