"""The function follows a channel of a registry on a real S3 server."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hpe_tasks.errors import AccessError, DigestError, HpeError
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.serving import service as service_module
from hpe_tasks.serving.s3 import s3_client
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.signing_keys import key_pem

pytestmark = pytest.mark.integration

REFRESH_S = 60.0


def network(column: int) -> bytes:
    """A network for crops of 192×256 that finds every joint in this column of its heatmaps, whatever it is shown."""
    peak = np.zeros((1, 17, 64, 48), np.float32)
    peak[:, :, 32, column] = 1
    constants = [numpy_helper.from_array(peak, "peak"), numpy_helper.from_array(np.array(0, np.float32), "zero")]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["small"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["grey", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "peak"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pose",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 256, 192))],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ("batch", 17, 64, 48))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Function:
    """The function as its environment sets it up, and what it prints."""

    def __init__(self, environment: dict[str, str], clock: Clock) -> None:
        settings = ServingSettings.from_environment(environment, Path("/nowhere"))
        self._service = PoseService(settings, open_source(settings))
        self._clock = clock
        picture = io.BytesIO()
        Image.new("RGB", (192, 256)).save(picture, "PNG")
        self._event = {"image": base64.b64encode(picture.getvalue()).decode(), "draw": False}

    def served(self) -> tuple[str, int]:
        """(Version, column in which its joints were found) of one invocation."""
        answer = self._service(self._event, None)
        assert answer["statusCode"] == 200, answer
        body = json.loads(answer["body"])
        (person,) = body["people"]
        (x,) = {joint["x"] for joint in person["joints"]}
        # The crop of the whole frame is a quarter wider than it: 240 pixels for the 48 columns, about the middle.
        return body["model"]["version"], round((x - 192 / 2) / (240 / 48) + 48 / 2)

    def channel(self) -> dict[str, Any]:
        """What the function says of its channel to whoever asks."""
        answer = self._service({"httpMethod": "GET", "headers": {}}, None)
        assert answer["statusCode"] == 200, answer
        told: dict[str, Any] = json.loads(answer["body"])["channel"]
        return told

    def later(self) -> tuple[str, int]:
        """What is served when the interval is over."""
        self._clock.now += REFRESH_S + 1
        return self.served()


@pytest.fixture
def key() -> SigningKey:
    return SigningKey(key_pem())


@pytest.fixture
def registry(s3_bucket: Any) -> ModelRegistry:
    return ModelRegistry(s3_bucket.client, S3Location(s3_bucket.bucket, "team/registry"))


@pytest.fixture
def publish(registry: ModelRegistry, tmp_path: Path, key: SigningKey) -> Callable[..., Any]:
    """Publish the network of a column, and let the channel serve it."""

    def _publish(column: int, *, signed: bool = True, key: SigningKey = key) -> Any:
        files = records.write_files(tmp_path / f"column-{column}")
        files["model"].write_bytes(network(column))
        manifest = records.manifest(files)
        published = registry.store(manifest, files, key if signed else None)
        registry.promote("pose", published.version, "staging", published=published, keys=ChannelKeys(key))
        folder = f"team/registry/models/pose/versions/{manifest.version}"
        return SimpleNamespace(
            served=(manifest.version, column),
            version=manifest.version,
            blob=f"team/registry/{manifest.file('model').blob}",
            manifest=f"{folder}/manifest.json",
            signature=f"{folder}/manifest.json.sig",
        )

    return _publish


@pytest.fixture
def environment(s3_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The variables of a function that follows the channel; boto3 finds the server by the usual ones."""
    for name, value in s3_bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    s3_client.cache_clear()
    yield {
        "HPE_REGISTRY": f"s3://{s3_bucket.bucket}/team/registry",
        "HPE_MODEL": "pose",
        "HPE_CHANNEL": "staging",
        "HPE_REFRESH_SECONDS": str(REFRESH_S),
    }
    s3_client.cache_clear()


