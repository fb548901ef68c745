"""Schedules as environment variables say them: a time, an asset, or either of them."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import Asset

_EITHER = " or "


def schedule_of(variable: str, asset: Asset) -> Any:
    """The schedule that a variable asks for, as a DAG takes it; None where it is not set.

    It may hold `@weekly` or a cron expression, in UTC; the asset's name; or both with the word `or` between them.

    Args:
        variable: Name of the variable.
        asset: What else may start a run.
    """
    text = (os.environ.get(variable) or "").strip()
    times = [part.strip() for part in text.split(_EITHER) if part.strip() != asset.name] if text else []
    by_asset = asset.name in (part.strip() for part in text.split(_EITHER))
    if len(times) > 1:
        raise ValueError(f"{variable}={text!r} holds {len(times)} times: give one, or {asset.name}, or both with `or`.")
    if not by_asset:
        return times[0] if times else None
    if not times:
        return [asset]
    from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable

    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(times[0], timezone="UTC"), assets=[asset])
