"""What a trigger can be told of the places that it names, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError
from hpe_tasks.preflight.named_places import missing_places


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


def test_defaults_and_web_addresses_are_not_asked_for() -> None:
    client = Answers()
    assert missing({"gate.min_ap": 0.5, "model.checkpoint": "https://host.example/model.onnx"}, client) == ()
    assert client.asked == []
