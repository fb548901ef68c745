"""The SHA-256 of a file, made while something else goes on."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from pathlib import Path

from hpe_tasks.errors import StorageError


class FileDigest:
    """Reads a file in a thread of its own, from now on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digest: tuple[int, str] | None = None
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._make, name="digest", daemon=True)
        self._thread.start()

    def result(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the file, as soon as they are known.

        Raises:
            StorageError: The file cannot be read.
        """
        self._thread.join()
        if self._digest is None:
            raise StorageError(f"{self._file} cannot be read: {self._error}.") from self._error
        return self._digest

    def _make(self) -> None:
        try:
            with self._file.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._digest = size, _sha256(file.fileno()) if size else hashlib.sha256().hexdigest()
        except OSError as error:
            self._error = error


def _sha256(descriptor: int) -> str:
    # In one piece: between two the thread would wait each time until Python's other one lets it continue.
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()
