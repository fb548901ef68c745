"""What goes into the images; tests/integration/test_images.py builds and runs some."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpe_tasks.local.environment import PYTHON_VERSION
from hpe_tasks.registry.evidence import table_role
from support import verified_versions as verified
from support.package_folder import write_package

IMAGES = ("airflow", "worker")
# Relative to the repository's root.
LOCKS = (
    "requirements.txt",
    *(f"docker/{image}/requirements.txt" for image in (*IMAGES, "lambda", "object-store")),
    *(f"hpe_tasks/packaging/requirements-{architecture}.txt" for architecture in ("x86_64", "arm64")),
)


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", file.read_text(), flags=re.MULTILINE))


def hashes(file: Path) -> set[str]:
    return set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", file.read_text()))


@pytest.mark.parametrize("image", [*IMAGES, "lambda", "object-store"])
def test_dockerfile_lints(repository: Path, image: str) -> None:
    hadolint, file = Path(sys.executable).with_name("hadolint"), repository / "docker" / image / "Dockerfile"
    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_images_hold_what_was_tested(repository: Path, image: str) -> None:
    lock, own = repository / "requirements.txt", repository / "docker" / image / "requirements.txt"
    assert pins(own).items() <= pins(lock).items()
    assert hashes(own) <= hashes(lock)


def test_only_the_worker_carries_torch(repository: Path) -> None:
    scheduler = pins(repository / "docker" / "airflow" / "requirements.txt")
    worker = pins(repository / "docker" / "worker" / "requirements.txt")
    heavy = {"torch", "aimet-torch", "aimet-onnx", "great-expectations"}
    assert not heavy & scheduler.keys()
    assert heavy <= worker.keys()
    assert scheduler["apache-airflow"] == worker["apache-airflow"]


@pytest.mark.parametrize("image", [*IMAGES, "object-store"])
def test_images_do_not_run_as_root(repository: Path, image: str) -> None:
    users = re.findall(r"^USER (\S+)", (repository / "docker" / image / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert users == ["50000"]


@pytest.mark.parametrize("image", [*IMAGES, "object-store"])
def test_bytecode_is_in_the_image_because_containers_cannot_keep_it(repository: Path, image: str) -> None:
    """Without it each task compiles AIMET and Airflow anew, for twice the time of their import."""
    text = (repository / "docker" / image / "Dockerfile").read_text()
    assert 0 < text.index("UV_COMPILE_BYTECODE=1") < text.index("RUN uv pip install")
    copied = [line.split()[-1] for line in text.splitlines() if line.startswith("COPY --chown=airflow:0")]
    if copied:
        assert all(target.startswith("/opt/airflow/") for target in copied)
        assert text.rindex("COPY ") < text.index("-m compileall -q /opt/airflow") < text.index("USER 50000")


def test_the_functions_image_holds_the_package(repository: Path) -> None:
    text = (repository / "docker" / "lambda" / "Dockerfile").read_text()
    assert (
        re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == [f"public.ecr.aws/lambda/python:{PYTHON_VERSION}"] * 2
    )
    # Nothing but what `hpe lambda build` writes by default.
    copied = re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE)
    assert copied == ["hpe-lambda-${ARCH}.zip /package.zip", "--from=unpacked /package /var/task"]
    assert "ARG ARCH=x86_64\n" in text
    assert "!hpe-lambda-*.zip\n" in (repository / ".dockerignore").read_text()
    assert 'CMD ["hpe_tasks.serving.handler.handler"]' in text


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        pytest.param(["dags", "list"], "airflow dags list", id="a command of Airflow's"),
        pytest.param(["airflow", "jobs", "check"], "airflow jobs check", id="as the chart's probes"),
        pytest.param(["bash", "-c", "exec airflow scheduler"], "airflow scheduler", id="as the chart's containers"),
        pytest.param(["env", "airflow", "a b"], "airflow a b", id="a word with a space"),
    ],
)
def test_containers_start_programs_and_commands_of_airflow(
    repository: Path, tmp_path: Path, words: list[str], starts: str
) -> None:
    (tmp_path / "airflow").write_text('#!/bin/sh\necho airflow "$@"\n')
    (tmp_path / "airflow").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    command = [str(repository / "docker" / "entrypoint"), *words]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{starts}\n"
    for image in IMAGES:
        dockerfile = (repository / "docker" / image / "Dockerfile").read_text()
        assert "COPY docker/entrypoint /entrypoint\n" in dockerfile
        assert 'ENTRYPOINT ["/entrypoint"]\n' in dockerfile
    assert "!docker/entrypoint\n" in (repository / ".dockerignore").read_text()


@pytest.mark.parametrize("file", LOCKS)
def test_locks_name_no_index_and_hash_everything(repository: Path, file: str) -> None:
    text = (repository / file).read_text()
    assert "://" not in text
    assert len(re.findall(r"^[a-z0-9._-]+==\S+ \\$", text, flags=re.MULTILINE)) == len(pins(repository / file))


RESTRICTED = """
import importlib.machinery, importlib.metadata, re, sys
from pathlib import Path


