"""Two versions on the same persons: counted once from the tables published beside them, in a process with bounds."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from hpe_airflow.model_pages import store
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import DigestError, HpeError
from hpe_tasks.gate.accuracy import metric_of
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.registry.evidence import table_role
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.report.interval_chart import IntervalPlot, interval_plot
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading

_ROLE = table_role("onnxruntime")
_NEEDED = ("numpy", "scipy", "cv2", "onnx", "onnxruntime", "faster_coco_eval")
_COUNTER = ("hpe_tasks.verification.paired_versions", "compare_versions")
_LIMITS = Limits(memory_bytes=3_000_000_000, cpu_s=180, wall_s=120)
_ONE_AT_A_TIME = threading.Lock()
_FORM = 1
"""Of what is kept; another one is counted again."""


def paired(manifests: Sequence[ModelManifest]) -> tuple[IntervalPlot | None, str]:
    """What the second of two versions gains over the first, or why that is not known; neither for more versions."""
    if len(manifests) != 2:
        return None, ""
    before, after = manifests
    reason = _why_not(before, after)
    if reason:
        return None, reason
    if not _ONE_AT_A_TIME.acquire(timeout=20):
        return None, "Other versions are being compared: load this page again in a minute."
    try:
        comparison = _kept(before, after)
    except HpeError as error:
        return None, error.message
    finally:
        _ONE_AT_A_TIME.release()
    caption = f"Both files on the same {comparison.num_images:,} images; what {after.version} gains is on the right."
    if comparison.confidence is not None:
        caption += f" {100 * comparison.confidence:g} % interval: paired bootstrap, {comparison.resamples:,} resamples."
    return interval_plot(comparison, metric_of(after.onnx.stats), caption=caption), ""


def _why_not(before: ModelManifest, after: ModelManifest) -> str:
    if unlike := before.onnx.fingerprint.unlike(after.onnx.fingerprint):
        return f"They were not measured alike: {', '.join(unlike)} differ."
    for one in (before, after):
        if not any(file.role == _ROLE for file in one.files):
            return f"{one.version} was published without its table of images."
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed on this API server." if missing else ""


def _kept(before: ModelManifest, after: ModelManifest) -> PairedComparison:
    digests = [one.file(_ROLE).sha256 for one in (before, after)]
    name = hashlib.sha256(" ".join([str(_FORM), *digests]).encode()).hexdigest()[:32]
    kept = Settings.from_environment().cache / "catalogue" / f"paired-{name}.json"
    if not kept.is_file():
        write_atomically(kept, _counted(before, after))
    return PairedComparison.model_validate_json(kept.read_bytes())


def _counted(before: ModelManifest, after: ModelManifest) -> bytes:
    registry = store.registry()
    with tempfile.TemporaryDirectory(prefix="hpe-paired-") as folder:
        tables = [registry.download(one, _ROLE, Path(folder) / f"{one.version}.npz") for one in (before, after)]
        answer = Path(folder) / "answer.json"
        arguments = {"after": str(tables[1]), "answer": str(answer)}
        try_reading(_COUNTER, tables[0], arguments, limits=_LIMITS, kind=DigestError)
        told = json.loads(answer.read_bytes())
    if "problem" in told:
        raise DigestError(told["problem"])
    return json.dumps(told["comparison"]).encode()
