"""Reading of image files of every kind that data sets hold, whole and broken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from hpe_tasks.data.image_files import Unreadable, look_at, read_image

SIZE = (160, 120)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Smooth, colourful, without symmetry."""
    noise = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bit(image: Image.Image) -> bytes:
    return cv2.imencode(".png", np.asarray(image)[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()


def sixteen_bit_grey(image: Image.Image) -> bytes:
    return cv2.imencode(".png", np.asarray(image.convert("L")).astype(np.uint16) * 257)[1].tobytes()


def transparent(image: Image.Image) -> Image.Image:
    """Half of it fully transparent: the colours below stay."""
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 80, 120))
    with_alpha = image.convert("RGBA")
    with_alpha.putalpha(alpha)
    return with_alpha


def turned(image: Image.Image) -> bytes:
    """A JPEG whose EXIF orientation asks to turn it by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=100, subsampling=0, exif=exif)


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.parametrize(
    ("encode", "expected", "tolerance"),
    [
        pytest.param(lambda i: encoded(i, "PNG"), lambda i, _: i, 0, id="png"),
        pytest.param(lambda i: encoded(i, "JPEG", quality=90), lambda _, c: decoded(c), 2, id="jpeg"),
        pytest.param(lambda i: encoded(i, "JPEG", progressive=True), lambda _, c: decoded(c), 2, id="progressive-jpeg"),
        pytest.param(lambda i: encoded(i.convert("L"), "JPEG"), lambda _, c: decoded(c), 2, id="grey-jpeg"),
        pytest.param(lambda i: encoded(i.convert("CMYK"), "JPEG"), lambda _, c: decoded(c), 3, id="cmyk-jpeg"),
        pytest.param(
            lambda i: encoded(i.convert("L"), "PNG"), lambda i, _: i.convert("L").convert("RGB"), 0, id="grey"
        ),
        pytest.param(
            lambda i: encoded(i.convert("P"), "PNG"), lambda i, _: i.convert("P").convert("RGB"), 0, id="palette"
        ),
        pytest.param(lambda i: encoded(transparent(i), "PNG"), lambda i, _: i, 0, id="rgba"),
        pytest.param(sixteen_bit, lambda i, _: i, 0, id="16-bit"),
        pytest.param(sixteen_bit_grey, lambda i, _: i.convert("L").convert("RGB"), 0, id="16-bit-grey"),
        pytest.param(turned, lambda _, c: decoded(c), 2, id="exif-orientation-is-not-applied"),
        pytest.param(lambda i: encoded(i, "WEBP", lossless=True), lambda i, _: i, 0, id="webp"),
        pytest.param(
            lambda i: encoded(i, "JPEG") + b"left over" * 9, lambda _, c: decoded(c), 2, id="bytes-after-the-end"
        ),
    ],
)
def test_every_kind_has_the_colours_of_the_picture(
    tmp_path: Path, picture: Image.Image, encode: Callable, expected: Callable, tolerance: int
) -> None:
    path = tmp_path / "image"
    path.write_bytes(encode(picture))
    pixels = read_image(path)
    assert isinstance(pixels, np.ndarray)
    assert (pixels.shape, pixels.dtype) == ((120, 160, 3), np.uint8)
    wanted = np.asarray(expected(picture, path.read_bytes())).astype(int)
    assert np.abs(pixels[:, :, ::-1].astype(int) - wanted).max() <= tolerance


def test_the_exif_orientation_is_really_there(picture: Image.Image) -> None:
    flagged = np.frombuffer(turned(picture), np.uint8)
    assert cv2.imdecode(flagged, cv2.IMREAD_COLOR).shape == (160, 120, 3)


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    """Adobe's CMYK JPEGs hold inverted inks: a reader that ignores this shows the negative."""
    path = tmp_path / "red.jpg"
    path.write_bytes(encoded(Image.new("RGB", SIZE, (230, 20, 30)).convert("CMYK"), "JPEG"))
    pixels = read_image(path)
    assert isinstance(pixels, np.ndarray)
    assert np.abs(pixels.astype(int) - (30, 20, 230)).max() <= 3


JPEGS = [
    pytest.param({}, "RGB", id="jpeg"),
    pytest.param({"progressive": True}, "RGB", id="progressive"),
    pytest.param({}, "L", id="grey"),
    pytest.param({}, "CMYK", id="cmyk"),
]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(("options", "mode"), JPEGS)
def test_a_jpeg_that_is_cut_off_is_never_shown_with_a_grey_rest(
    tmp_path: Path, picture: Image.Image, options: dict, mode: str, share: float
) -> None:
    """The file functions of OpenCV fill the rest with grey; from memory it refuses, which this product relies on."""
    path = tmp_path / "image.jpg"
    content = encoded(picture.convert(mode), "JPEG", quality=95, **options)
    path.write_bytes(content[: int(len(content) * share)])
    assert read_image(path) == Unreadable(path, "is not an image, or is cut off")


def test_real_jpegs_without_their_last_bytes_are_refused_or_whole(test_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    for source in sorted((test_data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[:12]:
        content = source.read_bytes()
        whole = read_image(source)
        for missing in (1, 2, 3, 5, 20, 200, 5000):
            path.write_bytes(content[:-missing])
            pixels = read_image(path)
            if not isinstance(pixels, Unreadable):  # only the end marker is missing, all pixels are there
                assert missing <= 2
                assert_array_equal(pixels, whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(lambda _: None, "is missing", id="missing"),
        pytest.param(lambda _: b"", "is an empty file", id="empty"),
        pytest.param(lambda _: b"<html>404 not found</html>" * 30, "is not an image, or is cut off", id="text"),
        pytest.param(lambda i: encoded(i, "PNG")[:900], "is not an image, or is cut off", id="cut-png"),
        pytest.param(lambda i: encoded(i, "PNG")[:-20], "is not an image, or is cut off", id="cut-png-end"),
        pytest.param(lambda i: encoded(i, "WEBP")[:-200], "is not an image, or is cut off", id="cut-webp"),
        pytest.param(lambda i: encoded(i, "GIF"), "is a GIF, .*JPEG or PNG", id="gif"),
        pytest.param(
            lambda i: encoded(i, "GIF", save_all=True, append_images=[i.rotate(90)]),
            "is a GIF, .*JPEG or PNG",
            id="animated-gif",
        ),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, picture: Image.Image, content: Callable, reason: str) -> None:
    path = tmp_path / "image"
    data = content(picture)
    if data is not None:
        path.write_bytes(data)
    unreadable = read_image(path)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.path == path
    assert re.fullmatch(reason, unreadable.reason)


def test_what_looks_at_files_refuses_a_gif_too(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(picture, "GIF"))
    unreadable = read_image(path)
    assert isinstance(unreadable, Unreadable)
    assert look_at(path).fault == unreadable.reason


def test_a_folder_in_place_of_an_image_cannot_be_read(tmp_path: Path) -> None:
    unreadable = read_image(tmp_path)
    assert isinstance(unreadable, Unreadable)
    assert unreadable.reason.startswith("cannot be read: ")