HELD = set(re.findall(r"^([a-z0-9._-]+)==", Path(sys.argv[1]).read_text(), flags=re.MULTILINE)) | {"hpe-tasks"}
LACKING = {
    top
    for top, owners in importlib.metadata.packages_distributions().items()
    if not HELD & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
}
assert {"matplotlib", "pytest"} <= LACKING and "numpy" not in LACKING


class Image(importlib.machinery.PathFinder):
    # Finds what the lock names, and nothing else that happens to be installed.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in LACKING else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Image

"""

QUANTIZE = (
    RESTRICTED
    + """
assert "torch" not in LACKING
import numpy as np, torch
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.inference import onnx_predictor
from hpe_tasks.models import build_model
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.quantization import quantize_model

folder = Path(sys.argv[2])
torch.manual_seed(0)
built = ModelConfig(architecture="pose_mobilenet", checkpoint="w.pth", input_width=64, input_height=96)
torch.save(build_model(built).state_dict(), folder / "w.pth")
file = export_fp32(built, folder / "w.pth", folder / "fp32.onnx")
given = built.model_copy(update={"architecture": "onnx", "checkpoint": str(file)})
crops = np.random.default_rng(0).normal(size=(4, 3, 96, 64)).astype(np.float32)
for config, checkpoint in ((built, folder / "w.pth"), (given, file)):
    recipe = QuantizationRecipe(calibration_images=4, cross_layer_equalization=True)
    quantized, exported = folder / config.architecture, folder / f"{config.architecture}_int8"
    quantized.mkdir(), exported.mkdir()
    files = quantize_model(config, recipe, checkpoint, [crops], quantized, "cpu")
    int8 = export_onnx(config, recipe, files.model, files.encodings, exported)
    print(config.architecture, onnx_predictor(int8, config)(crops)["heatmaps"].shape)
"""
)


def test_the_worker_quantizes_with_what_its_image_holds(repository: Path, tmp_path: Path) -> None:
    lock = repository / "docker" / "worker" / "requirements.txt"
    done = subprocess.run(
        [sys.executable, "-c", QUANTIZE, lock, tmp_path],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shape = (4, 17, 24, 16)
    assert done.stdout.splitlines() == [f"pose_mobilenet {shape}", f"onnx {shape}"]


PAGES = (
    RESTRICTED
    + """
assert {"torch", "aimet_onnx", "safetensors"} <= LACKING

import json
from hpe_airflow.model_pages import paired, trying
from hpe_tasks.local_service.trial import find_people
from hpe_tasks.verification.paired_versions import compare_versions

folder = Path(sys.argv[2])
print(trying.why_not() or "nothing missing", [name for name in paired._NEEDED if name in LACKING])
find_people(str(folder / "model/golden-1.jpg"), model=str(folder / "model"), answer=str(folder / "found.json"))
found = json.loads((folder / "found.json").read_bytes())
print(found["status"], len(found["body"]["people"]))
compare_versions(str(folder / "table.npz"), after=str(folder / "table.npz"), answer=str(folder / "compared.json"))
print(json.loads((folder / "compared.json").read_bytes())["comparison"]["num_images"])
"""
)


def test_the_pages_try_and_compare_with_what_their_image_holds(repository: Path, tmp_path: Path) -> None:
    write_package(tmp_path)
    _, published = verified.judged_version(tmp_path / "judged", asked=verified.config())
    published[table_role("onnxruntime")].rename(tmp_path / "table.npz")
    lock = repository / "docker" / "airflow" / "requirements.txt"
    done = subprocess.run(
        [sys.executable, "-c", PAGES, lock, tmp_path],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": f"{repository}:{repository / 'plugins'}", "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if not line.startswith("{")]  # The function's own log.
    assert told == ["nothing missing []", "200 2", "60"]
