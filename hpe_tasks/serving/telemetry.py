"""Logs, one JSON line each, and metrics within them: CloudWatch reads both from what the function prints.

The line of an invocation follows the Embedded Metric Format, so that metrics cost no call and no time. It holds sizes,
counts, times and how bright the image is as a whole; never pixels, joints, header values, query parameters or bodies.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Level = Literal["INFO", "WARNING", "ERROR"]

UNITS: dict[str, str] = {
    "total_ms": "Milliseconds",
    "decode_image_ms": "Milliseconds",
    "preprocess_ms": "Milliseconds",
    "network_ms": "Milliseconds",
    "decode_people_ms": "Milliseconds",
    "draw_ms": "Milliseconds",
    "load_ms": "Milliseconds",
    "image_bytes": "Bytes",
    "people": "Count",
    "client_errors": "Count",
    "server_errors": "Count",
    "mean_score": "None",
}
"""Metrics, by the member of the log line that holds them, and their CloudWatch units."""

DIMENSIONS = (("function",), ("function", "function_version", "model"))
"""Sets of members that metrics are kept apart by; the first gives alarms on the whole function."""


_MOST_SAMPLES = 32
"""Of an image's side: so many pixels in a row, and so many rows, tell its brightness."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B (ITU-R BT.601)."""


def image_statistics(image: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What a line says of an image's light, in [0, 1]: the mean of R, G and B, and the deviation of its luma.

    They are members of the line and no metrics, which CloudWatch charges for one by one: `hpe watch` reads the lines.
    Taken from a grid of at most 32×32 pixels, and by products of matrices: some ten microseconds, however large the
    image.

    Args:
        image: H×W×3 uint8 RGB, or H×W×4 with a value that is not looked at.
    """
    rows, columns = (max(1, -(-side // _MOST_SAMPLES)) for side in image.shape[:2])
    sampled = image[rows // 2 :: rows, columns // 2 :: columns, :3].reshape(-1, 3) / 255.0
    mean, luma = np.full(len(sampled), 1 / len(sampled)) @ sampled, sampled @ _LUMA
    variance = float(luma @ luma) / len(luma) - float(mean @ _LUMA) ** 2
    return {
        "image_mean": [round(float(value), 4) for value in mean],
        "image_contrast": round(math.sqrt(max(0.0, variance)), 4),
    }


def log(level: Level, message: str, **members: Any) -> None:
    """Print one line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"timestamp": now, "level": level, "message": message, **members}
    print(json.dumps(line, separators=(",", ":"), default=str), flush=True)


def log_invocation(namespace: str, record: Mapping[str, Any]) -> None:
    """Print the line of an invocation; members of `record` that are in `UNITS` become metrics.

    Args:
        namespace: Of the metrics.
        record: `status`, the dimensions, and whatever is known of the invocation.
    """
    metrics = [{"Name": name, "Unit": unit} for name, unit in UNITS.items() if name in record]
    directive = {"Namespace": namespace, "Dimensions": [list(names) for names in DIMENSIONS], "Metrics": metrics}
    embedded = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}
    level: Level = "INFO" if record["status"] < 400 else "WARNING" if record["status"] < 500 else "ERROR"
    log(level, "invocation", **record, **({"_aws": embedded} if metrics else {}))


def describe(error: BaseException) -> dict[str, str]:
    """Members that tell a log's reader what went wrong, and where."""
    trace = traceback.format_exception(error)
    return {"error": type(error).__name__, "reason": str(error), "trace": "".join(trace)}
