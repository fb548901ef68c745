"""What a checkpoint says of its own training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpe_tasks.models.training_record import TRAINING_KEY, trained_on


def record(description: Any = "COCO 2017 Dataset.", input_size: Any = (192, 256)) -> dict[str, str]:
    return {TRAINING_KEY: json.dumps({"dataset": {"description": description}, "input_size": input_size})}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        pytest.param(record(), "COCO 2017 Dataset; input 192×256.", id="as hpe train writes it"),
        pytest.param(record(input_size=None), "COCO 2017 Dataset.", id="without a size"),
        pytest.param(record(input_size=[192]), "COCO 2017 Dataset.", id="half a size"),
        pytest.param(record(" "), None, id="empty description"),
        pytest.param(record(5), None, id="description of another type"),
        pytest.param({TRAINING_KEY: json.dumps({"dataset": []})}, None, id="data set of another type"),
        pytest.param({TRAINING_KEY: "[]"}, None, id="no object"),
        pytest.param({TRAINING_KEY: "{"}, None, id="no JSON"),
        pytest.param({"format": "pt"}, None, id="another writer's"),
        pytest.param(None, None, id="none"),
    ],
)
def test_the_data_set_and_the_input_are_told(tmp_path: Path, metadata: dict[str, str] | None, said: str | None) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, file, metadata=metadata)
    assert trained_on(file) == said


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_that_cannot_be_read_says_nothing_here(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    assert trained_on(tmp_path / name) is None
    assert trained_on(tmp_path / "missing.safetensors") is None
