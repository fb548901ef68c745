"""The fault injection itself: what it takes for a point, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from hpe_tasks.faults import reached
from hpe_tasks.storage.files import write_atomically

folder = Path(sys.argv[1])
(folder / "before").write_text("no point is reached yet")
reached("begins")
with (folder / "log").open("a") as log:
    log.write("0123456789")
write_atomically(folder / "one", b"one")
write_atomically(folder / "two", b"two")
folder.mkdir(exist_ok=True)
(folder / "absent").unlink(missing_ok=True)
(folder / "log").read_bytes()
reached("ends")
"""


def run(folder: Path, fault: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HPE_FAULT"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=environment | ({} if fault is None else {"HPE_FAULT": fault}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_changes_files_is_recorded_with_who_does_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record = tmp_path / "record"
    assert run(tmp_path / "run", f"record:{record}").returncode == 0
    points = [tuple(line.split("\t")[1:]) for line in record.read_text().splitlines()]
    written = [("open in storage.temporary._create"), ("rename in storage.temporary.replacing")]
    assert [name for name, _ in points if "scandir" not in name] == [
        "begins",
        "open in pathlib",
        *written,
        *written,
        "ends",
    ]
    assert next(Path(path).name for _, path in points if path) == "log"
    assert run(tmp_path / "run", None).returncode == 0
    assert len(record.read_text().splitlines()) == len(points)


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        pytest.param("kill:begins#1", {"before"}, id="named"),
        pytest.param("kill:rename in storage.temporary.replacing#1", {"before", "log", ".one"}, id="first"),
        pytest.param("kill:rename in storage.temporary.replacing#2", {"before", "log", "one", ".two"}, id="second"),
        pytest.param("kill:ends#1", {"before", "log", "one", "two"}, id="end"),
    ],
)
def test_a_kill_hits_where_it_should(tmp_path: Path, fault: str, left: set[str]) -> None:
    assert run(tmp_path, fault).returncode == -signal.SIGKILL
    hidden = {f".{path.name.split('.')[1]}" for path in tmp_path.glob(".*")}
    assert {path.name for path in tmp_path.glob("[!.]*")} | hidden == left


def test_a_torn_file_holds_half_of_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("kept")
    assert run(tmp_path, "tear:open in pathlib#1").returncode == -signal.SIGKILL
    assert (tmp_path / "log").read_text() == "kept01234"
    assert run(tmp_path, "tear:open in storage.temporary._create#2").returncode == -signal.SIGKILL
    [torn] = tmp_path.glob(".two.*")
    assert (torn.read_bytes(), (tmp_path / "one").read_bytes()) == (b"t", b"one")


@pytest.mark.parametrize(("fault", "status"), [("kill:begins#2", 0), ("stop:begins#1", 1)])
def test_a_point_that_is_not_reached_does_nothing_and_a_wrong_plan_is_told(
    tmp_path: Path, fault: str, status: int
) -> None:
    done = run(tmp_path, fault)
    assert done.returncode == status
    assert ("it begins with none of record:, kill: and tear:" in done.stderr) == bool(status)
