"""The parts of the package's making that need no package index; tests/integration/test_lambda_package.py builds it."""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.errors import BadInputError, ConfigError, DigestError
from hpe_tasks.local.environment import lambda_python
from hpe_tasks.packaging import Package, PackagedModel, PackagePart, build_package
from hpe_tasks.packaging.archive import append_bytes, append_folder
from hpe_tasks.packaging.dependencies import is_removed
from hpe_tasks.packaging.deployment import deploy_package, template_parameters
from support import sample_records as records


@pytest.mark.parametrize(
    "file",
    [
        "onnxruntime/capi/libonnxruntime.so.1.31.1",
        "onnxruntime/quantization/calibrate.py",
        "onnxruntime/transformers/models/gpt2/parity.py",
        "numpy/_core/tests/data/astype_copy.pkl",
        "numpy/__init__.pyi",
        "google/protobuf/message.py",
        "PIL/AvifImagePlugin.py",
        "PIL/EpsImagePlugin.py",
        "pillow.libs/libavif-c6062d5f.so.16.4.2",
        "numpy-2.4.6.dist-info/METADATA",
        "protobuf-7.36.2.dist-info/LICENSE",
    ],
)
def test_what_the_function_never_imports_stays_out(file: str) -> None:
    assert is_removed(file)


@pytest.mark.parametrize(
    "file",
    [
        "onnxruntime/capi/onnxruntime_pybind11_state.cpython-313-x86_64-linux-gnu.so",
        "onnxruntime/LICENSE",
        "onnxruntime/ThirdPartyNotices.txt",
        "numpy/typing/__init__.py",
        "PIL/WebPImagePlugin.py",
        "numpy-2.4.6.dist-info/licenses/LICENSE.txt",
        "pillow-13.0.0.dist-info/licenses/LICENSE",
        "_cffi_backend.cpython-313-x86_64-linux-gnu.so",
    ],
)
def test_what_it_needs_and_every_licence_stay(file: str) -> None:
    assert not is_removed(file)


def test_archives_depend_on_names_and_content_only(tmp_path: Path) -> None:
    archives = []
    for turn, order in enumerate((("b.py", "a/c.py", "a.py"), ("a.py", "a/c.py", "b.py"))):
        folder = tmp_path / f"folder-{turn}"
        (folder / "a").mkdir(parents=True)
        for name in order:
            (folder / name).write_text(f"# {name}")
            os.utime(folder / name, (10**9 * (turn + 1), 10**9 * (turn + 1)))
            (folder / name).chmod((0o600, 0o755)[turn])
        archives.append(tmp_path / f"{turn}.zip")
        with zipfile.ZipFile(archives[-1], "w") as archive:
            append_folder(archive, folder)
            append_bytes(archive, "last.json", b"{}")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.py", "a/c.py", "b.py", "last.json"]
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}


@pytest.mark.parametrize(
    ("named", "said"), [("/nowhere/python3.13", "/nowhere/python3.13"), (sys.executable, "is Python 3.11")]
)
def test_without_lambdas_python_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, said: str
) -> None:
    monkeypatch.setenv("HPE_LAMBDA_PYTHON", named)
    with pytest.raises(ConfigError, match=said) as caught:
        build_package(tmp_path / "package.zip", architecture="x86_64", model=None)
    assert "make setup" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_lambdas_python_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3.13\n")
    python.chmod(0o755)
    monkeypatch.setenv("HPE_LAMBDA_PYTHON", str(python))
    assert lambda_python() == python


