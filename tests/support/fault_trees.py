"""What two runs leave, compared: the same names and bytes, but for what legitimately differs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from hpe_tasks.registry.signing import signer_among

DIFFER = {
    "when": {"started", "finished_at", "created_at", "moved_at", "recorded_at", "startedOn", "finishedOn", "counter"},
    "what was measured of time": {
        "images_per_second",
        "latency",
        "cold_start_ms",
        "duration_ms",
        "seconds",
        "examples_per_s",
        "mtime_ns",
    },
    "names that were drawn": {"moves", "attempt", "entry"},
    "whether this attempt or the one before did it": {"reused", "created", "previous_version"},
    "digests of files that hold one of these": {"manifest_sha256", "package_sha256", "zipped_bytes", "unzipped_bytes"},
}
"""Fields of JSON files in which two undisturbed runs differ, or one that was killed and one that was not."""

_FIELDS = set().union(*DIFFER.values())
_ALSO_NONE = {"previous_version"}
"""Of them, those that only one of the two may have."""

_HOLD_THEM = re.compile(r"(\.html|/manifest\.json|/curves\.jsonl|/lineage/\w+/\w+\.json)$")
"""Addresses of what holds one of these fields: their digests differ as well."""

LOGGED = re.compile(r"(?<=/log/)[0-9TZ.]+(_.*_)[0-9a-f]{32}(?=\.json$)")
ATTEMPT = re.compile(r"(?<=/workspace/store/)(\w+/[0-9a-f]{32}/)[0-9a-f]{12}(?=/)")
"""Folders of a workspace on S3 that hold what one attempt at a step has made: their names are drawn."""

EVENTS = re.compile(r"(?<=/events\.out\.tfevents\.).*")
"""What TensorBoard's files are called by: when they were begun, and by which process."""

_OF_THE_COURSE = (".tfevents.…", "/curves.html", "/training.state")
"""Ends of names of files that tell how fast a training went, and where it was taken up again."""

TEMPORARY = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{8,32}(\.part)?$|\.(tmp|part|making|extracting)(\.json)?$|/scratch/.")


def litter(tree: Iterable[str]) -> list[str]:
    """Names that only files under way have."""
    return [name for name in tree if TEMPORARY.search(name)]


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs between two trees, a line each."""
    told = [f"{name} is left behind" for name in found.keys() - expected.keys()]
    told += [f"{name} is missing" for name in expected.keys() - found.keys()]
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            told.append(f"{name}: {_first_difference(expected[name], found[name])}")
    return sorted(told)


def _first_difference(one: Any, other: Any, where: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return next(_first_difference(one[key], other[key], f"{where}.{key}") for key in one if one[key] != other[key])
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(_first_difference(a, b, f"{where}[{i}]") for i, (a, b) in pairs if a != b)
    return f"{where} was {str(one)[:200]}, is {str(other)[:200]}"


def comparable(name: str, data: bytes) -> Any:
    """A file's content as two are compared."""
    if name.endswith(_OF_THE_COURSE):
        return "a file"
    if name.endswith("/curves.jsonl"):
        # A training that was taken up again says so, and tells again what it had told after its last state.
        told = (json.loads(line) for line in data.decode().splitlines())
        return sorted({json.dumps(_masked(line | {"done": 0})) for line in told})
    if name.endswith(".json"):
        return _masked(json.loads(data))
    if name.endswith(".jsonl"):
        return sorted(data.decode().splitlines())
    if name.endswith(".html"):
        # Times, also those of more than a minute, measured figures, and where charts have put them.
        return re.sub(r"# min # s", "# s", re.sub(r"[0-9a-f]{12,}|\d+(\.\d+)?", "#", data.decode()))
    return hashlib.sha256(data).hexdigest()


def judged(signed: bytes | None, signature: bytes, public_key: bytes) -> str:
    """What a signature file is worth: the bytes that it is over hold a time, so that no two of them are alike."""
    if signed is None:
        return "a signature of nothing"
    return "a valid signature" if signer_among((public_key,), signed, signature) else "a signature that is not valid"


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(one) for one in value]
    if isinstance(value, str):
        return re.sub(r"[\d.,]+ GB (free|available)", r"… \1", ATTEMPT.sub(r"\1…", value))
    if not isinstance(value, dict):
        return value
    hidden = _FIELDS | ({"sha256", "size_bytes"} if _HOLD_THEM.search(str(value.get("uri", ""))) else set())
    masked = {key for key, inner in value.items() if key in hidden and (inner is not None or key in _ALSO_NONE)}
    return {key: "…" if key in masked else _masked(inner) for key, inner in value.items()}
