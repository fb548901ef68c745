from __future__ import annotations

import math

import pytest

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.datasets import GateMetric
from hpe_tasks.errors import BadInputError, BelowFloorError
from hpe_tasks.gate.floor import check_floor, next_step, refuse_below_floor
from hpe_tasks.records.diagnosis import Diagnosis, Fp32Check, TriedMistake
from support import sample_records as records

AP = GateLimits(min_ap=0.6)
PCKH = GateLimits(min_pckh=80)
SUBSET = {"subset": True, "num_images": 20, "num_persons": 48}
"""Two standard errors of 0.6 are 0.141."""


@pytest.mark.parametrize(
    ("limits", "accuracy", "protocol", "passed", "says"),
    [
        pytest.param(AP, 0.71, {}, True, "FP32 AP 0.710 is at least 0.600 (gate.min_ap), on 310 persons", id="above"),
        pytest.param(AP, 0.6, {}, True, "at least", id="at the floor"),
        pytest.param(AP, 0.5999, {}, False, "FP32 AP 0.5999 is below 0.6000 (gate.min_ap)", id="just below"),
        pytest.param(AP, 0.0, {}, False, "FP32 AP 0.000 is below 0.600", id="zero"),
        pytest.param(AP, None, {}, False, "FP32 AP could not be measured on 310 persons", id="none"),
        pytest.param(AP, math.nan, {}, False, "could not be measured", id="no number"),
        pytest.param(AP, 0.46, SUBSET, True, "is below 0.600 (gate.min_ap), but 48 persons", id="subset, may reach it"),
        pytest.param(AP, 0.45, SUBSET, False, "is below 0.600", id="subset, too far below"),
        pytest.param(AP, 0.0, SUBSET | {"num_persons": 1}, False, "is below 0.600", id="subset, zero"),
        pytest.param(AP, None, SUBSET, False, "could not be measured", id="subset, none"),
        pytest.param(GateLimits(min_ap=0), 0.0, {}, True, "at least 0.000", id="no floor"),
        pytest.param(GateLimits(min_ap=0), None, {}, False, "could not be measured", id="no floor, none"),
        pytest.param(PCKH, 79.9, {}, False, "FP32 PCKh 79.9 is below 80.0 (gate.min_pckh)", id="pckh"),
        pytest.param(PCKH, 75.0, SUBSET, True, "too small to tell", id="pckh, subset"),
        pytest.param(PCKH, 0.0, {}, False, "FP32 PCKh 0.0 is below 80.0", id="pckh, zero"),
    ],
)
def test_the_floor(limits: GateLimits, accuracy: float | None, protocol: dict, passed: bool, says: str) -> None:
    metric: GateMetric = "pckh" if limits is PCKH else "ap"
    check = check_floor(limits, records.report("fp32", accuracy, metric=metric, **protocol), metric)
    assert (check.passed, says in check.reason) == (passed, True), check.reason
    if passed:
        refuse_below_floor(check)
    else:
        with pytest.raises(BelowFloorError, match=r"\S") as caught:
            refuse_below_floor(check)
        assert caught.value.message.startswith(check.reason)
        assert caught.value.hint
        assert isinstance(caught.value, BadInputError)  # trying again cannot help


def test_accuracy_in_another_metric_is_none() -> None:
    check = check_floor(PCKH, records.report("fp32", 0.9), "pckh")
    assert not check.passed
    assert "could not be measured" in check.reason


def failed(found: TriedMistake | None) -> Fp32Check:
    check = Fp32Check(passed=False, metric="ap", observed=0.02, limit=0.6, reason="FP32 AP 0.020 is below 0.600")
    diagnosis = Diagnosis(
        split="val",
        num_images=32,
        num_persons=57,
        accuracy=0.02,
        tried=() if found is None else (found,),
        found=found,
        summary="AP 0.02 as configured; 0.61 when the image is BGR: set model.channel_order=bgr",
        seconds=1.0,
    )
    return check.model_copy(update={"diagnosis": diagnosis})


def test_the_error_says_what_was_found_and_what_to_set() -> None:
    found = TriedMistake(
        when="the image is BGR", settings=("model.channel_order=bgr", "model.mean=[0,0,0]"), accuracy=0.61
    )
    with pytest.raises(BelowFloorError) as caught:
        refuse_below_floor(failed(found))
    assert str(caught.value) == (
        "FP32 AP 0.020 is below 0.600. AP 0.02 as configured; 0.61 when the image is BGR: set model.channel_order=bgr "
        "(57 persons in 32 images of val). Nothing was quantized. Start again with --set model.channel_order=bgr "
        "--set 'model.mean=[0,0,0]'."
    )


@pytest.mark.parametrize(
    ("found", "says"),
    [
        pytest.param(None, "Check that the checkpoint is the right one", id="nothing found"),
        pytest.param(TriedMistake(when="x", settings=(), accuracy=0.7), "Check that the checkpoint", id="no setting"),
        pytest.param(
            TriedMistake(when="x", settings=("model.channel_order=bgr",), accuracy=0.3),
            "since 0.300 is still below the floor",
            id="not enough",
        ),
    ],
)
def test_what_to_do(found: TriedMistake | None, says: str) -> None:
    assert says in next_step(failed(found))
