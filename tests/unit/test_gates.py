from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from hpe_tasks.config import GateLimits
from hpe_tasks.gates import decide, fingerprint_differences
from hpe_tasks.results import (
    Artifact,
    GateCheck,
    GateDecision,
    PckhReport,
    PckhStats,
    QuantizedEvaluation,
    QuantizedPckhEvaluation,
)

LIMITS = GateLimits(min_ap=0.5, max_ap_drop=0.02, max_quantsim_gap=0.02, min_int8_mac_share=0.5, max_size_mb=40)


def judge(records: ModuleType, **changes: Any) -> GateDecision:
    """The decision on a model that passes everything, but for the changes."""
    reports = {
        "fp32": records.report("fp32", 0.62),
        "quantsim": records.report("quantsim", 0.615),
        "onnx": records.report("onnxruntime", 0.612),
        "exported": records.exported(),
    } | changes
    quantized = QuantizedEvaluation(quantsim=reports["quantsim"], onnx=reports["onnx"])
    return decide(LIMITS, reports["fp32"], quantized, reports["exported"])


def failed(decision: GateDecision) -> dict[str, GateCheck]:
    return {check.name: check for check in decision.checks if not check.passed}


def test_a_good_model_passes_and_every_check_says_why(records: ModuleType) -> None:
    decision = judge(records)
    assert decision.passed
    assert decision.reason == ""
    assert {check.name: check.reason for check in decision.checks} == {
        "min_ap": "ONNX AP 0.612 is at least 0.500",
        "max_ap_drop": "AP drop from FP32 to ONNX 0.008 is at most 0.020",
        "quantsim_gap": "AP gap between QuantSim and ONNX 0.003 is at most 0.020",
        "int8_mac_share": "Int8 share of multiply-accumulates 80.0 % is at least 50.0 %",
        "size_mb": "Size 34.5 MB is at most 40.0 MB",
    }
    assert [(c.comparison, c.unit, c.limit) for c in decision.checks] == [
        ("at_least", "AP", 0.5),
        ("at_most", "AP", 0.02),
        ("at_most", "AP", 0.02),
        ("at_least", "share", 0.5),
        ("at_most", "MB", 40.0),
    ]
    assert [c.observed for c in decision.checks] == pytest.approx([0.612, 0.008, 0.003, 0.8, 34.5])


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
def test_accuracy(records: ModuleType, fp32: float, quantsim: float, onnx: float, names: set[str]) -> None:
    decision = judge(
        records,
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
def test_a_missing_number_fails(
    records: ModuleType, which: str, runtime: str, ap: float | None, names: set[str]
) -> None:
    decision = judge(records, **{which: records.report(runtime, ap, num_persons=0)})
    checks = failed(decision)
    assert not decision.passed
    assert names <= set(checks)
    for name in names:
        assert checks[name].observed is None
        assert "AP is missing" in checks[name].reason


@pytest.mark.parametrize("ap", [-1.0, 1.5, float("inf")])
def test_a_number_that_is_no_ap_fails(records: ModuleType, ap: float) -> None:
    decision = judge(records, onnx=records.report("onnxruntime", ap))
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
def test_numbers_of_different_protocols_are_not_compared(
    records: ModuleType, changes: dict[str, Any], named: str
) -> None:
    decision = judge(records, onnx=records.report("onnxruntime", 0.612, **changes))
    checks = failed(decision)
    assert set(checks) == {"max_ap_drop", "quantsim_gap"}
    for check in checks.values():
        assert check.observed is None
        assert "cannot be compared" in check.reason
        assert named in check.reason
    assert "FP32 and ONNX" in checks["max_ap_drop"].reason
    assert "QuantSim and ONNX" in checks["quantsim_gap"].reason


def test_only_the_pair_that_differs_fails(records: ModuleType) -> None:
    decision = judge(records, quantsim=records.report("quantsim", 0.612, decoder="argmax"))
    assert set(failed(decision)) == {"quantsim_gap"}


def test_a_report_of_another_runtime_is_not_taken_for_the_exported_file(records: ModuleType) -> None:
    decision = judge(records, onnx=records.report("quantsim", 0.62))
    assert set(failed(decision)) == {"min_ap", "max_ap_drop", "quantsim_gap"}
    assert failed(decision)["min_ap"].reason == (
        "ONNX AP is missing: the report in its place was measured with QuantSim"
    )


def test_a_subset_may_pass_and_is_named(records: ModuleType) -> None:
    small = {"subset": True, "num_images": 20, "num_persons": 61}
    decision = judge(
        records,
        fp32=records.report("fp32", 0.62, **small),
        quantsim=records.report("quantsim", 0.615, **small),
        onnx=records.report("onnxruntime", 0.612, **small),
    )
    assert decision.passed
    for check in decision.checks:
        assert ("(measured on a subset: 20 images, 61 persons)" in check.reason) == (check.unit == "AP")


def test_float_activations_fail_and_are_named(records: ModuleType) -> None:
    decision = judge(records, exported=records.exported(share=0.04))
    assert failed(decision)["int8_mac_share"].reason == (
        "Int8 share of multiply-accumulates 4.0 % is below 50.0 % "
        "(still float: ConvTranspose up.0 (120), ConvTranspose up.1 (60), Gemm a (3))"
    )


def test_an_audit_that_found_nothing_fails(records: ModuleType) -> None:
    decision = judge(records, exported=records.exported(share=1.0, total_macs=0))
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
def test_size(records: ModuleType, size_bytes: int, reason: str | None) -> None:
    model = Artifact(uri="file:///m.onnx", sha256="b" * 64, size_bytes=size_bytes)
    checks = failed(judge(records, exported=records.exported(model)))
    assert (checks["size_mb"].reason if checks else None) == reason


def test_numbers_that_differ_are_shown_differently(records: ModuleType) -> None:
    decision = judge(records, onnx=records.report("onnxruntime", 0.49996))
    assert failed(decision)["min_ap"].reason == "ONNX AP 0.49996 is below 0.50000"


def test_the_decision_joins_the_reasons_and_survives_storage(records: ModuleType) -> None:
    decision = judge(records, onnx=records.report("onnxruntime", float("nan")), exported=records.exported(share=0.1))
    assert decision.reason.count("; ") == 3
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision


def test_fingerprint_differences_of_equal_protocols_are_none(records: ModuleType) -> None:
    assert fingerprint_differences(records.fingerprint(), records.fingerprint()) == ()


PCKH_LIMITS = GateLimits(metric="pckh", min_pckh=80, max_pckh_drop=1, max_quantsim_pckh_gap=1)


def pckh(records: ModuleType, runtime: str, mean: float | None, **changes: Any) -> PckhReport:
    columns = dict.fromkeys(PckhStats.model_fields, 90.0) | {"mean": mean, "num_joints": 66}
    protocol = {"metric": "mpii_pckh", "box_source": "annotated_center_scale", "sigmas": ()} | changes
    of_coco = records.report("fp32", 0.5)
    return PckhReport(
        runtime=runtime,
        stats=PckhStats(**columns),
        fingerprint=records.fingerprint(**protocol),
        predictions=of_coco.predictions,
        images_per_second=2.0,
    )


def judge_pckh(records: ModuleType, fp32: PckhReport, quantsim: PckhReport, onnx: PckhReport) -> GateDecision:
    return decide(PCKH_LIMITS, fp32, QuantizedPckhEvaluation(quantsim=quantsim, onnx=onnx), records.exported())


@pytest.mark.parametrize(
    ("fp32", "quantsim", "onnx", "names"),
    [
        pytest.param(88.5, 88.0, 87.6, set(), id="good"),
        pytest.param(80.5, 80.0, 79.9, {"min_pckh"}, id="below-the-floor"),
        pytest.param(88.5, 87.0, 87.4, {"max_pckh_drop"}, id="lost-too-much"),
        pytest.param(88.5, 89.0, 87.9, {"quantsim_gap"}, id="quantsim-apart"),
        pytest.param(88.5, 88.0, None, {"min_pckh", "max_pckh_drop", "quantsim_gap"}, id="missing"),
        pytest.param(88.5, 88.0, 100.1, {"min_pckh", "max_pckh_drop", "quantsim_gap"}, id="no-percentage"),
    ],
)
def test_pckh(records: ModuleType, fp32: float, quantsim: float, onnx: float | None, names: set[str]) -> None:
    decision = judge_pckh(
        records, pckh(records, "fp32", fp32), pckh(records, "quantsim", quantsim), pckh(records, "onnxruntime", onnx)
    )
    assert set(failed(decision)) == names
    assert [check.name for check in decision.checks] == [
        "min_pckh",
        "max_pckh_drop",
        "quantsim_gap",
        "int8_mac_share",
        "size_mb",
    ]


def test_pckh_is_said_in_percent(records: ModuleType) -> None:
    reports = [
        pckh(records, runtime, mean) for runtime, mean in (("fp32", 88.5), ("quantsim", 88), ("onnxruntime", 87))
    ]
    assert [check.reason for check in judge_pckh(records, *reports).checks][:3] == [
        "ONNX PCKh 87.0 % is at least 80.0 %",
        "PCKh drop from FP32 to ONNX 1.5 % is above 1.0 %",
        "PCKh gap between QuantSim and ONNX 1.0 % is at most 1.0 %",
    ]


def test_an_ap_is_never_judged_as_pckh(records: ModuleType) -> None:
    reports = {runtime: records.report(runtime, 0.9) for runtime in ("fp32", "quantsim", "onnxruntime")}
    quantized = QuantizedEvaluation(quantsim=reports["quantsim"], onnx=reports["onnxruntime"])
    decision = decide(PCKH_LIMITS, reports["fp32"], quantized, records.exported())
    assert failed(decision)["min_pckh"].reason == (
        "ONNX PCKh is missing: the report in its place holds coco_oks_ap, not mpii_pckh"
    )
