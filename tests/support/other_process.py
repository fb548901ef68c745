"""Another process that has something in its hands, and dies with it when a test says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def other_process(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program until it has printed `ready`; it is killed at the end of the block, if it still lives.

    Args:
        code: The program, whose first argument is `path`.
    """
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
