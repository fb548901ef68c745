"""An unpacked Lambda package with a small bottom-up network, for `hpe serve --package`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.records.evaluation import ScoreSpread
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.serving.pose_finder import PoseFinder
from hpe_tasks.serving.served_model import ServedModel
from support import sample_records as records
from support.serving_cases import encoded, photo, two_people_onnx

_MODEL = ModelConfig(checkpoint="m.onnx", architecture="onnx", codec="paf", input_width=64, input_height=48)
_OUTPUTS = (
    TensorSpec(name="heatmaps", dtype="float32", shape=("batch", 19, "h", "w")),
    TensorSpec(name="pafs", dtype="float32", shape=("batch", 38, "h", "w")),
)
_SIZE = (300, 200)

Change = Callable[[ModelManifest], ModelManifest]


def unchanged(manifest: ModelManifest) -> ModelManifest:
    return manifest


def write_package(folder: Path, change: Change = unchanged) -> None:
    """A package's model folder whose golden-1 shows the people whom the network finds, and golden-2 others."""
    model = folder / "model"
    model.mkdir(parents=True)
    files = {"model": model / "model.onnx", "encodings": folder / "encodings.json"}
    onnx.save(two_people_onnx(), files["model"])
    files["encodings"].write_text("{}")
    for number in (1, 2):
        files[f"golden-{number}"] = model / f"golden-{number}.jpg"
        files[f"golden-{number}"].write_bytes(encoded(photo(*_SIZE), quality=80 + number))
    manifest = records.manifest(files, config=records.run_config(model=_MODEL), outputs=_OUTPUTS)
    found, _ = PoseFinder(ServedModel.from_manifest(manifest.to_bytes()), files["model"], 1).find(photo(*_SIZE), None)
    golden = [
        GoldenImage(
            file=f"golden-{number}",
            width=_SIZE[0],
            height=_SIZE[1],
            people=tuple(
                GoldenPerson(box=None, joints=tuple((float(x) + moved, float(y), 1.0) for x, y in joints))
                for joints in found.joints
            ),
        )
        for number, moved in ((1, 0.25), (2, 40.0))
    ]
    spread = ScoreSpread(persons=310, low=round(float(found.scores.min()) - 1, 3), median=float(found.scores.max()))
    measured = manifest.onnx.model_copy(update={"person_scores": spread})
    manifest = change(manifest.model_copy(update={"golden": tuple(golden), "onnx": measured}))
    (model / "manifest.json").write_bytes(manifest.to_bytes())
