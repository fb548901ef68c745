"""The function from event to answer, with real networks of random weights."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpe_tasks.errors import CheckpointError, DigestError, TransientError
from hpe_tasks.serving.images import encode_jpeg
from hpe_tasks.serving.pose_finder import FoundPeople, Timings
from hpe_tasks.serving.responses import MAX_RESPONSE_BYTES
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.verified_model import VerifiedModel
from support.serving_cases import Context, OneModel, ask, base64_of, encoded, form, http_v1, http_v2, photo, tiny_model
from support.serving_cases import tiny_service as make_service

JPEG = encoded(photo(), quality=95)
STAGES = ["decode_image", "preprocess", "network", "decode_people", "draw", "total"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> PoseService:
    return make_service(tmp_path_factory.mktemp("model"))


def log_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def picture_of(document: dict[str, Any]) -> Image.Image:
    return _opened(base64.b64decode(document["hpe"]))


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_answer(service: PoseService) -> None:
    response = service(http_v2(JPEG, content_type="image/jpeg"), Context())
    assert response["statusCode"] == 200
    assert response["headers"] == {"Content-Type": "application/json"}
    assert response["isBase64Encoded"] is False
    document = json.loads(response["body"])
    assert list(document) == ["model", "image", "people", "request_id", "hpe", "timings_ms"]
    assert document["model"] == {"name": "tiny", "version": "0" * 16, "codec": "heatmap"}
    assert document["image"] == {"width": 80, "height": 60}
    assert document["request_id"] == "4bc3-request"
    assert list(document["timings_ms"]) == STAGES
    stages = [document["timings_ms"][stage] for stage in STAGES]
    assert all(stage > 0 for stage in stages)
    assert sum(stages[:-1]) <= stages[-1]
    (person,) = document["people"]
    assert set(person) == {"score", "box", "joints"}
    assert {joint["name"] for joint in person["joints"]} <= {"head", "neck", "hip", "left_foot", "right_foot"}
    assert picture_of(document).size == (80, 60)


def result(document: dict[str, Any]) -> Any:
    return document["image"], document["people"], document["hpe"]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(http_v2(JPEG, content_type="image/jpeg"), id="v2"),
        pytest.param(http_v1(JPEG, content_type="image/jpeg"), id="v1"),
        pytest.param(http_v2(form(("f", "a.jpg", JPEG)), content_type="multipart/form-data; boundary=xYz"), id="form"),
        pytest.param(http_v1(json.dumps({"image": base64_of(JPEG)}), content_type="application/json"), id="JSON"),
        pytest.param({"image": base64_of(JPEG)}, id="direct"),
        pytest.param({"image": base64_of(JPEG), "boxes": [[0, 0, 80, 60]]}, id="the frame as a box"),
    ],
)
def test_every_form_of_request_gives_the_same_people(service: PoseService, event: Any) -> None:
    _, expected = ask(service, http_v2(JPEG))
    status, document = ask(service, event)
    assert status == 200
    if "boxes" in event:
        assert [joint["name"] for joint in document["people"][0]["joints"]]
        assert document["people"][0]["box"] == [0, 0, 80, 60]
        assert document["people"][0]["joints"] == expected["people"][0]["joints"]
    else:
        assert result(document) == result(expected)


def test_each_box_is_one_person(service: PoseService) -> None:
    boxes = [[10, 5, 30, 40], [40, 10, 35, 45], [-10, -10, 30, 30]]
    _, document = ask(service, {"image": base64_of(JPEG), "boxes": boxes})
    assert [person["box"] for person in document["people"]] == boxes


def test_everybody_in_the_image_with_codec_paf(tmp_path: Path) -> None:
    service = make_service(tmp_path, codec="paf")
    status, document = ask(service, {"image": base64_of(encoded(photo(300, 200)))})
    assert status == 200
    assert document["model"]["codec"] == "paf"
    noses = sorted((j["x"], j["y"]) for p in document["people"] for j in p["joints"] if j["name"] == "nose")
    assert noses == [pytest.approx((70, 10), abs=3), pytest.approx((200, 10), abs=3)]
    status, document = ask(service, {"image": base64_of(JPEG), "boxes": [[0, 0, 9, 9]]})
    assert status == 422
    assert "box" in document["error"]["message"]


def test_boxes_beside_the_image(service: PoseService) -> None:
    status, document = ask(service, {"image": base64_of(JPEG), "boxes": [[0, 0, 9, 9], [80, 0, 9, 9]]})
    assert status == 422
    assert "80×60" in document["error"]["message"]


@pytest.mark.parametrize("size", [(1, 1), (20_000, 30), (30, 20_000)])
@pytest.mark.parametrize("codec", ["heatmap", "paf"])
def test_images_of_extreme_sizes(tmp_path: Path, size: tuple[int, int], codec: str) -> None:
    status, document = ask(make_service(tmp_path, codec=codec), {"image": base64_of(encoded(photo(*size), "PNG"))})
    # One pixel is too little to cut a person out of.
    assert status == (422 if (size, codec) == ((1, 1), "heatmap") else 200)
    if status == 200:
        assert picture_of(document).size == size


def test_coordinates_are_those_of_the_upright_image(service: PoseService) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = encoded(np.ascontiguousarray(np.rot90(photo())), "PNG", exif=exif)
    _, document = ask(service, {"image": base64_of(turned)})
    _, upright = ask(service, {"image": base64_of(encoded(photo(), "PNG"))})
    assert result(document) == result(upright)


def test_the_picture_shows_the_skeletons_above_the_threshold(service: PoseService) -> None:
    original = photo(320, 240)
    event = {"image": base64_of(encoded(original, "PNG")), "boxes": [[100, 70, 80, 60]]}
    _, document = ask(service, event)
    weakest, next_one, *_ = sorted(joint["score"] for joint in document["people"][0]["joints"])
    undrawn = encode_jpeg(original, 10**6)
    assert undrawn is not None

    def changed_pixels(threshold: float) -> int:
        _, document = ask(service, {**event, "threshold": threshold})
        picture, plain = (np.asarray(image).astype(int) for image in (picture_of(document), _opened(undrawn.data)))
        return int((np.abs(picture - plain).max(axis=2) > 30).sum())

    assert changed_pixels(0) > changed_pixels((weakest + next_one) / 2) > changed_pixels(1) == 0


def test_without_drawing_there_is_no_picture(service: PoseService) -> None:
    for event in ({"image": base64_of(JPEG), "draw": False}, http_v2(JPEG, query={"draw": "false"})):
        _, document = ask(service, event)
        assert "hpe" not in document
        assert "note" not in document
        assert document["people"]


def test_the_picture_itself_is_the_answer_when_asked_for(service: PoseService) -> None:
    response = service(http_v2(JPEG, accept="image/jpeg"), Context())
    assert response["statusCode"] == 200
    assert response["isBase64Encoded"] is True
    assert response["headers"]["Content-Type"] == "image/jpeg"
    _, document = ask(service, http_v2(JPEG))
    assert response["body"] == document["hpe"]
    assert ask(service, http_v2(JPEG, accept="image/jpeg", query={"draw": "false"}))[0] == 422


@pytest.mark.parametrize("accept", ["application/json", "image/jpeg"])
def test_a_picture_that_lambda_would_not_accept_is_reduced(tmp_path: Path, accept: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3000, 3200, 3), np.uint8)
    data = encoded(noise, quality=60)
    service = make_service(tmp_path, MAX_IMAGE_BYTES="20000000")
    response = service(http_v2(data, accept=accept), Context())
    assert response["statusCode"] == 200
    assert MAX_RESPONSE_BYTES / 4 < len(json.dumps(response)) <= MAX_RESPONSE_BYTES
    if accept == "application/json":
        document = json.loads(response["body"])
        assert document["image"] == {"width": 3200, "height": 3000}
        assert "{}×{}".format(*picture_of(document).size) in document["note"]


def test_a_picture_that_cannot_fit_is_left_out(service: PoseService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpe_tasks.serving.responses.MAX_RESPONSE_BYTES", 5000)
    for accept in ("application/json", "image/jpeg"):
        status, document = ask(service, http_v2(JPEG, accept=accept))
        assert status == 200
        assert "hpe" not in document
        assert "left out" in document["note"]
        assert document["people"]


def test_get_says_what_is_served(service: PoseService) -> None:
    status, document = ask(service, http_v1(method="GET"))
    assert status == 200
    assert document["model"] == {"name": "tiny", "version": "0" * 16, "codec": "heatmap"}
    assert document["limits"] == {
        "image_bytes": 4_500_000,
        "stored_image_bytes": 20_000_000,
        "pixels": 25_000_000,
        "boxes": 64,
    }


def test_browsers_of_allowed_origins_may_call(tmp_path: Path) -> None:
    service = make_service(tmp_path, CORS_ORIGINS="https://a.example")
    preflight = service(http_v2(method="OPTIONS", origin="https://a.example"), Context())
    assert preflight["statusCode"] == 204
    assert "POST" in preflight["headers"]["Access-Control-Allow-Methods"]
    for event in (http_v2(JPEG, origin="https://a.example"), http_v1(b"no image", origin="https://a.example")):
        response = service(event, Context())
        assert response["headers"]["Access-Control-Allow-Origin"] == "https://a.example"
        assert response["headers"]["Access-Control-Expose-Headers"] == "X-Request-Id"
    assert "Access-Control-Allow-Origin" not in service(http_v2(JPEG, origin="https://b.example"), Context())["headers"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "patch"])
def test_other_methods_are_refused(service: PoseService, method: str) -> None:
    response = service(http_v2(JPEG, method=method), Context())
    assert response["statusCode"] == 405
    assert response["headers"]["Allow"] == "GET, POST, OPTIONS"


@pytest.mark.parametrize(
    ("event", "status"),
    [
        pytest.param([], 400, id="no event"),
        pytest.param(http_v2("{", content_type="application/json"), 400, id="no JSON"),
        pytest.param(http_v2(bytes(5_000_000)), 413, id="too large"),
        pytest.param(http_v2(b"text"), 415, id="no image"),
        pytest.param(http_v2(JPEG[:300]), 422, id="cut off"),
        pytest.param({"image": "s3://inbox/a.jpg"}, 422, id="S3 is not allowed"),
    ],
)
def test_errors(service: PoseService, event: Any, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    answered, document = ask(service, event)
    assert answered == status
    assert list(document) == ["error"]
    assert document["error"]["code"] == status
    assert document["error"]["message"]
    assert document["error"]["request_id"] == "4bc3-request"
    (line,) = log_lines(capsys)
    assert (line["level"], line["status"], line["client_errors"], line["server_errors"]) == ("WARNING", status, 1, 0)
    assert line["reason"]


class Broken:
    """A finder that fails in the middle of a request."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find(self, image: Any, boxes: Any) -> tuple[FoundPeople, Timings]:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("secret path /opt/x"), MemoryError("secret"), CheckpointError("secret maps hold NaN")]
)
def test_a_failure_of_the_function_tells_its_caller_nothing_but_an_id(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_service(tmp_path)
    monkeypatch.setattr(service._loaded.finder, "find", Broken(error).find)
    capsys.readouterr()
    response = service(http_v2(JPEG), Context())
    assert response["statusCode"] == 500
    assert "secret" not in response["body"]
    assert json.loads(response["body"])["error"]["request_id"] == "4bc3-request"
    (line,) = log_lines(capsys)
    assert (line["level"], line["status"], line["server_errors"], line["client_errors"]) == ("ERROR", 500, 1, 0)
    assert line["error"] == type(error).__name__
    assert "secret" in line["reason"]
    assert "in find" in line["trace"]
    monkeypatch.undo()
    assert ask(service, http_v2(JPEG))[0] == 200


def test_one_line_of_log_with_metrics_for_each_invocation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = make_service(tmp_path, METRICS_NAMESPACE="Team/Poses")
    (loaded,) = log_lines(capsys)
    assert (loaded["message"], loaded["model"], loaded["origin"]) == ("model loaded", "tiny", "package")
    _, document = ask(service, http_v2(JPEG))
    (line,) = log_lines(capsys)
    assert line["message"] == "invocation"
    assert line["request_id"] == "4bc3-request"
    assert (line["function"], line["function_version"], line["model"]) == ("poses", "7", "tiny")
    assert (line["form"], line["method"], line["status"], line["people"]) == ("2.0", "POST", 200, 1)
    assert (line["width"], line["height"], line["image_bytes"]) == (80, 60, len(JPEG))
    assert line["mean_score"] == line["top_score"] == document["people"][0]["score"]
    pixels = photo() / 255
    assert line["image_mean"] == pytest.approx(pixels.mean(axis=(0, 1)).tolist(), abs=0.01)
    assert line["image_contrast"] == pytest.approx((pixels @ [0.299, 0.587, 0.114]).std(), abs=0.01)
    for stage in STAGES[:-1]:
        assert line[f"{stage}_ms"] == document["timings_ms"][stage]
    assert line["total_ms"] >= document["timings_ms"]["total"]
    # The Embedded Metric Format: every metric and dimension is a member of the line itself.
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 60
    assert directive["Namespace"] == "Team/Poses"
    assert directive["Dimensions"] == [["function"], ["function", "function_version", "model"]]
    names = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert set(names) >= {f"{stage}_ms" for stage in STAGES} | {"people", "mean_score", "server_errors", "load_ms"}
    for name in names:
        assert isinstance(line[name], int | float), name
    assert all(isinstance(line[name], str) for names in directive["Dimensions"] for name in names)
    ask(service, http_v2(JPEG))
    (second,) = log_lines(capsys)
    assert (line["cold_start"], second["cold_start"]) == (True, False)
    assert "load_ms" not in second
    ask(service, http_v2(method="GET"))
    (about,) = log_lines(capsys)
    assert "_aws" not in about


def test_the_log_holds_nothing_of_a_request_s_content(service: PoseService, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hunter2hunter2"
    for event in (
        http_v2(JPEG, query={"token": secret}, authorization=f"Bearer {secret}", cookie=secret, x_api_key=secret),
        http_v2(JPEG, query={"threshold": secret}),
        http_v2(JPEG, query={secret: "1"}),
        http_v2(form((secret, "a.jpg", JPEG)), content_type=f"multipart/form-data; boundary={secret}"),
        http_v2(JPEG, content_type=secret),
        {"image": secret},
        {"image": f"s3://{secret}/a.jpg"},
        {"image": base64_of(JPEG), secret: 1},
    ):
        service(event, Context())
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 8
    assert secret not in printed.out + printed.err
    assert base64_of(JPEG)[:40] not in printed.out


def test_it_answers_without_a_context(service: PoseService) -> None:
    response = service({"image": base64_of(JPEG)}, None)
    assert response["statusCode"] == 200
    assert len(json.loads(response["body"])["request_id"]) == 32


class Following:
    """A function whose clock is set by hand, and whose source has what a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, refresh_s: str = "60") -> None:
        self.now = 1000.0
        monkeypatch.setattr("hpe_tasks.serving.service.time.monotonic", lambda: self.now)
        self.old, self.new = (tiny_model(folder, version=digit * 16) for digit in "ab")
        self.source = OneModel(self.old)
        settings = ServingSettings.from_environment({"HPE_REFRESH_SECONDS": refresh_s}, folder)
        self.service = PoseService(settings, self.source)

    def version(self, remaining_ms: int = 29_000) -> str:
        response = self.service(http_v2(JPEG), Context(remaining_ms=remaining_ms))
        assert response["statusCode"] == 200
        version: str = json.loads(response["body"])["model"]["version"]
        return version


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Following]:
    return lambda **options: Following(tmp_path, monkeypatch, **options)


def test_another_model_is_served_after_the_interval(following: Callable[..., Following]) -> None:
    function = following()
    function.source.next = function.new
    function.now += 59
    assert function.version() == "a" * 16
    assert function.source.asked == 0
    function.now += 1
    assert function.version() == "b" * 16
    function.source.next = None
    assert function.version() == "b" * 16
    assert function.source.asked == 1
    function.now += 60
    assert function.version() == "b" * 16
    assert function.source.asked == 2


def test_renewal_waits_for_an_invocation_with_time_left(
    following: Callable[..., Following], capsys: pytest.CaptureFixture[str]
) -> None:
    function = following(refresh_s="0")
    function.source.next = function.new
    capsys.readouterr()
    for _ in range(3):
        assert function.version(remaining_ms=9_999) == "a" * 16
    assert function.source.asked == 0
    # A function whose timeout is too short for it says so, and not each time.
    (warning,) = (line for line in log_lines(capsys) if line["level"] == "WARNING")
    assert "too little time" in warning["reason"]
    assert function.version(remaining_ms=10_000) == "b" * 16


@pytest.mark.parametrize(
    "error",
    [
        DigestError("The signature does not belong to this manifest."),
        TransientError("S3 is not there."),
        KeyError("a mistake in the source"),
    ],
)
def test_a_model_that_does_not_verify_is_not_served(
    following: Callable[..., Following], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    function = following()
    function.source.next = error
    function.now += 60
    capsys.readouterr()
    assert function.version() == "a" * 16
    failed, invocation = log_lines(capsys)
    assert (failed["level"], failed["error"], failed["model_version"]) == ("ERROR", type(error).__name__, "a" * 16)
    assert invocation["status"] == 200
    # It is tried again, but not with every request.
    assert function.version() == "a" * 16
    assert function.source.asked == 1
    function.source.next = function.new
    function.now += 60
    assert function.version() == "b" * 16


def test_the_channel_is_read_at_the_first_invocation_after_a_snapshot(
    following: Callable[..., Following], capsys: pytest.CaptureFixture[str]
) -> None:
    function = following()
    function.source.next = function.new
    function.service.restored()
    capsys.readouterr()
    assert function.version() == "b" * 16
    *_, invocation = log_lines(capsys)
    # The model was loaded when the snapshot was made, not for this invocation.
    assert invocation["cold_start"] is False
    assert "load_ms" not in invocation
    function.version()
    assert function.source.asked == 1


class Slow(OneModel):
    """A source that gives its next model when it is told to."""

    def __init__(self, model: VerifiedModel) -> None:
        super().__init__(model)
        self.ready = threading.Event()

    def newer(self, current: VerifiedModel) -> VerifiedModel | None:
        self.ready.wait()
        return super().newer(current)


def test_no_request_waits_longer_than_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Slow(tiny_model(tmp_path, version="a" * 16))
    source.next = tiny_model(tmp_path, version="b" * 16)
    service = PoseService(ServingSettings.from_environment({"HPE_REFRESH_SECONDS": "0"}, tmp_path), source)
    started = time.monotonic()
    response = service(http_v2(JPEG), Context(remaining_ms=10_000))
    assert 2 <= time.monotonic() - started < 6
    assert json.loads(response["body"])["model"]["version"] == "a" * 16
    _, warning, _ = log_lines(capsys)
    assert (warning["level"], warning["message"]) == ("WARNING", "The model is not renewed yet.")
    # The next ones do not wait for it at all, and have the new model when it is ready.
    started = time.monotonic()
    assert ask(service, http_v2(JPEG))[1]["model"]["version"] == "a" * 16
    assert time.monotonic() - started < 2
    source.ready.set()
    while ask(service, http_v2(JPEG))[1]["model"]["version"] == "a" * 16:
        assert time.monotonic() - started < 20


def test_a_model_that_onnxruntime_cannot_run_is_not_served(following: Callable[..., Following]) -> None:
    function = following(refresh_s="0")
    function.new.file.write_bytes(b"no network")
    function.source.next = function.new
    assert function.version() == "a" * 16


def test_no_request_is_dropped_while_the_model_changes(tmp_path: Path) -> None:
    """Requests that run at the same time each get one whole answer, of the old model or of the new."""
    old, new = (tiny_model(tmp_path, version=digit * 16) for digit in "ab")
    source = OneModel(old)
    service = PoseService(ServingSettings.from_environment({"HPE_REFRESH_SECONDS": "0"}, tmp_path), source)
    answers: list[tuple[int, Any]] = []

    def call() -> None:
        for _ in range(10):
            answers.append(ask(service, {"image": base64_of(JPEG)}))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    source.next = new
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * 40
    versions = {document["model"]["version"] for _, document in answers}
    assert versions <= {"a" * 16, "b" * 16}
    assert ask(service, {"image": base64_of(JPEG)})[1]["model"]["version"] == "b" * 16


def test_a_model_that_cannot_be_loaded_keeps_the_function_from_starting(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    model.file.write_bytes(b"no network")
    with pytest.raises(CheckpointError):
        PoseService(ServingSettings.from_environment({}, tmp_path), OneModel(model))
