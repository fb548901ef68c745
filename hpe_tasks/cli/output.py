"""What commands print that list things: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV with a header instead of a table.")]

DASH = "–"

Rows = Sequence[Mapping[str, Any]]


def print_rows(
    rows: Rows, shown: Callable[[int], RenderableType], *, as_json: bool, as_csv: bool, columns: Iterable[str]
) -> None:
    """Print flat records: as a list of objects, as CSV, or as it is shown to people.

    Args:
        rows: The records.
        shown: Makes what people see, for a terminal that has so many columns.
        as_json: Print JSON.
        as_csv: Print CSV.
        columns: Of CSV, also where there is no row.

    Raises:
        ConfigError: JSON and CSV are both asked for.
    """
    refuse_both(as_json, as_csv)
    if as_json:
        typer.echo(json.dumps(list(rows), indent=1))
    elif as_csv:
        print_csv(rows, columns)
    else:
        from rich.console import Console

        console = Console()
        console.print(shown(console.width))


def print_csv(rows: Rows, columns: Iterable[str]) -> None:
    """Print a line for each record, below the names of the columns; values of a list are joined by spaces."""
    writer = csv.DictWriter(sys.stdout, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def refuse_both(as_json: bool, as_csv: bool) -> None:
    """Raise ConfigError where JSON and CSV are both asked for."""
    from hpe_tasks.errors import ConfigError

    if as_json and as_csv:
        raise ConfigError("--json and --csv were both given.", hint="Choose one.")


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
