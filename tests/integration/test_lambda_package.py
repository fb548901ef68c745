"""The package as `hpe lambda build` makes it: its size, its bytes, and whether Lambda's Python can use it alone."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpe_tasks.errors import BadInputError
from hpe_tasks.packaging import Architecture, Package, PackagedModel, build_package
from hpe_tasks.packaging.archive import contents_sha256
from hpe_tasks.packaging.build import BYTECODE
from hpe_tasks.packaging.dependencies import SBOM, bill_of_libraries
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.cyclonedx import cyclonedx_validator

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# Of the ELF format.
SHT_DYNAMIC, DT_NEEDED = 6, 1
# What manylinux_2_28 promises of every system, as far as it is used here.
SYSTEM_LIBRARIES = {"libc", "libm", "libdl", "libpthread", "librt", "libgcc_s", "libstdc++", "libz"} | {
    "ld-linux-x86-64",
    "ld-linux-aarch64",
}
ARCHITECTURES: tuple[Architecture, ...] = ("x86_64", "arm64")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def packages(cache: Path, lambda_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """The package without a model, for each architecture."""
    folder = tmp_path_factory.mktemp("packages")
    return {a: build_package(folder / f"{a}.zip", architecture=a, model=None) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def unpacked(packages: dict[str, Package], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The x86_64 package as Lambda unpacks it."""
    if platform.machine() != "x86_64":
        pytest.skip("runs x86_64 machine code")
    folder = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(packages["x86_64"].path) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def run(lambda_python: Path, unpacked: Path) -> Callable[..., Any]:
    """Run code with Lambda's Python, an empty environment and nothing but the package; gives back what it prints."""

    def _run(code: str, *arguments: str) -> Any:
        done = subprocess.run(
            # Neither the virtual environment's libraries nor the user's: -S, -E. No bytecode is written: -B.
            [
                lambda_python,
                "-B",
                "-E",
                "-S",
                "-c",
                f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{code}",
                *arguments,
            ],
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return _run


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_model_it_is_small(packages: dict[str, Package], architecture: str) -> None:
    package = packages[architecture]
    with zipfile.ZipFile(package.path) as archive:
        assert package.unzipped_bytes == sum(entry.file_size for entry in archive.infolist())
    assert package.unzipped_bytes <= 95e6
    assert package.zipped_bytes == package.path.stat().st_size <= 32e6
    assert not package.needs_s3
    assert package.sha256 == hashlib.sha256(package.path.read_bytes()).hexdigest()
    assert {part.name for part in package.parts} == {
        "NumPy",
        "onnxruntime",
        "Pillow",
        "PyNaCl",
        "hpe_tasks",
        "licences",
    }
    assert sum(part.unzipped_bytes for part in package.parts) == package.unzipped_bytes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_building_it_elsewhere_gives_the_same_bytes(
    packages: dict[str, Package], architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "another cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1900000000")
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        again = build_package(Path("deep/er/package.zip"), architecture=architecture, model=None)
    finally:
        os.umask(before)
    assert again.path.read_bytes() == packages[architecture].path.read_bytes()
    assert sorted(file.name for file in again.path.parent.iterdir()) == ["package.zip"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_libraries_are_those_of_the_day_when_the_lock_was_made(
    packages: dict[str, Package], cache: Path, architecture: str
) -> None:
    """Every run of the tests is another day, maybe with another uv, Python and zlib; the recorded digest stays."""
    [layer] = (cache / "lambda").glob(f"libraries-{architecture}-*.zip")
    with zipfile.ZipFile(layer) as archive:
        found = contents_sha256(archive, without=(*BYTECODE, SBOM))
    recorded = json.loads(Path(__file__).with_name("library_contents.json").read_text())
    assert found == recorded[architecture], "after `make lock` or other rules of slimming, record what is found"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_package_holds_its_bill_of_materials(packages: dict[str, Package], architecture: Architecture) -> None:
    """The one that `make sbom` makes of what is installed here, in another Python."""
    with zipfile.ZipFile(packages[architecture].path) as archive:
        held = archive.read(SBOM)
    bill, parts = bill_of_libraries(architecture, distributions(path=sys.path))
    assert [part.locked.name for part in parts] == ["cffi", "numpy", "onnxruntime", "pillow", "pynacl"]
    if architecture == "x86_64":
        assert held == bill
    else:
        # Wheels for another processor bring other libraries along.
        names = [part["name"] for part in json.loads(held)["components"]]
        assert names == [part["name"] for part in json.loads(bill)["components"]]
    assert list(cyclonedx_validator().iter_errors(json.loads(held))) == []


def test_the_libraries_are_installed_once(
    packages: dict[str, Package], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uv.find_uv_bin", lambda: "/nowhere/uv")
    again = build_package(tmp_path / "again.zip", architecture="x86_64", model=None)
    assert again.sha256 == packages["x86_64"].sha256
    assert len(list((cache / "lambda").glob("*.zip"))) == len(ARCHITECTURES)


def needed(library: bytes) -> list[str]:
    """Names in the DT_NEEDED entries of a 64-bit little-endian ELF file."""
    # e_shoff, e_shentsize, e_shnum
    table, entry_size, entries = struct.unpack_from("<40xQ10xHH", library)
    headers = [struct.unpack_from("<IIQQQQII", library, table + i * entry_size) for i in range(entries)]
    (dynamic,) = [header for header in headers if header[1] == SHT_DYNAMIC]
    strings = headers[dynamic[6]][4]
    tags = struct.iter_unpack("<qQ", library[dynamic[4] : dynamic[4] + dynamic[5]])
    starts = [strings + value for tag, value in tags if tag == DT_NEEDED]
    return [library[start : library.index(b"\0", start)].decode() for start in starts]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_library_finds_those_that_it_links_with(packages: dict[str, Package], architecture: str) -> None:
    machine = {"x86_64": b"\x3e\x00", "arm64": b"\xb7\x00"}[architecture]
    with zipfile.ZipFile(packages[architecture].path) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if re.search(r"\.so(\.|$)", name)}
    shipped = {Path(name).name for name in libraries}
    assert len(libraries) > 20
    for name, content in libraries.items():
        assert content[:4] == b"\x7fELF", name
        # Field e_machine of the ELF header.
        assert content[18:20] == machine, name
        linked = {library for library in needed(content) if library.partition(".so")[0] not in SYSTEM_LIBRARIES}
        assert linked <= shipped, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_locks_hold_what_was_tested(architecture: str, repository: Path) -> None:
    lock = (repository / "hpe_tasks" / "packaging" / f"requirements-{architecture}.txt").read_text()
    assert "://" not in lock
    pins = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock, flags=re.MULTILINE))
    assert {"numpy", "onnxruntime", "pillow", "pynacl"} <= pins.keys()
    tested = dict(
        re.findall(r"^([a-z0-9._-]+)==(\S+)", (repository / "requirements.txt").read_text(), flags=re.MULTILINE)
    )
    assert pins.items() <= tested.items()


