"""Events of every form, and what their bodies ask for."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.events import read_event
from hpe_tasks.serving.multipart import read_parts
from hpe_tasks.serving.requests import MAX_BOXES, PoseRequest, read_request
from support.serving_cases import base64_of, form, http_v1, http_v2

# Bytes that are no text, with what ends lines and starts boundaries in them.
IMAGE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 3 + b"\r\n--\r\n--xY\r\n"
LIMIT = 4000


def _no_store(address: str) -> bytes:
    raise AssertionError(f"{address} was read")


def read(event: Any) -> PoseRequest:
    return read_request(read_event(event, LIMIT), LIMIT, _no_store)


def refused(event: Any) -> RequestError:
    with pytest.raises(RequestError) as error:
        read(event)
    return error.value


DOCUMENT = {"image": base64_of(IMAGE), "boxes": [[1, 2, 3, 4]], "draw": False, "threshold": 0.5}
QUERY = {"boxes": "[[1, 2, 3, 4]]", "draw": "false", "threshold": "0.5"}
FORM = form(
    ("boxes", None, b"[[1, 2, 3, 4]]"), ("photo", "me.jpg", IMAGE), ("draw", None, b"False"), ("threshold", None, b".5")
).replace(b"\r\n.5\r\n", b"\r\n0.5\r\n")


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(http_v2(IMAGE, query=QUERY, content_type="image/jpeg"), id="v2 image"),
        pytest.param(http_v1(IMAGE, query=QUERY, content_type="image/png"), id="v1 image"),
        pytest.param(http_v2(IMAGE, query=QUERY, content_type="application/octet-stream"), id="octets"),
        pytest.param(http_v2(IMAGE, query=QUERY), id="no content type"),
        pytest.param(http_v1(IMAGE.decode("latin-1"), query=QUERY, content_type="image/jpeg"), id="bytes as text"),
        pytest.param(http_v2(FORM, content_type="multipart/form-data; boundary=xYz"), id="v2 form"),
        pytest.param(http_v1(FORM, content_type='Multipart/Form-Data; charset=x; BOUNDARY="xYz"'), id="v1 form"),
        pytest.param(
            http_v1(FORM.decode("latin-1"), content_type="multipart/form-data; boundary=xYz"), id="form, text"
        ),
        pytest.param(http_v2(json.dumps(DOCUMENT), content_type="application/json"), id="v2 JSON"),
        pytest.param(
            http_v1(json.dumps(DOCUMENT).encode(), content_type="application/json; charset=utf-8"), id="v1 JSON"
        ),
        pytest.param(DOCUMENT, id="direct"),
        pytest.param(
            DOCUMENT | {"boxes": "[[1,2,3,4]]", "draw": "false", "threshold": "0.5"}, id="direct, options as text"
        ),
        pytest.param(DOCUMENT | {"image": f"data:image/jpeg;base64,{base64_of(IMAGE)}"}, id="data URL"),
        pytest.param(DOCUMENT | {"image": base64.encodebytes(IMAGE).decode()}, id="base64 in lines"),
    ],
)
def test_every_form_gives_the_same_request(event: Any) -> None:
    asked = read(event)
    assert asked.image == IMAGE
    assert asked.boxes is not None
    assert asked.boxes.dtype == np.float64
    assert asked.boxes.tolist() == [[1, 2, 3, 4]]
    assert asked.draw is False
    assert asked.threshold == 0.5


@pytest.mark.parametrize("event", [http_v2(IMAGE), {"image": base64_of(IMAGE), "boxes": None, "draw": None}])
def test_options_may_be_left_out(event: Any) -> None:
    asked = read(event)
    assert (asked.boxes, asked.draw, asked.threshold) == (None, True, None)


@pytest.mark.parametrize("name", ["content-type", "Content-Type", "CONTENT-TYPE", "cOnTeNt-TyPe"])
@pytest.mark.parametrize("many", [False, True])
def test_header_names_in_any_case(name: str, many: bool) -> None:
    event = http_v1(FORM)
    value = "multipart/form-data; boundary=xYz"
    event["headers"] = None if many else {name: value}
    event["multiValueHeaders"] = {name: [value]} if many else None
    assert read(event).image == IMAGE


def test_repeated_values() -> None:
    event = http_v1(IMAGE)
    event["multiValueHeaders"] = {"Accept": ["image/jpeg;q=0.5", "application/json"]}
    event["multiValueQueryStringParameters"] = {"threshold": ["0.1", "0.3"]}
    request = read_event(event, LIMIT)
    assert request.headers["accept"] == "image/jpeg;q=0.5, application/json"
    assert request.query == {"threshold": "0.3"}


def test_options_of_the_body_go_before_query_parameters() -> None:
    event = http_v2(json.dumps(DOCUMENT), query={"threshold": "0.1"}, content_type="application/json")
    assert read(event).threshold == 0.5


def test_an_s3_address_is_read_from_the_store() -> None:
    request = read_event({"image": "s3://inbox/a.jpg"}, LIMIT)
    assert read_request(request, LIMIT, lambda address: address.encode()).image == b"s3://inbox/a.jpg"
    # The store has a limit of its own.
    assert len(read_request(request, LIMIT, lambda address: bytes(LIMIT + 1)).image) == LIMIT + 1


@pytest.mark.parametrize(
    ("event", "status", "named"),
    [
        pytest.param(["image"], 400, "event", id="a list"),
        pytest.param(None, 400, "event", id="nothing"),
        pytest.param({"httpMethod": 3}, 400, "method", id="no method"),
        pytest.param({"requestContext": "x"}, 400, "method", id="no request context"),
        pytest.param(http_v2(IMAGE) | {"body": {"a": 1}}, 400, "body", id="body is an object"),
        pytest.param(http_v2(IMAGE) | {"headers": ["a"]}, 400, "headers", id="headers are a list"),
        pytest.param(http_v2(IMAGE) | {"body": "@@@@"}, 400, "base64", id="body is not base64"),
        pytest.param(http_v2(IMAGE) | {"body": "QUJD\nREVG"}, 400, "base64", id="body is loose base64"),
        pytest.param(http_v2("ä€", content_type="image/jpeg"), 400, "stands for no bytes", id="bytes lost as text"),
        pytest.param(http_v2("{", content_type="application/json"), 400, "JSON", id="JSON"),
        pytest.param(http_v2(b"\xff{}", content_type="application/json"), 400, "JSON", id="JSON is not UTF-8"),
        pytest.param(http_v2("[" * 60_000, content_type="application/json"), 400, "JSON", id="deep JSON"),
        pytest.param(http_v2("[]", content_type="application/json"), 400, "object", id="JSON list"),
        pytest.param({"image": "@@"}, 400, "base64", id="image is not base64"),
        pytest.param({"image": "QUJ"}, 400, "base64", id="base64 is cut off"),
        pytest.param({"image": 7}, 422, "image", id="image is a number"),
        pytest.param({"image": "data:image/png,abc"}, 422, "data: URL", id="data URL without base64"),
        pytest.param({}, 422, "no image", id="empty object"),
        pytest.param({"image": ""}, 422, "no image", id="empty image"),
        pytest.param(http_v2(b""), 422, "no image", id="empty body"),
        pytest.param(http_v2(b"") | {"body": None}, 422, "no image", id="no body"),
        pytest.param(http_v2("a=b", content_type="text/plain"), 415, "Content-Type", id="text"),
        pytest.param(
            http_v2("a=b", content_type="application/x-www-form-urlencoded"), 415, "Content-Type", id="urlencoded"
        ),
        pytest.param(http_v2(bytes(LIMIT + 1)), 413, "image is larger than 0.004 MB", id="large image"),
        pytest.param(http_v2("a" * 100_000, content_type="application/json"), 413, "body", id="large text"),
        pytest.param(http_v2(bytes(200_000)), 413, "body", id="large body"),
        pytest.param({"image": base64_of(bytes(LIMIT + 1))}, 413, "larger than", id="large JSON image"),
        pytest.param({"image": base64_of(bytes(5 * LIMIT))}, 413, "larger than", id="very large JSON image"),
        pytest.param(
            http_v2(form(("a", "b.jpg", bytes(LIMIT + 1))), content_type="multipart/form-data; boundary=xYz"),
            413,
            "0.004 MB",
            id="large file",
        ),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_read(event: Any, status: int, named: str) -> None:
    error = refused(event)
    assert error.status == status
    assert named in error.message


@pytest.mark.parametrize(
    ("option", "named"),
    [
        pytest.param({"boxes": [[0, 0, float("nan"), 4]]}, "finite", id="NaN"),
        pytest.param({"boxes": "[[NaN, 0, 3, 4]]"}, "finite", id="NaN as text"),
        pytest.param({"boxes": [[0, float("-inf"), 3, 4]]}, "finite", id="infinite"),
        pytest.param({"boxes": [[0, 0, 10**400, 4]]}, "finite", id="beyond floats"),
        pytest.param({"boxes": [[0, 0, 3, 10**400]]}, "finite", id="height beyond floats"),
        pytest.param({"boxes": "[[0, 0, 3, %s]]" % ("9" * 5000)}, "JSON", id="more digits than Python reads"),
        pytest.param({"boxes": "[" * 100_000}, "JSON", id="nested boxes"),
        pytest.param({"boxes": [[0, 0, -3, 4]]}, "Box 0", id="negative width"),
        pytest.param({"boxes": [[0, 0, 3, 4], [0, 0, 3, 0]]}, "Box 1", id="no height"),
        pytest.param({"boxes": [[0, 0, 3]]}, "[x, y, width, height]", id="three numbers"),
        pytest.param({"boxes": [0, 0, 3, 4]}, "[x, y, width, height]", id="one box without a list"),
        pytest.param({"boxes": [[0, 0, "3", 4]]}, "[x, y, width, height]", id="text for a number"),
        pytest.param({"boxes": [[0, 0, True, 4]]}, "[x, y, width, height]", id="true for a number"),
        pytest.param({"boxes": []}, "[x, y, width, height]", id="empty list"),
        pytest.param({"boxes": {"x": 1}}, "[x, y, width, height]", id="object"),
        pytest.param({"boxes": [[0, 0, 3, 4]] * (MAX_BOXES + 1)}, f"at most {MAX_BOXES}", id="too many"),
        pytest.param({"boxes": "1,2,3,4"}, "JSON", id="no JSON"),
        pytest.param({"draw": "maybe"}, "draw", id="draw"),
        pytest.param({"draw": 1}, "draw", id="draw is a number"),
        pytest.param({"draw": [True]}, "draw", id="draw is a list"),
        pytest.param({"threshold": 1.5}, "threshold", id="threshold above 1"),
        pytest.param({"threshold": "nan"}, "threshold", id="threshold is not JSON"),
        pytest.param({"threshold": float("nan")}, "threshold", id="threshold NaN"),
        pytest.param({"threshold": 10**400}, "threshold", id="threshold beyond floats"),
        pytest.param({"threshold": "1" + "0" * 400}, "threshold", id="threshold beyond floats as text"),
        pytest.param({"threshold": -(10**400)}, "threshold", id="threshold below floats"),
        pytest.param({"threshold": "[" * 100_000}, "threshold", id="nested threshold"),
        pytest.param({"threshold": True}, "threshold", id="threshold true"),
        pytest.param({"treshold": 0.5}, "options", id="unknown option"),
    ],
)
def test_an_option_that_cannot_be_used(option: dict[str, Any], named: str) -> None:
    error = refused({"image": base64_of(IMAGE), **option})
    assert error.status == 422
    assert named in error.message


def test_an_unknown_option_is_named_to_its_sender_alone() -> None:
    error = refused(http_v2(IMAGE, query={"treshold": "0.5"}))
    assert "'treshold'" in error.hint
    assert "treshold" not in error.message


def test_as_many_boxes_as_are_allowed() -> None:
    boxes = read({"image": base64_of(IMAGE), "boxes": [[-5, -5, 30.5, 40]] * MAX_BOXES}).boxes
    assert boxes is not None
    assert boxes.shape == (MAX_BOXES, 4)


def image_of(body: bytes, content_type: str = "multipart/form-data; boundary=xYz") -> bytes:
    return read(http_v2(body, content_type=content_type)).image


def test_the_part_named_image_goes_before_other_files() -> None:
    assert image_of(form(("thumb", "a.jpg", b"small"), ("image", "b.jpg", IMAGE))) == IMAGE
    assert image_of(form(("image", None, IMAGE))) == IMAGE


def test_else_the_first_file_is_the_image() -> None:
    assert image_of(form(("a", "a.jpg", IMAGE), ("b", "b.jpg", b"other"))) == IMAGE


def test_parts_as_browsers_and_curl_write_them() -> None:
    body = (
        b"preamble\r\n--b 1\r\n"
        b'content-disposition: form-data; filename="a; name=\\"x\\".jpg"; name="photo"\r\n'
        b"Content-Type: image/jpeg\r\nX-Other: 1\r\n\r\n" + IMAGE + b"\r\n--b 1  \r\n"
        b"Content-Disposition: form-data; name=draw\r\n\r\ntrue\r\n--b 1--\r\nepilogue"
    )
    parts = read_parts(body, 'multipart/form-data; boundary="b 1"')
    assert [(part.name, part.is_file) for part in parts] == [("photo", True), ("draw", False)]
    assert parts[0].content == IMAGE
    assert parts[1].content == b"true"


def test_a_file_with_an_encoded_name() -> None:
    body = form(("photo", "x", IMAGE)).replace(b'filename="x"', b"filename*=UTF-8''%e2%82%ac.jpg")
    assert read_parts(body, "multipart/form-data; boundary=xYz")[0].is_file


def test_a_part_may_be_empty() -> None:
    assert [part.content for part in read_parts(form(("a", "b", b"")), "multipart/form-data; boundary=xYz")] == [b""]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        pytest.param(form(("a", "b", IMAGE)), "multipart/form-data", 400, id="no boundary"),
        pytest.param(form(("a", "b", IMAGE)), "multipart/form-data; boundary=other", 400, id="another boundary"),
        pytest.param(form(("a", "b", IMAGE))[:-9], None, 400, id="not closed"),
        pytest.param(form(("a", "b", IMAGE))[:200], None, 400, id="cut off in a part"),
        pytest.param(form(("a", "b", IMAGE))[:40], None, 400, id="cut off in its headers"),
        pytest.param(form(("a", "b", IMAGE)).replace(b"\r\n", b"\n"), None, 400, id="line feeds alone"),
        pytest.param(form(("a", "b", IMAGE)).replace(b'name="a"', b"x=y"), None, 400, id="no name"),
        pytest.param(form(("a", "b" * 9000, IMAGE)), None, 400, id="long headers"),
        pytest.param(form(*[("a", None, b"1")] * 33), None, 400, id="too many parts"),
        pytest.param(b"--xYz--\r\n", None, 422, id="no parts"),
        pytest.param(form(("draw", None, b"true")), None, 422, id="no file"),
        pytest.param(form(("photo", "", b"")), None, 422, id="no file chosen"),
        pytest.param(form(("photo", "a.jpg", IMAGE), ("size", None, b"1")), None, 422, id="unknown field"),
    ],
)
def test_a_form_that_cannot_be_read(body: bytes, content_type: str | None, status: int) -> None:
    event = http_v2(body, content_type=content_type or "multipart/form-data; boundary=xYz")
    assert refused(event).status == status