def test_a_model_that_is_not_its_manifests_is_refused(tmp_path: Path) -> None:
    files = records.write_files(tmp_path / "one")
    manifest = records.manifest(files).to_bytes()
    files["model"].write_bytes(b"another")
    for path, error in ((files["model"], DigestError), (tmp_path / "missing.onnx", BadInputError)):
        with pytest.raises(error, match=str(path)):
            build_package(
                tmp_path / "package.zip",
                architecture="x86_64",
                model=PackagedModel(manifest=manifest, signature=None, model=path),
            )
    with pytest.raises(DigestError):
        build_package(
            tmp_path / "package.zip",
            architecture="x86_64",
            model=PackagedModel(manifest=b"{}", signature=None, model=files["model"]),
        )
    assert not (tmp_path / "package.zip").exists()


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A `sam` that writes down how it was called and what lies beside the template; its exit status is 3."""
    called = tmp_path / "called.json"
    program = tmp_path / "bin" / "sam"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "from pathlib import Path\n"
        "template = Path(sys.argv[sys.argv.index('--template-file') + 1])\n"
        "beside = {file.name: file.stat().st_size for file in template.parent.iterdir()}\n"
        f"Path({str(called)!r}).write_text(json.dumps([sys.argv[1:], beside]))\n"
        "sys.exit(3)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("HPE_LAMBDA_PYTHON", "/nowhere/python3.13")
    monkeypatch.setenv("PATH", str(program.parent))
    return called


def package(file: Path, *, machine: str = "x86_64", model: bool = False) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("hpe_tasks/serving/handler.py", "")
        archive.writestr(f"_cffi_backend.cpython-313-{machine}-linux-gnu.so", "")
        if model:
            archive.writestr("model/manifest.json", "{}")
    return file


def test_deploy_calls_sam_with_template_package_and_parameters(sam: Path, tmp_path: Path) -> None:
    built = package(tmp_path / "function.zip", machine="aarch64")
    parameters = {"RegistryBucket": "models", "CorsOrigins": "https://a.example, https://b.example"}
    assert deploy_package(built, "pose", parameters, ["--region", "eu-central-1"]) == 3
    arguments, beside = json.loads(sam.read_text())
    assert arguments[0] == "deploy"
    assert arguments[arguments.index("--stack-name") + 1] == "pose"
    assert arguments[arguments.index("--region") + 1] == "eu-central-1"
    assert "--resolve-s3" in arguments
    given = arguments[arguments.index("--parameter-overrides") + 1 :]
    assert given == ['Architecture="arm64"', *(f'{name}="{value}"' for name, value in parameters.items())]
    assert beside["package.zip"] == built.stat().st_size
    assert beside.keys() == {"package.zip", "template.yaml"}


@pytest.mark.parametrize("options", [["--s3-bucket", "packages"], ["--s3-bucket=packages"]])
def test_deploy_leaves_the_bucket_for_packages_to_the_user(sam: Path, tmp_path: Path, options: list[str]) -> None:
    deploy_package(package(tmp_path / "function.zip", model=True), "pose", {}, options)
    arguments = json.loads(sam.read_text())[0]
    assert "--resolve-s3" not in arguments
    assert set(options) <= set(arguments)


@pytest.mark.parametrize(
    ("model", "parameters", "said"),
    [
        (True, {"Memory": "512"}, "no parameter 'Memory'"),
        (True, {"Architecture": "arm64"}, "is for x86_64"),
        (False, {}, "no registry is named"),
        (True, {"RegistryBucket": "models"}, "holds a model"),
    ],
)
def test_deploy_refuses_what_cannot_work(
    sam: Path, tmp_path: Path, model: bool, parameters: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        deploy_package(package(tmp_path / "function.zip", model=model), "pose", parameters, [])
    assert not sam.exists()


@pytest.mark.parametrize("content", [None, b"no archive", "other"], ids=["missing", "damaged", "another"])
def test_deploy_takes_packages_only(sam: Path, tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "function.zip"
    if content == "other":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("index.js", "")
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(BadInputError, match="hpe lambda build"):
        deploy_package(file, "pose", {}, [])


def test_deploy_says_when_sam_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPE_LAMBDA_PYTHON", "/nowhere/python3.13")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="SAM"):
        deploy_package(package(tmp_path / "function.zip", model=True), "pose", {}, [])


MB = 1_000_000


@pytest.mark.parametrize(("zipped_bytes", "through_s3"), [(31 * MB, False), (53 * MB, True)])
def test_build_says_how_large_the_package_is_and_what_lambda_takes(
    monkeypatch: pytest.MonkeyPatch, zipped_bytes: int, through_s3: bool
) -> None:
    parts = (PackagePart("numpy", zipped_bytes - MB, 60 * MB), PackagePart("hpe_tasks", MB, 2 * MB))

    def built(out: Path, *, architecture: str, model: PackagedModel | None) -> Package:
        assert (out, architecture, model) == (Path("hpe-lambda-arm64.zip"), "arm64", None)
        return Package(out, "5" * 64, zipped_bytes, 62 * MB, parts, "c" * 64)

    monkeypatch.setattr("hpe_tasks.packaging.build_package", built)
    done = CliRunner().invoke(app, ["lambda", "build", "--arch", "arm64"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    zipped = zipped_bytes / 1e6
    for name, unzipped, packed in (("numpy", 60.0, zipped - 1), ("hpe_tasks", 2.0, 1.0), ("all", 62.0, zipped)):
        assert re.search(rf"{name}\W+{unzipped:.1f}\W+{packed:.1f}\W", done.output), name
    assert f"SHA-256 {'5' * 64}\nSHA-256 {'c' * 64} of what is in it" in done.output
    assert "Lambda takes 262.1 MB unzipped, and 52.4 MB zipped without S3." in done.output
    assert ("upload must go through S3" in done.output) == through_s3


def test_every_parameter_of_the_template_is_described() -> None:
    parameters = template_parameters()
    assert {"RegistryBucket", "RegistryPrefix", "ModelName", "Channel", "Architecture"} <= parameters.keys()
    assert all(parameters.values())