def test_modules_are_compiled_for_where_lambda_puts_them(packages: dict[str, Package], lambda_python: Path) -> None:
    check = (
        "import json, marshal, sys, zipfile\n"
        "found = {}\n"
        "with zipfile.ZipFile(sys.argv[1]) as archive:\n"
        "    for name in archive.namelist():\n"
        "        if name.endswith('.pyc'):\n"
        "            data = archive.read(name)\n"
        # PEP 552: bit 0, checked by hash; bit 1, the hash is compared with the source's.
        "            found[name] = [int.from_bytes(data[4:8], 'little'), marshal.loads(data[16:]).co_filename]\n"
        "json.dump(found, sys.stdout)\n"
    )
    for package in packages.values():
        done = subprocess.run([lambda_python, "-c", check, package.path], capture_output=True, text=True, check=True)
        compiled = json.loads(done.stdout)
        with zipfile.ZipFile(package.path) as archive:
            sources = {name for name in archive.namelist() if name.endswith(".py")}
        assert {path.removeprefix("/var/task/") for _, path in compiled.values()} == sources
        assert {flags for flags, _ in compiled.values()} == {0b01}
        assert (
            compiled["hpe_tasks/serving/__pycache__/service.cpython-313.pyc"][1]
            == "/var/task/hpe_tasks/serving/service.py"
        )