@pytest.fixture
def start(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Function]:
    clock = Clock()
    monkeypatch.setattr(
        service_module, "time", SimpleNamespace(monotonic=clock.monotonic, perf_counter=time.perf_counter)
    )

    def _start(**more: str) -> Function:
        return Function({**environment, **more}, clock)

    return _start


def signed_setup(key: SigningKey) -> dict[str, str]:
    return {"HPE_PUBLIC_KEY": base64.b64encode(key.public_bytes).decode()}


@pytest.mark.parametrize("signed", [False, True], ids=["any", "signed"])
def test_a_channel_is_followed_there_and_back(
    registry: ModelRegistry, publish: Any, start: Any, key: SigningKey, tmp_path: Path, signed: bool
) -> None:
    one = publish(10, signed=signed)
    function = start(**(signed_setup(key) if signed else {}))
    assert function.served() == one.served
    two = publish(30, signed=signed)
    # Not before its time.
    assert function.served() == one.served
    assert function.later() == two.served
    assert function.served() == two.served
    registry.rollback("pose", "staging", keys=ChannelKeys(key))
    assert function.served() == two.served
    assert function.later() == one.served
    assert len(list((tmp_path / "hpe-models").glob("*.onnx"))) == 2
    # A function that starts now serves the same.
    assert start().served() == one.served


