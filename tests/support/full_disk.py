"""Programs whose disk becomes full, and is emptied again, when a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.preloaded import library


class FullDisk:
    """A disk that can be full for the programs that have its environment.

    Attributes:
        environment: Of those programs; what they start has the same.
    """

    def __init__(self, switch: Path) -> None:
        self._switch = switch
        self.environment = {"LD_PRELOAD": str(library("full_disk")), "FULL_DISK": str(switch)}

    @contextmanager
    def full(self, folder: Path) -> Iterator[None]:
        """No byte can be written below this folder until the end of the block."""
        told = self._switch.with_suffix(".new")
        told.write_text(str(folder.resolve()))
        told.replace(self._switch)
        try:
            yield
        finally:
            self._switch.unlink()
