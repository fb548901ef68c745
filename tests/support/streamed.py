"""Takes a large file to S3 and back in each way that the product has, and prints what memory each took.

    python streamed.py WORKSPACE FOLDER SIZE_MB

Started as a process of its own: the highest memory of a process that tests run in is that of all tests before.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.s3 import S3Location, make_client
from hpe_tasks.storage.s3_objects import download, upload
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Scratch

MB = 1_000_000


class Kept(Record):
    """What a step has made."""

    file: Artifact


def memory_mb(name: str) -> float:
    """A figure of this process in MB, as the kernel tells it: `VmRSS` now, `VmHWM` at most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith(f"{name}:"))


def growth_mb(do: Callable[[], object]) -> float:
    """By how much the memory of this process was higher, at most, than before."""
    Path("/proc/self/clear_refs").write_text("5")  # begins a new VmHWM
    before = memory_mb("VmRSS")
    do()
    return memory_mb("VmHWM") - before


def large_file(file: Path, size_mb: int) -> str:
    """Write what no compression makes small; its SHA-256."""
    with file.open("wb") as out:
        for _ in range(size_mb):
            out.write(os.urandom(MB))
    return sha256_file(file)


def main() -> None:
    where, folder, size_mb = S3Location.parse(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    client, large = make_client(), folder / "large"
    sha256 = large_file(large, size_mb)
    workspace = S3Workspace(where / "workspace", client, folder / "cache")
    client.list_objects_v2(Bucket=where.bucket)  # what a client loads with its first request is not the file's
    grown: dict[str, float] = {}
    kept: list[Kept] = []

    def make(scratch: Scratch) -> Kept:
        (scratch.path / "large").hardlink_to(large)
        return Kept(file=scratch.artifact(scratch.path / "large"))

    def store() -> None:
        kept.append(workspace.once("step", "key", Kept, make)[0])

    def fetch() -> None:
        assert sha256_file(workspace.local(kept[0].file)) == sha256

    def read_through() -> None:
        assert workspace.digest(kept[0].file.uri.removeprefix(f"{workspace.uri}/")) == sha256

    def back() -> None:
        download(client, where / "blob", folder / "back", sha256)

    grown["a step's result, stored"] = growth_mb(store)
    grown["a step's result, fetched"] = growth_mb(fetch)
    grown["a step's result, read through"] = growth_mb(read_through)
    grown["a registry's file, uploaded"] = growth_mb(lambda: upload(client, large, where / "blob", sha256))
    grown["a registry's file, downloaded"] = growth_mb(back)
    # That the figures are those of a whole file in memory where one is: the same object, not streamed.
    whole = growth_mb(client.get_object(Bucket=where.bucket, Key=(where / "blob").key)["Body"].read)
    print(json.dumps({"streamed": grown, "whole": whole}))


if __name__ == "__main__":
    main()
