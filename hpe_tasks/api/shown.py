"""What all results of the API have in common: they show themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_TEXT_WIDTH = 120


class Shown(ABC):
    """A result that shows itself: as HTML in a notebook, as a table where it is printed."""

    @abstractmethod
    def _repr_html_(self) -> str:
        """HTML for a notebook's output: with its own styles, without network access, everything escaped."""

    @abstractmethod
    def _table(self) -> RenderableType:
        """What is printed."""

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=_TEXT_WIDTH).print(self._table(), soft_wrap=True)
        return text.getvalue().rstrip()
