"""Small drawn data sets of either kind, and predictions on them, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.mpii import FIRST_PIXEL, MpiiDataset, load_mpii
from hpe_tasks.data.mpii.mat import MpiiMat, write_mpii_mat
from hpe_tasks.pose.skeletons import COCO17, MPII16
from hpe_tasks.report.page import ReportFiles

# A standing figure in a box of 1 × 1, in COCO17 order.
_FIGURE = np.array(
    [
        (0.50, 0.08), (0.53, 0.06), (0.47, 0.06), (0.56, 0.07), (0.44, 0.07), (0.64, 0.20), (0.36, 0.20),
        (0.74, 0.36), (0.26, 0.36), (0.80, 0.50), (0.20, 0.50), (0.59, 0.52), (0.41, 0.52), (0.62, 0.75),
        (0.38, 0.75), (0.63, 0.97), (0.37, 0.97),
    ]
)  # fmt: skip


def draw_dataset(root: Path, *, images: int = 4, split: str = "val") -> Path:
    """Write a split with two drawn persons in each image."""
    random = np.random.default_rng(7)
    records, annotations = [], []
    for image_id in range(1, images + 1):
        width, height = 320, 240
        ramp = np.linspace(90, 200, width, dtype=np.float64)[None, :, None] * np.array([0.8, 0.95, 1.0])
        picture = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8))
        pencil = ImageDraw.Draw(picture)
        name = f"{image_id:04d}.jpg"
        records.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for i, left in enumerate((20, 180)):
            w, h = 90.0, float(random.integers(150, 210))
            top = 220 - h
            points = _FIGURE * (w, h) + (left, top) + random.normal(0, 2, (17, 2))
            for a, b in COCO17.limb_indices():
                pencil.line([tuple(points[a]), tuple(points[b])], fill=(70, 60, 50 + 60 * i), width=14)
            pencil.ellipse(
                (points[0][0] - 12, points[0][1] - 12, points[0][0] + 12, points[0][1] + 14), fill=(214, 170, 140)
            )
            keypoints = np.column_stack([points.round(1), np.full(17, 2)])
            annotations.append(
                {
                    "id": 10 * image_id + i,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [float(left), float(top), w, h],
                    "area": w * h * 0.5,
                    "num_keypoints": 17,
                    "keypoints": keypoints.ravel().tolist(),
                }
            )
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name, quality=90)
    content = {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
    }
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return root


def write_predictions(dataset: CocoDataset, path: Path, *, noise: float, seed: int) -> Path:
    """Predictions that miss the truth by a share of the person's size, a few of them badly."""
    random = np.random.default_rng(seed)
    entries = []
    for person in dataset.all_persons():
        size = noise * np.sqrt(person.area) * (4 if random.random() < 0.15 else 1)
        labelled = person.joints[:, 2] > 0
        points = person.joints[:, :2] + random.normal(0, size, (len(labelled), 2))
        scores = np.where(labelled, random.uniform(0.5, 0.95, len(labelled)), 0.05)
        entries.append(
            {
                "image_id": person.image_id,
                "annotation_id": person.annotation_id,
                "category_id": 1,
                "keypoints": np.column_stack([points, scores]).round(3).ravel().tolist(),
                "score": float(scores.mean()),
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def write_mpii_predictions(dataset: MpiiDataset, path: Path, *, noise: float, seed: int) -> Path:
    """The true poses of MPII's persons, moved by some pixels, in image pixels counted from 0."""
    random = np.random.default_rng(seed)
    rows = []
    for person in dataset.persons:
        points = person.joints - FIRST_PIXEL + random.normal(0, noise, (16, 2))
        scores = np.where(person.visible, random.uniform(0.5, 0.95, 16), 0.05)
        keypoints = np.column_stack([points, scores]).round(3).ravel().tolist()
        rows.append({"image": person.image, "person": person.index, "keypoints": keypoints})
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_found_people(
    dataset: CocoDataset, path: Path, *, noise: float, seed: int, missed: tuple[int, ...] = ()
) -> Path:
    """What a bottom-up network would find: no wrists, nobody of `missed`, and somebody in the first image who is not.

    A joint that was not found is (0, 0, 0), the others have the score 1.
    """
    write_predictions(dataset, path, noise=noise, seed=seed)
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in rows if row["annotation_id"] not in missed]
    wrists = [COCO17.joints.index(name) for name in ("left_wrist", "right_wrist")]
    for row in rows:
        keypoints = np.array(row["keypoints"]).reshape(-1, 3)
        keypoints[:, 2] = 1
        keypoints[wrists] = 0
        row["keypoints"] = keypoints.ravel().tolist()
    ghost = np.column_stack([_FIGURE[:, 0] * 40 + 130, _FIGURE[:, 1] * 80 + 20, np.ones(17)])
    rows.append({**rows[0], "annotation_id": None, "keypoints": ghost.ravel().tolist(), "score": 0.4})
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def draw_mpii(root: Path, split: str = "valid") -> Path:
    """The drawn persons as an MPII split: one in each half of four images, pixels counted from 1."""
    coco = load_coco(draw_dataset(root / "drawn", split=split), split)
    rows, joints, boxes = [], [], []
    for image in coco.images:
        for person in coco.persons(image.id):
            known = dict(zip(COCO17.joints, person.joints[:, :2].astype(np.float64), strict=True))
            hips, shoulders = ((known[f"left_{n}"] + known[f"right_{n}"]) / 2 for n in ("hip", "shoulder"))
            top, neck = known["nose"] - (0, 14), (known["nose"] + shoulders) / 2
            known |= {"pelvis": hips, "thorax": shoulders, "upper_neck": neck, "head_top": top}
            points = np.stack([known[name] for name in MPII16.joints]) + FIRST_PIXEL
            middle = (top + neck) / 2 + FIRST_PIXEL
            x, y, w, h = person.box
            rows.append(
                {
                    "image": image.file_name,
                    "center": [x + w / 2 + FIRST_PIXEL, y + h / 2 + FIRST_PIXEL],
                    "scale": h / 200,
                    "joints": points.tolist(),
                    "joints_vis": [1] * 16,
                }
            )
            joints.append(points)
            boxes.append([middle - 14, middle + 14])
    (root / "annot").mkdir()
    (root / "images").symlink_to(coco.root / "images" / split)
    (root / "annot" / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    truth = MpiiMat(np.array(joints), np.ones((len(joints), 16), dtype=np.bool_), np.array(boxes))
    write_mpii_mat(root / "annot" / f"gt_{split}.mat", truth)
    return root


def report_files(folder: Path, *, root: Path | None = None, split: str = "val") -> ReportFiles:
    """A data set (drawn, unless given), predictions of both models on it, and a page of Data Docs."""
    root = root or draw_dataset(folder / "data", split=split)
    dataset = load_coco(root, split)
    docs = folder / "data_docs.html"
    docs.write_text("<!doctype html><h1>Data Docs</h1><p>31 expectations met</p>", encoding="utf-8")
    return ReportFiles(
        dataset_root=root,
        fp32_predictions=write_predictions(dataset, folder / "fp32.json", noise=0.02, seed=1),
        onnx_predictions=write_predictions(dataset, folder / "onnx.json", noise=0.03, seed=2),
        data_docs=docs,
    )


def mpii_files(folder: Path) -> ReportFiles:
    """An MPII data set and the predictions of both models on it."""
    root = draw_mpii(folder / "mpii")
    dataset = load_mpii(root, "valid")
    return ReportFiles(
        dataset_root=root,
        fp32_predictions=write_mpii_predictions(dataset, folder / "mpii_fp32.json", noise=2, seed=1),
        onnx_predictions=write_mpii_predictions(dataset, folder / "mpii_onnx.json", noise=4, seed=2),
    )


def bottom_up_files(folder: Path) -> ReportFiles:
    """A COCO data set of which FP32 does not find annotation 11, and the exported file not annotation 20."""
    root = draw_dataset(folder / "scenes")
    dataset = load_coco(root, "val")
    return ReportFiles(
        dataset_root=root,
        fp32_predictions=write_found_people(dataset, folder / "found_fp32.json", noise=0.02, seed=1, missed=(11,)),
        onnx_predictions=write_found_people(dataset, folder / "found_onnx.json", noise=0.03, seed=2, missed=(20,)),
    )


def files_of_states(folder: Path, states: Iterable[str]) -> dict[str, ReportFiles]:
    """For each state of `run_cases.STATES` the files that its report reads; those of other joints have no pictures."""
    usual = report_files(folder)
    bare = ReportFiles(data_docs=usual.data_docs)
    own = {"mpii": mpii_files(folder), "bottom_up": bottom_up_files(folder), "crowdpose": bare, "own_joints": bare}
    return {state: own.get(state, usual) for state in states}
