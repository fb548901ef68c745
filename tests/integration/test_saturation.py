"""The kernel check on a CPU without VNNI: QEMU's Haswell, on which sums of int8 products saturate."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sample_records as records

from hpe_tasks.config import GateLimits
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.export import export_onnx
from hpe_tasks.gates import decide
from hpe_tasks.inference import calibration_batches
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.presets import load_config
from hpe_tasks.quantization import quantize_model
from hpe_tasks.results import GateCheck, KernelAgreement, QuantizedEvaluation
from tests.conftest import missing

pytestmark = [pytest.mark.slow, pytest.mark.integration]

EMULATED = """
import sys
from pathlib import Path

import numpy as np

from hpe_tasks.config import ModelConfig
from hpe_tasks.kernels import compare_kernels

model, config, images = sys.argv[1:]
agreement = compare_kernels(Path(model), ModelConfig.model_validate_json(config), [np.load(images)], num_images=2)
print(agreement.model_dump_json())
"""


@pytest.fixture(scope="module")
def qemu() -> str:
    found = shutil.which("qemu-x86_64")
    if found is None:
        missing("qemu-x86_64 is not installed (Debian package qemu-user)")
    return found


@pytest.mark.parametrize("reduce_range", [False, True], ids=["full-range", "reduced-range"])
def test_the_gate_refuses_a_model_whose_sums_saturate(qemu: str, reduce_range: bool, tmp_path: Path) -> None:
    preset = load_config("sample")
    config, recipe = preset.model, preset.recipe.model_copy(update={"reduce_range": reduce_range})
    make_sample(tmp_path / "data", SampleSpec(calibration=8), splits=["calibration"])
    images = next(iter(calibration_batches(load_coco(tmp_path / "data", "calibration"), config, 8)))
    np.save(tmp_path / "images.npy", images)
    for name in ("quantsim", "exported"):
        (tmp_path / name).mkdir()
    files = quantize_model(config, recipe, sample_checkpoint(), [images], tmp_path / "quantsim", "cpu")
    path = export_onnx(config, recipe, files.model, files.encodings, tmp_path / "exported")

    answer = subprocess.run(
        [
            *(qemu, "-cpu", "Haswell", sys.executable, "-c", EMULATED),
            *(str(path), config.model_dump_json(), str(tmp_path / "images.npy")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    kernels = KernelAgreement.model_validate_json(answer.stdout)

    assert kernels.num_images == 2
    check = _judged(kernels)
    assert check.passed == reduce_range
    if reduce_range:
        assert kernels.max_difference <= 1
    else:
        # Far from the limit, and far beyond codes that round the other way.
        assert kernels.sqnr_db is not None
        assert kernels.sqnr_db < 25
        assert kernels.max_difference > 10
        assert "saturate on x86 without VNNI, see recipe.reduce_range" in check.reason


def _judged(kernels: KernelAgreement) -> GateCheck:
    quantized = QuantizedEvaluation(
        quantsim=records.report("quantsim", 0.61), onnx=records.report("onnxruntime", 0.61), kernels=kernels
    )
    decision = decide(GateLimits(), records.report("fp32", 0.62), quantized, records.exported())
    return next(check for check in decision.checks if check.name == "kernel_sqnr_db")
