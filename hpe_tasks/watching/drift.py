"""Whether requests still look as they did in a period that was good, which is frozen as small histograms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from hpe_tasks.metrics.drift import ALPHA, MAX_PSI, MIN_IMAGES, compare_histograms
from hpe_tasks.records.watch import DriftedStatistic, DriftReport, RequestStatistics
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import Workspace
from hpe_tasks.watching.requests import Line, RequestCounter, earliest
from hpe_tasks.watching.settings import GoldenPeriod, WatchSettings

log = logging.getLogger(__name__)

ReadLines = Callable[[datetime | None, datetime | None], Iterable[dict[str, Any] | None]]
"""Lines of the function's log from one moment to another; None for each that cannot be read."""


@dataclass(frozen=True)
class ServedSince:
    """A version that a channel serves.

    Attributes:
        folder: Of the workspace, for what is remembered of the channel.
        promoted_at: When the channel began to serve it.
    """

    folder: str
    model: str
    version: str
    promoted_at: datetime


def look_for_drift(
    served: ServedSince, settings: WatchSettings, read: ReadLines, workspace: Workspace, now: datetime
) -> DriftReport:
    """Compare the requests of the last days with those of the golden period.

    The first look after the golden period's end freezes it: its histograms are stored once, and every later look
    compares with them, also when the log of that time is gone.

    Raises:
        AccessError: The log is not there, or is denied.
        TransientError: The network failed.
    """
    golden, missing = _golden(served, settings.golden, read, workspace, now)
    if golden is None:
        return _report(not_judged=missing)
    begin = now - settings.window
    if golden.until is not None:
        begin = max(begin, golden.until + timedelta(microseconds=1))
    counter = RequestCounter(served.model, served.version, since=begin, until=now)
    found = counter.add_all(read(begin, now)).counted
    told = {
        "golden_digest": digest_of(golden.model_dump(mode="json")),
        "golden_images": golden.images,
        "golden_since": golden.since,
        "golden_until": golden.until,
        "images": found.images,
        "since": begin,
        "until": now,
        "unreadable_lines": found.unreadable_lines,
    }
    if found.images < MIN_IMAGES:
        return _report(
            **told,
            not_judged=f"since {begin:%Y-%m-%d %H:%M} version {served.version} answered {found.images:,} images; "
            f"{MIN_IMAGES} are needed",
        )
    return _report(**told, statistics=compare_histograms(golden.histograms, found.histograms))


def drift_reason(one: DriftedStatistic, report: DriftReport) -> str:
    """What left the golden period, in a sentence."""
    return (
        f"{one.name} of {one.now.total:,} images since {report.since:%Y-%m-%d} left that of {one.golden.total:,} of "
        f"the golden period: median {_shown(one.golden.median)} → {_shown(one.now.median)}, "
        f"PSI {one.psi:.2f} > {report.max_psi:g}, p = {one.p_value:.1g} < {report.alpha:g}"
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _report(**fields: Any) -> DriftReport:
    return DriftReport(min_images=MIN_IMAGES, max_psi=MAX_PSI, alpha=ALPHA, **fields)


def _golden(
    served: ServedSince, period: GoldenPeriod, read: ReadLines, workspace: Workspace, now: datetime
) -> tuple[RequestStatistics | None, str]:
    """The golden period's record; or None, and why there is none yet."""
    version = None if period.dates else served.version
    asked = [served.model, version, period.days, period.requests, [str(date) for date in period.dates or ()]]
    name = f"{served.folder}/golden/{digest_of(asked)[:16]}.json"
    if (stored := _read(workspace, name)) is not None:
        return stored, ""
    since, until = period.dates or (served.promoted_at, None)
    if period.days is not None:
        until = served.promoted_at + timedelta(days=period.days)
    if until is not None and until > now:
        return None, f"the golden period ends on {until:%Y-%m-%d at %H:%M} UTC"
    counter = RequestCounter(served.model, version, since=since, until=until)
    lines: Iterable[Line | None] = read(since, until)
    if period.requests is not None:
        lines = earliest(lines, period.requests, counter.counts)
    found, least = counter.add_all(lines).counted, period.requests or MIN_IMAGES
    if found.images < least:
        return None, f"the golden period has {found.images:,} images that were answered; {least:,} are needed"
    workspace.create(name, found.model_dump_json(indent=1).encode())
    return _read(workspace, name) or found, ""


def _read(workspace: Workspace, name: str) -> RequestStatistics | None:
    data = workspace.read(name)
    try:
        return None if data is None else RequestStatistics.model_validate_json(data)
    except ValidationError:
        log.warning("%s in %s cannot be read and does not count", name, workspace.uri)
        return None
