"""Whatever is sent, the function answers: never with a 500, never by raising."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.images import decode_image
from hpe_tasks.serving.multipart import read_parts
from hpe_tasks.serving.responses import prefers_jpeg
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.stored_images import is_allowed
from support.serving_cases import Context, encoded, form, http_v1, http_v2, photo, tiny_service

ANSWERS = {200, 204, 400, 405, 413, 415, 422}
QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def refusal(function: Callable[[], object]) -> int | None:
    """The status that a function refuses with; None when it does not."""
    try:
        function()
    except RequestError as error:
        return error.status
    return None


SEEDS = [
    encoded(photo(24, 16)),
    encoded(photo(24, 16), progressive=True, exif=_turned()),
    encoded(photo(24, 16), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
    encoded(Image.fromarray(photo(24, 16)).convert("CMYK")),
    encoded(photo(24, 16), "PNG"),
    encoded(Image.fromarray(photo(24, 16)).quantize(16), "PNG", transparency=0),
    encoded(Image.fromarray(photo(24, 16)).convert("I;16"), "PNG"),
    encoded(photo(24, 16), "PNG", save_all=True, append_images=[Image.fromarray(photo(24, 16)[::-1].copy())]),
    encoded(photo(24, 16), "WEBP"),
    encoded(photo(24, 16), "WEBP", lossless=True),
    encoded(photo(24, 16), "WEBP", save_all=True, append_images=[Image.fromarray(photo(24, 16)[::-1].copy())]),
    encoded(photo(24, 16), "GIF"),
    encoded(photo(24, 16), "GIF", save_all=True, append_images=[Image.fromarray(photo(24, 16)[::-1].copy())]),
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> PoseService:
    # Large enough pictures would only make the test slow.
    return tiny_service(tmp_path_factory.mktemp("model"), MAX_PIXELS="250000", MAX_IMAGE_BYTES="100000")


def answer(service: PoseService, event: Any) -> int:
    response = service(event, Context())
    json.dumps(response, allow_nan=False)
    status: int = response["statusCode"]
    assert status in ANSWERS, response["body"]
    return status


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A file with some bytes changed, put in, taken out, or its end cut off."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "remove":
                del data[place : place + draw(st.integers(1, 8))]
            case "cut":
                del data[max(12, place) :]
    return bytes(data)


huge = st.builds(lambda sign, digits: sign * 10**digits, st.sampled_from([1, -1]), st.integers(300, 4200))
nested = st.builds(
    lambda opening, depth: opening * depth, st.sampled_from(["[", '{"a":', "[[0,"]), st.integers(1, 50_000)
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), huge, st.floats(), st.text(max_size=20), nested)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)
names = st.sampled_from(
    [
        "body", "headers", "httpMethod", "image", "boxes", "draw", "threshold", "isBase64Encoded", "multiValueHeaders",
        "multiValueQueryStringParameters", "queryStringParameters", "requestContext", "version",
    ]
)  # fmt: skip


@QUICK
@given(event=anything | st.dictionaries(names, anything, max_size=8))
def test_arbitrary_events(service: PoseService, event: Any) -> None:
    answer(service, event)


@QUICK
@given(
    make=st.sampled_from([http_v1, http_v2]),
    method=st.sampled_from(["POST", "POST", "POST", "GET", "OPTIONS", "PUT", ""]) | st.text(max_size=6),
    body=st.binary(max_size=300) | st.text(max_size=300) | nested,
    kind=st.sampled_from(
        ["image/jpeg", "application/json", "multipart/form-data; boundary=xYz", "application/octet-stream", ""]
    )
    | st.text(max_size=40),
    accept=st.text(max_size=40),
    query=st.none() | st.dictionaries(names, anything, max_size=3),
)
def test_arbitrary_requests(
    service: PoseService, make: Any, method: str, body: Any, kind: str, accept: str, query: Any
) -> None:
    answer(service, make(body, method=method, query=query, content_type=kind, accept=accept, origin=accept))


@QUICK
@given(boxes=anything | st.lists(st.lists(st.floats() | st.integers() | huge, min_size=4, max_size=4), max_size=4),
       draw=anything, threshold=anything, as_text=st.booleans())  # fmt: skip
def test_arbitrary_options(service: PoseService, boxes: Any, draw: Any, threshold: Any, as_text: bool) -> None:
    options = {"boxes": boxes, "draw": draw, "threshold": threshold}
    image = base64.b64encode(SEEDS[4]).decode()
    if as_text:
        body = json.dumps({"image": image, **options})
        answer(service, http_v2(body, content_type="application/json"))
    else:
        answer(service, {"image": image, **options})


FORMS = [form(("image", "a.png", SEEDS[4]), ("boxes", None, b"[[1,2,9,9]]"), ("draw", None, b"true"))]


@QUICK
@given(body=mutated(FORMS), boundary=st.just("xYz") | st.text(max_size=12))
def test_mutated_forms(service: PoseService, body: bytes, boundary: str) -> None:
    answer(service, http_v2(body, content_type=f"multipart/form-data; boundary={boundary}"))


@QUICK
@given(body=st.binary(max_size=200), boundary=st.sampled_from(["-", "b", "\r\n", "--", '"']))
def test_forms_of_arbitrary_bytes(body: bytes, boundary: str) -> None:
    assert refusal(lambda: read_parts(body, f"multipart/form-data; boundary={boundary}")) in (None, 400)


@QUICK
@given(
    parts=st.lists(
        st.tuples(st.text("abc", min_size=1), st.none() | st.text("abc. ;=", max_size=9), st.binary(max_size=99)),
        min_size=1,
        max_size=8,
    )
)
def test_a_form_gives_its_parts_back(parts: list[tuple[str, str | None, bytes]]) -> None:
    read = read_parts(form(*parts, boundary="qQ--7!"), 'multipart/form-data; boundary="qQ--7!"')
    assert [(part.name, part.is_file, part.content) for part in read] == [
        (name, filename is not None, content) for name, filename, content in parts
    ]


@settings(QUICK, max_examples=3000)
@given(data=mutated(SEEDS))
def test_mutated_images(data: bytes) -> None:
    def decode() -> None:
        pixels = decode_image(data, 250_000)
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.dtype == "uint8"

    assert refusal(decode) in (None, 413, 415, 422)


@QUICK
@given(data=mutated(SEEDS))
def test_mutated_images_through_the_function(service: PoseService, data: bytes) -> None:
    answer(service, http_v2(data, content_type="image/jpeg"))


@pytest.mark.parametrize("index", range(len(SEEDS)))
def test_every_cut_of_a_file(index: int) -> None:
    data = SEEDS[index]
    for end in range(0, len(data), max(1, len(data) // 150)):
        assert refusal(partial(decode_image, data[:end], 250_000)) in (None, 415, 422)


@QUICK
@given(accept=st.text("imagejp/*,;q=.01 ", max_size=60))
def test_arbitrary_accept_headers(accept: str) -> None:
    assert prefers_jpeg(accept) in (True, False)


@QUICK
@given(tail=st.text("ab/.-\\%\x00 ", max_size=20))
def test_no_address_leaves_its_prefix(tail: str) -> None:
    if is_allowed(f"s3://inbox/a{tail}", ("s3://inbox/a/b",)):
        path = Path("/inbox") / f"a{tail}"
        assert Path("/inbox/a/b") in Path(*path.parts).resolve().parents