def test_everything_that_ships_imports_alone(run: Callable[..., Any], unpacked: Path) -> None:
    told = run(
        "import importlib, json\n"
        "from pathlib import Path\n"
        f"root = Path({str(unpacked)!r})\n"
        "names = ['.'.join(f.relative_to(root).with_suffix('').parts) for f in (root / 'hpe_tasks').rglob('*.py')]\n"
        # It loads a model as soon as it is imported.
        "names = [n.removesuffix('.__init__') for n in names if n != 'hpe_tasks.serving.handler']\n"
        "names += ['numpy', 'numpy.typing', 'onnxruntime', 'nacl.signing']\n"
        "names += ['PIL.Image', 'PIL.ImageDraw', 'PIL.ImageOps']\n"
        "modules = [importlib.import_module(name) for name in names]\n"
        "outside = [m for m in map(str, (getattr(m, '__file__', None) for m in sys.modules.values()))\n"
        "           if 'site-packages' in m]\n"
        "cached = [m.__name__ for m in modules if m.__cached__ and not Path(m.__cached__).is_file()]\n"
        "json.dump({'names': names, 'outside': outside, 'cached': cached,\n"
        "           'boto3': 'boto3' in sys.modules, 'cffi': 'cffi' in sys.modules}, sys.stdout)\n"
    )
    assert {"hpe_tasks.serving.service", "hpe_tasks.pose.codecs.paf", "hpe_tasks.pose.drawing"} <= set(told["names"])
    assert told["outside"] == told["cached"] == []
    assert not told["boto3"]


def test_of_this_project_only_what_serves_is_inside(unpacked: Path, repository: Path) -> None:
    inside = {f.relative_to(unpacked).as_posix() for f in (unpacked / "hpe_tasks").rglob("*.py")}
    assert {name.split("/")[1] for name in inside} == {
        "__init__.py",
        "contract",
        "errors.py",
        "pose",
        "serving",
    }
    for folder in ("serving", "contract", "pose"):
        wanted = {f.relative_to(repository).as_posix() for f in (repository / "hpe_tasks" / folder).rglob("*.py")}
        assert wanted <= inside


def images(folder: Path) -> dict[str, Path]:
    """A picture in many forms, as other programs write it."""
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (rgb, "JPEG", {}),
        "jpeg-cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "jpeg-of-two": (rgb, "MPO", {"save_all": True, "append_images": [rgb.copy()]}),
        "png-16-bit": (Image.fromarray(rng.integers(0, 65535, (24, 32), np.uint16)), "PNG", {}),
        "png-palette": (rgb.quantize(), "PNG", {}),
        "webp": (rgb, "WEBP", {}),
        "webp-animated": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(180)]}),
        "gif": (rgb.quantize(), "GIF", {}),
        "gif-animated": (rgb.quantize(), "GIF", {"save_all": True, "append_images": [rgb.rotate(180).quantize()]}),
        "bmp": (rgb, "BMP", {}),
        "tiff": (rgb, "TIFF", {}),
        "avif": (rgb, "AVIF", {}),
        "ppm": (rgb, "PPM", {}),
    }
    files = {}
    for name, (image, form, options) in kinds.items():
        files[name] = folder / name
        image.save(files[name], form, **options)
    return files


