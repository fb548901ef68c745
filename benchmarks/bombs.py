"""Measures what small files take that are made to take much: memory, processor time and bytes of output.

    PYTHONPATH=tests python benchmarks/bombs.py [--before COMMIT] [--bombs tar run …] [--limit-s 60]
        [--memory-gb 8] [--json] [--docs docs/benchmarks.md]

Each file is shown to this version and, with --before, to the code of an earlier commit, in a process of its own. Memory
is the largest resident set of that process or of one that it started, libraries included; seconds are processor time of
all of them; output is the text of the error, and for `run` what the command printed and what it left in its workspace.
Processes end at --limit-s of processor time or --memory-gb, which the table then says.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz import processor
from marked_docs import write_docs

REPOSITORY = Path(__file__).resolve().parents[1]
READER_CPU_S = 5
MB = 1e6


@dataclass(frozen=True)
class Bomb:
    """A file, and what is done with it.

    Attributes:
        quoted: What issue 11 says of it before; empty where it gives no figure.
        make: Writes the file.
        use: Reads it, in the code that is measured.
    """

    title: str
    quoted: str
    make: Callable[[Path], object]
    use: Callable[[Path], object]


@dataclass(frozen=True)
class Taken:
    """What a file took.

    Attributes:
        end: How it ended: the kind of error, `read`, or the limit that was reached.
    """

    file_bytes: int
    memory_mb: float
    processor_s: float
    output_bytes: int
    end: str


def _weights(path: Path) -> None:
    from hpe_tasks.config.model import ModelConfig

    _take_in(ModelConfig(architecture="pose_mobilenet", checkpoint=str(path)), path)


def _network(path: Path) -> None:
    from support import tiny_networks

    _take_in(tiny_networks.onnx_config(checkpoint=str(path)), path)


def _take_in(config: Any, path: Path) -> None:
    """As a run does when it fetches a checkpoint; earlier versions compared it at once."""
    try:
        from hpe_tasks.data.fetch.taken_in import check_checkpoint
    except ImportError:
        from hpe_tasks.models.fit import check_fit

        check_fit(config, path)
    else:
        check_checkpoint(config, path, path.parent / "cache")


def _mat(path: Path) -> None:
    from hpe_tasks.data.mpii.mat import read_mat

    try:
        from hpe_tasks.data.fetch.taken_in import try_matlab_file
    except ImportError:
        pass
    else:
        try_matlab_file(path, path.parent / "cache")
    read_mat(path)


def _settings(path: Path) -> None:
    from hpe_tasks.config.loading import load_config

    load_config("sample", path)


def _image(path: Path) -> None:
    from hpe_tasks.serving.images import decode_image

    decode_image(path.read_bytes(), 25_000_000)


def _run(path: Path) -> None:
    """`hpe run` as a command, whose output and workspace count."""
    workspace = path.parent / "workspace"
    environment = {**os.environ, "HPE_WORKSPACE": workspace.as_uri(), "HPE_CACHE": str(path.parent / "cache")}
    command = [sys.executable, "-m", "hpe_tasks", "run", "--preset", "sample", "--set", f"model.checkpoint={path}"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    (path.parent / "printed").write_bytes(done.stdout + done.stderr)
    raise RuntimeError(f"exit status {done.returncode}")


def _long_name(path: Path, size_bytes: int) -> None:
    from support.bombs import long_name

    long_name(path, size_bytes)


def _deflated(path: Path) -> None:
    from support.bombs import deflated_weights

    deflated_weights(path, 1_600_000_000)


def _cells(path: Path) -> None:
    from support.bombs import mat_of_cells

    mat_of_cells(path, 10_000_000)


def _loop(path: Path) -> None:
    from support.bombs import endless_loop

    endless_loop(path)


def _aliases(path: Path) -> None:
    from support.bombs import MERGES

    path.write_text(MERGES)


def _scans(path: Path) -> None:
    from support.bombs import jpeg_of_scans

    path.write_bytes(jpeg_of_scans(90, side=4992))


BOMBS: dict[str, Bomb] = {
    "tar": Bomb(
        "`.tgz` with a name of 629 MB", "1.5 GB, message of 629 MB", lambda p: _long_name(p, 629_000_000), _weights
    ),
    "run": Bomb(
        "`.tgz` with a name of 52 MB, `hpe run`", "52 MB each in output, `failure.json` and report",
        lambda p: _long_name(p, 52_000_000), _run,
    ),
    "weights": Bomb("deflated `.pt` of 1.6 GB of zeros", "3.4 GB (of 3 MB)", _deflated, _weights),
    "mat": Bomb("`.mat` of 10 million empty cells", "3.1 GB, 92 s (of 1.5 MB)", _cells, _mat),
    "loop": Bomb("ONNX, a loop of 2^62 trips", "for ever", _loop, _network),
    "nesting": Bomb("YAML, 100,000 deep", "", lambda p: p.write_text("[" * 100_000), _settings),
    "aliases": Bomb("YAML, ten maps that take in the one before nine times", "", _aliases, _settings),
    "jpeg": Bomb("JPEG of 90 scans, 25 Mpixel", "4.8 s (of 151 kB)", _scans, _image),
}  # fmt: skip
SUFFIXES = {"tar": ".tgz", "run": ".tgz", "weights": ".pt", "mat": ".mat", "loop": ".onnx", "jpeg": ".jpg"}


def measure(name: str, code: Path, file: Path, limit_s: int, memory_bytes: int) -> Taken:
    """Show a file to the code of a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy = folder / file.name
        copy.write_bytes(file.read_bytes())
        paths = [str(code), str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HPE_READER_CPU_S": str(READER_CPU_S)}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, "--child", name, str(copy)]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, preexec_fn=limited, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        told = folder / "taken.json"
        found: dict[str, Any] = json.loads(told.read_text()) if told.exists() else {"memory_mb": 0.0, "output_bytes": 0}
        end = found.get("end") or (f"ended at {limit_s} s" if done.returncode < 0 else done.stderr.decode()[-300:])
        workspace = sum(f.stat().st_size for f in (folder / "workspace").rglob("*") if f.is_file())
        printed = (folder / "printed").stat().st_size if (folder / "printed").exists() else 0
        return Taken(file.stat().st_size, found["memory_mb"], spent, found["output_bytes"] + workspace + printed, end)


def child(name: str, file: Path) -> None:
    """Read the file, and leave in its folder what that took."""
    output, end = b"", "read"
    try:
        BOMBS[name].use(file)
    except MemoryError:
        end = "memory at its limit"
    except Exception as error:  # noqa: BLE001 - what an earlier version raises is what is to be told
        output, end = str(error).encode(errors="replace"), type(error).__name__
        if name == "run":
            output, end = b"", str(error)
    usage = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {"memory_mb": max(usage) * 1024 / MB, "output_bytes": len(output), "end": end}
    (file.parent / "taken.json").write_text(json.dumps(told))


def code_of(commit: str, folder: Path) -> Path:
    """The package as it was at a commit."""
    archive = subprocess.run(
        ["git", "archive", commit, "hpe_tasks"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")
    return folder


def table(found: dict[str, dict[str, Taken]], before: str | None) -> str:
    """The figures as Markdown."""
    columns = (["before"] if before else []) + ["now"]
    earlier = (
        f" Before is commit {before}; quoted is what was found by attack then, with other sizes." if before else ""
    )
    lines = [
        f"On {processor()}, processor time of one core.{earlier}",
        "",
        "| file | size, kB | quoted | " + " | ".join(f"{c}: MB | s | output, bytes | end" for c in columns) + " |",
        "|---|---|---|" + "---|---|---|---|" * len(columns),
    ]
    for name, by in found.items():
        size = next(iter(by.values())).file_bytes / 1000
        cells = [BOMBS[name].title, f"{size:,.1f}", BOMBS[name].quoted or "–"]
        for column in columns:
            taken = by[column]
            memory = f"{taken.memory_mb:,.0f}" if taken.memory_mb else "–"
            cells += [memory, f"{taken.processor_s:.1f}", f"{taken.output_bytes:,}", taken.end]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--bombs", nargs="+", choices=BOMBS, default=list(BOMBS))
    parser.add_argument("--limit-s", type=int, default=60)
    parser.add_argument("--memory-gb", type=float, default=8)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--docs", type=Path, help="Markdown file to write the table into")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        try:
            child(given.child[0], Path(given.child[1]))
        except Exception:
            traceback.print_exc()
            raise
        return
    found: dict[str, dict[str, Taken]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        codes = {"before": code_of(given.before, folder / "before")} if given.before else {}
        codes["now"] = REPOSITORY
        for name in given.bombs:
            file = folder / f"bomb{SUFFIXES.get(name, '.yaml')}"
            BOMBS[name].make(file)
            found[name] = {}
            for when, code in codes.items():
                found[name][when] = measure(name, code, file, given.limit_s, int(given.memory_gb * 1e9))
                print(f"{name}, {when}: {found[name][when]}", file=sys.stderr, flush=True)
            file.unlink()
    text = table(found, given.before)
    as_json = {name: {when: asdict(taken) for when, taken in by.items()} for name, by in found.items()}
    print(json.dumps(as_json, indent=1) if given.json else text)
    if given.docs is not None:
        write_docs(given.docs, "bombs.py", text)


if __name__ == "__main__":
    main()
