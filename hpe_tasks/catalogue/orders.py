"""What rows can be sorted and chosen by; `hpe --help` shows it, so nothing is imported here."""

from __future__ import annotations

from typing import Literal

VersionOrder = Literal["published", "model", "accuracy", "lost", "size", "time", "speed-up", "int8-share"]
RunOrder = Literal["started", "ended", "model", "accuracy", "lost"]
Verdict = Literal[
    "published", "passed", "done", "kept", "gate_failed", "refused", "inconclusive", "failed", "unfinished"
]
"""As `hpe_tasks.report.records.VerdictKind`."""
