"""The whole path with a SimCC network that has learnt: a short training on drawn people, then every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.data.sample import SampleSpec
from hpe_tasks.local.object_store import Server
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.records.evaluation import CocoStats
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support.short_training import finished_run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("lambda_python")]

# This training reaches an AP of 0.47; the head alone starts at random, where it is 0.
FLOOR = 0.3
TOLERANCE = 0.03


@pytest.fixture
def finished(tmp_path: Path, s3_server: Server, two_threads: None) -> Run:
    """A run with all steps done, the smoke test in the emulator among them."""
    return finished_run(
        tmp_path,
        s3_server.client,
        "simcc_sample",
        SampleSpec(train=250, calibration=20, val=40),
        {"epochs": 2, "batch_size": 8},
        gate__min_ap=FLOOR,
        gate__max_ap_drop=TOLERANCE,
        gate__max_quantsim_gap=TOLERANCE,
        # A short training and 40 images: figures alone, and none of groups.
        gate__confidence=None,
        gate__max_joint_drop=1.0,
        gate__max_size_drop=1.0,
        destination__name="short-simcc",
        destination__smoke_test=True,
    )


def test_joints_are_found_quantized_published_and_served(finished: Run) -> None:
    records = records_of(finished)
    assert records.fp32 is not None
    assert records.quantized_evaluation is not None
    before, after = records.fp32.stats, records.quantized_evaluation.onnx.stats
    assert isinstance(before, CocoStats)
    assert isinstance(after, CocoStats)
    assert before.ap is not None
    print(f"\nFP32 AP {before.ap:.3f}, exported file {after.ap:.3f}")
    assert before.ap >= FLOOR
    assert after.ap == pytest.approx(before.ap, abs=TOLERANCE)
    assert records.decision is not None
    assert records.decision.passed
    assert records.exported is not None
    assert records.exported.placement.int8_mac_share == 1.0
    assert records.exported.proof is not None
    assert all(family.proved for family in records.exported.proof.families.values())

    registry = ModelRegistry(finished.s3(), S3Location.parse(finished.config.destination.registry))
    manifest = registry.served("short-simcc", finished.config.destination.channel)
    assert manifest.serving.codec == "simcc"
    assert {name: spec.shape[1:] for name, spec in manifest.serving.outputs.items()} == {
        "simcc_x": (17, 192),
        "simcc_y": (17, 256),
    }
    assert len(manifest.golden) == 3
    assert records.smoke_test is not None
    assert records.smoke_test.version == manifest.version
