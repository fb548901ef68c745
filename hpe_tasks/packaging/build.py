"""Builds the package: libraries, this project's serving code and, if asked for, a model."""

from __future__ import annotations

import importlib.resources
import shutil
import tempfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.config.environment import Settings
from hpe_tasks.contract.names import MANIFEST, SIGNATURE
from hpe_tasks.contract.stored_graph import GRAPH
from hpe_tasks.errors import BadInputError, DigestError, StorageError
from hpe_tasks.local.environment import lambda_python
from hpe_tasks.packaging.archive import append_bytes, append_file, append_folder, contents_sha256
from hpe_tasks.packaging.dependencies import (
    SBOM,
    Architecture,
    compile_folder,
    dependency_layer,
    packaged_graph_role,
)
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.storage.files import sha256_file

UNZIPPED_LIMIT_BYTES = 250 * 1024**2
"""Lambda takes no more, layers included (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)."""
DIRECT_UPLOAD_LIMIT_BYTES = 50 * 1024**2
"""Larger archives reach Lambda through S3 only (same source)."""

OWN_FOLDERS = ("serving", "contract", "pose", "pose/codecs")
"""What ships of this project: these folders, without what lies below them."""
OWN_MODULES = ("__init__.py", "errors.py")
"""And these modules."""

BYTECODE = ("*.pyc",)
"""Follows from the modules and the interpreter."""

_LIBRARIES = {"PIL": "Pillow", "pillow.libs": "Pillow", "nacl": "PyNaCl", "numpy": "NumPy", "numpy.libs": "NumPy"}


@dataclass(frozen=True)
class PackagedModel:
    """A model that goes into the package.

    Attributes:
        manifest: Bytes of the manifest, as the registry holds them.
        signature: Content of manifest.json.sig; None when the version is not signed.
        model: model.onnx on this machine.
        graph: The graph of the manifest's role `packaged_graph_role`, on this machine; None when it has none.
    """

    manifest: bytes
    signature: bytes | None
    model: Path
    graph: Path | None = None


@dataclass(frozen=True)
class PackagePart:
    """A library, this project's code, or the model."""

    name: str
    zipped_bytes: int
    unzipped_bytes: int


@dataclass(frozen=True)
class Package:
    """A package that was built.

    Attributes:
        unzipped_bytes: What counts against Lambda's limit.
        parts: Largest first.
        contents_sha256: Of names, modes and contents but for bytecode: what two builds share even where interpreters
            and zlib are of other versions. See `archive.contents_sha256`.
    """

    path: Path
    sha256: str
    zipped_bytes: int
    unzipped_bytes: int
    parts: tuple[PackagePart, ...]
    contents_sha256: str

    @property
    def needs_s3(self) -> bool:
        """Whether it is too large to be uploaded to Lambda directly."""
        return self.zipped_bytes > DIRECT_UPLOAD_LIMIT_BYTES


