"""Registries and workspaces with something in them, for the tests of the catalogue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.pipeline.runs import Pointer, Run
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.records.watch import MadeOf
from hpe_tasks.registry.manifest import ModelManifest, version_of
from hpe_tasks.registry.stored_versions import StoredManifest
from support import sample_records as records
from support.watched_versions import version_made_of, watched_config

FIRST = datetime(2026, 1, 1, tzinfo=UTC)

_JOINTS = 17
_PARTS = 85


def leave(run: Run, step: Any, record: Any) -> None:
    """What a step leaves in a run."""
    run.keep(
        Pointer(
            step=step.name,
            key="0" * 32,
            reused=False,
            finished_at=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
            record=record.model_dump(mode="json"),
        )
    )


def many_manifests(folder: Path, versions: int, models: int) -> Iterator[StoredManifest]:
    """Manifests of models `pose-00`, `pose-01` and so on in turn, each an hour after the one before.

    They hold what a run's manifests hold: each joint's figures, the build, and the comparison of all parts.
    """
    folder.mkdir(parents=True)
    made = MadeOf(checkpoint_sha256="f" * 64, dataset_digest="d" * 64, settings={}, tools={"torch": "2.13.0"})
    whole, _ = version_made_of(watched_config(folder), made, folder / "files")
    parts = tuple(
        PartDifference(part=f"joint/{n}", before=0.61, after=0.6, low=-0.02, high=0.01, limit=0.02, probability=0.99)
        for n in range(_PARTS)
    )
    compared = PairedComparison(num_images=100, available_images=100, confidence=0.95, resamples=2000, parts=parts)
    template = json.loads(
        whole.model_copy(
            update={
                "gate": whole.gate.model_copy(update={"comparison": compared}),
                "latency": records.latency(),
            }
        ).to_bytes()
    )
    for measured in ("fp32", "quantsim", "onnx"):
        template[measured]["by_joint"] = {f"joint_{n}": 0.6 + n / 1000 for n in range(_JOINTS)}
    for number in range(versions):
        yield _numbered(template, whole, number, models)


def _numbered(template: dict[str, Any], whole: ModelManifest, number: int, models: int) -> StoredManifest:
    digest = hashlib.sha256(f"model {number}".encode()).hexdigest()
    files = [
        {**file, "sha256": digest, "blob": blob_key(digest)} if file["role"] == "model" else file
        for file in template["files"]
    ]
    record = {
        **template,
        "name": f"pose-{number % models:02d}",
        "version": version_of(digest, whole.serving, whole.onnx.fingerprint, whole.gate),
        "files": files,
        "proof": {**template["proof"], "model_sha256": digest},
        "provenance": {
            **template["provenance"],
            "run": f"run-{number}",
            "created_at": (FIRST + timedelta(hours=number)).isoformat(),
        },
    }
    data = json.dumps(record, indent=2).encode()
    return StoredManifest(ModelManifest.model_validate_json(data), data)
