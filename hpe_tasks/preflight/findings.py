"""What a check found, and how checks become the record of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpe_tasks.errors import HpeError, TransientError
from hpe_tasks.records.preflight import PreflightCheck

_GB = 1e9


@dataclass(frozen=True)
class Finding:
    """What a check found that does not stop the run.

    Attributes:
        found: What is there, in a few words.
        warning: What to do about it; empty where nothing is to be done.
        cache_bytes: What the run will write into its cache because of it, as far as known.
    """

    found: str
    warning: str = ""
    cache_bytes: int = 0


@dataclass(frozen=True)
class Check:
    """One thing to look at: `look` returns what it found, or raises an HpeError for what must stop the run."""

    name: str
    title: str
    look: Callable[[], Finding]

    def carry_out(self) -> tuple[PreflightCheck, Finding | None]:
        """The check's record, and its finding where it did not fail."""
        try:
            finding = self.look()
        except HpeError as error:
            may_pass = isinstance(error, TransientError)
            return self._record("failed", error.message, error.hint, may_pass=may_pass), None
        state = "warning" if finding.warning else "ok"
        return self._record(state, finding.found, finding.warning), finding

    def _record(self, state: str, found: str, advice: str, *, may_pass: bool = False) -> PreflightCheck:
        fields = {"state": state, "found": found, "advice": advice, "may_pass": may_pass}
        return PreflightCheck.model_validate({"name": self.name, "title": self.title, **fields})


def gigabytes(size_bytes: float) -> str:
    """A size as people read it."""
    return f"{size_bytes / _GB:,.1f} GB" if size_bytes >= _GB / 10 else f"{size_bytes / 1e6:,.0f} MB"
