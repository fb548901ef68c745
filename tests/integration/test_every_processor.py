"""What is published on one processor is served on every other as it was measured.

The sample's network is quantized, exported, judged and published by the real steps twice: on this machine, and as on
one with AVX2 alone. Each version goes into the function's package, and the package's own bytes answer the version's
golden images on every processor that can be had here: x86-64 from SSE4 to VNNI, and arm64 under QEMU, where Debian's
Python 3.13 for arm64 runs the arm64 package as `hpe lambda build` writes it, bytecode and wheels included.
The handler is called as Lambda's runtime calls it, without the runtime itself (test_lambda_emulator.py has that).
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpe_tasks.config.run import DestinationConfig
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.local.object_store import Server
from hpe_tasks.packaging import Architecture, PackagedModel, build_package
from hpe_tasks.pose.crops import PIXEL_STD, box_to_center_scale
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.smoke_test import check_answer, function_url_event
from hpe_tasks.storage.s3 import S3Location
from support import arm64_python
from support import sample_records as records
from support.processors import PROCESSORS, need, run_on

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # The first tests of the file publish.
    pytest.mark.usefixtures("lambda_python"),
]

# A whole run up to `publish`; the gate's limits are those of a data set of this size.
PUBLISH = """
import json, sys
from pathlib import Path

from hpe_tasks.pipeline import steps
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.config.loading import load_config
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import open_run
from hpe_tasks.storage.s3 import make_client

folder, registry = Path(sys.argv[1]), sys.argv[2]
make_sample(folder / "data", SampleSpec(train=1, calibration=12, val=14))
overrides = {
    "dataset.source": str(folder / "data"),
    "dataset.min_persons": 1,
    "recipe.calibration_images": 12,
    "gate.min_ap": 0.0,
    "gate.max_ap_drop": 1.0,
    "gate.max_quantsim_gap": 1.0,
    "destination.registry": registry,
    "destination.smoke_test": True,
}
run = open_run(
    load_config("sample", overrides=overrides),
    workspace=(folder / "workspace").as_uri(),
    cache=folder / "cache",
    name="r",
    s3=make_client,
)
run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(steps.publish))
evaluated = run.result(steps.evaluate_quantized)
print(json.dumps({"version": run.result(steps.publish).version, "cpu": evaluated.onnx.cpu_features}))
"""

# The events' answers, from the function's handler in the package that stands first on the path.
SERVE = """
import json, os, sys
import numpy, onnxruntime, PIL, nacl
from hpe_tasks.serving.handler import handler

package = os.environ["LAMBDA_TASK_ROOT"]
for module in (numpy, onnxruntime, PIL, nacl, sys.modules["hpe_tasks.serving.service"]):
    assert module.__file__.startswith(package), module.__file__

class Context:
    aws_request_id = "of the test"
    memory_limit_in_mb = 1769
    @staticmethod
    def get_remaining_time_in_millis():
        return 600_000

with open(sys.argv[1]) as file:
    answers = [handler(event, Context) for event in json.load(file)]
with open(sys.argv[2], "w") as file:
    json.dump(answers, file)
"""


@dataclass(frozen=True, eq=False)
class Published:
    """A version: where it was made, its manifest, its golden images, and its packages, unpacked."""

    publisher: str
    cpu: tuple[str, ...]
    manifest: ModelManifest
    images: tuple[bytes, ...]
    packages: dict[Architecture, Path]


Point = tuple[float, float]
Publish = Callable[[str], Published]
Ask = Callable[[Published, str, Published], tuple[dict[str, Any], ...]]


@pytest.fixture(scope="module")
def publish(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Publish:
    """Publish on a processor, once for all tests of this file."""

    @functools.cache
    def _publish(publisher: str) -> Published:
        folder, registry = tmp_path_factory.mktemp(publisher), f"s3://hpe-models/made-on-{publisher}"
        told = json.loads(
            run_on(
                publisher,
                ["-c", PUBLISH, folder, registry],
                environment={**s3_server.environment, "HPE_CACHE": str(folder / "cache")},
                timeout_s=1100,
            ).splitlines()[-1]
        )
        reader = ModelRegistry(s3_server.client(), S3Location.parse(registry))
        stored = reader.stored("sample-pose", told["version"])
        roles = ["model", *(golden.file for golden in stored.manifest.golden)]
        files = {role: reader.download(stored.manifest, role, folder / role) for role in roles}
        packaged = PackagedModel(stored.data, None, files["model"])
        return Published(
            publisher,
            tuple(told["cpu"]),
            stored.manifest,
            tuple(files[golden.file].read_bytes() for golden in stored.manifest.golden),
            {architecture: _unpacked(folder, architecture, packaged) for architecture in ("x86_64", "arm64")},
        )

    return _publish


@pytest.fixture(scope="module")
def arm64_package(lambda_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arm64 package without a model."""
    return _unpacked(tmp_path_factory.mktemp("package"), "arm64", None)


def _unpacked(folder: Path, architecture: Architecture, model: PackagedModel | None) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # Where the arm64 libraries lie already, if another test has had a program run there.
        patch.setenv("HPE_CACHE", str(arm64_python.CACHE))
        archive = build_package(folder / f"{architecture}.zip", architecture=architecture, model=model).path
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / architecture)
    return folder / architecture


