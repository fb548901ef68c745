"""Measures how long it takes to list a registry of many versions, and what memory it adds.

    python benchmarks/catalogue.py [--versions 1000] [--models 20] [--rounds 3] [--json]

The registry lies on the embedded S3 server, with manifests as a run writes them, their signatures, and two channels for
each model. Cold is without an index on this machine: every manifest is read. Warm is with it: the registry is listed,
and what its ETags vouch for is taken from the index. Each is measured in a process of its own, which is given a client
and has imported nothing of the catalogue. The server runs on the same cores: `--json` tells its share of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "s3://hpe-models/registry"
CHANNELS = ("production", "staging")
PUT_THREADS = 8
MB = 1e6
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def fill(versions: int, models: int, folder: Path) -> int:
    """Put manifests, signatures and pointers into the registry; returns the size of a manifest."""
    sys.path.insert(0, str(ROOT / "tests"))
    from hpe_tasks.registry.channels import ChannelEntry, ChannelPointer
    from hpe_tasks.registry.layout import RegistryLayout
    from hpe_tasks.storage.s3 import S3Location, make_client
    from support.catalogued import many_manifests

    client, layout = make_client(), RegistryLayout(S3Location.parse(REGISTRY))

    def put(where: S3Location, data: bytes) -> None:
        client.put_object(Bucket=where.bucket, Key=where.key, Body=data)

    sizes: list[int] = []
    latest: dict[str, ChannelEntry] = {}
    with ThreadPoolExecutor(PUT_THREADS) as pool:
        for number, stored in enumerate(many_manifests(folder, versions, models)):
            manifest = stored.manifest
            sizes.append(len(stored.data))
            pool.submit(put, layout.manifest(manifest.name, manifest.version), stored.data)
            pool.submit(put, layout.signature(manifest.name, manifest.version), b"c2lnbmF0dXJl" * 7)
            latest[manifest.name] = ChannelEntry(version=manifest.version, manifest_sha256=stored.sha256)
            for channel in CHANNELS if number >= versions - models else ():
                pointer = ChannelPointer(
                    name=manifest.name,
                    channel=channel,
                    **latest[manifest.name].model_dump(),
                    moved_at=FIRST + timedelta(hours=number),
                    moved_by="ada",
                    reason="publish",
                )
                pool.submit(put, layout.pointer(manifest.name, channel), pointer.model_dump_json().encode())
    return round(statistics.mean(sizes))


def measure(cache: Path) -> dict[str, float]:
    """List the registry once: seconds, of which of this process's CPU, and memory."""
    from hpe_tasks.storage.s3 import S3Location, make_client

    client, process = make_client(), psutil.Process()
    client.list_objects_v2(Bucket="hpe-models", MaxKeys=1)
    before = process.memory_info().rss
    begin = time.perf_counter()
    from hpe_tasks.catalogue.index import list_versions

    imported, cpu = time.perf_counter(), time.process_time()
    found = list_versions(client, S3Location.parse(REGISTRY), cache)
    return {
        "seconds": time.perf_counter() - imported,
        "import_seconds": imported - begin,
        "own_cpu_seconds": time.process_time() - cpu,
        "added_mb": (process.memory_info().rss - before) / MB,
        "versions": len(found.versions),
        "read_anew": found.read_anew,
        "index_mb": sum(file.stat().st_size for file in (cache / "catalogue").iterdir()) / MB,
    }


def in_own_process(cache: Path) -> dict[str, float]:
    """One measurement."""
    command = [sys.executable, __file__, "--measure", str(cache)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def benchmark(versions: int, models: int, rounds: int) -> dict[str, Any]:
    """Fill a registry and list it, cold and warm."""
    from hpe_tasks.local.object_store import ObjectStore

    python = Path(os.environ.get("HPE_OBJECT_STORE_PYTHON", ROOT / ".venv-object-store/bin/python"))
    with tempfile.TemporaryDirectory() as name, ObjectStore(Path(name) / "store", python) as server:
        folder, cache = Path(name), Path(name) / "cache"
        os.environ.update(server.environment)
        manifest_bytes = fill(versions, models, folder / "files")
        serving = psutil.Process(server.pid)
        results: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for _ in range(rounds):
            shutil.rmtree(cache, ignore_errors=True)
            for measured in results.values():
                before = sum(serving.cpu_times()[:2])
                one = in_own_process(cache)
                one["server_cpu_seconds"] = sum(serving.cpu_times()[:2]) - before
                measured.append(one)
    return {"versions": versions, "models": models, "manifest_bytes": manifest_bytes, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    found = benchmark(arguments.versions, arguments.models, arguments.rounds)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['versions']:,} versions of {found['models']} models, {found['manifest_bytes']:,} bytes each")
    for kind in ("cold", "warm"):
        median = {key: statistics.median(one[key] for one in found[kind]) for key in found[kind][0]}
        print(
            f"{kind}: {median['seconds']:.2f} s (own CPU {median['own_cpu_seconds']:.2f} s, the server's "
            f"{median['server_cpu_seconds']:.2f} s), {median['read_anew']:,.0f} read, "
            f"{median['added_mb']:.0f} MB added, imports {median['import_seconds']:.2f} s"
        )


if __name__ == "__main__":
    main()
