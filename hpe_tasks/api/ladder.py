"""The recipes that a run has tried, as a result of the API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpe_tasks.api.shown import Shown
from hpe_tasks.records.ladder import RecipeChoice, RungOutcome
from hpe_tasks.report.records import RunRecords

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Ladder(Shown):
    """The rungs of a search for a recipe, cheapest first, and the one that was chosen.

    Attributes:
        rungs: Each with what its recipe does, what the gate said, accuracy, speed and size.
        choice: None as long as none is chosen.
    """

    rungs: tuple[RungOutcome, ...]
    choice: RecipeChoice | None
    _records: RunRecords

    def __iter__(self) -> Iterator[RungOutcome]:
        return iter(self.rungs)

    def __len__(self) -> int:
        return len(self.rungs)

    def __getitem__(self, name: str) -> RungOutcome:
        return next(rung for rung in self.rungs if rung.name == name)

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import ladder_html

        return ladder_html(self._records)

    def _table(self) -> RenderableType:
        from hpe_tasks.report.summary import ladder_table

        return ladder_table(self._records)