def test_the_slimmed_pillow_reads_the_formats_that_the_function_takes(run: Callable[..., Any], tmp_path: Path) -> None:
    files = images(tmp_path)
    told = run(
        "import json\n"
        "from pathlib import Path\n"
        "from hpe_tasks.serving.errors import RequestError\n"
        "from hpe_tasks.serving.images import decode_image\n"
        "read = {}\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try:\n"
        "        read[path.name] = decode_image(path.read_bytes(), 10_000).shape\n"
        "    except RequestError as error:\n"
        "        read[path.name] = error.status\n"
        "json.dump(read, sys.stdout)\n",
        *map(str, files.values()),
    )
    taken = {"jpeg", "jpeg-cmyk", "jpeg-of-two", "png-16-bit", "png-palette", "webp", "gif"}
    assert {name for name, answer in told.items() if answer == [24, 32, 3]} == taken
    assert {name for name, answer in told.items() if answer == 422} == {"webp-animated", "gif-animated"}
    assert {name for name, answer in told.items() if answer == 415} == {"bmp", "tiff", "avif", "ppm"}


def test_signatures_are_checked_with_what_ships(run: Callable[..., Any]) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    arguments = (key.public_key().public_bytes_raw().hex(), key.sign(b"manifest").hex())
    code = (
        "import json\n"
        "from nacl.exceptions import BadSignatureError\n"
        "from nacl.signing import VerifyKey\n"
        "key, signature = VerifyKey(bytes.fromhex(sys.argv[1])), bytes.fromhex(sys.argv[2])\n"
        "said = []\n"
        "for data in (b'manifest', b'Manifest'):\n"
        "    try:\n"
        "        key.verify(data, signature)\n"
        "        said.append(True)\n"
        "    except BadSignatureError:\n"
        "        said.append(False)\n"
        "json.dump(said, sys.stdout)\n"
    )
    assert run(code, *arguments) == [True, False]


def test_every_licence_is_inside(unpacked: Path) -> None:
    for library in ("numpy", "pillow", "pynacl", "cffi"):
        (folder,) = unpacked.glob(f"{library}-*.dist-info")
        assert any("licen" in file.name.lower() for file in folder.rglob("*")), library
    assert (unpacked / "onnxruntime" / "LICENSE").is_file()
    assert (unpacked / "onnxruntime" / "ThirdPartyNotices.txt").is_file()


def test_with_a_model_its_bytes_go_in_as_they_are(packages: dict[str, Package], tmp_path: Path) -> None:
    files = records.write_files(tmp_path / "one")
    manifest = records.manifest(files).to_bytes()
    model = PackagedModel(manifest=manifest, signature=b"c2lnbmVk", model=files["model"])
    package = build_package(tmp_path / "package.zip", architecture="arm64", model=model)
    with zipfile.ZipFile(package.path) as archive:
        assert archive.testzip() is None
        assert archive.read("model/manifest.json") == manifest
        assert archive.read("model/manifest.json.sig") == b"c2lnbmVk"
        assert archive.read("model/model.onnx") == files["model"].read_bytes()
    unsigned = build_package(
        tmp_path / "package.zip", architecture="arm64", model=PackagedModel(manifest, None, files["model"])
    )
    with zipfile.ZipFile(unsigned.path) as archive:
        assert "model/manifest.json.sig" not in archive.namelist()
    assert package.unzipped_bytes > packages["arm64"].unzipped_bytes


def sized_model(folder: Path, *, zeros: int = 0, noise: int = 0) -> PackagedModel:
    files = records.write_files(folder)
    with files["model"].open("wb") as file:
        file.write(np.random.default_rng(3).bytes(noise))
        file.truncate(noise + zeros)
    return PackagedModel(records.manifest(files).to_bytes(), None, files["model"])


def test_more_than_lambda_takes_is_refused(packages: dict[str, Package], tmp_path: Path) -> None:
    model = sized_model(tmp_path / "model", zeros=180_000_000)
    with pytest.raises(BadInputError, match=r"26\d\.\d MB.* model 180\.0 MB"):
        build_package(tmp_path / "package.zip", architecture="arm64", model=model)
    assert not list(tmp_path.glob("*package*"))


