"""The templates of the report, with the filters that they use."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

from hpe_tasks.gate.accuracy import Metric, megabytes_text
from hpe_tasks.report.records import short_setting


def templates_for(metric: Metric | None = None) -> Environment:
    """The templates of this package; whatever they show is escaped.

    Args:
        metric: What the figures are of; None for templates that show none.
    """
    environment = Environment(
        loader=PackageLoader("hpe_tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mb": megabytes_text,
        "count": "{:,}".format,
        "short_setting": short_setting,
        "units": unbroken,
        # Unlike Jinja's `capitalize`, it leaves the other letters as they are.
        "capitalized": lambda text: text[:1].upper() + text[1:],
    }
    if metric is not None:
        environment.filters |= {"figure": metric.text, "signed": lambda value: signed(value, metric.text)}
    return environment


def unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return (
        text.replace(" %", "\u00a0%").replace(" MB", "\u00a0MB").replace(" dB", "\u00a0dB").replace(" ms", "\u00a0ms")
    )


def signed(value: float | None, text: Callable[[float | None], str]) -> str:
    """A difference with its sign, in the unit of `text`."""
    return text(value) if value is None else f"{'−' if value < 0 else '+'}{text(abs(value))}"
