"""Measures what fine-tuning does for pictures of a style that a network has never seen.

    python benchmarks/fine_tuning.py [--styles looks] [--images 60] [--judged 40] [--tune-epochs 6] [--json]
    python benchmarks/fine_tuning.py --styles sceneries --pictures 1600 --epochs 20 --images 150 --judged 200

The pictures have two styles. With `looks` the first is that of the sample, on which its network was trained, and the
other are negatives of such pictures. With `sceneries` people stand before a city or trees, or else in a room or before
shapes, and a network is trained on the first half of them at the beginning.

Then it is trained on with few pictures of the other style and the settings of `hpe train --from`. AP on pictures of
either style that neither learning nor the choice of an epoch has seen: `before` and `after`. Beside it `control`: the
same settings on as many pictures of the first style, which tells what comes of training longer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2

from hpe_tasks.config.fine_tuning import fine_tuning_stages
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.contract.cpu import cpu_features, processor_name
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import SCENERIES, SampleSpec, make_sample
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.records.base import Artifact
from hpe_tasks.training.regression import train, train_stages

STYLES = ("first", "other")
BASE = TrainingConfig(device="cpu", seed=1)


@dataclass(frozen=True)
class Measured:
    """AP of one network on pictures of each style."""

    network: str
    first: float
    other: float


def draw_looks(root: Path, style: str, spec: SampleSpec) -> None:
    make_sample(root, spec)
    if style == "other":
        for file in root.rglob("*.jpg"):
            pixels = cv2.imread(str(file))
            if pixels is None:
                raise OSError(f"{file} cannot be read")
            cv2.imwrite(str(file), cv2.bitwise_not(pixels), [cv2.IMWRITE_JPEG_QUALITY, 90])


def draw_sceneries(root: Path, style: str, spec: SampleSpec) -> None:
    make_sample(root, spec, sceneries=SCENERIES[:2] if style == "first" else SCENERIES[2:])


def few(root: Path, images: int) -> None:
    """Keep so many images of a training split, as somebody has who has annotated them by hand."""
    file = root / "annotations" / "person_keypoints_train.json"
    content = json.loads(file.read_text())
    content["images"] = content["images"][:images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    file.write_text(json.dumps(content))


def average_precision(weights: Path, config: TrainingConfig, judged: CocoDataset, folder: Path) -> float:
    described = config.model_config_for(str(weights))
    report = evaluate(
        judged,
        fp32_predictor(described, weights, "cpu"),
        described,
        EvaluationConfig(batch_size=32),
        runtime="fp32",
        dataset_digest="0" * 64,
        seed=0,
        predictions_file=folder / "predictions.json",
        artifact=lambda path: Artifact(uri=path.as_uri(), sha256="0" * 64, size_bytes=path.stat().st_size),
    )
    return float(report.accuracy or 0.0)


def measured(network: str, weights: Path, judged: dict[str, CocoDataset], folder: Path) -> Measured:
    found = Measured(network, *(average_precision(weights, BASE, judged[style], folder) for style in STYLES))
    print(told(found), file=sys.stderr)
    return found


def told(one: Measured) -> str:
    return f"{one.network:8}  first style {one.first:.3f}  other style {one.other:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", choices=("looks", "sceneries"), default="looks")
    parser.add_argument("--pictures", type=int, default=1600, help="sceneries: drawn for the training at the beginning")
    parser.add_argument("--epochs", type=int, default=20, help="sceneries: of the training at the beginning")
    parser.add_argument("--images", type=int, default=60, help="that a network is tuned on")
    parser.add_argument("--tune-epochs", type=int, default=6, help="of fine-tuning, after those of the head alone")
    parser.add_argument("--val", type=int, default=15, help="pictures to choose an epoch by")
    parser.add_argument("--judged", type=int, default=40, help="pictures to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()

    looks = asked.styles == "looks"
    drawn = asked.images if looks else asked.pictures
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # The sample's own seed would show the network what it was trained on.
        spec = SampleSpec(train=drawn, calibration=asked.judged, val=asked.val, seed=91)
        roots = {style: folder / style for style in STYLES}
        for style, root in roots.items():
            (draw_looks if looks else draw_sceneries)(root, style, spec)
        judged = {style: load_coco(root, "calibration") for style, root in roots.items()}
        begin = BASE.model_copy(update={"epochs": asked.epochs, "val_split": None})
        before = sample_checkpoint() if looks else train(begin, roots["first"], folder / "b.safetensors").checkpoint
        stages = fine_tuning_stages(
            {"initial_weights": str(before)}, {"epochs": asked.tune_epochs, "device": "cpu", "seed": 2}
        )
        for root in roots.values():
            few(root, asked.images)
        found = [measured("before", before, judged, folder)]
        for name, style in (("after", "other"), ("control", "first")):
            tuned = train_stages(stages, roots[style], folder / f"{name}.safetensors").checkpoint
            found.append(measured(name, tuned, judged, folder))
        persons = {style: len(split.all_persons()) for style, split in judged.items()}
    result = {
        "processor": processor_name(),
        "cpu_features": list(cpu_features()),
        "persons": persons,
        "measured": [asdict(one) for one in found],
    }
    if asked.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['processor']}; AP on {persons['first']} and {persons['other']} persons")
    for one in found:
        print(told(one))


if __name__ == "__main__":
    main()
