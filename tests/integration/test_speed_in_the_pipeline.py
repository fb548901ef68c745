"""The exported file's speed on its way from the measurement to the gate, and what becomes of a noisy one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.contract.cpu import processor_name
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.records.gate import GateDecision
from support.no_s3 import no_s3
from support.sample_records import latency
from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.integration]


def judged(tmp_path: Path, settings: dict[str, Any], min_speedup: float | None) -> tuple[Run, GateDecision]:
    """A run up to the gate, without the step that asks the destination; what was done before is reused."""
    overrides = {**settings, "gate.min_speedup": min_speedup}
    config = load_config(overrides.pop("preset"), overrides=overrides)
    workspace = (tmp_path / "workspace").as_uri()
    run = open_run(config, workspace=workspace, cache=tmp_path / "cache", name="r", s3=no_s3)
    run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(steps.gate))
    return run, run.result(steps.gate)


def test_a_noisy_measurement_fails_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path)
    run, decision = judged(tmp_path, settings, None)
    assert decision.passed, decision.reason
    assert "min_speedup" not in {check.name for check in decision.checks}
    measured = run.result(steps.evaluate_quantized).latency
    assert measured is not None
    assert measured.processor == processor_name()
    assert measured.speed_ups[0].threads == 1
    assert measured.input_shape == (1, 3, 64, 64)

    # No network is a thousand times faster in int8, however busy the machine: the stored measurement tells.
    run, decision = judged(tmp_path, settings, 1000.0)
    assert [check.name for check in decision.checks if not check.passed] == ["min_speedup"]
    assert "is below 1000.00×" in decision.reason
    assert run.result(steps.evaluate_quantized).latency == measured

    tried: list[object] = []

    def script(*found: float) -> None:
        def compare(*arguments: object) -> object:
            tried.append(arguments)
            return latency(*found)

        monkeypatch.setattr("hpe_tasks.evaluation.latency.compare_latency", compare)

    # This limit lies inside of the noise of what is stored, so that it is measured again: once more in vain.
    limit = measured.one_thread.ratio
    assert measured.one_thread.ratio_low < limit, "a measurement without any noise cannot be too noisy"
    script(limit, 0.9 * limit, 1.1 * limit)
    _, decision = judged(tmp_path, settings, limit)
    assert "is too noisy to tell" in decision.reason
    assert len(tried) == 1
    script(1.2 * limit, 1.1 * limit, 1.3 * limit)
    run, decision = judged(tmp_path, settings, limit)
    assert decision.passed, decision.reason
    assert len(tried) == 2
    # A measurement that tells is reused.
    judged(tmp_path, settings, limit)
    assert len(tried) == 2
