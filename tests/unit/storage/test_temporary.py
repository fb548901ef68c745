from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections import Counter
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

LINKER = """
import sys
from pathlib import Path
from hpe_tasks.faults import reached
from hpe_tasks.storage.files import link_file

reached("begins")
link_file(*map(Path, sys.argv[1:]))
"""

SWITCHER = """
import sys
from pathlib import Path
from hpe_tasks.storage.files import link_file

folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for name in "ba":
        link_file(folder / name, folder / "shown")
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
    record = tmp_path / "record"
    assert linker(f"record:{record}", stored, shown) == 0
    assert len(record.read_text().splitlines()) == 2, "it tries a first link, and changes nothing"
    assert hidden(tmp_path) == []


def linker(fault: str, stored: Path, shown: Path) -> int:
    """Exit status of a process that shows a file, with this fault."""
    code = [sys.executable, "-c", LINKER, str(stored), str(shown)]
    return subprocess.run(code, env=os.environ | {"HPE_FAULT": fault}, check=False).returncode


def test_a_kill_while_another_file_is_shown_leaves_one_of_the_two_and_nothing_that_stays(tmp_path: Path) -> None:
    old, new, shown, record = (tmp_path / name for name in ("old", "new", "shown", "record"))
    old.write_bytes(b"old content")
    new.write_bytes(b"new content")
    link_file(old, shown)
    assert linker(f"record:{record}", new, shown) == 0
    points = [line.split("\t")[1] for line in record.read_text().splitlines()]
    assert any(point.startswith("rename in storage.temporary") for point in points)
    for number, point in enumerate(points):
        link_file(old, shown)
        nth = points[: number + 1].count(point)
        assert linker(f"kill:{point}#{nth}", new, shown) == -signal.SIGKILL
        assert shown.read_bytes() == b"old content", point
        link_file(new, shown)
        assert shown.samefile(new)
        assert hidden(tmp_path) == [], point
        assert new.stat().st_nlink == 2


def test_who_reads_while_another_file_is_shown_finds_one_of_the_two(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    contents = {b"a" * 100_000, b"b" * 50_000}
    for content in contents:
        (tmp_path / chr(content[0])).write_bytes(content)
    link_file(tmp_path / "a", shown)
    with other_process(SWITCHER, tmp_path) as process:
        found = Counter(shown.read_bytes() for _ in range(3000))
        assert process.poll() is None, "it was at work all the time"
    assert found.keys() == contents


def test_a_copy_stands_in_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, shown = tmp_path / "stored", tmp_path / "shown"
    stored.write_bytes(b"content")
    stored.chmod(0o640)
    shown.write_bytes(b"older")

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    link_file(stored, shown)
    assert shown.read_bytes() == b"content"
    assert not shown.samefile(stored)
    assert (shown.stat().st_mode, shown.stat().st_mtime_ns) == (stored.stat().st_mode, stored.stat().st_mtime_ns)
    assert hidden(tmp_path) == []
