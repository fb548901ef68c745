"""Two or more versions or runs beside each other, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpe_tasks.cli.options import print_json
from hpe_tasks.cli.output import print_csv, refuse_both

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hpe_tasks.catalogue.comparing import ComparedRow, ComparedSection, ModelComparison


def print_comparison(comparison: ModelComparison, *, as_json: bool, as_csv: bool) -> None:
    """Print a comparison: a table for each section; of CSV one line for each row, with its section."""
    refuse_both(as_json, as_csv)
    if as_json:
        print_json(comparison)
        return
    rows = [
        {"section": section.name, "row": row.label, **dict(zip(comparison.columns, _cells(row, as_csv), strict=True))}
        for section in comparison.sections
        for row in section.rows
    ]
    if as_csv:
        print_csv(rows, ("section", "row", *comparison.columns))
        return
    from rich.console import Console

    console = Console()
    for note in comparison.notes:
        console.print(note, style="yellow", highlight=False, markup=False)
    for section in comparison.sections:
        console.print(_shown(comparison, section))


def _shown(comparison: ModelComparison, section: ComparedSection) -> RenderableType:
    if section.rows:
        return _table(comparison, section)
    return f"{section.title}: alike."


def _table(comparison: ModelComparison, section: ComparedSection) -> Table:
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    numbers = section.name in ("figures", "joints")
    table = Table(
        "",
        *(Column(name, justify="right" if numbers else "left", overflow="fold") for name in comparison.columns),
        title=section.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for row in section.rows:
        cells = [Text(value, "bold green" if place in row.best else "") for place, value in enumerate(row.values)]
        table.add_row(Text(row.label, "" if row.same or numbers else "bold"), *cells)
    if section.alike and all(not row.same for row in section.rows):
        table.caption = f"{section.alike} more are alike; --all shows them."
        table.caption_justify = "left"
    return table


def _cells(row: ComparedRow, exact: bool) -> tuple[object, ...]:
    """Numbers as they are, where there are any."""
    if exact and any(number is not None for number in row.numbers):
        return row.numbers
    return row.values
