from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpe_tasks.records.run import RunReport
from hpe_tasks.storage import scratch
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.scratch import ABANDONED_S, drop, scratch_folder, sweep
from hpe_tasks.storage.workspace import Scratch
from support.other_process import other_process

OWNER = """
import sys, time
from pathlib import Path
from hpe_tasks.storage.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_next_step_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    workspace, parent = LocalWorkspace(tmp_path), tmp_path / "scratch"
    parent.mkdir()

    def make(folder: Scratch) -> RunReport:
        file = folder.path / "report.html"
        file.write_text("report")
        return RunReport(html=folder.artifact(file))

    with other_process(OWNER, parent) as owner:
        [theirs] = parent.iterdir()
        os.utime(theirs, (0, 0))  # However long it takes.
        workspace.once("report", "while it lives", RunReport, make)
        assert (theirs / "files" / "half").read_text() == "half"
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        workspace.once("report", "afterwards", RunReport, make)
    assert list(parent.iterdir()) == []


def leave_as(boot: str | None, parent: Path) -> Path:
    """A folder as a killed process left it, in this or another boot."""
    left = parent / f"hpe-{boot}"
    left.mkdir()
    (left / "half").write_text("half")
    if boot is not None:
        (left / "owner.lock").write_text(boot)
    return left


@pytest.mark.parametrize(
    ("boot", "age_s", "stays"),
    [
        pytest.param(scratch.boot_id(), 0, False, id="this machine"),
        pytest.param("another", 0, True, id="another machine, perhaps alive"),
        pytest.param("another", ABANDONED_S + 1, False, id="another machine, too old"),
        pytest.param(None, 0, True, id="no lock"),
        pytest.param(None, ABANDONED_S + 1, False, id="no lock, too old"),
    ],
)
def test_only_a_lock_that_certainly_tells_counts(tmp_path: Path, boot: str | None, age_s: float, stays: bool) -> None:
    left = leave_as(boot, tmp_path)
    changed = time.time() - age_s
    os.utime(left, (changed, changed))
    assert sweep(tmp_path) == (not stays)
    assert left.exists() == stays


def test_where_nothing_tells_boots_apart_the_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_BOOT_ID", tmp_path / "absent")
    parent = tmp_path / "scratch"
    parent.mkdir()
    with scratch_folder(parent) as folder:
        assert [path.name for path in folder.parent.iterdir()] == ["files"]
        assert sweep(parent) == 0


def test_an_interrupted_removal_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with monkeypatch.context() as patched:
        patched.setattr(scratch, "_remove", lambda _: None)
        drop(tmp_path / "one", tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert sweep(tmp_path / "scratch") == 1
    drop(tmp_path / "one", tmp_path / "scratch")
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "two"}
