"""Measures how long it takes to list a registry of many versions and to show it, and what memory that adds.

    python benchmarks/catalogue.py [--versions 1000] [--models 20] [--rounds 3] [--json] [--docs docs/benchmarks.md]

The registry lies on the embedded S3 server, with manifests as a run writes them, their signatures, and two channels for
each model. Each figure is of a process of its own:

- listing: what `hpe models list` does; the process is given a client and has imported nothing of the catalogue.
- page: `GET /hpe/models` of Airflow's API application with its login, from the request to the last byte. The
  application is up, and no page of this project was asked for; memory is what its process has grown by.

"no index" has neither a file on this machine nor one in the registry, so every manifest is read; "cold" finds the one
in the registry, as a new machine does; "warm" has its own. The page's second request is of the same process.
Exit code 1 where the page is beyond the limits. The server runs on the same cores: the load is told.
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
from marked_docs import write_docs

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "s3://hpe-models/registry"
CHANNELS = ("production", "staging")
PUT_THREADS = 8
MB = 1e6
COLD_S, WARM_S, ADDED_MB = 3.0, 1.0, 150.0
"""Limits of the page."""
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


def measure_page(cache: Path) -> dict[str, float]:
    """Ask Airflow's application twice for the page of all models: seconds, CPU seconds of this process, memory."""
    os.environ |= {"HPE_REGISTRY": REGISTRY, "HPE_CACHE": str(cache), "HPE_WORKSPACE": (cache / "none").as_uri()}
    sys.path.insert(0, str(ROOT / "tests"))
    from support import airflow_home

    home = airflow_home.prepare()
    os.environ |= {"HPE_CACHE": str(cache)}
    from airflow.utils.db import initdb

    initdb()
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    with TestClient(create_app(apps="core"), base_url="http://airflow.local") as browser:
        login = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ada", role="viewer"))
        browser.cookies.set("_token", login)
        assert browser.get("/api/v2/version").status_code == 200
        process = psutil.Process()
        before, told = process.memory_info().rss, {}
        for which in ("first", "second"):
            begin, cpu = time.perf_counter(), time.process_time()
            answer = browser.get("/hpe/models")
            told[f"{which}_seconds"] = time.perf_counter() - begin
            told[f"{which}_cpu_seconds"] = time.process_time() - cpu
            if answer.status_code != 200:
                raise SystemExit(answer.text[-2000:])
        told["added_mb"] = (process.memory_info().rss - before) / MB
        told["page_mb"] = len(answer.content) / MB
        told["versions"] = answer.text.count('name="version" value=')
    shutil.rmtree(home, ignore_errors=True)
    return told


def in_own_process(cache: Path, what: str) -> dict[str, float]:
    """One measurement, of a listing or of the page."""
    command = [sys.executable, __file__, "--measure", what, "--cache", str(cache)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def benchmark(versions: int, models: int, rounds: int) -> dict[str, Any]:
    """Fill a registry; list and show it without an index, with that of the registry, and with that of this machine."""
    from hpe_tasks.local.object_store import ObjectStore
    from hpe_tasks.storage.s3 import S3Location, make_client

    python = Path(os.environ.get("HPE_OBJECT_STORE_PYTHON", ROOT / ".venv-object-store/bin/python"))
    with tempfile.TemporaryDirectory() as name, ObjectStore(Path(name) / "store", python) as server:
        folder = Path(name)
        os.environ.update(server.environment)
        manifest_bytes = fill(versions, models, folder / "files")
        client, root = make_client(), S3Location.parse(REGISTRY)
        serving = psutil.Process(server.pid)
        results: dict[str, dict[str, list[dict[str, float]]]] = {}
        for what in ("listing", "page"):
            results[what] = {"no index": [], "cold": [], "warm": []}
            for number in range(rounds):
                cache = folder / f"{what}-{number}"
                for kind, measured in results[what].items():
                    if kind == "no index":
                        index = client.list_objects_v2(Bucket=root.bucket, Prefix=f"{root.key}/catalogue/")
                        for entry in index.get("Contents", ()):
                            client.delete_object(Bucket=root.bucket, Key=entry["Key"])
                    if kind == "cold":
                        shutil.rmtree(cache)
                    before = sum(serving.cpu_times()[:2])
                    one = in_own_process(cache, what)
                    one["server_cpu_seconds"] = sum(serving.cpu_times()[:2]) - before
                    one["load"] = os.getloadavg()[0]
                    measured.append(one)
    return {"versions": versions, "models": models, "manifest_bytes": manifest_bytes, **results}


def beyond(found: dict[str, Any]) -> list[str]:
    """What of the page is beyond its limits, by the medians."""
    page = {kind: medians(rounds) for kind, rounds in found["page"].items()}
    figures = (
        ("cold, s", page["cold"]["first_seconds"], COLD_S),
        ("warm, s", page["warm"]["second_seconds"], WARM_S),
        ("memory added, MB", max(one["added_mb"] for one in page.values()), ADDED_MB),
    )
    return [f"page, {what}: {value:.2f}, the limit is {limit:g}" for what, value, limit in figures if value > limit]


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{found['versions']:,} versions of {found['models']} models, {found['manifest_bytes']:,} bytes each; "
        f"medians of {len(found['page']['cold'])} rounds.",
        "",
        "| | seconds | its CPU, s | CPU of the S3 server, s | again, same process, s | memory added, MB | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for what in ("listing", "page"):
        for kind, rounds in found[what].items():
            one = medians(rounds)
            seconds, cpu = (
                ("seconds", "own_cpu_seconds") if what == "listing" else ("first_seconds", "first_cpu_seconds")
            )
            again = f"{one['second_seconds']:.2f}" if what == "page" else "–"
            lines.append(
                f"| {what}, {kind} | {one[seconds]:.2f} | {one[cpu]:.2f} | {one['server_cpu_seconds']:.2f} | {again} | "
                f"{one['added_mb']:.0f} | {one['load']:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--docs", type=Path, help="Markdown file to write the table into")
    parser.add_argument("--measure", choices=("listing", "page"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measured = (measure if arguments.measure == "listing" else measure_page)(arguments.cache)
        print(json.dumps(measured))
        return
    found = benchmark(arguments.versions, arguments.models, arguments.rounds)
    print(json.dumps(found, indent=1) if arguments.json else table(found))
    if arguments.docs is not None:
        write_docs(arguments.docs, "catalogue.py", table(found))
    if too_much := beyond(found):
        print("\n".join(too_much), file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
