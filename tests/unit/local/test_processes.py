"""Real processes and real signals: whoever of them ends, in whatever way, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpe_tasks.local import processes
from support.left_behind import gone

SCRIPT = [sys.executable, "-I", processes.__file__]

# A child, one that has turned away from its terminal, and one whose parent has ended: all of them are told.
PROGRAM = """
    import os, subprocess, time
    waits = ["sleep", "100"]
    child = subprocess.Popen(waits)
    turned_away = subprocess.Popen(waits, start_new_session=True)
    in_between = subprocess.run(["sh", "-c", "sleep 100 >&- 2>&- & echo $!"], stdout=subprocess.PIPE, check=True)
    print(os.getpid(), child.pid, turned_away.pid, int(in_between.stdout), flush=True)
    time.sleep(100)
"""
STARTER = "import subprocess, sys; subprocess.run(sys.argv[1:])"


class Tree:
    """A process that has started a guarded program, which has started others."""

    def __init__(self) -> None:
        program = [*SCRIPT, sys.executable, "-c", textwrap.dedent(PROGRAM)]
        self.starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, *program], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.starter.stdout is not None
        self.program, *self.others = map(int, self.starter.stdout.readline().split())
        (self.guard,) = processes.children(self.starter.pid)
        (self.second_guard,) = processes.children(self.guard)

    def everything(self) -> list[int]:
        return [self.guard, self.second_guard, self.program, *self.others]

    def end(self) -> None:
        assert self.starter.stdout is not None
        self.starter.stdout.close()
        for pid in (self.starter.pid, *self.everything()):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)
        self.starter.wait()


@pytest.fixture
def tree() -> Iterator[Tree]:
    tree = Tree()
    yield tree
    tree.end()


def wait_until(what: Callable[[], bool], patience_s: float = 20.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("whose", ["starter", "guard", "second_guard", "program"])
def test_nothing_is_left_of_a_program(tree: Tree, whose: str, number: signal.Signals) -> None:
    os.kill(tree.starter.pid if whose == "starter" else getattr(tree, whose), number)
    assert wait_until(lambda: all(map(gone, tree.everything())))


def test_a_program_that_ends_leaves_nothing_either_and_tells_its_status(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import subprocess; open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '100']).pid)); exit(7)"
    done = subprocess.run([*SCRIPT, sys.executable, "-c", code], check=False)
    assert done.returncode == 7
    assert gone(int(file.read_text()))


def test_a_program_that_is_killed_is_told_as_a_shell_tells_it() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([*SCRIPT, sys.executable, "-c", code], check=False).returncode == 128 + signal.SIGKILL


def test_what_does_not_listen_is_killed() -> None:
    deaf = "import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(100)"
    code = f"""
        import subprocess, sys
        from hpe_tasks.local import processes
        processes.guard(patience_s=0.2)
        deaf = subprocess.Popen([sys.executable, "-c", {deaf!r}], stdout=subprocess.PIPE)
        deaf.stdout.readline()
        print(deaf.pid)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert gone(int(done.stdout))


def test_a_signal_that_came_before_the_wish_is_not_missed() -> None:
    """The parent has ended while its child was still starting."""
    environment = os.environ | {processes.STARTER: "1" if os.getppid() != 1 else "2"}
    done = subprocess.run(
        [*SCRIPT, sys.executable, "-c", "print('runs')"], env=environment, capture_output=True, check=False
    )
    assert done.stdout == b""
    assert done.returncode == -signal.SIGTERM


def test_a_program_does_not_pass_on_who_started_it() -> None:
    code = f"import os; print(os.environ.get({processes.STARTER!r}))"
    environment = os.environ | {processes.STARTER: str(os.getpid())}
    done = subprocess.run([*SCRIPT, sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == b"None\n"


def test_a_command_that_is_not_there_is_named() -> None:
    done = subprocess.run([*SCRIPT, "/no/such/command"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "/no/such/command cannot be run: No such file or directory.\n")


def test_on_a_terminal_ctrl_c_arrives_once() -> None:
    """The terminal itself tells every process that belongs to it."""
    import pty

    code = """
        import time
        times = 0
        for said in ("ready", "again"):
            try:
                print(said, flush=True)
                time.sleep(1)
            except KeyboardInterrupt:
                times += 1
        print(f"interrupted: {times}", flush=True)
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*SCRIPT, sys.executable, "-c", textwrap.dedent(code)])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"interrupted: " not in said:
        said += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"interrupted: 1" in said
