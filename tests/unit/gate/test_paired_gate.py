"""Losses that are judged by their intervals: kept, broken, or too little measured to tell."""

from __future__ import annotations

from typing import Any

import pytest

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.gate.decision import decide
from hpe_tasks.gate.paired import images_to_decide, outcome_of, undecided, worst_of
from hpe_tasks.records.comparison import Look, PairedComparison, PartDifference
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.gate import GateCheck, GateDecision
from support import sample_records as records

LIMITS = GateLimits(min_ap=0.5, max_ap_drop=0.02, max_joint_drop=0.03, max_size_drop=0.04)


def part(name: str, drop: float | None, reach: float | None, limit: float | None = 0.02) -> PartDifference:
    """A part that lost so much, with an interval that reaches as far on either side."""
    if drop is None:
        return PartDifference(part=name, before=None, after=0.6, limit=limit)
    ends = {} if reach is None else {"low": -drop - reach, "high": -drop + reach, "probability": 0.97}
    return PartDifference(part=name, before=0.62, after=0.62 - drop, limit=limit, **ends)


def compared(*parts: PartDifference, **changes: Any) -> PairedComparison:
    fields: dict[str, Any] = {"num_images": 100, "available_images": 100, "confidence": 0.95, "resamples": 1000}
    return PairedComparison(**(fields | changes), parts=parts)


def judge(comparison: PairedComparison | None, onnx: float = 0.612) -> GateDecision:
    quantized = QuantizedEvaluation(
        quantsim=records.report("quantsim", onnx), onnx=records.report("onnxruntime", onnx), kernels=records.kernels()
    )
    return decide(LIMITS, records.report("fp32", 0.62), quantized, records.exported(), comparison=comparison)


def check(decision: GateDecision, name: str) -> GateCheck:
    return next(check for check in decision.checks if check.name == name)


@pytest.mark.parametrize(
    ("drop", "reach", "outcome"),
    [
        pytest.param(0.005, 0.010, "kept", id="the-whole-interval-is-within"),
        pytest.param(0.008, 0.012, "kept", id="its-end-at-the-limit"),
        pytest.param(0.008, 0.013, "inconclusive", id="only-the-figure-is-within"),
        pytest.param(0.020, 0.001, "inconclusive", id="the-figure-at-the-limit"),
        pytest.param(0.021, 0.050, "inconclusive", id="only-the-figure-is-above"),
        pytest.param(0.030, 0.010, "inconclusive", id="its-better-end-at-the-limit"),
        pytest.param(0.030, 0.009, "broken", id="the-whole-interval-is-above"),
        pytest.param(0.021, None, "broken", id="above-without-an-interval"),
        pytest.param(0.019, None, "kept", id="within-without-an-interval"),
        pytest.param(-0.050, 0.010, "kept", id="a-gain"),
        pytest.param(None, None, "kept", id="nobody-counts"),
    ],
)
def test_a_loss_is_kept_broken_or_cannot_be_told(drop: float | None, reach: float | None, outcome: str) -> None:
    assert outcome_of(part("all", drop, reach)) == outcome


def test_a_part_of_which_nothing_is_asked_is_kept() -> None:
    assert outcome_of(part("joint/nose", 0.5, 0.1, limit=None)) == "kept"


@pytest.mark.parametrize(
    ("drop", "reach", "images"),
    [
        pytest.param(0.01, 0.02, 400, id="half-the-width-needs-four-times-the-images"),
        pytest.param(0.0, 0.05, 630, id="two-digits"),  # 625
        pytest.param(0.03, 0.02, 400, id="a-loss-above-the-limit-likewise"),
        pytest.param(0.02, 0.01, None, id="no-room"),
        pytest.param(0.0199999, 0.05, None, id="more-than-there-are"),
        pytest.param(0.01, None, None, id="no-interval"),
    ],
)
def test_how_many_images_would_tell(drop: float, reach: float | None, images: int | None) -> None:
    assert images_to_decide(100, part("all", drop, reach)) == images


def test_where_one_limit_is_broken_no_image_would_help() -> None:
    doubtful, broken = part("all", 0.01, 0.02), part("group/wrists", 0.05, 0.01)
    assert undecided(compared(doubtful, part("group/head", 0, 0.001))) == (doubtful,)
    assert undecided(compared(doubtful, broken)) == ()


def test_the_part_that_decides() -> None:
    kept, close = part("group/a", -0.01, 0.001), part("group/b", 0.01, 0.005)
    doubtful, worse = part("group/c", 0.01, 0.02), part("group/d", 0.0, 0.05)
    broken, most = part("group/e", 0.03, 0.005), part("group/f", 0.04, 0.0)
    everything = [kept, close, doubtful, worse, broken, most]
    for expected in (most, broken, worse, doubtful, close, kept):
        assert worst_of(everything) == expected
        everything.remove(expected)
    assert worst_of([part("group/a", None, None)]) is None


