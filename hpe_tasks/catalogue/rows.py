"""Rows of the catalogue, chosen and put into order, and as flat records for programs and spreadsheets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hpe_tasks.catalogue.orders import RunOrder, VersionOrder
from hpe_tasks.catalogue.runs import RunSummary
from hpe_tasks.catalogue.summaries import SpeedSummary, VersionSummary
from hpe_tasks.report.records import VerdictKind

_VERSION_KEYS: dict[VersionOrder, Callable[[VersionSummary], Any]] = {
    "published": lambda row: row.published_at,
    "model": lambda row: row.name,
    "accuracy": lambda row: row.int8,
    "lost": lambda row: row.drop,
    "size": lambda row: row.size_bytes,
    "time": lambda row: row.speed and row.speed.int8_ms,
    "speed-up": lambda row: row.speed and row.speed.ratio,
    "int8-share": lambda row: row.int8_share,
}
_RUN_KEYS: dict[RunOrder, Callable[[RunSummary], Any]] = {
    "started": lambda row: row.started,
    "ended": lambda row: row.ended,
    "model": lambda row: row.model,
    "accuracy": lambda row: row.int8,
    "lost": lambda row: row.drop,
}
_BEST_IS_LEAST = {"model", "lost", "size", "time"}

_NOT_SHOWN = {"schema_version", "speed", "input_size"}

_SPEED_COLUMNS = ("int8_ms", "fp32_ms", "speed_up", "threads", "processor")
VERSION_COLUMNS = (
    *(name for name in VersionSummary.model_fields if name not in _NOT_SHOWN),
    *("input_width", "input_height", "lost", "size_ratio"),
    *_SPEED_COLUMNS,
)
RUN_COLUMNS = (*(name for name in RunSummary.model_fields if name not in _NOT_SHOWN), "lost", *_SPEED_COLUMNS)


def chosen_versions(
    rows: Iterable[VersionSummary],
    *,
    model: str | None = None,
    channel: str | None = None,
    search: str | None = None,
    served: bool = False,
    retired: bool = True,
    order: VersionOrder = "published",
    reverse: bool = False,
) -> list[VersionSummary]:
    """Those that are asked for, the latest or best first; rows without the figure come last either way.

    Args:
        rows: As `list_versions` gives them.
        model: Only of this model.
        channel: Only what this channel serves.
        search: Only those of which the name, version, run, recipe, data, architecture, preset or publisher holds this
            text, in whatever case.
        served: Only those that a channel serves.
        retired: Those that are retired, too.
        order: The figure that they are sorted by.
        reverse: The earliest or worst first.
    """
    wanted = [
        row
        for row in rows
        if (model is None or row.name == model)
        and (channel is None or channel in row.channels)
        and (row.channels or not served)
        and (retired or not row.retired)
        and _holds(search, _texts(row))
    ]
    return _ordered(wanted, _VERSION_KEYS[order], descending=(order not in _BEST_IS_LEAST) != reverse)


def chosen_runs(
    rows: Iterable[RunSummary],
    *,
    model: str | None = None,
    verdict: VerdictKind | None = None,
    pipeline: str | None = None,
    search: str | None = None,
    order: RunOrder = "started",
    reverse: bool = False,
) -> list[RunSummary]:
    """Those that are asked for, the latest or best first; as `chosen_versions`."""
    wanted = [
        row
        for row in rows
        if (model is None or row.model == model)
        and (verdict is None or row.verdict == verdict)
        and (pipeline is None or row.pipeline == pipeline)
        and _holds(search, (row.name, row.model, row.preset, row.recipe, row.checkpoint, row.dataset, row.reason))
    ]
    return _ordered(wanted, _RUN_KEYS[order], descending=(order not in _BEST_IS_LEAST) != reverse)


def version_record(row: VersionSummary) -> dict[str, Any]:
    """A version as a flat record, by VERSION_COLUMNS; its channels in a list."""
    kept = row.model_dump(mode="json", exclude=_NOT_SHOWN)
    return {
        **kept,
        "input_width": row.input_size and row.input_size[0],
        "input_height": row.input_size and row.input_size[1],
        "lost": row.drop,
        "size_ratio": row.size_ratio,
        **_speed_record(row.speed),
    }


def run_record(row: RunSummary) -> dict[str, Any]:
    """A run as a flat record, by RUN_COLUMNS."""
    return {**row.model_dump(mode="json", exclude=_NOT_SHOWN), "lost": row.drop, **_speed_record(row.speed)}


def _speed_record(speed: SpeedSummary | None) -> dict[str, Any]:
    return {
        "int8_ms": speed and speed.int8_ms,
        "fp32_ms": speed and speed.fp32_ms,
        "speed_up": speed and speed.ratio,
        "threads": speed and speed.threads,
        "processor": speed and speed.processor,
    }


def _texts(row: VersionSummary) -> tuple[str | None, ...]:
    return (
        *(row.name, row.version, row.run, row.recipe, row.dataset),
        *(row.architecture, row.preset, row.published_by, row.problem),
    )


def _holds(search: str | None, texts: Iterable[str | None]) -> bool:
    return not search or any(search.casefold() in text.casefold() for text in texts if text)


def _ordered(rows: list[Any], key: Callable[[Any], Any], *, descending: bool) -> list[Any]:
    known = [row for row in rows if key(row) is not None]
    unknown = [row for row in rows if key(row) is None]
    return sorted(known, key=key, reverse=descending) + unknown
