"""Killing the steps of a run at every point that they reach, and comparing what a second attempt makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.registry.channel_keys import signed_pointer
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage.scratch import sweep
from support.fault_trees import ATTEMPT, EVENTS, LOGGED, TEMPORARY, comparable, differences, judged

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Point:
    """A point that an undisturbed step has reached.

    Attributes:
        name: As `hpe_tasks.faults` gives it.
        number: The how manieth it was of this name.
        tear: Whether the file that is opened there is cut off, or the process killed before.
        in_child: Whether it is reached in a process that the step starts.
    """

    name: str
    number: int
    tear: bool = False
    in_child: bool = False

    @property
    def is_step(self) -> bool:
        """Whether it is the beginning or end of a step."""
        return self.name.endswith((" begins", " ends")) and " in " not in self.name

    @property
    def fault(self) -> str:
        """As HPE_FAULT takes it."""
        return f"{'tear' if self.tear else 'kill'}:{self.name}#{self.number}"


@dataclass
class Scene:
    """Where a run takes place, and what it is asked.

    Attributes:
        folder: Holds cache, and workspace unless that is elsewhere.
        settings: By the trigger form's keys.
        signing_key: In PEM.
        workspace: Its address.
        environment: What processes are given beside that of the test.
        bucket: Client, name, and what `make_client` takes; None for a scene without S3.
        pipeline: Name of the one whose steps are killed.
        run: Its name.
    """

    folder: Path
    settings: dict[str, Any]
    signing_key: bytes
    workspace: str
    environment: dict[str, str] = field(default_factory=dict)
    bucket: tuple[Any, str, dict[str, str]] | None = None
    pipeline: str = REQUANTIZE.name
    run: str = "killed"

    @property
    def places(self) -> tuple[Path, ...]:
        return self.folder / "workspace", self.folder / "cache"

    @property
    def temporary(self) -> Path:
        """Folder for what processes keep to themselves."""
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        return self.folder / "attempts.log"

    @contextmanager
    def zygote(self) -> Iterator[Zygote]:
        """A process that forks attempts as this scene is now."""
        scene = {
            "settings": self.settings,
            "workspace": self.workspace,
            "cache": str(self.folder / "cache"),
            "log": str(self.log),
            "signing_key": self.signing_key.decode(),
            "s3": {} if self.bucket is None else self.bucket[2],
            "pipeline": self.pipeline,
            "run": self.run,
        }
        paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        environment |= self.environment
        self.temporary.mkdir(exist_ok=True)
        with subprocess.Popen(
            [sys.executable, "-m", "support.fault_zygote", json.dumps(scene)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
        ) as process:
            yield Zygote(process, self)

    def undisturbed(self, zygote: Zygote, step: str) -> tuple[list[Point], dict[str, Any]]:
        """Run a step; the points that it reaches, and what there is afterwards."""
        record = self.folder / f"{step}.points"
        assert zygote.run(step, fault=f"record:{record}") == 0, self.told()
        # A step that is left out reaches none.
        return points_of(record, self.temporary) if record.exists() else [], self.found()

    def begin_next_step(self) -> None:
        """Do what the step that follows begins with: remove scratch folders of processes that are no more."""
        for place in self.places:
            if (place / "scratch").is_dir():
                sweep(place / "scratch")

    def told(self) -> str:
        """The end of what attempts have printed."""
        return self.log.read_text(errors="replace")[-3000:]

    def keep(self, name: str) -> None:
        """Keep what workspace, cache and bucket hold now."""
        kept = self.folder / "kept" / name
        kept.mkdir(parents=True)
        for place in self.places:
            if place.exists():
                _copy(place, kept / place.name)
        if self.bucket is not None:
            for key, data in self._objects().items():
                (kept / "bucket" / key).parent.mkdir(parents=True, exist_ok=True)
                (kept / "bucket" / key).write_bytes(data)

    def restore(self, name: str) -> None:
        """Let workspace, cache and bucket hold what was kept."""
        kept = self.folder / "kept" / name
        for place in self.places:
            if place.exists():
                shutil.rmtree(place)
            if (kept / place.name).exists():
                _copy(kept / place.name, place)
        if self.bucket is not None:
            client, bucket, _ = self.bucket
            root = kept / "bucket"
            wanted = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
            for key, data in self._objects().items():
                if wanted.get(key) != data:
                    client.delete_object(Bucket=bucket, Key=key)
                else:
                    del wanted[key]
            for key, data in wanted.items():
                checksum = b64encode(hashlib.sha256(data).digest()).decode()
                client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumSHA256=checksum)

    def found(self) -> dict[str, Any]:
        """What workspace, cache and bucket hold, without what legitimately differs."""
        tree: dict[str, Any] = {}
        for place in self.places:
            for path in sorted(place.rglob("*")):
                name = EVENTS.sub("…", path.relative_to(self.folder).as_posix())
                if name.startswith("cache/digests"):
                    # Remembers files that have not changed for two seconds: the clock decides which.
                    tree |= {name: "a file"} if TEMPORARY.search(name) else {}
                elif path.is_symlink():
                    tree[name] = f"leads to {path.readlink()}"
                elif path.is_dir():
                    tree[name] = "a folder"
                else:
                    tree[name] = comparable(name, path.read_bytes())
        if self.bucket is not None:
            objects = self._objects()
            named = b"".join(data for key, data in objects.items() if key.endswith("/result.json")).decode()
            for key in objects:
                attempt = ATTEMPT.search(f"/{key}")
                if attempt is not None and attempt[0] not in named:
                    continue  # Of a killed attempt: nobody but a collector can tell that it is none under way.
                # A record of the registry's log is called by when it was written, and by a name that was drawn.
                name = ATTEMPT.sub(r"\1…", LOGGED.sub(r"…\1…", f"/{key}"))[1:]
                assert f"bucket/{name}" not in tree, f"two records of one act, or two attempts' files: {name}"
                tree[f"bucket/{name}"] = self._comparable(key, objects)
        return tree

    def _comparable(self, key: str, objects: dict[str, bytes]) -> Any:
        """An object as two are compared; what is signed, or a signature, with what the signature is worth."""
        data, mine = objects[key], SigningKey(self.signing_key).public_bytes
        if key.endswith(".sig"):
            return judged(objects.get(key.removesuffix(".sig")), data, mine)
        registry, is_pointer, _ = key.partition("/models/") if "/channels/" in key else ("", "", "")
        if not is_pointer or self.bucket is None:
            return comparable(key, data)
        # It holds a time and a counter.
        valid = signed_pointer(data, f"s3://{self.bucket[1]}/{registry}", (mine,))
        pointer = json.loads(data) | {"signature": "a valid signature" if valid else "a signature that is not valid"}
        return comparable(key, json.dumps(pointer).encode())

    def _objects(self) -> dict[str, bytes]:
        assert self.bucket is not None
        client, bucket, _ = self.bucket
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


class Zygote:
    """The process that forks attempts."""

    def __init__(self, process: subprocess.Popen[str], scene: Scene) -> None:
        self._process = process
        self._scene = scene
        self._warm_up: dict[str, Sequence[str]] = {}

    def warm_up(self, modules: Sequence[str], code_of: Sequence[str] = ()) -> None:
        """Import modules, and read the code that steps depend on, once for all attempts."""
        self._warm_up = {"modules": modules, "code of": code_of}

    def learn(self, steps: Sequence[str]) -> None:
        """Run steps once in a process of their own, and import what they import."""
        modules = self._scene.folder / "modules.json"
        assert self.run(*steps, learn=str(modules)) == 0, self._scene.told()
        self.warm_up(json.loads(modules.read_text()), steps)

    def run(self, *steps: str, fault: str = "", **more: str) -> int:
        """The exit status of a process that runs these steps."""
        order = {"steps": steps, "fault": fault, "modules": (), "code of": (), **self._warm_up, **more}
        self._warm_up = {}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline()))


def points_of(record: Path, temporary: Path) -> list[Point]:
    """The points in a record, each with its number; a file that is opened for writing is a point for two faults.

    What a process changes in its temporary folder leaves workspace, cache and registry as they were at the point
    before: of these, the first of each name counts.
    """
    points: list[Point] = []
    times: Counter[tuple[str, str]] = Counter()
    lines = [line.split("\t") for line in record.read_text().splitlines()]
    for process, name, path in lines:
        times[process, name] += 1
        number, in_child = times[process, name], process != lines[0][0]
        if path.startswith(f"{temporary}/") and any(point.name == name for point in points):
            continue
        points.append(Point(name, number, in_child=in_child))
        if name.startswith("open in "):
            points.append(Point(name, number, tear=True, in_child=in_child))
    return points


def _copy(source: Path, target: Path) -> None:
    """Copy a tree with its times, and with files of two names as such."""
    subprocess.run(["cp", "-a", source, target], check=True)


@dataclass
class Outcome:
    """What came of killing a step at points.

    Attributes:
        kills: How many there were.
        recovered: After how many of them nothing was wrong.
        wrong: What was wrong afterwards, a line each.
    """

    kills: int = 0
    recovered: int = 0
    wrong: list[str] = field(default_factory=list)


def kill_everywhere(
    scene: Scene, zygote: Zygote, step: str, points: Sequence[Point], *, before: str, after: dict[str, Any]
) -> Outcome:
    """Kill a step at each of these points, try it a second time, and compare.

    Args:
        scene: Where.
        zygote: Forks the attempts.
        step: Its name.
        points: Where to kill it.
        before: Name under which what was there before the step was kept.
        after: What an undisturbed attempt leaves.
    """
    outcome = Outcome()
    for point in points:
        scene.restore(before)
        first = zygote.run(step, fault=point.fault)
        second = zygote.run(step)
        # Where it is a process of the step's own that was killed, the step fails.
        if first != -signal.SIGKILL and not (point.in_child and first == 1):
            wrong = [f"not hit, the step ended with {first}"]
        elif second != 0:
            wrong = [f"the second attempt ended with {second}: {scene.told()}"]
        else:
            scene.begin_next_step()
            wrong = differences(after, scene.found())
        outcome.kills += 1
        outcome.recovered += not wrong
        outcome.wrong += [f"{step}, {point.fault}: {one}" for one in wrong]
    return outcome
