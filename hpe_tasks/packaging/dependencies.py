"""The libraries in the function's package: installed from the lock file, slimmed, compiled, and kept as one archive."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Literal, get_args

from hpe_tasks.contract.stored_graph import graph_role
from hpe_tasks.errors import ConfigError, StorageError, TransientError
from hpe_tasks.local.environment import PYTHON_VERSION
from hpe_tasks.packaging.archive import append_bytes, append_folder
from hpe_tasks.packaging.licences import LicencePolicy
from hpe_tasks.packaging.locks import read_lock
from hpe_tasks.packaging.sbom import ShippedDistribution, bill_of_materials, shipped
from hpe_tasks.storage.folders import hold

Architecture = Literal["x86_64", "arm64"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

SBOM = "sbom.cdx.json"
"""What the package says of its libraries, at its root: their own metadata stays out."""

TASK_ROOT = "/var/task"
"""Where Lambda unpacks the package: the paths that tracebacks show."""

_PLATFORMS: dict[Architecture, str] = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}

# What the function never imports. `*` also matches "/".
REMOVED = (
    "bin/*",
    ".lock",
    "*.pyi",
    "*.pxd",
    "*/py.typed",
    "*/tests/*",
    # The Python bindings carry their own copy of the library, which C programs would link with.
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/backend/*",
    "onnxruntime/datasets/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
    # Of onnxruntime's own requirements only NumPy is needed to run a model.
    "flatbuffers*",
    "google/*",
    "packaging*",
    "protobuf-*",
    "numpy/_core/include/*",
    "numpy/_core/lib/*",
    "numpy/_core/*_tests.*.so",
    "numpy/_core/_simd.*.so",
    "numpy/_pyinstaller/*",
    "numpy/conftest.py",
    "numpy/f2py/*",
    # NumPy imports these when they are asked for, and neither the function nor its libraries ask.
    "numpy/fft/*",
    "numpy/ma/*",
    "numpy/polynomial/*",
    "numpy/random/*",
    "numpy/testing/*",
    # PyNaCl's library is compiled: of cffi it needs the extension module at the root.
    "cffi/*",
    "pycparser*",
    # What only other formats, fonts, toolkits and seldom operations need.
    "PIL/_avif.*",
    "PIL/_imagingcms.*",
    "PIL/_imagingft.*",
    "PIL/_imagingmath.*",
    "PIL/_imagingmorph.*",
    "PIL/_imagingtk.*",
    "PIL/ImageMath.py",
    "PIL/ImageMorph.py",
    "PIL/ImageQt.py",
    "PIL/ImageTk.py",
    "pillow.libs/libavif-*",
    "pillow.libs/libbrotli*",
    "pillow.libs/libfreetype-*",
    "pillow.libs/libharfbuzz-*",
    "pillow.libs/liblcms2-*",
    "pillow.libs/libpng*",
)

_IMAGE_FORMATS = ("Gif", "Jpeg", "Png", "Tiff", "WebP")
"""Plugins of Pillow that stay: the formats that the function takes, and Tiff, which reads EXIF."""

_LICENCES = ("*/licenses/*", "*/LICEN[CS]E*", "*/NOTICE*", "*/COPYING*", "*/AUTHORS*")


# What the layer's bytes follow from, beside the lock and the interpreter.
_RULES = (Path(__file__).name, "archive.py", "licences.py", "licences.yaml", "locks.py", "sbom.py")

# They only give NumPy's functions their docstrings, which takes a twentieth of a cold start: they stay, without a line.
_EMPTIED = ("numpy/_core/_add_newdocs.py", "numpy/_core/_add_newdocs_scalars.py")


def packaged_graph_role(model_sha256: str, architecture: Architecture) -> str:
    """Role of the graph of a model that the package's onnxruntime can use: see `contract.stored_graph`."""
    version = re.search(r"^onnxruntime==(\S+)", _lock(architecture).decode(), re.MULTILINE)
    if version is None:
        raise ConfigError(f"The lock file for {architecture} has no onnxruntime.", hint="Lock it anew.")
    return graph_role(model_sha256, {"x86_64": "x86_64", "arm64": "aarch64"}[architecture], version[1])


def _lock(architecture: Architecture) -> bytes:
    return importlib.resources.files("hpe_tasks.packaging").joinpath(f"requirements-{architecture}.txt").read_bytes()


def is_removed(file: str) -> bool:
    """Whether a file of the installed libraries, named relative to their folder, stays out of the package."""
    if any(fnmatchcase(file, pattern) for pattern in REMOVED):
        return True
    if ".dist-info/" in file:
        return not any(fnmatchcase(file, pattern) for pattern in _LICENCES)
    if file.startswith("PIL/") and file.endswith("ImagePlugin.py"):
        return file.removeprefix("PIL/").removesuffix("ImagePlugin.py") not in _IMAGE_FORMATS
    return False


