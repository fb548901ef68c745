"""Shows changed files to whatever reads files of unknown origin, and counts what came of them.

    PYTHONPATH=tests python benchmarks/fuzz.py [--targets mat onnx …] [--minutes 10] [--cases N] [--seed N]
        [--findings FOLDER] [--json] [--docs docs/benchmarks.md]

Every file is a real one with some of its parts changed by Hypothesis (tests/support/fuzzing). It must be accepted or
refused with an HpeError. Anything else is a finding, and so is a file that takes more than 20 s of processor time or
2 GiB of memory, or that ends the process: unless the process of its own that reads such files first
(`hpe_tasks.untrusted`) refuses it for that. Each finding is kept, with the file that made it, and so is each file that
ended a process. The exit status is 1 if there is any finding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marked_docs import write_docs

if TYPE_CHECKING:
    from support.fuzzing.targets import Seed

TARGETS = ("annotations", "pointer", "channel", "manifest", "mat", "onnx")
CASES_AT_ONCE = 100
CPU_S = 20
MEMORY_BYTES = 2 * 2**30
SPARE_WALL_S = 300
_CASE, _COUNTS = "case.bin", "counts.json"


@dataclass
class Counts:
    """What came of a target's files.

    Attributes:
        apart: Refused by the process of its own, for what they take.
        unforeseen: By kind of error and place.
        processor_s: What making and reading them took.
        slowest_s: Processor time of the slowest case that was read to its end.
        memory_mb: Growth of the resident memory of the reading process.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    apart: int = 0
    unforeseen: dict[str, int] = field(default_factory=dict)
    processor_s: float = 0.0
    slowest_s: float = 0.0
    memory_mb: float = 0.0

    @classmethod
    def read(cls, file: Path) -> Counts:
        """What a reader left."""
        return cls(**json.loads(file.read_text()))

    def add(self, other: Counts) -> None:
        """Count the cases of another process as well."""
        for name in ("cases", "accepted", "refused", "apart", "processor_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.unforeseen = dict(Counter(self.unforeseen) + Counter(other.unforeseen))
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.memory_mb = max(self.memory_mb, other.memory_mb)


class Reader:
    """Reads cases one after the other, and counts; each lies in a file while it is read, for whoever comes after."""

    def __init__(self, target: str, folder: Path, findings: Path) -> None:
        self.counts = Counts()
        self._target, self._folder, self._findings = target, folder, findings

    def read(self, seed: Seed, data: bytes) -> None:
        """Read one case, and count what came of it."""
        from hpe_tasks.errors import HpeError

        (self._folder / _CASE).write_bytes(seed.name.encode() + b"\n" + data)
        self.counts.cases += 1
        started = time.process_time()
        # Its default action ends the process.
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            seed.read(data)
            self.counts.accepted += 1
        except HpeError:
            self.counts.refused += 1
        except MemoryError as error:
            self.told_apart(seed, data, error)
        except Exception as error:  # noqa: BLE001 - to find whatever was not foreseen is what this is for
            self._found(seed, data, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.counts.slowest_s = max(self.counts.slowest_s, time.process_time() - started)
            self.note()

    def note(self) -> None:
        """Leave the counts in the folder, for when the next case ends the process."""
        self.counts.processor_s = time.process_time()
        partial_file = self._folder / "counts.part"
        partial_file.write_text(json.dumps(asdict(self.counts)))
        partial_file.replace(self._folder / _COUNTS)

    def told_apart(self, seed: Seed, data: bytes, why: Exception) -> None:
        """Count a case that cannot be read here: refused by the process that reads it first, or a finding."""
        from hpe_tasks.errors import HpeError

        if seed.apart is None:
            self._found(seed, data, why)
            return
        try:
            seed.apart(data)
            self._found(seed, data, why)
        except HpeError:
            self.counts.apart += 1
        except Exception as error:  # noqa: BLE001 - as above
            self._found(seed, data, error)

    def _found(self, seed: Seed, data: bytes, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "hpe_tasks" in frame.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"
        kind = f"{type(error).__name__} at {place}"
        self.counts.unforeseen[kind] = self.counts.unforeseen.get(kind, 0) + 1
        name = f"{self._target}-{kind.replace(' ', '_').replace(':', '_')}"
        if not (self._findings / f"{name}.bin").exists():
            self._findings.mkdir(parents=True, exist_ok=True)
            (self._findings / f"{name}.bin").write_bytes(data)
            told = f"{seed.name}\n{''.join(traceback.format_exception(error))[-20_000:]}"
            (self._findings / f"{name}.txt").write_text(told, encoding="utf-8", errors="backslashreplace")


def read_cases(reader: Reader, seeds: list[Seed], first: int, until: float, most: int) -> None:
    """Read cases until the time has come, or so many were read."""
    for seed in seeds:
        seed.read(seed.real)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, seed in enumerate(itertools.cycle(seeds), start=first):
        if time.time() >= until or reader.counts.cases >= most:
            break
        _show_changed(reader, seed, number, min(CASES_AT_ONCE, -(-most // len(seeds))))
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        reader.counts.memory_mb = max(reader.counts.memory_mb, grown_kb / 1000)
        reader.note()


def _show_changed(reader: Reader, seed: Seed, number: int, count: int) -> None:
    import hypothesis

    @hypothesis.seed(number)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(seed.cases)
    def show(data: bytes) -> None:
        reader.read(seed, data)

    show()


def fuzz(target: str, minutes: float, most: int, seed: int, findings: Path) -> Counts:
    """Show files to a target for so long, or so many, in a process that is started again when a file ends it."""
    from support.fuzzing.targets import open_target

    logging.disable(logging.CRITICAL)
    os.environ["HPE_READER_CPU_S"] = str(CPU_S)
    counts, starts = Counts(), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        (folder / "files").mkdir()
        with open_target(target, folder / "files") as seeds:
            until = time.time() + 60 * minutes
            while time.time() < until and counts.cases < most:
                reader = Reader(target, folder, findings)
                first = seed + 1_000_000 * starts
                status = _in_a_process(
                    partial(read_cases, reader, seeds, first, until, most - counts.cases), folder, until
                )
                starts += 1
                if status > 0:
                    # Not by a signal: this program itself failed.
                    said = (folder / "said.txt").read_text(errors="replace").splitlines()
                    raise SystemExit("\n".join([f"{target}:", *(line[:500] for line in said[-60:])]))
                counts.add(Counts.read(folder / _COUNTS))
                if status == 0:
                    break
                findings.mkdir(parents=True, exist_ok=True)
                died = findings / f"{target}-ended-{starts}-{signal.Signals(-status).name}.case"
                (folder / _CASE).replace(died)
                reader = Reader(target, folder, findings)
                _in_a_process(partial(_tell_apart, reader, seeds, died), folder, until)
                counts.add(Counts.read(folder / _COUNTS))
    return counts


def _tell_apart(reader: Reader, seeds: list[Seed], died: Path) -> None:
    name, _, data = died.read_bytes().partition(b"\n")
    [seed] = [seed for seed in seeds if seed.name == name.decode()]
    reader.counts.cases += 1
    reader.told_apart(seed, data, RuntimeError(f"the process that read {died.name} here ended"))
    reader.note()


def _in_a_process(work: Callable[[], None], folder: Path, until: float) -> int:
    """Do something in a process that begins as this one is, libraries and all; gives the status of its end."""
    (folder / _COUNTS).unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        with (folder / "said.txt").open("wb") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - what follows is the end of the process
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        time.sleep(0.02)
        if time.time() > until + SPARE_WALL_S:
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(ended[1])


def processor() -> str:
    """Its name, as the kernel has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(found: dict[str, Counts], minutes: float, seed: int) -> str:
    """The figures as Markdown."""
    lines = [
        f"{minutes:g} minutes for each target, seed {seed}, on a core of {processor()} beside other work:",
        "",
        "| target | files | accepted | refused | refused apart | unforeseen | processor, s | slowest, s | growth, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, counts in found.items():
        numbers = (counts.cases, counts.accepted, counts.refused, counts.apart, sum(counts.unforeseen.values()))
        cells = [name, *(f"{number:,}" for number in numbers), f"{counts.processor_s:.0f}", f"{counts.slowest_s:.2f}"]
        cells.append(f"{counts.memory_mb:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(say: Callable[[str], Any] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="for each target, at most about so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--docs", type=Path, help="Markdown file to write the table into")
    given = parser.parse_args()
    found = {}
    for target in given.targets:
        found[target] = fuzz(target, given.minutes, given.cases, given.seed, given.findings)
        print(f"{target}: {asdict(found[target])}", file=sys.stderr, flush=True)
    text = table(found, given.minutes, given.seed)
    say(json.dumps({name: asdict(counts) for name, counts in found.items()}, indent=1) if given.json else text)
    if given.docs is not None:
        write_docs(given.docs, "fuzz.py", text)
    return 1 if any(counts.unforeseen for counts in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
