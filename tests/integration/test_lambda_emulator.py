"""The built package in the Runtime Interface Emulator on Lambda's Python, and the steps that depend on it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from hpe_tasks.config.loading import load_config
from hpe_tasks.contract.keys import blob_key, pointer_key
from hpe_tasks.contract.version import content_version
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import BadInputError, ConfigError, HpeError, MissingInputError
from hpe_tasks.local.emulator import MAX_REQUEST_BYTES, FunctionError, LambdaEmulator
from hpe_tasks.local.object_store import Server
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.packaging import PackagedModel, build_package, packaged_graph_role
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.manifest import ModelManifest, Serving
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.release.smoke_test import SmokeTestError, smoke_test
from hpe_tasks.storage.s3 import S3Location
from support.serving_cases import base64_of, form, http_v1, http_v2
from support.signing_keys import key_pem

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.xdist_group("lambda_emulator"),
    pytest.mark.usefixtures("lambda_python"),
]

REGISTRY = "s3://hpe-models/emulated"

HANDLER = """
import os, time
from pathlib import Path

if os.environ.get("BROKEN"):
    raise RuntimeError("the model cannot be trusted")
if os.environ.get("EXITS"):
    os._exit(3)

def handler(event, context):
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if event.get("raise"):
        raise ValueError("of no use")
    if event.get("megabytes"):
        memory = bytearray(event["megabytes"] * 2**20)
        memory[::4096] = b"1" * len(memory[::4096])
        time.sleep(1)
    if event.get("write"):
        Path(event["write"]).write_text("written")
    return {
        "environment": dict(os.environ),
        "left_ms": context.get_remaining_time_in_millis(),
        "memory": context.memory_limit_in_mb,
        "large": "x" * event.get("large", 0),
    }
