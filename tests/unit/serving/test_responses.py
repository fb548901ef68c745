"""What is negotiated, which browsers may call, and what fits into an answer."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest

from hpe_tasks.serving import responses
from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.pose_finder import FoundPeople
from support.serving_cases import STICK

EXPOSED = {"Access-Control-Expose-Headers": "X-Request-Id"}


@pytest.mark.parametrize(
    ("accept", "jpeg"),
    [
        ("", False),
        ("*/*", False),
        ("image/jpeg", True),
        ("IMAGE/JPEG", True),
        ("image/*", True),
        ("image/png", False),
        ("application/json", False),
        ("image/jpeg, application/json", False),
        ("image/jpeg;q=0.9, application/json;q=0.8", True),
        ("image/jpeg;q=0.8, application/json;q=0.9", False),
        ("image/jpeg, */*;q=0.8", True),
        ("image/jpeg;q=0, */*", False),
        ("application/json;q=0, */*", True),
        ("image/*;q=0.5, image/jpeg;q=0.1, */*;q=0.3", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", False),
        ("image/jpeg; q = 1", True),
        ("image/jpeg;q=high", False),
        ("image/jpeg;q=nan", False),
        (";;,,;q=", False),
    ],
)
def test_a_picture_instead_of_json_when_it_is_preferred(accept: str, jpeg: bool) -> None:
    assert responses.prefers_jpeg(accept) is jpeg


def test_a_refusal_survives_pickling_as_every_error_of_the_pipeline_does() -> None:
    error = pickle.loads(pickle.dumps(RequestError(413, "too large", hint="smaller")))
    assert (type(error), error.status, str(error)) == (RequestError, 413, "too large smaller")


@pytest.mark.parametrize(
    ("origin", "allowed", "headers"),
    [
        ("https://a.example", (), {}),
        ("https://a.example", ("*",), {"Access-Control-Allow-Origin": "*", **EXPOSED}),
        (None, ("*",), {"Access-Control-Allow-Origin": "*", **EXPOSED}),
        (
            "https://a.example",
            ("https://b.example", "https://a.example"),
            {"Access-Control-Allow-Origin": "https://a.example", "Vary": "Origin", **EXPOSED},
        ),
        ("https://c.example", ("https://a.example",), {"Vary": "Origin"}),
        (None, ("https://a.example",), {"Vary": "Origin"}),
    ],
)
def test_origins(origin: str | None, allowed: tuple[str, ...], headers: dict[str, str]) -> None:
    assert responses.cors_headers(origin, allowed) == headers


def test_a_preflight_promises_nothing_to_an_origin_that_is_not_allowed() -> None:
    allowed = responses.preflight_response({"Access-Control-Allow-Origin": "https://a.example"})
    assert allowed["statusCode"] == 204
    assert allowed["headers"]["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
    assert responses.preflight_response({"Vary": "Origin"})["headers"] == {"Vary": "Origin"}


def test_joints_that_were_not_found_are_left_out() -> None:
    keypoints = np.arange(20, dtype=np.float32).reshape(2, 5, 2) / np.float32(3)
    keypoints[0, 1] = np.nan
    found = FoundPeople(
        joints=keypoints,
        joint_scores=np.full((2, 5), 0.123456, np.float32),
        scores=np.array([0.98765, 0.5], np.float32),
        boxes=np.array([[1, 2, 3, 4.4444], [5, 6, 7, 8]], np.float32),
    )
    first, second = responses.people_document(found, STICK)
    assert first["score"] == 0.9876 or first["score"] == 0.9877
    assert first["box"] == [1, 2, 3, 4.44]
    assert [joint["name"] for joint in first["joints"]] == ["head", "hip", "left_foot", "right_foot"]
    assert first["joints"][1] == {"name": "hip", "x": 1.33, "y": 1.67, "score": 0.1235}
    assert [joint["name"] for joint in second["joints"]] == list(STICK.joints)


@pytest.mark.parametrize("people", [0, 1, 500])
def test_an_answer_with_the_largest_picture_that_has_room_fits_lambda_s_limit(people: int) -> None:
    joint = {"name": 'left\u2028"shoulder"', "x": 1234.56, "y": 1234.56, "score": 0.1234}
    document = {"people": [{"score": 0.5, "joints": [joint] * 17}] * people}
    room = responses.room_for_picture(document)
    response = responses.json_response(200, {**document, "hpe": "A" * (math.ceil(room / 3) * 4)}, {"Vary": "Origin"})
    size = len(json.dumps(response))
    assert size <= responses.MAX_RESPONSE_BYTES
    if people < 2:
        assert size > responses.MAX_RESPONSE_BYTES - 10_000