@pytest.fixture(scope="module")
def ask(lambda_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """What the function with a version answers on a processor to golden images, which are asked for once."""

    @functools.cache
    def _ask(version: Published, server: str, asked: Published) -> tuple[dict[str, Any], ...]:
        folder = tmp_path_factory.mktemp("asked")
        events = [
            function_url_event(image, [person.box for person in golden.people if person.box is not None])
            for golden, image in zip(asked.manifest.golden, asked.images, strict=True)
        ]
        (folder / "events.json").write_text(json.dumps(events))
        package = version.packages["arm64" if PROCESSORS[server].machine == "arm64" else "x86_64"]
        run_on(
            server,
            ["-c", SERVE, folder / "events.json", folder / "answers.json"],
            python=lambda_python,
            libraries=[package],
            environment={"LAMBDA_TASK_ROOT": str(package), "HPE_THREADS": "1"},
        )
        given = json.loads((folder / "answers.json").read_text())
        assert [answer["statusCode"] for answer in given] == [200] * len(events), given
        return tuple(json.loads(answer["body"]) for answer in given)

    return _ask


def joints_of(answer: dict[str, Any]) -> list[dict[str, Point]]:
    """Where the people of an answer have their joints, by name, in pixels."""
    return [{joint["name"]: (joint["x"], joint["y"]) for joint in person["joints"]} for person in answer["people"]]


def measured_joints(manifest: ModelManifest, golden: GoldenImage) -> list[dict[str, Point]]:
    """The same, as the exported file found them when it was measured."""
    named = [zip(manifest.serving.joints, person.joints, strict=True) for person in golden.people]
    return [{name: joint[:2] for name, joint in person if joint is not None} for person in named]


def cell_size(manifest: ModelManifest, golden: GoldenImage, person: GoldenPerson) -> float:
    """Width of a cell of the person's maps, in pixels of the image."""
    (input_size,) = manifest.serving.input_sizes
    assert person.box is not None
    _, scale = box_to_center_scale(person.box, (golden.width, golden.height), input_size)
    return float(scale[0]) * PIXEL_STD / manifest.serving.outputs["heatmaps"].shape[-1]


def distances(
    manifest: ModelManifest, golden: GoldenImage, ones: list[dict[str, Point]], others: list[dict[str, Point]]
) -> list[float]:
    """How far the same joints of the same people lie apart, in cells of their maps; the same ones must be found."""
    assert [set(one) for one in ones] == [set(other) for other in others]
    found = []
    for person, one, other in zip(golden.people, ones, others, strict=True):
        cell = cell_size(manifest, golden, person)
        found += [float(np.hypot(*np.subtract(one[name], other[name]))) / cell for name in one]
    return found


def moved(far: list[float]) -> int:
    """How many joints lie elsewhere, by more than answers are rounded to."""
    return sum(distance > 0.02 for distance in far)


SERVED = [
    *(pytest.param("host", server, id=f"host-{server}") for server in PROCESSORS if server not in {"vnni", "nehalem"}),
    *(pytest.param("avx2", server, id=f"avx2-{server}") for server in ("host", "sse4", "haswell", "neoverse-n1")),
]


@pytest.mark.parametrize(("publisher", "server"), SERVED)
def test_a_version_is_served_as_it_was_measured(publish: Publish, ask: Ask, publisher: str, server: str) -> None:
    """All but a few joints lie where they were measured to the last digit, and those in a cell beside that one.

    They are joints whose maps have two cells that are almost equal: where float arithmetic around the integer layers
    rounds differently, as on SSE4, a code of some layer may be the next one, which decides between the two.
    """
    need(publisher)
    need(server)
    version = publish(publisher)
    manifest, far = version.manifest, []
    for golden, answer in zip(manifest.golden, ask(version, server, version), strict=True):
        assert check_answer(golden, answer, manifest).min_oks is not None
        far += distances(manifest, golden, joints_of(answer), measured_joints(manifest, golden))
    print(f"{publisher} on {server}: {moved(far)} of {len(far)} joints moved, by {max(far):.2f} cells at most")
    assert len(far) > 40
    assert moved(far) <= 0.1 * len(far)
    assert max(far) < 1.5


@pytest.mark.parametrize("server", ["avx2", "haswell"])
def test_it_does_not_matter_where_a_version_was_published(publish: Publish, ask: Ask, server: str) -> None:
    """With VNNI, where this machine has it, and without: asked the same, both files find the same joints on Haswell.

    The files differ, because float arithmetic in calibration does, so more joints may take the cell beside: 9 of 85
    when this was written.
    """
    need("avx2")
    need(server)
    ours, other = publish("host"), publish("avx2")
    assert ours.cpu == cpu_features()
    assert other.cpu == ("x86_64", "avx2")
    pairs = zip(ours.manifest.golden, ask(ours, server, ours), ask(other, server, ours), strict=True)
    far = [d for golden, *both in pairs for d in distances(ours.manifest, golden, *map(joints_of, both))]
    print(f"on {server}: {moved(far)} of {len(far)} joints moved, by {max(far):.2f} cells at most")
    assert moved(far) <= 0.25 * len(far)
    assert max(far) < 1.5


CHECK = """
import sys
from pathlib import Path

from hpe_tasks.errors import ConfigError
from hpe_tasks.serving.processors import check_processor
from hpe_tasks.serving.served_model import ServedModel

try:
    check_processor(ServedModel.from_manifest(Path(sys.argv[1]).read_bytes()))
    print("serves it")
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("vnni", "serves it"),
        ("avx512", "and this processor is x86_64, avx2, avx512bw"),
        ("avx2", "and this processor is x86_64, avx2:"),
        ("neoverse-n1", "and this processor is aarch64, asimddp:"),
    ],
)
def test_a_model_for_vnni_starts_nowhere_else(server: str, told: str, arm64_package: Path, tmp_path: Path) -> None:
    """What the processor itself says decides, not what the machine around it has."""
    config = records.run_config(destination=DestinationConfig(processors="x86_64_vnni"))
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(records.manifest(records.write_files(tmp_path), config=config).to_bytes())
    libraries = [arm64_package] if PROCESSORS[server].machine == "arm64" else []
    assert told in run_on(server, ["-c", CHECK, manifest], libraries=libraries)
