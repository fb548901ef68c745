"""The SHA-256 of a file, made while something else goes on."""

from __future__ import annotations

import hashlib
import mmap
import threading
from pathlib import Path


class FileDigest:
    """Reads a file in a thread of its own, from now on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digest: tuple[int, str] | None = None
        self._error: OSError | ValueError | None = None
        self._thread = threading.Thread(target=self._make, name="digest", daemon=True)
        self._thread.start()

    def result(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the file, as soon as they are there; raises OSError if it cannot be read."""
        self._thread.join()
        if self._digest is None:
            raise OSError(f"{self._file} cannot be read: {self._error}") from self._error
        return self._digest

    def _make(self) -> None:
        try:
            # In one piece: between two the thread would wait each time until Python's other one lets it continue.
            with self._file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._digest = len(content), hashlib.sha256(content).hexdigest()
        # An empty file cannot be mapped.
        except (OSError, ValueError) as error:
            self._error = error
