"""What is written where no byte is free any more: a clear error, nothing half-written, and it is mended by space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.full_disk import FullDisk

WRITE = """
import errno, json, os, pathlib, shutil, sys
import numpy as np
from safetensors.numpy import save_file
from hpe_tasks.errors import StorageError
from hpe_tasks.records.base import Record
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.storage.local_workspace import LocalWorkspace

folder, elsewhere = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
(elsewhere / "large").write_bytes(b"x" * 100_000)

def refused(write):
    try:
        write()
    except StorageError as error:
        return error.message
    except Exception as error:
        return "No space left on device" in str(error)
    return "written"

def allocate():
    with (folder / "allocated").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4096)

class Told(Record):
    value: int = 1

told = {
    "a step": refused(lambda: LocalWorkspace(folder.parent).once("step", "key", Told, lambda _: Told())),
    "atomically": refused(lambda: write_atomically(folder / "atomic", b"content")),
    "plainly": refused(lambda: (folder / "plain").write_bytes(b"content")),
    "a copy": refused(lambda: shutil.copyfile(elsewhere / "large", folder / "copy")),
    "an array": refused(lambda: np.save(folder / "array.npy", np.zeros(100_000))),
    "weights": refused(lambda: save_file({"w": np.zeros(100_000)}, folder / "weights.safetensors")),
    "allocated": refused(allocate),
}
print(json.dumps([told, sorted(file.name for file in folder.iterdir() if file.is_file() and file.stat().st_size)]))
"""


def test_a_full_disk_is_told_as_such_and_leaves_no_byte(tmp_path: Path) -> None:
    # Where steps of the workspace beside it work.
    folder, elsewhere = tmp_path / "workspace" / "scratch", tmp_path / "elsewhere"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    disk = FullDisk(tmp_path / "full")
    with disk.full(folder):
        told, left = written(disk, folder, elsewhere)
    assert told.pop("a step") == f"The disk is full: {folder} could not be written."
    assert told.pop("atomically") == f"The disk is full: {folder / 'atomic'} could not be written."
    assert told == dict.fromkeys(("plainly", "a copy", "an array", "weights", "allocated"), True)
    assert left == []
    told, left = written(disk, folder, elsewhere)
    assert set(told.values()) == {"written"}
    assert len(left) == len(told) - 1


def written(disk: FullDisk, folder: Path, elsewhere: Path) -> tuple[dict[str, object], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(folder), str(elsewhere)],
        env=os.environ | disk.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, left = json.loads(done.stdout)
    return told, left