def bill_of_libraries(
    architecture: Architecture, installed: Iterable[Distribution]
) -> tuple[bytes, tuple[ShippedDistribution, ...]]:
    """The bill of materials of the package's libraries, and what it lists.

    Args:
        architecture: Of the function.
        installed: Where licences are read: the libraries before they are slimmed, or the same versions elsewhere.

    Raises:
        ConfigError: A library has a licence that may not ship, or another version than in the lock.
    """
    lock = read_lock(_lock(architecture).decode(), f"requirements-{architecture}.txt")
    parts = shipped(lock, installed, LicencePolicy.of_the_project(), ships=lambda file: not is_removed(file))
    own = (
        "The code of hpe_tasks comes on top, and with it a model, whose own file manifest.json says what it is. "
        "Not in this bill: Lambda's Python."
    )
    return bill_of_materials(f"hpe-lambda-{architecture}", "application", parts, own), parts


def dependency_layer(architecture: Architecture, cache: Path, python: Path) -> Path:
    """Archive of the libraries; made once for each lock file, set of rules and interpreter.

    Args:
        architecture: Of the function, not of this machine.
        cache: Folder that keeps it.
        python: Compiles it.

    Raises:
        ConfigError: uv is missing, or the lock file cannot be installed.
        TransientError: The package index cannot be reached.
        StorageError: The cache cannot be written.
    """
    lock = _lock(architecture)
    version = subprocess.run([python, "-VV"], capture_output=True, check=True).stdout
    rules = b"".join(Path(__file__).with_name(name).read_bytes() for name in _RULES)
    key = hashlib.sha256(b"\0".join((architecture.encode(), lock, version, rules))).hexdigest()[:16]
    layer = cache / "lambda" / f"libraries-{architecture}-{key}.zip"
    hold(layer)
    if layer.is_file():
        return layer
    try:
        layer.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=layer.parent, prefix=".building-") as building:
            folder, archive = Path(building, "libraries"), Path(building, "libraries.zip")
            _install(lock, architecture, folder)
            bill, _ = bill_of_libraries(architecture, distributions(path=[str(folder)]))
            _slim(folder)
            compile_folder(folder, python)
            with zipfile.ZipFile(archive, "w") as opened:
                append_folder(opened, folder)
                append_bytes(opened, SBOM, bill)
            archive.replace(layer)
    except OSError as error:
        raise StorageError(
            f"The function's libraries could not be put into {layer.parent}: {error}.",
            hint="Check the space and the rights there, or set HPE_CACHE to another folder.",
        ) from error
    return layer


def _install(lock: bytes, architecture: Architecture, folder: Path) -> None:
    try:
        from uv import find_uv_bin
    except ImportError as error:
        raise ConfigError(
            "uv, which installs the function's libraries, is missing.", hint="Install hpe-tasks[worker]."
        ) from error
    requirements = folder.with_name("requirements.txt")
    requirements.write_bytes(lock)
    command: list[str | Path] = [find_uv_bin(), "pip", "install", "--quiet", "--target", folder, "--require-hashes"]
    command += ["--python-platform", _PLATFORMS[architecture], "--python-version", PYTHON_VERSION]
    command += ["--only-binary", ":all:", "--no-compile-bytecode", "--requirements", requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        message = f"The function's libraries for {architecture} could not be installed:\n{said}\n"
        if "Failed to fetch" in said or "Failed to download" in said:
            raise TransientError(message, hint="Check the network and the package index that uv uses.")
        raise ConfigError(
            message, hint="Check the package index that uv uses: it must hold the wheels of the lock file."
        )


def _slim(folder: Path) -> None:
    for file in [file for file in folder.rglob("*") if not file.is_dir()]:
        if is_removed(file.relative_to(folder).as_posix()):
            file.unlink()
    for name in _EMPTIED:
        folder.joinpath(name).write_text("")


def compile_folder(folder: Path, python: Path) -> None:
    """Write the bytecode of all modules below a folder, so that a cold start does not have to.

    It names files as they lie in Lambda, and is used without a look at the source: times do not survive the archive,
    and the package is read-only.

    Raises:
        ConfigError: A module does not compile.
    """
    command: list[str | Path] = [python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", folder, "-p", TASK_ROOT, folder]
    # Nothing of this process's environment may change the bytes.
    done = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"The package does not compile with {python}:\n{(done.stdout + done.stderr).strip()}")
