"""How many files one more codec, data set, backbone, pipeline, check of the gate or rung of the ladder takes.

And that these are enough.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.further import FURTHER, Further, copy_of


@pytest.mark.parametrize("further", [pytest.param(one, id=what) for what, one in FURTHER.items()])
def test_one_more_takes_few_files(further: Further) -> None:
    assert 0 < len(further.files) <= further.most, further.files


CODEC = """
import json, sys
from pathlib import Path
from hpe_tasks.config.help import describe_setting
from hpe_tasks.config.training import TrainingConfig
from support.dot_pictures import CONFIG, ONE, TWO, colour_network, measure, write_dataset
from support.named_outputs import heatmap_network

dataset = write_dataset(Path(sys.argv[1]), [ONE, TWO])
config = CONFIG.model_copy(update={"codec": "peaks"})
report, rows = measure(dataset, heatmap_network(colour_network), config)
print(json.dumps({
    "choices": "one of heatmap, peaks, paf, simcc" in describe_setting("model.codec", choices=True),
    "decoder": report.fingerprint.decoder.partition(";")[0],
    "found": report.stats.ap > 0.9 and len(rows) == 2,
}))
"""

DATASET = """
import json, sys
from pathlib import Path
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.help import describe_setting
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.splits import load_split
from hpe_tasks.datasets import KINDS
from hpe_tasks.data.validation import validate_dataset
from support.dot_pictures import colour_network, measure

root = Path(sys.argv[1])
make_sample(root, SampleSpec(train=1, calibration=2, val=3), splits=["calibration", "val"], kind=KINDS["wrists"])
config = DatasetConfig(kind="wrists", source="sample", min_persons=1)
report, rows = measure(load_split("wrists", root, "val"), colour_network)
outcome = validate_dataset(root, config, root / "out", "d" * 64)
print(json.dumps({
    "choices": "wrists" in describe_setting("dataset.kind", choices=True),
    "skeleton": "wrists" in describe_setting("model.skeleton", choices=True),
    "valid": not outcome.problems and outcome.checks_run > 5,
    "joints": [joint for joint, _, _ in report.fingerprint.joint_map],
    "numbers": {len(row["keypoints"]) for row in rows} <= {6},
}))
"""

BACKBONE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from hpe_tasks.config.help import describe_setting
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.models import build_model
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import quantize_model

folder = Path(sys.argv[1])
config = ModelConfig(architecture="pose_plain", checkpoint="w.pth", input_width=64, input_height=96)
torch.manual_seed(0)
torch.save(build_model(config).state_dict(), folder / "w.pth")
crops = np.random.default_rng(0).normal(size=(4, 3, 96, 64)).astype(np.float32)
maps = fp32_predictor(config, folder / "w.pth", "cpu")(crops)["heatmaps"]
recipe = QuantizationRecipe(calibration_images=4)
(folder / "quantized").mkdir(), (folder / "exported").mkdir()
quantized = quantize_model(config, recipe, folder / "w.pth", [crops], folder / "quantized", "cpu")
file = export_onnx(config, recipe, quantized.model, quantized.encodings, folder / "exported")
print(json.dumps({
    "choices": "pose_plain" in describe_setting("model.architecture", choices=True),
    "trained": TrainingConfig(architecture="pose_plain").architecture,
    "shape": maps.shape,
    "int8": audit_placement(file).int8_mac_share,
}))
"""

RUNG = """
import json
from typer.main import get_command
from hpe_tasks.cli.app import app
from hpe_tasks.config.loading import load_config
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.steps import choose_recipe

recipe = load_config("sample", overrides={"recipe": "coarse"}).recipe
step = REQUANTIZE.by_name["try_coarse"]
print(json.dumps({
    "command": get_command(app).commands["try-coarse"].help,
    "recipe": [recipe.granularity, recipe.search],
    "first": [other.name for other in REQUANTIZE.upstream(step)],
    "may be chosen": step in REQUANTIZE.upstream(choose_recipe),
}))
"""

USES = [
    pytest.param(
        "rung",
        RUNG,
        {
            "command": "Give each tensor one scale.",
            "recipe": ["per_tensor", "off"],
            "first": ["check_fp32"],
            "may be chosen": True,
        },
        id="rung",
    ),
    pytest.param(
        "codec",
        CODEC,
        {"choices": True, "decoder": "heatmap argmax", "found": True},
        id="codec",
    ),
    pytest.param(
        "data set",
        DATASET,
        {"choices": True, "skeleton": True, "valid": True, "joints": ["right_wrist", "left_wrist"], "numbers": True},
        id="data set",
    ),
    pytest.param(
        "backbone",
        BACKBONE,
        {"choices": True, "trained": "pose_plain", "shape": [4, 17, 24, 16], "int8": 1.0},
        id="backbone",
    ),
]


@pytest.mark.parametrize(("what", "program", "told"), USES)
def test_these_files_are_enough(
    repository: Path, tmp_path: Path, what: str, program: str, told: dict[str, Any]
) -> None:
    tree = copy_of(repository, tmp_path / "tree", "hpe_tasks", "tests/support")
    FURTHER[what].add_to(tree)
    folder = tmp_path / "data"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == told