"""


@pytest.fixture
def misbehaving(tmp_path: Path) -> Path:
    """A package whose function does what the event says."""
    folder = tmp_path / "package"
    serving = folder / "hpe_tasks" / "serving"
    serving.mkdir(parents=True)
    for package in (serving, serving.parent):
        (package / "__init__.py").touch()
    (serving / "handler.py").write_text(HANDLER)
    return folder


def processes() -> set[int]:
    """Emulators and functions that run on this machine."""
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any("aws-lambda-rie" in part or "awslambdaric" in part for part in process.info["cmdline"] or ())
    }


class TestEmulator:
    """What the emulator does to a function, whatever the function is."""

    def test_the_environment_is_lambdas_and_nothing_more(
        self, misbehaving: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the user")
        monkeypatch.setenv("HPE_CHANNEL", "of the user")
        with LambdaEmulator(misbehaving, environment={"HPE_THRESHOLD": "0.4"}, memory_mb=512, timeout_s=7) as function:
            answer = function.invoke({})
        environment = answer["environment"]
        assert environment["HPE_THRESHOLD"] == "0.4"
        assert environment["LAMBDA_TASK_ROOT"] == str(misbehaving)
        assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == answer["memory"] == "512"
        assert "of the user" not in environment.values()
        assert not {"HOME", "USER", "PYTHONPATH", "VIRTUAL_ENV"} & set(environment)
        assert answer["left_ms"] <= 7000

    def test_the_package_is_read_only_and_tmp_is_not(self, misbehaving: Path) -> None:
        with LambdaEmulator(misbehaving, environment={}) as function:
            for place in (str(misbehaving / "more.txt"), "more.txt"):
                with pytest.raises(FunctionError, match="Read-only file system"):
                    function.invoke({"write": place})
            temporary = Path(function.invoke({})["environment"]["TMPDIR"])
            function.invoke({"write": str(temporary / "more.txt")})
        assert not temporary.exists()
        assert not (misbehaving / "more.txt").exists()

    def test_without_mount_namespaces_it_works_and_says_what_it_lacks(
        self, misbehaving: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("hpe_tasks.local.emulator.shutil.which", lambda _: None)
        with LambdaEmulator(misbehaving, environment={}) as function:
            assert function.invoke({})["environment"]["LAMBDA_TASK_ROOT"] == str(misbehaving)
        assert "The function can write its package here" in caplog.text

    def test_a_function_that_takes_too_long_is_killed_and_starts_anew(self, misbehaving: Path) -> None:
        with LambdaEmulator(misbehaving, environment={}, timeout_s=2) as function:
            function.invoke({})
            before = function.pid
            with pytest.raises(FunctionError, match="did not answer within 2 seconds"):
                function.invoke({"sleep": 20})
            function.invoke({})
            assert function.pid != before

    def test_a_function_that_takes_too_much_memory_is_killed_and_starts_anew(self, misbehaving: Path) -> None:
        with LambdaEmulator(misbehaving, environment={}, memory_mb=200) as function:
            function.invoke({"megabytes": 100})
            before = function.pid
            with pytest.raises(FunctionError, match="more than its 200 MB of memory"):
                function.invoke({"megabytes": 300})
            function.invoke({})
            assert function.pid != before
            assert 5e6 < function.rss_bytes() < 100e6

    def test_errors_of_the_function_are_told_apart_from_answers(self, misbehaving: Path) -> None:
        with LambdaEmulator(misbehaving, environment={}) as function:
            with pytest.raises(FunctionError, match="raised an error: ValueError: of no use"):
                function.invoke({"raise": True})
            with pytest.raises(FunctionError, match="larger than the 6 MB"):
                function.invoke({"large": 6_300_000})
            with pytest.raises(FunctionError, match=f"refuses more than {MAX_REQUEST_BYTES:,}"):
                function.invoke({"image": "x" * MAX_REQUEST_BYTES})
            assert function.invoke({})["large"] == ""
            assert "of no use" in function.log_text()

    @pytest.mark.parametrize(
        ("variable", "says"),
        [("BROKEN", "did not start: RuntimeError: the model cannot be trusted"), ("EXITS", "without an answer")],
    )
    def test_a_function_that_does_not_start_says_why(self, misbehaving: Path, variable: str, says: str) -> None:
        with LambdaEmulator(misbehaving, environment={variable: "1"}) as function:
            with pytest.raises(FunctionError, match=says):
                function.invoke({})
            with pytest.raises(FunctionError, match="has not answered yet"):
                _ = function.cold_start_ms

    def test_nothing_is_left_behind(self, misbehaving: Path) -> None:
        before = processes()
        with LambdaEmulator(misbehaving, environment={}) as function:
            function.invoke({})
            assert len(processes() - before) >= 2
            listening = [c for pid in processes() - before for c in psutil.Process(pid).net_connections()]
            assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        assert processes() <= before

    def test_a_parent_that_is_killed_takes_the_function_with_it(self, misbehaving: Path) -> None:
        code = f"""
            import time
            from pathlib import Path
            from hpe_tasks.local.emulator import LambdaEmulator
            with LambdaEmulator(Path({str(misbehaving)!r}), environment={{}}) as function:
                function.invoke({{}})
                print(function.pid, flush=True)
                time.sleep(60)
        """
        parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 5
        while psutil.pid_exists(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not psutil.pid_exists(pid)

    @pytest.mark.parametrize(
        ("above", "number"),
        [
            pytest.param(0, signal.SIGKILL, id="guard, SIGKILL"),
            pytest.param(1, signal.SIGTERM, id="keeper, SIGTERM"),
            pytest.param(1, signal.SIGKILL, id="keeper, SIGKILL"),
        ],
    )
    def test_a_keeper_that_is_ended_takes_the_function_with_it(
        self, misbehaving: Path, above: int, number: signal.Signals
    ) -> None:
        with LambdaEmulator(misbehaving, environment={}) as function:
            function.invoke({})
            started = psutil.Process(function.pid)
            emulator, keeper, guard = started.parents()[:3]
            [guard, keeper][above].send_signal(number)
            _, left = psutil.wait_procs([started, emulator, keeper], timeout=5)
            assert left == []
            with pytest.raises(FunctionError):
                function.invoke({})

    def test_without_the_emulator_it_says_what_to_install(self, misbehaving: Path) -> None:
        with (
            pytest.raises(ConfigError, match="has no Lambda emulator"),
            LambdaEmulator(misbehaving, environment={}, python=Path(sys.executable)),
        ):
            pass
        with pytest.raises(BadInputError, match="is not a folder"), LambdaEmulator(Path("/nowhere"), environment={}):
            pass


@pytest.fixture(scope="module")
def pem() -> bytes:
    return key_pem()


@pytest.fixture(scope="module")
def run(s3_server: Server, pem: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of the sample network that has published a signed version, and moved no channel."""
    folder = tmp_path_factory.mktemp("emulated")
    make_sample(folder / "data", SampleSpec(train=1, calibration=12, val=14))
    overrides = {
        "dataset.source": str(folder / "data"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 12,
        "gate.min_ap": 0.0,
        "gate.max_ap_drop": 1.0,
        "gate.max_quantsim_gap": 1.0,
        "destination.registry": REGISTRY,
        "destination.smoke_test": True,
        "destination.require_signature": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPE_CACHE", str(folder / "cache"))
        opened = open_run(
            load_config("sample", overrides=overrides),
            workspace=(folder / "workspace").as_uri(),
            cache=folder / "cache",
            name="r",
            s3=s3_server.client,
            signing_key=lambda: pem,
        )
        run_steps(REQUANTIZE, opened, REQUANTIZE.needed_for(steps.publish))
        yield opened


@dataclass(frozen=True)
class Published:
    """The run's version as the registry holds it, its files here, and its unpacked package."""

    manifest: ModelManifest
    files: dict[str, Path]
    packaged: PackagedModel
    package: Path
    public_key: bytes

    def image(self, number: int = 1) -> bytes:
        return self.files[f"golden-{number}"].read_bytes()

    @property
    def boxes(self) -> list[Any]:
        return [person.box for person in self.manifest.golden[0].people]


@pytest.fixture(scope="module")
def published(run: Run, s3_server: Server, pem: bytes, tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("version")
    registry, version = ModelRegistry(s3_server.client(), S3Location.parse(REGISTRY)), run.result(steps.publish).version
    stored = registry.stored("sample-pose", version)
    roles = [file.role for file in stored.manifest.files]
    files = {role: registry.download(stored.manifest, role, folder / role) for role in roles}
    graph = files[packaged_graph_role(stored.manifest.file("model").sha256, "x86_64")]
    packaged = PackagedModel(stored.data, registry.signature("sample-pose", version), files["model"], graph)
    package = build_package(folder / "package.zip", architecture="x86_64", model=packaged)
    with zipfile.ZipFile(package.path) as archive:
        archive.extractall(folder / "package")
    return Published(stored.manifest, files, packaged, folder / "package", SigningKey(pem).public_bytes)


@pytest.fixture(scope="module")
def function(published: Published) -> Iterator[LambdaEmulator]:
    with LambdaEmulator(published.package, environment={"HPE_CORS_ORIGINS": "*"}) as started:
        yield started


def joints_of(body: dict[str, Any]) -> list[dict[str, tuple[float, float]]]:
    """Where the people of an answer have their joints, by name."""
    return [{joint["name"]: (joint["x"], joint["y"]) for joint in person["joints"]} for person in body["people"]]


def check_golden(found: list[dict[str, tuple[float, float]]], published: Published) -> None:
    """The people are those who were found in the first golden image when the version was measured."""
    names, golden = published.manifest.serving.joints, published.manifest.golden[0]
    expected = [{name: joint[:2] for name, joint in zip(names, p.joints, strict=True) if joint} for p in golden.people]
    assert [set(one) for one in found] == [set(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert {n: pytest.approx(at, abs=0.011) for n, at in other.items()} == one


Ask = Callable[[Published], dict[str, Any]]


def v2_binary(version: Published) -> dict[str, Any]:
    return http_v2(version.image(), query={"boxes": json.dumps(version.boxes)}, content_type="image/jpeg")


FORMS: dict[str, Ask] = {
    "function URL, bytes": v2_binary,
    "REST API, bytes": lambda v: http_v1(v.image(), query={"boxes": json.dumps(v.boxes)}, content_type="image/jpeg"),
    "function URL, JSON": lambda v: http_v2(
        json.dumps({"image": base64_of(v.image()), "boxes": v.boxes}), content_type="application/json"
    ),
    "REST API, JSON in base64": lambda v: http_v1(
        json.dumps({"image": base64_of(v.image()), "boxes": v.boxes}).encode(), content_type="application/json"
    ),
    "multipart": lambda v: http_v2(
        form(("image", "a.jpg", v.image()), ("boxes", None, json.dumps(v.boxes).encode())),
        content_type="multipart/form-data; boundary=xYz",
    ),
    "REST API, multipart": lambda v: http_v1(
        form(("image", "a.jpg", v.image()), ("boxes", None, json.dumps(v.boxes).encode())),
        content_type="multipart/form-data; boundary=xYz",
    ),
    "bytes that a gateway took for text": lambda v: http_v2(
        v.image().decode("latin-1"), query={"boxes": json.dumps(v.boxes)}, content_type="image/jpeg"
    ),
    "direct": lambda v: {"image": base64_of(v.image()), "boxes": v.boxes},
}


class TestPackage:
    """The package with the sample's network."""

    @pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in FORMS.items()])
    def test_every_form_of_a_request_gives_the_same_people(
        self, function: LambdaEmulator, published: Published, ask: Ask
    ) -> None:
        answer = function.invoke(ask(published))
        body = json.loads(answer["body"])
        assert answer["statusCode"] == 200, body
        golden = published.manifest.golden[0]
        assert body["model"]["version"] == published.manifest.version
        assert (body["image"]["width"], body["image"]["height"]) == (golden.width, golden.height)
        check_golden(joints_of(body), published)
        with Image.open(io.BytesIO(base64.b64decode(body["hpe"]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (golden.width, golden.height))

    @pytest.mark.parametrize("event", [partial(http_v1), partial(http_v2)], ids=["REST API", "function URL"])
    def test_the_picture_itself_is_sent_when_it_is_asked_for(
        self, function: LambdaEmulator, published: Published, event: Callable[..., dict[str, Any]]
    ) -> None:
        answer = function.invoke(event(published.image(), content_type="image/jpeg", accept="image/jpeg"))
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        assert (answer["statusCode"], headers["content-type"], answer["isBase64Encoded"]) == (200, "image/jpeg", True)
        with Image.open(io.BytesIO(base64.b64decode(answer["body"]))) as picture:
            assert picture.format == "JPEG"

    @pytest.mark.parametrize(
        ("event", "status"),
        [
            pytest.param(http_v2(b"no image", content_type="image/jpeg"), 415, id="not an image"),
            pytest.param(http_v2("{", content_type="application/json"), 400, id="broken JSON"),
            pytest.param({"image": 7}, 422, id="no image in the document"),
        ],
    )
    def test_bad_requests_are_answered(self, function: LambdaEmulator, event: dict[str, Any], status: int) -> None:
        answer = function.invoke(event)
        error = json.loads(answer["body"])["error"]
        assert (answer["statusCode"], error["code"]) == (status, status)
        assert error["request_id"]

    def test_two_hundred_invocations_in_a_row_are_answered_by_one_process(
        self, function: LambdaEmulator, published: Published
    ) -> None:
        event = v2_binary(published)
        first = json.loads(function.invoke(event)["body"])
        pid = function.pid
        for _ in range(200):
            answer = function.invoke(event)
            assert answer["statusCode"] == 200
        assert json.loads(answer["body"])["people"] == first["people"]
        assert function.pid == pid

    @pytest.mark.timeout(1200)
    def test_memory_does_not_grow(self, published: Published) -> None:
        """RSS after 20 and after 2,000 invocations of every form of request."""
        events = [ask(published) for ask in FORMS.values()]
        with LambdaEmulator(published.package, environment={}) as function:
            used = {}
            for number in range(1, 2001):
                function.invoke(events[number % len(events)])
                if number in (20, 2000):
                    used[number] = function.rss_bytes()
        print({number: f"{rss / 1e6:.1f} MB" for number, rss in used.items()})
        assert abs(used[2000] / used[20] - 1) <= 0.05

    def test_it_runs_with_one_thread_and_little_memory(self, published: Published) -> None:
        """Of 512 MB, with a thread of onnxruntime for less than two vCPUs."""
        with LambdaEmulator(published.package, environment={}, memory_mb=512) as function:
            assert function.invoke(v2_binary(published))["statusCode"] == 200
            process = psutil.Process(function.pid)
            threads, alone = process.num_threads(), 1
            print(f"{threads} threads, {function.rss_bytes() / 1e6:.0f} MB, cold start {function.cold_start_ms:.0f} ms")
        with LambdaEmulator(published.package, environment={"HPE_THREADS": "3"}) as function:
            function.invoke(v2_binary(published))
            assert psutil.Process(function.pid).num_threads() == threads + 3 - alone

    def test_it_starts_and_answers_without_a_network(self, published: Published, tmp_path: Path) -> None:
        """In a network namespace whose only interface is its loopback."""
        event = tmp_path / "event.json"
        event.write_text(json.dumps(v2_binary(published)))
        code = f"""
            import fcntl, json, socket, struct
            from pathlib import Path
            from hpe_tasks.local.emulator import LambdaEmulator
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
                fcntl.ioctl(loopback, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS: IFF_UP
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
            with LambdaEmulator(Path({str(published.package)!r}), environment={{}}) as function:
                print(function.invoke(json.loads(Path({str(event)!r}).read_text()))["statusCode"])
        """
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        done = subprocess.run(
            ["unshare", *user, "--net", sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "200", done.stderr


@pytest.fixture
def package(published: Published, tmp_path: Path) -> Path:
    """A copy of the package that a test may damage; what it does not damage is linked."""
    copy = tmp_path / "package"
    shutil.copytree(published.package, copy, copy_function=os.link)
    for file in (copy / "model").iterdir():
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    return copy


def corrupt(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def corrupt_alone(model: Path) -> None:
    """A package of a version that has no graph for this machine."""
    model.with_name("graph.onnx").unlink()
    corrupt(model)


@pytest.mark.parametrize(
    ("file", "damage", "signed", "says"),
    [
        pytest.param("graph.onnx", corrupt, False, "SHA-256", id="a changed bit of the graph"),
        pytest.param("graph.onnx", corrupt, True, "SHA-256", id="a changed bit of the graph, whose manifest is signed"),
        pytest.param("model.onnx", corrupt_alone, False, "SHA-256", id="a changed bit of the model without a graph"),
        pytest.param("model.onnx", Path.unlink, False, "model.onnx", id="no model"),
        pytest.param("manifest.json", Path.unlink, False, "manifest.json", id="no manifest"),
        pytest.param("manifest.json", lambda file: file.write_text("{}"), False, "manifest", id="an empty manifest"),
        pytest.param("manifest.json.sig", Path.unlink, True, "sign", id="no signature where one is required"),
        pytest.param("manifest.json.sig", corrupt, True, "sign", id="a changed signature"),
        pytest.param(
            "manifest.json", lambda file: file.write_text(file.read_text() + " "), True, "sign", id="a changed manifest"
        ),
    ],
)
def test_a_model_that_cannot_be_trusted_keeps_the_function_from_starting(
    package: Path, published: Published, file: str, damage: Callable[[Path], object], signed: bool, says: str
) -> None:
    environment = {"HPE_PUBLIC_KEY": base64_of(published.public_key)} if signed else {}
    with LambdaEmulator(package, environment=environment) as function:
        assert function.invoke(v2_binary(published))["statusCode"] == 200
    damage(package / "model" / file)
    with (
        LambdaEmulator(package, environment=environment) as function,
        pytest.raises(FunctionError, match=rf"did not start: .*{says}"),
    ):
        function.invoke(v2_binary(published))


def left_for_right(serving: Serving) -> list[int]:
    """Each joint's counterpart on the other side of the body; the joint itself where it has none."""
    counterparts = list(range(len(serving.joints)))
    for left, right in serving.flip_pairs:
        counterparts[left], counterparts[right] = right, left
    return counterparts


def swapped(version: Published, model: Path) -> Published:
    """Write this version's network with left and right joints swapped; returns the version that it makes.

    Only the order of the heatmaps changes, so the joints are found exactly where they were. Mirrored heatmaps would not
    do: several cells of a quantized map can hold its maximum, and the first of them is taken.
    """
    network = onnx.load(version.files["model"])
    (output,) = network.graph.output
    for node in network.graph.node:
        node.output[:] = ["unswapped" if name == output.name else name for name in node.output]
    order = np.array(left_for_right(version.manifest.serving), np.int64)
    network.graph.initializer.append(numpy_helper.from_array(order, "left_for_right"))
    network.graph.node.append(helper.make_node("Gather", ["unswapped", "left_for_right"], [output.name], axis=1))
    onnx.checker.check_model(network)
    onnx.save(network, model)

    record, data = version.manifest.model_dump(mode="json"), model.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    limits = {check["name"]: check["limit"] for check in record["gate"]["checks"]}
    (file,) = (file for file in record["files"] if file["role"] == "model")
    file |= {"sha256": digest, "size_bytes": len(data), "blob": blob_key(digest)}
    record["proof"] = prove_kernels(model).model_dump(mode="json")
    record["version"] = content_version(digest, record["serving"], record["onnx"]["fingerprint"], limits)
    return replace(version, manifest=ModelManifest.model_validate(record), files={**version.files, "model": model})


@pytest.fixture(scope="module")
def package_without_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("without-model")
    with zipfile.ZipFile(build_package(folder / "p.zip", architecture="x86_64", model=None).path) as archive:
        archive.extractall(folder / "package")
    assert not {"model", "boto3", "botocore"} & {file.name for file in (folder / "package").iterdir()}
    return folder / "package"


class TestRegistry:
    """The package without a model, which Lambda's boto3 lets read from a registry on an S3 server."""

    @pytest.fixture
    def registry(self, s3_bucket: Any) -> ModelRegistry:
        return ModelRegistry(s3_bucket.client, S3Location(s3_bucket.bucket, "team/registry"))

    @pytest.fixture
    def environment(self, s3_bucket: Any) -> dict[str, str]:
        return {
            **s3_bucket.server.environment,
            "HPE_REGISTRY": f"s3://{s3_bucket.bucket}/team/registry",
            "HPE_MODEL": "sample-pose",
            "HPE_CHANNEL": "staging",
            "HPE_REFRESH_SECONDS": "0",
        }

    @pytest.fixture
    def successor(self, published: Published, tmp_path: Path) -> Published:
        return swapped(published, tmp_path / "swapped.onnx")

    @staticmethod
    def served(function: LambdaEmulator, published: Published) -> tuple[str, list[dict[str, tuple[float, float]]]]:
        answer = function.invoke(v2_binary(published))
        body = json.loads(answer["body"])
        assert answer["statusCode"] == 200, body
        return body["model"]["version"], joints_of(body)

    @staticmethod
    def publish(registry: ModelRegistry, version: Published, key: SigningKey | None = None) -> None:
        stored = registry.store(version.manifest, version.files, key)
        registry.promote(stored.name, stored.version, "staging", published=stored, keys=ChannelKeys(key))

    def test_a_channel_is_followed_there_and_back_by_one_process(
        self,
        package_without_model: Path,
        registry: ModelRegistry,
        environment: dict[str, str],
        published: Published,
        successor: Published,
    ) -> None:
        one, two = published.manifest.version, successor.manifest.version
        self.publish(registry, published)
        with LambdaEmulator(package_without_model, environment=environment) as function:
            version, people = self.served(function, published)
            assert version == one
            check_golden(people, published)
            pid = function.pid

            self.publish(registry, successor)
            version, others = self.served(function, published)
            assert version == two
            serving = published.manifest.serving
            counterparts = [serving.joints[joint] for joint in left_for_right(serving)]
            assert others != people
            assert others == [
                {name: person[other] for name, other in zip(serving.joints, counterparts, strict=True)}
                for person in people
            ]

            registry.rollback("sample-pose", "staging")
            assert self.served(function, published) == (one, people)
            assert function.pid == pid

    def test_only_a_signed_version_is_served_where_a_key_is_set(
        self,
        package_without_model: Path,
        registry: ModelRegistry,
        s3_bucket: Any,
        environment: dict[str, str],
        published: Published,
        successor: Published,
        pem: bytes,
    ) -> None:
        environment["HPE_PUBLIC_KEY"] = base64_of(published.public_key)
        one = published.manifest.version
        self.publish(registry, published, SigningKey(pem))
        with LambdaEmulator(package_without_model, environment=environment) as function:
            assert self.served(function, published)[0] == one
            # Somebody who has no key, but may write to the bucket.
            pointer = f"team/registry/{pointer_key('sample-pose', 'staging')}"
            s3_bucket.client.delete_object(Bucket=s3_bucket.bucket, Key=pointer)
            self.publish(registry, successor)
            # It has a model that it can trust, and goes on with it.
            assert self.served(function, published)[0] == one
            assert "is not signed" in function.log_text()
        with (
            LambdaEmulator(package_without_model, environment=environment) as function,
            pytest.raises(FunctionError, match=r"did not start: .*is not signed, and HPE_PUBLIC_KEY requires it"),
        ):
            function.invoke(v2_binary(published))
        registry.promote("sample-pose", one, "staging", keys=ChannelKeys(SigningKey(pem)))
        with LambdaEmulator(package_without_model, environment=environment) as function:
            assert self.served(function, published)[0] == one


class TestSmokeTest:
    """The smoke test, and the channel that waits for it."""

    def test_the_version_is_served_as_it_was_measured(self, published: Published) -> None:
        smoked = smoke_test(published.manifest, published.packaged, published.files, public_key=published.public_key)
        assert [image.image for image in smoked.images] == ["golden-1", "golden-2", "golden-3"]
        assert sum(image.people for image in smoked.images) == sum(image.expected for image in smoked.images) > 0
        assert all(image.min_oks is None or image.min_oks > 0.99 for image in smoked.images)
        assert any(image.min_oks is not None for image in smoked.images)
        print(smoked)

    def test_a_signature_of_another_key_fails_it(self, published: Published) -> None:
        other = SigningKey(key_pem()).public_bytes
        with pytest.raises(SmokeTestError, match=r"did not start.*sign"):
            smoke_test(published.manifest, published.packaged, published.files, public_key=other)

    def test_no_channel_moves_before_it_has_passed(
        self, run: Run, published: Published, s3_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry = ModelRegistry(s3_server.client(), S3Location.parse(REGISTRY))
        with pytest.raises(MissingInputError, match="has not passed the smoke test"):
            steps.promote(run)
        monkeypatch.setattr("hpe_tasks.release.smoke_test.MIN_OKS", 1.1)
        with pytest.raises(SmokeTestError, match=r"golden-.: a person is found with an OKS"):
            steps.smoke_test_lambda(run)
        with pytest.raises(MissingInputError, match="has not passed the smoke test"):
            steps.promote(run)
        assert registry.channels("sample-pose") == ()
        monkeypatch.undo()

        steps.smoke_test_lambda(run)
        promoted = steps.promote(run)
        assert registry.show("sample-pose", "staging").version == promoted.version == published.manifest.version
        assert promoted.previous_version is None

    def test_a_signed_version_is_not_tested_without_its_key(self, run: Run) -> None:
        with pytest.raises(HpeError, match="no signing key"):
            steps.smoke_test_lambda(replace(run, signing_key=lambda: None))
