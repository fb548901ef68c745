"""The whole path with a bottom-up network that has learnt: a short training on drawn people, then every step."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hpe_tasks.data.sample import SampleSpec
from hpe_tasks.local.object_store import Server
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.records.evaluation import CocoStats
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support.short_training import finished_run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

# The training reaches an AP of 0.08 to 0.09 in bfloat16 and in float32; random weights, 0.
FLOOR = 0.04
# Measured: 0.001.
TOLERANCE = 0.02


@pytest.fixture
def finished(tmp_path: Path, s3_server: Server, two_threads: None) -> Run:
    """A run with all steps done."""
    return finished_run(
        tmp_path,
        s3_server.client,
        "aimet_pose_sample",
        SampleSpec(train=600, calibration=12, val=40),
        # Many small steps.
        {"epochs": 1, "batch_size": 2},
        gate__min_ap=FLOOR,
        gate__max_ap_drop=TOLERANCE,
        gate__max_quantsim_gap=TOLERANCE,
        # A short training and 40 images: figures alone, and none of groups.
        gate__confidence=None,
        gate__max_joint_drop=1.0,
        gate__max_size_drop=1.0,
        destination__name="short-aimet-pose",
    )


def test_people_are_found_quantized_and_published(finished: Run) -> None:
    run, records = finished, records_of(finished)
    assert records.fp32 is not None
    assert records.quantized_evaluation is not None
    before, after = records.fp32.stats, records.quantized_evaluation.onnx.stats
    assert isinstance(before, CocoStats)
    assert isinstance(after, CocoStats)
    assert before.ap >= FLOOR
    assert before.ap50 > before.ap
    assert after.ap == pytest.approx(before.ap, abs=TOLERANCE)
    assert records.decision is not None
    assert records.decision.passed

    assert records.published is not None
    registry = ModelRegistry(run.s3(), S3Location.parse(run.config.destination.registry))
    manifest = registry.served("short-aimet-pose", run.config.destination.channel)
    assert manifest.version == records.published.version
    assert manifest.serving.codec == "paf"
    assert manifest.fp32.stats == before
    assert manifest.placement.int8_mac_share >= 0.9

    # Each person of the split at most once, and a good part of them.
    rows = json.loads(run.workspace.local(records.quantized_evaluation.onnx.predictions).read_text())
    known = [row["annotation_id"] for row in rows if row["annotation_id"] is not None]
    assert len(known) == len(set(known))
    persons = records.fp32.fingerprint.num_persons
    assert 0.3 * persons < len(known) <= persons

    page = run.workspace.local(run.result(steps.report).html).read_text()
    found = [int(count) for count in re.findall(r"<b>(?:FP32|int8)</b> (\d+) persons?", page)]
    assert len(found) == 4
    assert min(found) > 0
