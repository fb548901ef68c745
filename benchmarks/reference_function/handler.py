"""The reference demo's function as it was meant to work, written anew for comparison.

It does what the demo does, the way the demo does it: OpenCV decodes the picture and squashes all of it to 256×256, a
dynamically quantized network runs, a Python loop looks for the maximum of each joint's heatmap, OpenCV draws. The demo
itself cannot be measured: its package exceeds Lambda's limit, and its handler never returns 200.

Nothing here is slower than it has to be for that behaviour: the session is made once, at init.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

INPUT_SIDE = 256
THRESHOLD = 0.2
MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)
JOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
LIMBS = (
    *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
    *((0, 1), (0, 2), (1, 3), (2, 4)),
)

THREADS = int(os.environ.get("REFERENCE_THREADS", "1"))
cv2.setNumThreads(THREADS)
_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = THREADS
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), _options, ["CPUExecutionProvider"])


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer an HTTP event that holds a picture as base64."""
    started = time.perf_counter()
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(event["body"]), dtype=np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    height, width = picture.shape[:2]
    squashed = cv2.cvtColor(cv2.resize(picture, (INPUT_SIDE, INPUT_SIDE)), cv2.COLOR_BGR2RGB)
    normalized = (squashed.astype(np.float32) / 255 - MEAN) / STD
    inputs = {session.get_inputs()[0].name: normalized.transpose(2, 0, 1)[None]}
    heatmaps = session.run(None, inputs)[0][0]

    joints, points = [], []
    for name, heatmap in zip(JOINTS, heatmaps, strict=True):
        _, score, _, (column, row) = cv2.minMaxLoc(heatmap)
        x, y = column * width / heatmap.shape[1], row * height / heatmap.shape[0]
        points.append((int(x), int(y)) if score > THRESHOLD else None)
        joints.append({"name": name, "x": x, "y": y, "score": float(score)})
    for a, b in LIMBS:
        start, end = points[a], points[b]
        if start and end:
            cv2.line(picture, start, end, (0, 255, 255), 2, cv2.LINE_AA)
    for point in points:
        if point:
            cv2.circle(picture, point, 4, (0, 0, 255), -1, cv2.LINE_AA)
    _, jpeg = cv2.imencode(".jpg", picture)
    body = {
        "joints": joints,
        "hpe": base64.b64encode(jpeg.tobytes()).decode(),
        "timings_ms": {"total": 1000 * (time.perf_counter() - started)},
    }
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}
