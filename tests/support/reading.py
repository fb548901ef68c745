"""Functions that a process of its own is given to read a file with: some do what hostile files make parsers do."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hpe_tasks.errors import DatasetError

SECRET = "s3cr3t of the tests"


def well(file: str) -> None:
    Path(file).read_bytes()


def refuses(file: str) -> None:
    raise DatasetError(f"{file} is not what it should be.")


def takes(file: str, *, size_bytes: int) -> None:
    _ = bytearray(size_bytes)


def takes_and_refuses(file: str, *, size_bytes: int) -> None:
    try:
        takes(file, size_bytes=size_bytes)
    except MemoryError as error:
        raise DatasetError(f"{file} cannot be read.") from error


def computes(file: str) -> None:
    while True:
        pass


def waits(file: str) -> None:
    Path(file).with_suffix(".waiting").touch()
    time.sleep(600)


def crashes(file: str) -> None:
    os.abort()


def leaves(file: str) -> None:
    os._exit(0)


def errs(file: str) -> None:
    raise KeyError("k" * 100_000)


def looks_around(file: str, *, parent: int) -> None:
    found = {
        "folder": os.listdir(),  # noqa: PTH208
        "secrets": [name for name, value in os.environ.items() if value == SECRET],
        "parent": os.getppid() == parent,
    }
    if found != {"folder": [], "secrets": [], "parent": True}:
        raise ValueError(str(found))