def test_it_says_when_the_way_leads_through_s3(packages: dict[str, Package], tmp_path: Path) -> None:
    model = sized_model(tmp_path / "model", noise=26_000_000)
    assert build_package(tmp_path / "package.zip", architecture="arm64", model=model).needs_s3


def test_the_command_builds_a_package_with_a_model_of_the_registry(
    packages: dict[str, Package], s3_bucket: Any, tmp_path: Path
) -> None:
    files = records.write_files(tmp_path / "one")
    manifest = records.manifest(files)
    location = S3Location(s3_bucket.bucket, "registry")
    ModelRegistry(s3_bucket.client, location).store(manifest, files)

    def build(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpe_tasks", "lambda", "build", "--registry", str(location), *options],
            cwd=tmp_path,
            env=os.environ | dict(s3_bucket.server.environment) | {"COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )

    out = tmp_path / "function.zip"
    asked = ("--arch", "arm64", "--with-model", manifest.version, "--name", manifest.name)
    done = build("--out", str(out), *asked)
    assert done.returncode == 0, done.stderr
    assert re.search(r"onnxruntime\W+27\.\d\W+10\.\d", done.stdout)
    assert hashlib.sha256(out.read_bytes()).hexdigest() in done.stdout
    with zipfile.ZipFile(out) as archive:
        assert archive.read("model/model.onnx") == files["model"].read_bytes()
        assert archive.read("model/manifest.json") == manifest.to_bytes()
    told = json.loads(build("--out", str(out), *asked, "--json").stdout)
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["needs_s3"] is False

    for options, said in (
        (("--with-model", "0" * 16, "--name", manifest.name), "0" * 16),
        # The name is sample-pose unless another is given.
        (("--with-model", manifest.version), "sample-pose"),
        (("--name", manifest.name), "--with-model"),
    ):
        refused = build("--out", str(tmp_path / "refused.zip"), *options)
        assert refused.returncode == 2, refused.stderr
        assert said in refused.stderr
        assert not (tmp_path / "refused.zip").exists()

    plain = build("--arch", "x86_64")
    assert plain.returncode == 0, plain.stderr
    assert (tmp_path / "hpe-lambda-x86_64.zip").read_bytes() == packages["x86_64"].path.read_bytes()


def test_sam_uploads_the_package_as_it_is_and_reads_the_parameters(
    packages: dict[str, Package], s3_bucket: Any, tmp_path: Path
) -> None:
    """The embedded server has no CloudFormation: SAM uploads, begins to deploy, and ends there."""
    server = s3_bucket.server
    asked = ["--package", str(packages["arm64"].path), "--stack", "pose", "--set", "RegistryBucket=models"]
    asked += ["--set", "CorsOrigins=https://a.example, https://b.example"]
    done = subprocess.run(
        [sys.executable, "-m", "hpe_tasks", "lambda", "deploy", *asked, "--", "--s3-bucket", s3_bucket.bucket],
        env=os.environ
        | dict(server.environment)
        | {"AWS_ENDPOINT_URL": server.endpoint, "HOME": str(tmp_path), "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Initiating deployment" in said
    (shown,) = re.findall(r"Parameter overrides +: (\{.*\})", said)
    assert json.loads(shown) == {
        "Architecture": "arm64",
        "RegistryBucket": "models",
        "CorsOrigins": "https://a.example, https://b.example",
    }
    stored = s3_bucket.client.list_objects_v2(Bucket=s3_bucket.bucket)["Contents"]
    digests = {
        hashlib.sha256(s3_bucket.client.get_object(Bucket=s3_bucket.bucket, Key=item["Key"])["Body"].read()).hexdigest()
        for item in stored
    }
    assert packages["arm64"].sha256 in digests
