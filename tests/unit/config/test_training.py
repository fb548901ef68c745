from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.training import SCHEDULES
from support.training_factory import top_down


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param({"input_width": 100}, "multiples of 32", id="size"),
        pytest.param({"val_split": "train"}, "both 'train'", id="same split"),
        pytest.param({"epoch": 3}, "epoch", id="unknown key"),
        pytest.param({"architecture": "onnx"}, "architecture", id="onnx"),
        pytest.param({"learning_rate": 0}, "learning_rate", id="learning rate"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        top_down(**fields)


def test_the_schedules_measure_what_they_train() -> None:
    for name, stages in SCHEDULES.items():
        assert len({stage.architecture for stage in stages}) == 1, name
        assert all(stage.initial_weights in (None, SAMPLE) for stage in stages), name
        assert all(stage.val_split == "val" for stage in stages), name


@pytest.mark.parametrize("module", ["hpe_tasks.config.training", "hpe_tasks.config.loading"])
def test_settings_are_read_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join({{'torch', 'numpy', 'cv2'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
