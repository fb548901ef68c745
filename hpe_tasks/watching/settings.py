"""What is watched beside the run's own settings: where the function's log is, and which period was good."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hpe_tasks.config.addresses import redacted
from hpe_tasks.errors import ConfigError
from hpe_tasks.metrics.drift import MIN_IMAGES

_DAYS = re.compile(r"([1-9]\d{0,3}) ?d(?:ays?)?")
_REQUESTS = re.compile(r"([1-9]\d{0,6}) ?requests")


@dataclass(frozen=True)
class GoldenPeriod:
    """The requests that those of later are compared with: one of three.

    Attributes:
        text: As it was given.
        days: The first days after the served version was promoted.
        requests: So many first requests to that version.
        dates: From one moment to another, whichever version answered.
    """

    text: str
    days: int | None = None
    requests: int | None = None
    dates: tuple[datetime, datetime] | None = None

    @classmethod
    def parse(cls, text: str) -> GoldenPeriod:
        """Read `7d`, `2000 requests` or `2026-11-01/2026-11-08`; raises ConfigError for anything else."""
        if found := _DAYS.fullmatch(text.strip()):
            return cls(text, days=int(found[1]))
        if (found := _REQUESTS.fullmatch(text.strip())) and int(found[1]) >= MIN_IMAGES:
            return cls(text, requests=int(found[1]))
        try:
            begin, end = (_moment(part) for part in text.strip().split("/"))
        except ValueError:
            begin = end = datetime.min.replace(tzinfo=UTC)
        if begin >= end:
            raise ConfigError(
                f"The golden period is {redacted(text)!r}.",
                hint=f"Write it as 7d, as 2000 requests (at least {MIN_IMAGES}), or as 2026-11-01/2026-11-08 (UTC, the "
                "second not included).",
            )
        return cls(text, dates=(begin, end))


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@dataclass(frozen=True)
class WatchSettings:
    """What HPE_WATCH_* say.

    Attributes:
        telemetry: Where the function's log is, as `log_lines.read_lines` takes it; None for no look at drift.
        golden: The period that was good.
        window: How far back requests of now go.
        trust: Whether the run that is started accepts a new file at the checkpoint's address, which a run refuses by
            itself.
    """

    telemetry: str | None = None
    golden: GoldenPeriod = GoldenPeriod("7d", days=7)
    window: timedelta = timedelta(days=7)
    trust: bool = False

    @classmethod
    def from_environment(
        cls, *, telemetry: str | None = None, golden: str | None = None, window_days: float | None = None
    ) -> WatchSettings:
        """Read HPE_WATCH_TELEMETRY, HPE_WATCH_GOLDEN, HPE_WATCH_WINDOW_DAYS and HPE_WATCH_TRUST_CHECKPOINT.

        What is given takes the place of a variable.

        Raises:
            ConfigError: A value cannot be understood.
        """
        days = os.environ.get("HPE_WATCH_WINDOW_DAYS") or 7.0 if window_days is None else window_days
        try:
            window = timedelta(days=float(days))
        except (ValueError, OverflowError):
            window = timedelta(0)
        if window <= timedelta(0):
            raise ConfigError(f"HPE_WATCH_WINDOW_DAYS is {days!r}.", hint="Set it to a number of days, such as 7.")
        trust = os.environ.get("HPE_WATCH_TRUST_CHECKPOINT") or "0"
        if trust not in {"0", "1"}:
            raise ConfigError(f"HPE_WATCH_TRUST_CHECKPOINT is {trust!r}.", hint="Set it to 1 or 0.")
        return cls(
            telemetry=telemetry or os.environ.get("HPE_WATCH_TELEMETRY") or None,
            golden=GoldenPeriod.parse(golden or os.environ.get("HPE_WATCH_GOLDEN") or "7d"),
            window=window,
            trust=trust == "1",
        )
