"""Builds the wheel of hpe_tasks so that the same sources give the same bytes.

    python tools/wheel.py [--out dist]

setuptools puts the times and the rights of the files into a wheel, and both depend on the checkout. Here it is shown a
copy with the same rights everywhere, and told a time. It is the setuptools of this environment, which the lock names.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_FILES = ("pyproject.toml", "README.md", "LICENSE")
# The first moment that a zip archive can tell.
_EPOCH = "315532800"
_BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def build_wheel(out: Path) -> Path:
    """Write the wheel into a folder; raises SystemExit with what setuptools says where it fails."""
    with tempfile.TemporaryDirectory() as temporary:
        source, built = Path(temporary, "source"), Path(temporary, "built")
        shutil.copytree(REPOSITORY / "hpe_tasks", source / "hpe_tasks", ignore=shutil.ignore_patterns("__pycache__"))
        for name in _FILES:
            shutil.copyfile(REPOSITORY / name, source / name)
        built.mkdir()
        for path in source.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, built],
            cwd=source,
            env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONHASHSEED": "0"},
            umask=0o022,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        [wheel] = built.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(wheel, out / wheel.name))


def main() -> None:
    """Build the wheel, and say its digest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", help="folder to write to")
    wheel = build_wheel(parser.parse_args().out)
    print(f"{wheel}\nSHA-256 {hashlib.sha256(wheel.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