def test_an_interval_within_the_limits_passes_and_is_told() -> None:
    decision = judge(compared(part("all", 0.008, 0.01), part("size/large", 0.0, 0.02), part("group/head", 0.01, 0.015)))
    assert decision.passed
    assert not decision.inconclusive
    drop = check(decision, "max_ap_drop")
    assert drop.reason == "AP drop from FP32 to ONNX 0.008 is at most 0.020 (95 % interval -0.002 to 0.018)"
    assert (drop.interval, drop.probability) == (pytest.approx((-0.002, 0.018)), 0.97)
    assert check(decision, "max_joint_drop").observed == pytest.approx(0.01)
    assert check(decision, "max_size_drop").limit == 0.04


def test_too_few_images_are_no_failure_and_no_pass() -> None:
    decision = judge(compared(part("all", 0.008, 0.024)))
    assert (decision.passed, decision.inconclusive) == (False, True)
    drop = check(decision, "max_ap_drop")
    assert (drop.passed, drop.inconclusive, drop.images_to_decide) == (False, True, 400)
    assert drop.reason == (
        "AP drop from FP32 to ONNX 0.008 cannot be told from more than 0.020 on 100 images (95 % interval -0.016 to "
        "0.032): about 400 images would tell"
    )


def test_few_images_cannot_refuse_a_model_either() -> None:
    decision = judge(compared(part("all", 0.021, 0.05)))
    assert (decision.passed, decision.inconclusive) == (False, True)
    drop = check(decision, "max_ap_drop")
    assert drop.reason == (
        "AP drop from FP32 to ONNX 0.021 cannot be told from at most 0.020 on 100 images (95 % interval -0.029 to "
        "0.071): about 250,000 images would tell"
    )


def test_an_interval_beside_the_figure_is_judged_with_it() -> None:
    beside = part("all", 0.01, None).model_copy(update={"low": -0.05, "high": -0.03})
    assert outcome_of(beside) == "inconclusive"


def test_a_model_that_is_better_on_average_and_has_lost_its_wrists_does_not_pass() -> None:
    wrists = part("group/wrists", 0.05, 0.01)
    decision = judge(compared(part("all", -0.01, 0.002), part("group/head", -0.03, 0.01), wrists), onnx=0.63)
    assert (decision.passed, decision.inconclusive) == (False, False)
    assert [one.name for one in decision.checks if not one.passed] == ["max_joint_drop"]
    assert decision.reason == (
        "AP drop of wrists from FP32 to ONNX 0.050 is above 0.030 (95 % interval 0.040 to 0.060)"
    )


def test_a_size_may_lose_no_more_than_its_limit() -> None:
    decision = judge(compared(part("all", 0.0, 0.002), part("size/medium", 0.02, 0.03), part("size/large", 0.0, 0.01)))
    assert decision.inconclusive
    assert "AP drop of medium from FP32 to ONNX 0.020 cannot be told from more than 0.040" in decision.reason


def test_a_failure_beside_it_is_a_failure() -> None:
    decision = judge(compared(part("all", 0.008, 0.02)), onnx=0.4)
    assert (decision.passed, decision.inconclusive) == (False, False)


def test_without_tables_of_images_the_figures_are_judged_and_the_reason_says_so() -> None:
    decision = judge(compared())
    assert decision.passed
    assert "no interval: the measurements kept no tables of images" in check(decision, "max_ap_drop").reason


def test_without_a_confidence_the_figures_are_judged() -> None:
    decision = judge(compared(part("all", 0.008, None), confidence=None))
    assert decision.passed
    assert check(decision, "max_ap_drop").reason == "AP drop from FP32 to ONNX 0.008 is at most 0.020"


def test_several_looks_are_told() -> None:
    looks = [Look(num_images=n, error=0.01, drop=0.01, largest_drop=0.02) for n in (100, 400)]
    decision = judge(compared(part("all", 0.008, 0.01), num_images=400, available_images=900, looks=looks))
    assert "looked at after 100 and 400 of 900 images" in check(decision, "max_ap_drop").reason


def test_limits_of_parts_are_that_of_the_whole_unless_others_are_asked_for() -> None:
    from hpe_tasks.gate.accuracy import accuracy_limits

    ap = accuracy_limits(GateLimits(max_ap_drop=0.07, max_size_drop=0.01), "ap")
    assert [ap.of_part(name) for name in ("all", "group/head", "size/large", "crowd/hard", "joint/nose")] == [
        0.07, 0.07, 0.01, 0.01, None,
    ]  # fmt: skip
    pckh = accuracy_limits(GateLimits(max_pckh_drop=2.0, max_joint_pckh_drop=3.0), "pckh")
    assert (pckh.of_part("all"), pckh.of_part("group/head")) == (2.0, 3.0)


def test_older_decisions_can_still_be_read() -> None:
    old = judge(None).model_dump(mode="json", exclude={"comparison"})
    new = {"inconclusive", "interval", "probability", "images_to_decide"}
    old["checks"] = [{key: value for key, value in one.items() if key not in new} for one in old["checks"]]
    assert GateDecision.model_validate(old) == judge(None)
