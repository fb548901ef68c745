"""Better, equal or worse: what the interval of two checkpoints' difference comes to."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.errors import MissingInputError
from hpe_tasks.evaluation.checkpoints import compare_checkpoints, differing_protocols, judge
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from support import sample_records as records
from support.verified_versions import table_of

LIMITS = GateLimits(resamples=400)


def compared(noise_px: tuple[float, float], limits: GateLimits = LIMITS) -> PairedComparison:
    """Two networks on the same images, each off by some pixels."""
    return compare_checkpoints((table_of(noise_px[0]), table_of(noise_px[1])), limits, seed=0)


@pytest.mark.parametrize(
    ("noise_px", "outcome"),
    [
        pytest.param((3.0, 1.0), "better", id="better"),
        pytest.param((1.0, 3.0), "worse", id="worse"),
        pytest.param((1.5, 1.49), "equal", id="not told apart"),
        pytest.param((1.5, 1.5), "equal", id="the same"),
    ],
)
def test_the_whole_interval_tells(noise_px: tuple[float, float], outcome: str) -> None:
    paired = compared(noise_px)
    found, reason = judge(paired, records.report("fp32", 0.5), "1" * 16, min_gain=0.0, min_persons=1)
    whole = paired.part("all")
    assert whole
    assert whole.low is not None
    assert whole.high is not None
    assert found == outcome
    assert (whole.low > 0) == (outcome == "better")
    assert (whole.high < 0) == (outcome == "worse")
    assert "95 % interval" in reason
    assert ("would have to lie above zero" in reason) == (outcome == "equal")
    # Nothing is asked of a part: none is judged.
    assert all(part.limit is None for part in paired.parts)
    assert paired.part("group/head") is not None


def _paired(before: float | None, after: float | None, low: float | None, high: float | None) -> PairedComparison:
    whole = PartDifference(part="all", before=before, after=after, low=low, high=high)
    confidence = None if low is None else 0.95
    return PairedComparison(num_images=9, available_images=9, confidence=confidence, resamples=200, parts=(whole,))


@pytest.mark.parametrize(
    ("paired", "asked", "outcome", "says"),
    [
        pytest.param(_paired(0.5, 0.6, 0.05, 0.15), {}, "better", r"\+0\.100, 95 % interval \+0\.050", id="better"),
        pytest.param(_paired(0.5, 0.6, 0.0, 0.15), {}, "equal", "above zero", id="the end touches zero"),
        pytest.param(_paired(0.5, 0.6, 0.05, 0.15), {"min_gain": 0.06}, "equal", "min_gain=0.06", id="less than asked"),
        pytest.param(
            _paired(0.5, 0.6, 0.05, 0.15), {"min_persons": 10**6}, "equal", "min_persons", id="too few persons"
        ),
        pytest.param(_paired(0.5, 0.4, -0.15, -0.05), {"min_persons": 10**6}, "worse", "−0.100", id="worse on few"),
        pytest.param(_paired(0.5, 0.6, None, None), {}, "better", r"\+0\.100$", id="without intervals"),
        pytest.param(_paired(0.5, 0.5, None, None), {}, "equal", "above zero", id="equal without intervals"),
        pytest.param(_paired(None, None, None, None), {}, "equal", "no person", id="nobody"),
    ],
)
def test_the_outcome_says_why(paired: PairedComparison, asked: dict[str, Any], outcome: str, says: str) -> None:
    report = records.report("fp32", 0.6)
    found, reason = judge(paired, report, "1" * 16, **({"min_gain": 0.0, "min_persons": 1} | asked))
    assert found == outcome
    assert re.search(says, reason)


def test_two_networks_may_differ_in_how_they_are_shown_a_person() -> None:
    one = records.fingerprint()
    other = records.fingerprint(input_size=(64, 64), decoder="simcc")
    assert differing_protocols(one, one) == ()
    assert set(differing_protocols(one, other)) == {"input_size", "decoder"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"num_persons": 1}, id="persons"),
        pytest.param({"box_source": "detector"}, id="boxes"),
        pytest.param({"joint_map": (("nose", 0, 1),)}, id="joints"),
        pytest.param({"flip_test": True}, id="flip test"),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(change: dict[str, Any]) -> None:
    with pytest.raises(MissingInputError, match=f"measured alike: {next(iter(change))} differ"):
        differing_protocols(records.fingerprint(), records.fingerprint(**change))