def build_package(out: Path, *, architecture: Architecture, model: PackagedModel | None) -> Package:
    """Build the package; the same input gives the same bytes.

    Args:
        out: The .zip to write; it appears whole, or not at all.
        architecture: Of the function, not of this machine.
        model: Goes into the package; without one the function reads its model from a registry.

    Raises:
        ConfigError: Lambda's Python is missing here, or the libraries cannot be installed.
        DigestError: The model is not the one that its manifest describes, or cannot be served.
        BadInputError: The package is larger than Lambda takes.
        TransientError: The package index cannot be reached.
        StorageError: The package cannot be written.
    """
    if model is not None:
        _verify(model, architecture)
    python = lambda_python()
    layer = dependency_layer(architecture, Settings.from_environment().cache, python)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layer, partial)
        with zipfile.ZipFile(partial, "a") as archive:
            _append_own_code(archive, python)
            if model is not None:
                _append_model(archive, model)
            parts = _parts(archive)
        unzipped_bytes = sum(part.unzipped_bytes for part in parts)
        if unzipped_bytes > UNZIPPED_LIMIT_BYTES:
            raise _too_large(unzipped_bytes, parts)
        with zipfile.ZipFile(partial) as archive:
            contents = contents_sha256(archive, without=BYTECODE)
        package = Package(out, sha256_file(partial), partial.stat().st_size, unzipped_bytes, parts, contents)
        partial.replace(out)
    except OSError as error:
        raise StorageError(
            f"The package {out} could not be written: {error}.", hint="Check the space and the rights there."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return package


def _verify(model: PackagedModel, architecture: Architecture) -> None:
    served = ServedModel.from_manifest(model.manifest)
    _verify_file(model.model, served, served.model_sha256)
    if model.graph is not None:
        graphs = {role: sha256 for role, sha256, _ in served.graphs}
        _verify_file(model.graph, served, graphs.get(packaged_graph_role(served.model_sha256, architecture)))


def _verify_file(file: Path, served: ServedModel, expected: str | None) -> None:
    try:
        sha256 = sha256_file(file)
    except OSError as error:
        raise BadInputError(f"The model {file} cannot be read: {error.strerror}.", hint="Check it.") from error
    if sha256 != expected:
        raise DigestError(
            f"{file} is not the model of version {served.version} of {served.name!r}: its SHA-256 is {sha256}, "
            f"the manifest says {expected}.",
            hint="Download the version again.",
        )


def _append_own_code(archive: zipfile.ZipFile, python: Path) -> None:
    package = importlib.resources.files("hpe_tasks")
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary, "hpe_tasks")
        for folder in ("", *OWN_FOLDERS):
            (own / folder).mkdir()
            for file in (package / folder).iterdir():
                if file.name.endswith(".py") and (folder or file.name in OWN_MODULES):
                    (own / folder / file.name).write_bytes(file.read_bytes())
        compile_folder(Path(temporary), python)
        append_folder(archive, Path(temporary))


def _append_model(archive: zipfile.ZipFile, model: PackagedModel) -> None:
    append_bytes(archive, f"model/{MANIFEST}", model.manifest)
    if model.signature is not None:
        append_bytes(archive, f"model/{SIGNATURE}", model.signature)
    append_file(archive, "model/model.onnx", model.model)
    if model.graph is not None:
        # It makes a start shorter, and is not worth a package that Lambda does not take.
        others_bytes = sum(entry.file_size for entry in archive.infolist())
        if others_bytes + model.graph.stat().st_size <= UNZIPPED_LIMIT_BYTES:
            append_file(archive, f"model/{GRAPH}", model.graph)


def _parts(archive: zipfile.ZipFile) -> tuple[PackagePart, ...]:
    sizes: dict[str, list[int]] = {}
    for entry in archive.infolist():
        zipped, unzipped = sizes.setdefault(_part_of(entry.filename), [0, 0])
        sizes[_part_of(entry.filename)] = [zipped + entry.compress_size, unzipped + entry.file_size]
    parts = (PackagePart(name, zipped, unzipped) for name, (zipped, unzipped) in sizes.items())
    return tuple(sorted(parts, key=lambda part: (-part.unzipped_bytes, part.name)))


def _part_of(file: str) -> str:
    top = file.partition("/")[0]
    if top.endswith(".dist-info") or file == SBOM:
        return "licences"
    if top.startswith("_cffi_backend."):
        return "PyNaCl"
    return _LIBRARIES.get(top, top)


def _too_large(unzipped_bytes: int, parts: tuple[PackagePart, ...]) -> BadInputError:
    sizes = ", ".join(f"{part.name} {part.unzipped_bytes / 1e6:.1f} MB" for part in parts)
    return BadInputError(
        f"The package has {unzipped_bytes / 1e6:.1f} MB unzipped; Lambda takes {UNZIPPED_LIMIT_BYTES / 1e6:.1f} MB. "
        f"Its parts: {sizes}.",
        hint="Leave the model in the registry, or deploy a container image (docker/lambda/Dockerfile).",
    )
