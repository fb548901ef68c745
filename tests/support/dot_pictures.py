"""COCO data sets of pictures in which every joint is a dot of its own colour: a few lines of network find them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.evaluation import evaluate
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport
from support.named_outputs import heatmap_network

WIDTH, HEIGHT = 480, 360
CATEGORY = 7
# RGB; each has a full channel, so that none is another one fading to black.
COLOURS = [c for c in itertools.product((0.0, 0.5, 1.0), repeat=3) if max(c) == 1.0][:17]
CONFIG = ModelConfig(checkpoint="unused", architecture="onnx", mean=(0, 0, 0), std=(1, 1, 1))


def colour_network(images: np.ndarray, joints: Sequence[str] = COCO17.joints) -> np.ndarray:
    """Heatmaps at a quarter of the input's size: how near a pixel's colour is to that of the joint."""
    maps = np.zeros((len(images), len(joints), images.shape[2] // 4, images.shape[3] // 4), dtype=np.float32)
    for channel, joint in enumerate(joints):
        if joint in COCO17.joints:
            colour = np.array(COLOURS[COCO17.joints.index(joint)]).reshape(1, 3, 1, 1)
            near = np.clip(1 - np.abs(images - colour).max(axis=1) / 0.2, 0, 1).astype(np.float32)
            maps[:, channel] = [cv2.GaussianBlur(one, (0, 0), 3)[::4, ::4] for one in near]
    return maps


def joints_at(x: float, y: float) -> np.ndarray:
    """17 joints on a grid of about 90×200 pixels whose top left corner is (x, y)."""
    return np.array([(x + 30 * (joint % 4), y + 45 * (joint // 4), 2) for joint in range(17)], dtype=np.float64)


ONE, TWO = joints_at(40, 40), joints_at(300, 90)


def box_around(keypoints: np.ndarray) -> list[float]:
    """(x, y, w, h)."""
    corner = keypoints[:, :2].min(axis=0) - 15
    return [*corner.tolist(), *(keypoints[:, :2].max(axis=0) + 15 - corner).tolist()]


def write_dataset(
    root: Path, *images: Sequence[np.ndarray], names: Sequence[str] = COCO17.joints, **changes: Any
) -> CocoDataset:
    """A split `val`: for each image a list of persons, each a list of keypoints (17×3)."""
    folder = root / "images" / "val"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, persons in enumerate(images, start=1):
        picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
        for keypoints in persons:
            for (x, y, visible), colour in zip(keypoints, COLOURS, strict=True):
                if visible:
                    cv2.circle(picture, (int(x), int(y)), 7, [int(255 * c) for c in colour[::-1]], -1)
            box = box_around(keypoints)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": CATEGORY,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "keypoints": (keypoints * (keypoints[:, 2:] > 0)).ravel().tolist(),
            }
            annotations.append(annotation | changes)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        records.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
    category = {"id": CATEGORY, "name": "person", "keypoints": list(names)}
    content = {"images": records, "annotations": annotations, "categories": [category]}
    (root / "annotations" / "person_keypoints_val.json").write_text(json.dumps(content))
    return load_coco(root, "val")


def describe(path: Path) -> Artifact:
    """A file as the workspace describes it."""
    content = path.read_bytes()
    return Artifact(uri=path.as_uri(), sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def measure(
    dataset: CocoDataset,
    network: Callable[[np.ndarray], Any] = colour_network,
    config: ModelConfig = CONFIG,
    *,
    seed: int = 0,
    images: Literal["with_persons", "all"] = "with_persons",
    boxes: Path | None = None,
    further: tuple[int, int] | None = None,
    **evaluation: Any,
) -> tuple[EvaluationReport, list[dict[str, Any]]]:
    """The report and the rows of the predictions file; a network may name its outputs, or give heatmaps."""
    file = dataset.root / "out" / "predictions.json"
    report = evaluate(
        dataset,
        network if config.codec != "heatmap" else heatmap_network(network),
        config,
        EvaluationConfig(**({"batch_size": 4} | evaluation)),
        images=images,
        boxes=boxes,
        runtime="fp32",
        dataset_digest="d" * 64,
        seed=seed,
        predictions_file=file,
        artifact=describe,
        further=further,
    )
    return report, json.loads(file.read_text())
