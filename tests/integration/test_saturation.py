"""The exported file's int8 kernels on every processor: with the default recipe they compute what the file says.

With full-range weights (`saturation_free=false`) sums of products leave 16 bits where VNNI is missing, and the gate's
check of kernels says so: by this it is known that the same check, passed, means something.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.loading import load_config
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.gate.decision import decide
from hpe_tasks.inference import calibration_batches
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.quantization import quantize_model
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.execution import KernelAgreement
from hpe_tasks.records.gate import GateCheck
from support import sample_records as records
from support.processors import PROCESSORS, need, run_on

pytestmark = [pytest.mark.slow, pytest.mark.integration]

COMPARE = """
import sys
from pathlib import Path

import numpy as np

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.onnx_runtime.kernels import compare_kernels

model, config, images = sys.argv[1:]
agreement = compare_kernels(Path(model), ModelConfig.model_validate_json(config), [np.load(images)], num_images=2)
print(agreement.model_dump_json())
"""

# The libraries of the pipeline are this machine's: arm64 has the function's only (test_every_processor.py).
HERE = ("vnni", "avx512", "avx2", "sse4", "haswell")

Export = Callable[[bool], Path]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_sample(folder, SampleSpec(calibration=8), splits=["calibration"])
    path = folder / "images.npy"
    np.save(path, next(iter(calibration_batches(load_coco(folder, "calibration"), load_config("sample").model, 8))))
    return path


@pytest.fixture(scope="module")
def export(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The sample's network, exported once with each kind of weights."""

    @functools.cache
    def _export(saturation_free: bool) -> Path:
        folder, preset = tmp_path_factory.mktemp("network"), load_config("sample")
        recipe = preset.recipe.model_copy(update={"saturation_free": saturation_free})
        for name in ("quantsim", "exported"):
            (folder / name).mkdir()
        batches = [np.load(images)]
        files = quantize_model(preset.model, recipe, sample_checkpoint(), batches, folder / "quantsim", "cpu")
        return export_onnx(preset.model, recipe, files.model, files.encodings, folder / "exported")

    return _export


@pytest.mark.parametrize("saturation_free", [True, False], ids=["default", "full-range"])
@pytest.mark.parametrize("name", HERE)
def test_kernels_compute_what_the_file_says_unless_its_weights_saturate(
    name: str, saturation_free: bool, export: Export, images: Path
) -> None:
    need(name)
    config = load_config("sample").model
    told = run_on(name, ["-c", COMPARE, export(saturation_free), config.model_dump_json(), images])
    kernels = KernelAgreement.model_validate_json(told)
    assert kernels.num_images == 2
    check = _judged(kernels)
    if saturation_free or PROCESSORS[name].exact:
        assert check.passed
        assert kernels.max_difference <= 1
        return
    assert not check.passed
    # Far from the limit, and far beyond codes that round the other way.
    assert kernels.sqnr_db is not None
    assert kernels.sqnr_db < 25
    assert kernels.max_difference > 10
    assert "saturate on x86-64 without VNNI, see recipe.saturation_free" in check.reason
    assert f"this processor is {', '.join(kernels.cpu_features)})" in check.reason
    assert not set(kernels.cpu_features) & {"avx512_vnni", "avx_vnni"}


def _judged(kernels: KernelAgreement) -> GateCheck:
    quantized = QuantizedEvaluation(
        quantsim=records.report("quantsim", 0.61), onnx=records.report("onnxruntime", 0.61), kernels=kernels
    )
    decision = decide(GateLimits(), records.report("fp32", 0.62), quantized, records.exported())
    return next(check for check in decision.checks if check.name == "kernel_sqnr_db")