def test_a_pinned_version_is_served_whatever_the_channel_says(publish: Any, start: Any) -> None:
    one, two = publish(10), publish(30)
    function = start(HPE_CHANNEL="", HPE_VERSION=one.version)
    assert function.later() == one.served
    assert start().served() == two.served


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        pytest.param("blob", DigestError, "blobs/sha256/.* is corrupt", id="blob"),
        pytest.param("manifest", DigestError, "manifest.json has the SHA-256 .*, but the channel says", id="manifest"),
        pytest.param("signature", DigestError, "is not one of Ed25519", id="signature"),
        pytest.param("no signature", DigestError, "is not signed, and HPE_PUBLIC_KEY requires it", id="unsigned"),
        pytest.param("no manifest", AccessError, "manifest.json does not exist", id="deleted"),
    ],
)
def test_a_version_that_does_not_verify_is_not_served(
    s3_bucket: Any,
    registry: ModelRegistry,
    publish: Any,
    start: Any,
    key: SigningKey,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    error: type[HpeError],
    message: str,
) -> None:
    def put(name: str, change: Callable[[bytes], bytes]) -> None:
        content = s3_bucket.client.get_object(Bucket=s3_bucket.bucket, Key=name)["Body"].read()
        s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=name, Body=change(content))

    one = publish(10)
    function = start(**signed_setup(key))
    two = publish(30, signed=damage != "no signature")
    match damage:
        case "blob":
            put(two.blob, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
        case "manifest":
            put(two.manifest, lambda data: data.replace(b'"ada"', b'"eve"'))
        case "signature":
            put(two.signature, lambda data: data[:20])
        case "no manifest":
            s3_bucket.client.delete_object(Bucket=s3_bucket.bucket, Key=two.manifest)
    capsys.readouterr()
    assert function.later() == one.served
    (logged,) = [line for line in capsys.readouterr().out.splitlines() if '"ERROR"' in line]
    assert error.__name__ in logged
    with pytest.raises(error, match=message):
        start(**signed_setup(key))
    registry.rollback("pose", "staging", keys=ChannelKeys(key))
    assert function.later() == one.served
    assert start(**signed_setup(key)).served() == one.served


def test_a_function_that_cannot_trust_its_model_does_not_start(
    s3_bucket: Any, publish: Any, environment: dict[str, str], key: SigningKey, tmp_path: Path
) -> None:
    publish(10, signed=False)
    variables = {**environment, **s3_bucket.server.environment, **signed_setup(key), "TMPDIR": str(tmp_path)}
    refused = subprocess.run(
        [sys.executable, "-c", "import hpe_tasks.serving.handler"],
        env=variables,
        cwd=Path(service_module.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    logged = [json.loads(line) for line in refused.stdout.splitlines()]
    assert any("is not signed" in json.dumps(line) and line["level"] == "ERROR" for line in logged), refused.stdout
    assert not list((tmp_path / "hpe-models").glob("*.onnx*"))


def test_a_server_that_is_gone_for_a_while_drops_no_request(
    publish: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = publish(10)
    function = start()
    two = publish(30)
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    # Port 9 (discard) is served nowhere.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    s3_client.cache_clear()
    assert function.later() == one.served
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    s3_client.cache_clear()
    assert function.later() == two.served


def test_requests_go_on_while_the_channel_moves(
    registry: ModelRegistry, publish: Any, environment: dict[str, str], key: SigningKey
) -> None:
    one, two = publish(10), publish(30)
    function = Function({**environment, "HPE_REFRESH_SECONDS": "0"}, Clock())
    over = threading.Event()

    def ask() -> set[tuple[str, int]]:
        seen = set()
        while not over.is_set():
            seen.add(function.served())
        return seen

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask) for _ in range(3)]
        try:
            for version in (one, two, one):
                registry.promote("pose", version.version, "staging", keys=ChannelKeys(key))
                deadline = time.monotonic() + 60
                while function.served() != version.served:
                    assert time.monotonic() < deadline
        finally:
            over.set()
        seen = set().union(*(answer.result() for answer in answers))
    # Every answer came from one of the two, whole: no version with the other one's joints.
    assert seen == {one.served, two.served}


def test_an_unchanged_channel_costs_one_small_request(publish: Any, start: Any, key: SigningKey) -> None:
    publish(10)
    function = start(**signed_setup(key))
    asked: list[tuple[str, int]] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        asked.append((params["url_path"].rpartition("/")[2], 0))

    def answered(http_response: Any, **_: Any) -> None:
        asked[-1] = (asked[-1][0], http_response.status_code)

    events = s3_client(renewal=True).meta.events
    events.register("before-call.s3.GetObject", note)
    events.register("after-call.s3.GetObject", answered)
    function.later()
    assert asked == [("staging.json", 304)]
    # A version that is refused is read once.
    publish(30, signed=False)
    for _ in range(3):
        function.later()
    assert [name for name, status in asked if status != 304] == ["staging.json", "manifest.json", "manifest.json.sig"]
    assert len(asked) == 1 + 3 + 2


POINTER = "team/registry/models/pose/channels/staging.json"


class Vandal:
    """Somebody who may write to the bucket, and has no key."""

    def __init__(self, bucket: Any) -> None:
        self._client, self._bucket = bucket.client, bucket.bucket

    def copy(self, place: str = POINTER) -> bytes:
        data: bytes = self._client.get_object(Bucket=self._bucket, Key=place)["Body"].read()
        return data

    def put(self, data: bytes, place: str = POINTER) -> None:
        self._client.put_object(Bucket=self._bucket, Key=place, Body=data)


def test_an_old_version_is_not_served_again_by_whoever_writes_to_the_bucket(
    s3_bucket: Any, registry: ModelRegistry, publish: Any, start: Any, key: SigningKey,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    vandal, keys = Vandal(s3_bucket), ChannelKeys(key)
    one = publish(10)
    function = start(**signed_setup(key))
    first = vandal.copy()
    two = publish(30)
    second = registry.show("pose", "staging")
    assert function.later() == two.served
    assert function.channel()["counter"] == second.counter
    vandal.put(first)
    capsys.readouterr()
    assert function.later() == two.served
    (logged,) = [line for line in capsys.readouterr().out.splitlines() if '"ERROR"' in line]
    earlier = json.loads(first)["counter"]
    assert f"its counter is {earlier}, and one with {second.counter} was seen here before" in logged
    told = function.channel()
    assert told["counter"] == second.counter
    assert f"its counter is {earlier}" in told["refused"]["reason"]
    assert "s3://" not in told["refused"]["reason"]
    # It is told once, and refused for good: also by the next process of this environment.
    assert function.later() == two.served
    assert not [line for line in capsys.readouterr().out.splitlines() if '"ERROR"' in line]
    with pytest.raises(DigestError, match="was seen here before"):
        start(**signed_setup(key))
    # An environment that is new knows nothing, unless it was told.
    for kept in (tmp_path / "hpe-models").glob("channel-*.json"):
        kept.unlink()
    with pytest.raises(DigestError, match=f"HPE_CHANNEL_MIN_COUNTER asks for {second.counter}"):
        start(**signed_setup(key), HPE_CHANNEL_MIN_COUNTER=str(second.counter))
    assert start(**signed_setup(key)).served() == one.served
    # What the owner does is followed, a rollback as well.
    registry.promote("pose", two.version, "staging", keys=keys)
    assert function.later() == two.served
    assert "refused" not in function.channel()
    registry.rollback("pose", "staging", keys=keys)
    assert function.later() == one.served


@pytest.mark.parametrize("forgery", ["unsigned", "of another channel", "of another registry", "edited"])
def test_a_pointer_that_the_owner_did_not_sign_for_this_channel_is_not_followed(
    s3_bucket: Any, registry: ModelRegistry, publish: Any, start: Any, key: SigningKey, forgery: str
) -> None:
    vandal, keys = Vandal(s3_bucket), ChannelKeys(key)
    one, two = publish(10), publish(30)
    function = start(**signed_setup(key))
    pointer = json.loads(vandal.copy())
    if forgery == "unsigned":
        forged = pointer | {"version": one.version, **pointer["history"][0], "signature": None}
    elif forgery == "of another channel":
        registry.promote("pose", one.version, "tests", keys=keys)
        forged = json.loads(vandal.copy(POINTER.replace("staging", "tests"))) | {"channel": "staging"}
    elif forgery == "of another registry":
        other = ModelRegistry(s3_bucket.client, S3Location(s3_bucket.bucket, "other"))
        for place in (one.blob, one.manifest):
            vandal.put(vandal.copy(place), place.replace("team/registry", "other"))
        encodings = registry.stored("pose", one.version).manifest.file("encodings").blob
        vandal.put(vandal.copy(f"team/registry/{encodings}"), f"other/{encodings}")
        other.promote("pose", one.version, "staging", keys=keys)
        forged = json.loads(vandal.copy(POINTER.replace("team/registry", "other")))
    else:
        forged = pointer | {**pointer["history"][0], "counter": pointer["counter"] + 1}
    vandal.put(json.dumps(forged).encode())
    assert function.later() == two.served
    assert "is refused: " in function.channel()["refused"]["reason"]
    with pytest.raises(DigestError, match="is refused: "):
        start(**signed_setup(key))
    # Without a key nothing can be told apart, as ever.
    assert start().served() == one.served


def test_a_key_is_changed_without_a_moment_in_which_nothing_is_served(
    registry: ModelRegistry, publish: Any, start: Any, key: SigningKey
) -> None:
    new = SigningKey(key_pem())
    both = {"HPE_PUBLIC_KEY": ",".join(base64.b64encode(one.public_bytes).decode() for one in (key, new))}
    one, two = publish(10), publish(30)
    before, meanwhile = start(**signed_setup(key)), start(**both)
    with pytest.raises(DigestError, match="does not belong to it"):
        start(**signed_setup(new))
    registry.sign("pose", "staging", ChannelKeys(new, (key.public_bytes,)))
    # Those that do not know the new key stay with what they have.
    for function in (before, meanwhile, start(**both), start(**signed_setup(new))):
        assert function.later() == two.served
    assert "refused" in before.channel()
    assert "refused" not in meanwhile.channel()
    registry.rollback("pose", "staging", keys=ChannelKeys(new))
    assert meanwhile.later() == start(**signed_setup(new)).served() == one.served
    assert before.later() == two.served
