"""The sample's trained network on the sample's people: rewritten deconvolutions cost no accuracy."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import Predict, calibration_batches, onnx_predictor
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import load_quantsim, quantize_model
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import CocoStats, Runtime

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.integration]

LARGEST_DIFFERENCE = 0.002
"""In AP, between the file with ConvTranspose and the one with four phases."""


def test_four_phases_keep_the_ap_of_the_sample(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    preset = load_config("sample")
    config, recipe = preset.model, preset.recipe
    make_sample(tmp_path / "data", SampleSpec(calibration=32, val=80), splits=["calibration", "val"])
    judged = load_coco(tmp_path / "data", "val")
    drawn = draw_calibration(load_coco(tmp_path / "data", "calibration"), judged, num_images=32, seed=preset.seed)
    (tmp_path / "quantsim").mkdir()
    batches = calibration_batches(drawn, config, preset.evaluation.batch_size)
    files = quantize_model(config, recipe, sample_checkpoint(), batches, tmp_path / "quantsim", "cpu")

    def average_precision(predict: Predict, runtime: Runtime) -> float:
        report = evaluate(
            judged,
            predict,
            config,
            preset.evaluation,
            runtime=runtime,
            dataset_digest="0" * 64,
            seed=preset.seed,
            predictions_file=tmp_path / "predictions.json",
            artifact=lambda path: Artifact(uri=path.as_uri(), sha256="0" * 64, size_bytes=path.stat().st_size),
        )
        assert isinstance(report.stats, CocoStats)
        assert report.stats.ap is not None
        return report.stats.ap

    measured: dict[bool, float] = {}
    for phases in (False, True):
        out = tmp_path / f"phases-{phases}"
        out.mkdir()
        switched = recipe.model_copy(update={"subpixel_deconvolution": phases})
        path = export_onnx(config, switched, files.model, files.encodings, out)
        transposed = [node for node in onnx.load(path).graph.node if node.op_type == "ConvTranspose"]
        assert len(transposed) == (0 if phases else 3)
        assert (audit_placement(path).int8_mac_share == 1) == phases
        measured[phases] = average_precision(onnx_predictor(path, config), "onnxruntime")
    simulation = load_quantsim(config, recipe, files.model, files.encodings, "cpu")
    simulated = average_precision(simulation, "quantsim")

    assert measured[True] >= preset.gate.min_ap
    assert abs(measured[True] - measured[False]) <= LARGEST_DIFFERENCE
    assert abs(measured[True] - simulated) <= preset.gate.max_quantsim_gap
