"""What the function logs of requests, as it really prints it, and as places of logs keep it."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from support.serving_cases import ask, encoded, http_v2, photo, tiny_service

IMAGES = 240


def pictures(darker: float = 1.0) -> Iterator[bytes]:
    """Photographs of one place at changing light, at most as bright as the lamp allows."""
    rng = np.random.default_rng(5)
    for _ in range(IMAGES):
        light = rng.uniform(0.75, 1.0) * darker
        grain = rng.normal(0, 4, (60, 80, 3))
        yield encoded(np.clip(photo() * light + grain, 0, 255).astype(np.uint8))


def answered(folder: Path, darker: float = 1.0) -> list[dict[str, Any]]:
    """What the function prints when it is asked about the pictures."""
    service, printed = tiny_service(folder), io.StringIO()
    with redirect_stdout(printed):
        for picture in pictures(darker):
            assert ask(service, http_v2(picture, query={"draw": "false"}))[0] == 200
        assert ask(service, http_v2(b"no picture"))[0] == 415
        assert ask(service, http_v2(method="GET"))[0] == 200
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def spread(lines: list[dict[str, Any]], begin: datetime, days: float, **changes: Any) -> list[str]:
    """The lines as they would have been logged over so many days."""
    step = timedelta(days=days) / len(lines)
    return [
        json.dumps({**line, "timestamp": (begin + number * step).isoformat(timespec="milliseconds"), **changes})
        for number, line in enumerate(lines)
    ]


def as_files(folder: Path, lines: list[str]) -> str:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jsonl").write_text("START RequestId: 1\n" + "\n".join(lines[::2]) + "\nREPORT RequestId: 1\n")
    (folder / "deep" / "b.gz").write_bytes(gzip.compress("\n".join(lines[1::2]).encode()))
    return folder.as_uri()
