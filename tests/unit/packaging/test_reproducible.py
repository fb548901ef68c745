"""The same sources give the same bytes: on another day, in another place, for another user.

The libraries of the function's package are in tests/integration/test_lambda_package.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.packaging.archive import append_bytes, contents_sha256

# As `build_package` and tools/wheel.py do it, with the sources of the checkout that this process runs in.
BUILD = """
import json, runpy, sys, time, zipfile
from pathlib import Path

from hpe_tasks.local.environment import lambda_python
from hpe_tasks.packaging import build

assert Path(build.__file__).is_relative_to(Path.cwd()), build.__file__
out = Path(sys.argv[1])
with zipfile.ZipFile(out / "package.zip", "w") as archive:
    build._append_own_code(archive, lambda_python())
wheel = runpy.run_path("tools/wheel.py")["build_wheel"](out)
wheel.rename(out / "wheel.zip")
print(json.dumps([time.gmtime().tm_year, time.strftime("%z"), sys.flags.hash_randomization]))
"""
# Python starts with it, and so does each Python that it starts, unless that has an environment of its own.
CLOCK = """
import time
_now, _tell = time.time, {name: getattr(time, name) for name in ("gmtime", "localtime")}
time.time = lambda: _now() + AHEAD_S
time.time_ns = lambda: int(time.time() * 10**9)
for _name in _tell:
    setattr(time, _name, lambda seconds=None, _name=_name: _tell[_name](time.time() if seconds is None else seconds))
_format = time.strftime
time.strftime = lambda form, when=None: _format(form, time.localtime() if when is None else when)
"""
YEAR_S = 31_556_952


def built(repository: Path, checkout: Path, *, ahead_s: int, umask: int, **environment: str) -> tuple[Path, Any]:
    """What a checkout gives, and what its process thought of time and place.

    Files are made in another order, and with other times, where the clock goes ahead.
    """
    out, site = checkout.with_name(f"{checkout.name} out"), checkout.with_name(f"{checkout.name} site")
    names = ["pyproject.toml", "README.md", "LICENSE", "tools/wheel.py"]
    sources = [*(repository / name for name in names), *(repository / "hpe_tasks").rglob("*.py")]
    sources += (repository / "hpe_tasks").rglob("*.yaml")
    before = os.umask(umask)
    try:
        for folder in (out, site):
            folder.mkdir(parents=True)
        for file in sorted(sources, reverse=ahead_s > 0):
            copy = checkout / file.relative_to(repository)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
            os.utime(copy, (10**9 + ahead_s, 10**9 + ahead_s))
    finally:
        os.umask(before)
    (site / "sitecustomize.py").write_text(CLOCK.replace("AHEAD_S", str(ahead_s)))
    done = subprocess.run(
        [sys.executable, "-c", BUILD, out],
        cwd=checkout,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(site), str(checkout)])},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def outputs(repository: Path, lambda_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkouts")
    here, then = built(
        repository, folder / "one", ahead_s=0, umask=0o022, TZ="UTC", LC_ALL="C.UTF-8", PYTHONHASHSEED="random",
        HPE_LAMBDA_PYTHON=str(lambda_python),
    )  # fmt: skip
    there, later = built(
        repository, folder / "an öther" / "far down" / "two", ahead_s=3 * YEAR_S, umask=0o077, TZ="Pacific/Kiritimati",
        LC_ALL="C", PYTHONHASHSEED="7", PYTHONOPTIMIZE="2", SOURCE_DATE_EPOCH="1900000000",
        HPE_LAMBDA_PYTHON=str(lambda_python),
    )  # fmt: skip
    assert (then[1:], later[1:]) == (["+0000", 1], ["+1400", 1])
    assert later[0] - then[0] in (3, 4)
    return {"here": here, "there": there}


@pytest.mark.parametrize("name", ["package.zip", "wheel.zip"])
def test_three_years_later_and_elsewhere_the_bytes_are_the_same(outputs: dict[str, Path], name: str) -> None:
    opened = [zipfile.ZipFile(folder / name) for folder in outputs.values()]
    entries = [
        [(e.filename, e.date_time, oct(e.external_attr >> 16), e.CRC) for e in archive.infolist()] for archive in opened
    ]
    assert len(entries[0]) > 20
    assert [entry for entry in entries[0] if entry not in entries[1]] == []
    assert outputs["here"].joinpath(name).read_bytes() == outputs["there"].joinpath(name).read_bytes()


@pytest.mark.long
def test_without_the_tool_the_checkouts_give_other_wheels(outputs: dict[str, Path], tmp_path: Path) -> None:
    """So that the test above would notice."""
    wheels = []
    for number, out in enumerate(outputs.values()):
        source = out.with_name(out.name.removesuffix(" out"))
        copy = shutil.copytree(source, tmp_path / str(number), ignore=shutil.ignore_patterns("__pycache__"))
        code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, tmp_path / f"w{number}"], cwd=copy, capture_output=True, check=True)
        wheels.append(next((tmp_path / f"w{number}").glob("*.whl")).read_bytes())
    assert wheels[0] != wheels[1]


def test_the_digest_of_contents_is_that_of_what_is_unpacked(tmp_path: Path) -> None:
    def digest(level: int, files: dict[str, bytes], mode: int = 0o644, **options: Any) -> str:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compresslevel=level) as archive:
            for name, data in files.items():
                append_bytes(archive, name, data)
                archive.infolist()[-1].external_attr = (0o100000 | mode) << 16
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            return contents_sha256(archive, **options)

    files = {"a.py": b"1" * 999, "b/c.pyc": b"2"}
    first = digest(1, files)
    assert first == digest(9, dict(reversed(files.items())))
    others = [digest(1, {**files, "a.py": b"2"}), digest(1, {"a.py": files["a.py"]}), digest(1, files, mode=0o755)]
    assert len({first, *others}) == 4
    assert digest(1, files, without=("*.pyc",)) == digest(1, {**files, "b/c.pyc": b"3"}, without=("*.pyc",))
