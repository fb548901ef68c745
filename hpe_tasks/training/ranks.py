"""The further processes of a training on several devices.

They are started as programs, and not as children of `multiprocessing`, which a Celery worker's daemonic processes may
not have. Each ends with the process that started it: it reads from a pipe that closes then, however that ends.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import ConfigError, TrainingError
from hpe_tasks.training.devices import ALONE, Rank

_ENDS_WITHIN_S = 60.0
_LAST_WORDS = 2000
_READY = "ready\n"
_SET_BY_FABRIC = ("MASTER_ADDR", "MASTER_PORT")


@contextmanager
def other_ranks(stages: Sequence[TrainingConfig], root: Path, out: Path, state: Path) -> Iterator[Rank]:
    """Start a process for each further device; gives the rank of this one.

    Raises:
        ConfigError: Stages ask for different numbers of devices, or batches are too small for them.
        TrainingError: Another process ended with an error; shows its last words.
    """
    [processes, *others] = {stage.devices for stage in stages}
    if others:
        raise ConfigError("The stages of a training take equally many devices.", hint="Set devices in none, or in all.")
    if processes == 1:
        yield ALONE
        return
    port = _free_port()
    before = {name: os.environ.get(name) for name in _SET_BY_FABRIC}
    with tempfile.TemporaryDirectory() as folder:
        started: list[tuple[subprocess.Popen[str], Path]] = []
        try:
            for number in range(1, processes):
                words = Path(folder) / f"{number}.txt"
                process = _start(words)
                started.append((process, words))
                task = {
                    "rank": vars(Rank(number, processes, port)),
                    "stages": [stage.model_dump(mode="json") for stage in stages],
                    "files": [str(root.absolute()), str(out.absolute()), str(state.absolute())],
                }
                assert process.stdin is not None
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
            for number, (process, words) in enumerate(started, start=1):
                assert process.stdout is not None
                if process.stdout.readline() != _READY:
                    raise _failed(number, process.wait(), words)
            yield Rank(0, processes, port)
            for process, _ in started:
                process.wait(_ENDS_WITHIN_S)
        except RuntimeError as error:  # what waits for a process that is gone raises this
            raise _first_failure(started) or error from error
        finally:
            for process, _ in started:
                process.kill()
                process.communicate()
            _leave(before)


def _start(words: Path) -> subprocess.Popen[str]:
    with words.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _first_failure(started: Sequence[tuple[subprocess.Popen[str], Path]]) -> TrainingError | None:
    for number, (process, words) in enumerate(started, start=1):
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        if code:
            return _failed(number, code, words)
    return None


def _failed(number: int, code: int, words: Path) -> TrainingError:
    said = words.read_text(errors="replace")[-_LAST_WORDS:].strip()
    return TrainingError(f"The process of device {number} ended with code {code}: {said or 'it said nothing'}")


def _leave(before: dict[str, str | None]) -> None:
    """Leave the group, and the environment as it was: another training of this process forms another one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Take part in a training that another process has begun and describes on standard input."""
    from hpe_tasks.training.regression import run_stages
    from hpe_tasks.training.state import TrainingState

    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)  # the first process says it
    rank = Rank(**task["rank"])
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // rank.processes))
    stages = [TrainingConfig.model_validate(stage) for stage in task["stages"]]
    root, out, state = map(Path, task["files"])
    print(_READY, end="", flush=True)
    sys.stdout = sys.stderr
    run_stages(stages, root, out, (), TrainingState(state, stages), rank)


if __name__ == "__main__":
    main()
