from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.storage import temporary
from hpe_tasks.storage.files import link_file, write_atomically
from hpe_tasks.storage.temporary import replacing
from support.other_process import other_process

WRITER = """
import sys, time
from pathlib import Path
from hpe_tasks.storage.temporary import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with other_process(WRITER, path) as process:
        write_atomically(path, b"mine")
        assert len(hidden(tmp_path)) == 1  # it lives
        process.send_signal(signal.SIGKILL)
        process.wait()
        (tmp_path / "elsewhere").mkdir()
        write_atomically(tmp_path / "elsewhere/record.json", b"")
        assert len(hidden(tmp_path)) == 1  # it is in another folder
        write_atomically(tmp_path / "another.json", b"")
    assert hidden(tmp_path) == []
    assert path.read_bytes() == b"mine"


def test_another_boot_or_machine_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / ".record.json.abcdef012345"
    theirs.write_bytes(b"half")
    write_atomically(tmp_path / "record.json", b"mine")
    assert hidden(tmp_path) == [theirs]
    monkeypatch.setattr(temporary, "_this_boot", lambda: "abcdef")
    write_atomically(tmp_path / "record.json", b"mine")
    assert hidden(tmp_path) == []


def test_a_file_that_was_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finds it between its creation and its lock."""
    lock = fcntl.flock
    found: list[Path] = []

    def too_late(file: Any, operation: int) -> None:
        if not found:
            found.extend(hidden(tmp_path))
            found[0].unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    with replacing(tmp_path / "record.json") as file:
        file.write(b"whole")
    assert len(found) == 1
    assert (tmp_path / "record.json").read_bytes() == b"whole"


def test_a_first_link_needs_no_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, shown = tmp_path / "stored", tmp_path / "shown"
    stored.write_bytes(b"content")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: pytest.fail("a kill before this would leave the other name"))
        link_file(stored, shown)
    assert shown.samefile(stored)


def test_a_link_that_is_there_needs_no_other_name(tmp_path: Path) -> None:
    stored, shown = tmp_path / "stored", tmp_path / "shown"
    stored.write_bytes(b"content")
    link_file(stored, shown)
    code = (
        "import sys; from pathlib import Path; from hpe_tasks.storage.files import link_file; import hpe_tasks.faults"
    )
    code += "; hpe_tasks.faults.reached('begins'); link_file(*map(Path, sys.argv[1:]))"
    fault = {"HPE_FAULT": "kill:rename in storage.files.link_file#1"}
    again = subprocess.run([sys.executable, "-c", code, str(stored), str(shown)], env=os.environ | fault, check=False)
    assert again.returncode == 0, "it changes nothing"
    assert hidden(tmp_path) == []
    other = tmp_path / "other"
    other.write_bytes(b"other content")
    link_file(other, shown)
    assert shown.samefile(other)
