"""What a trigger can be told of the places that it names, without a run."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.fetch import absent, addresses
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.errors import ConfigError
from hpe_tasks.preflight.named_places import missing_places
from support.faulty_server import Mood, serve


class Answers:
    """An S3 client whose bucket `there` holds `model.onnx`; of others it says what it is told to."""

    def __init__(self, otherwise: str = "404") -> None:
        self.otherwise = otherwise
        self.asked: list[str] = []

    def head_bucket(self, *, Bucket: str) -> None:
        self._answer(Bucket, Bucket == "there")

    def head_object(self, *, Bucket: str, Key: str) -> None:
        self._answer(f"{Bucket}/{Key}", Key == "model.onnx")

    def _answer(self, what: str, found: bool) -> None:
        self.asked.append(what)
        if found:
            return
        if self.otherwise == "unreachable":
            raise EndpointConnectionError(endpoint_url="http://s3")
        raise ClientError({"Error": {"Code": self.otherwise}}, "Head")


def missing(settings: dict[str, Any], client: Any = None, *, here: bool = True) -> tuple[str, ...]:
    config = load_config("sample", overrides=settings)
    answers: Any = client or Answers()
    return missing_places(config, settings, s3=lambda: answers, files_are_here=lambda: here)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    assert missing({"model.checkpoint": str(tmp_path / "model.onnx"), "dataset.source": str(tmp_path)}) == ()
    wrong = {"model.checkpoint": str(tmp_path / "no.onnx"), "dataset.source": f"file://{tmp_path}/no"}
    checkpoint, source = missing(wrong)
    assert checkpoint == f"model.checkpoint: {tmp_path}/no.onnx does not exist. Check the path."
    assert source.startswith("dataset.source: ")
    # A worker on another machine may have it.
    assert missing(wrong, here=False) == ()


def test_buckets_and_objects_that_are_not_there_are_named_each_asked_for_once() -> None:
    client = Answers()
    settings = {
        "model.checkpoint": "s3://there/no.onnx",
        "dataset.source": "s3://there/data",
        "destination.registry": "s3://nowhere/registry",
        "dataset.boxes": "s3://nowhere/boxes.json",
    }
    assert missing(settings, client) == (
        "model.checkpoint: s3://there/no.onnx does not exist. Check the address.",
        "dataset.boxes: the bucket 'nowhere' does not exist. Create it, or correct the address.",
        "destination.registry: the bucket 'nowhere' does not exist. Create it, or correct the address.",
    )
    assert client.asked == ["there", "there/no.onnx", "nowhere"]
    assert missing({"model.checkpoint": "s3://there/model.onnx"}) == ()


@pytest.mark.parametrize("otherwise", ["403", "500", "SlowDown", "unreachable"])
def test_what_no_input_is_to_blame_for_is_left_to_the_preflight(otherwise: str) -> None:
    assert missing({"destination.registry": "s3://nowhere/registry"}, Answers(otherwise)) == ()


def test_a_client_that_cannot_be_made_is_left_to_the_preflight() -> None:
    def broken() -> Any:
        raise ConfigError("no profile")

    config = load_config("sample")
    assert missing_places(config, {"destination.registry"}, s3=broken, files_are_here=lambda: True) == ()


def test_defaults_are_not_asked_for() -> None:
    client = Answers()
    assert missing({"gate.min_ap": 0.5}, client) == ()
    assert client.asked == []


PRIVATE = {"dataset.allow_private_addresses": True}


def test_what_a_web_server_does_not_have_is_named() -> None:
    with serve(b"weights") as site:
        site.files = {"/m.onnx": b"weights", "/boxes.json": b"[]"}
        there = {"model.checkpoint": f"{site.address}/m.onnx", "dataset.boxes": f"{site.address}/boxes.json"}
        assert missing(there | PRIVATE) == ()
        wrong = {"model.checkpoint": f"{site.address}/no.onnx?Signature=se-cret", "dataset.boxes": f"{site.address}/b"}
        checkpoint, boxes = missing(wrong | PRIVATE)
        asked = len(site.requests)
        # A worker's network is not this machine's.
        assert missing(wrong | PRIVATE, here=False) == ()
        assert len(site.requests) == asked == 4
    assert checkpoint == f"model.checkpoint: {site.address}/no.onnx does not exist (HTTP 404). Check the address."
    assert boxes == f"dataset.boxes: {site.address}/b does not exist (HTTP 404). Check the address."


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.0.0.1"])
@pytest.mark.parametrize("here", [True, False])
def test_a_private_address_is_refused_with_the_one_message_and_not_asked(host: str, here: bool) -> None:
    with serve(b"weights") as site:
        address = f"http://{host}:{site.address.rpartition(':')[2]}/m.onnx"
        (told,) = missing({"model.checkpoint": address}, here=here)
        assert site.requests == []
    assert told == (
        f"model.checkpoint: {address} is not fetched: it is, or its server points to, an address that is not public. "
        "If that server is meant, set dataset.allow_private_addresses=true."
    )


def test_a_redirect_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server counts as public here; where it leads to does not."""
    with serve(b"weights") as site, serve(b"secrets") as inner:
        port, elsewhere = site.address.rpartition(":")[2], inner.address.replace("127.0.0.1", "127.0.0.2")
        site.moods.append(Mood(status=302, headers={"Location": f"{elsewhere}/latest"}))
        monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
        (told,) = missing({"model.checkpoint": f"http://127.0.0.1:{port}/m.onnx"})
        assert (len(site.requests), inner.requests) == (1, [])
    assert "an address that is not public" in told


def test_a_server_that_nobody_runs_is_named_where_the_run_would_ask_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, and listens to nobody.
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/m.onnx"
        (told,) = missing({"model.checkpoint": address} | PRIVATE)
    assert told.startswith(f"model.checkpoint: The connection to the server of {address} failed")
    assert told.endswith("Check the address.")
    unknown = {"model.checkpoint": "https://no-such-host.invalid/m.onnx"}
    (told,) = missing(unknown)
    assert "no-such-host.invalid" in told
    assert missing(unknown, here=False) == (), "what this machine cannot resolve, a worker may"


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_server_that_says_no_for_another_reason_is_left_to_the_preflight(status: int) -> None:
    with serve(b"weights") as site:
        site.moods.append(Mood(status=status))
        assert missing({"model.checkpoint": f"{site.address}/m.onnx"} | PRIVATE) == ()
        assert len(site.requests) == 1, "asked once, and not again"


def test_a_slow_server_is_left_to_the_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "PATIENCE", HttpPatience(connect_timeout_s=3, read_timeout_s=0.2, retries=0))
    with serve(b"weights") as site:
        site.delay_s = 0.5
        assert missing({"model.checkpoint": f"{site.address}/m.onnx"} | PRIVATE) == ()
