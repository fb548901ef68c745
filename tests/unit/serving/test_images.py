"""Image files as the function decodes them; every file is made here by Pillow, then bent where needed."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from hpe_tasks.pose.crops import box_to_center_scale
from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.images import decode_image, decode_padded, encode_jpeg
from hpe_tasks.serving.preprocessing import crop, resize
from support.bombs import jpeg_of_coloured_scans, jpeg_of_scans, jpeg_segment
from support.serving_cases import encoded, photo

LIMIT = 25_000_000


def refused(data: bytes, max_pixels: int = LIMIT) -> RequestError:
    with pytest.raises(RequestError) as error:
        decode_image(data, max_pixels)
    return error.value


def off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        pytest.param("PNG", {}, 0, id="PNG"),
        pytest.param("WEBP", {"lossless": True}, 0, id="WebP lossless"),
        pytest.param("WEBP", {"quality": 95}, 4, id="WebP"),
        pytest.param("JPEG", {"quality": 97, "subsampling": 0}, 2, id="JPEG"),
        pytest.param("JPEG", {"quality": 97, "subsampling": 0, "progressive": True}, 2, id="progressive JPEG"),
        pytest.param("GIF", {}, 12, id="GIF"),
    ],
)
def test_kinds_of_files(kind: str, options: dict[str, Any], tolerance: float) -> None:
    pixels = decode_image(encoded(photo(), kind, **options), LIMIT)
    assert pixels.shape == (60, 80, 3)
    assert pixels.dtype == np.uint8
    assert off(pixels, photo()) <= tolerance


def _grey() -> Image.Image:
    return Image.fromarray(photo()).convert("L")


@pytest.mark.parametrize(
    ("image", "kind", "tolerance"),
    [
        pytest.param(_grey(), "PNG", 0, id="grey"),
        pytest.param(_grey(), "JPEG", 3, id="grey JPEG"),
        pytest.param(Image.fromarray(np.asarray(_grey()).astype(np.uint16) * 257), "PNG", 0, id="16-bit grey"),
        pytest.param(_grey().convert("LA"), "PNG", 0, id="grey with alpha"),
        pytest.param(_grey().convert("P"), "PNG", 0, id="grey palette"),
    ],
)
def test_grey_in_every_depth(image: Image.Image, kind: str, tolerance: float) -> None:
    pixels = decode_image(encoded(image, kind), LIMIT)
    assert off(pixels, np.repeat(np.asarray(_grey())[:, :, None], 3, axis=2)) <= tolerance


def test_one_bit() -> None:
    pixels = decode_image(encoded(_grey().convert("1"), "PNG"), LIMIT)
    assert set(np.unique(pixels)) == {0, 255}


def test_palette() -> None:
    image = Image.fromarray(photo()).quantize(256)
    assert np.array_equal(decode_image(encoded(image, "PNG"), LIMIT), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg() -> None:
    image = Image.fromarray(photo()).convert("CMYK")
    assert off(decode_image(encoded(image, "JPEG", quality=97, subsampling=0), LIMIT), photo()) <= 3


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            *chunks,
            _chunk(b"IDAT", zlib.compress(rows)),
            _chunk(b"IEND", b""),
        ]
    )


def test_16_bits_of_each_colour() -> None:
    wide = photo().astype(">u2") * 257
    rows = b"".join(b"\x00" + row.tobytes() for row in wide)
    assert np.array_equal(decode_image(png(80, 60, 16, 2, rows), LIMIT), photo())


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_on_white(kind: str) -> None:
    rgba = np.dstack([photo(), np.full((60, 80), 255, np.uint8)])
    rgba[:30, :, 3] = 0
    rgba[30:, :40, 3] = 128
    pixels = decode_image(encoded(Image.fromarray(rgba), kind, lossless=True, exact=True), LIMIT)
    assert (pixels[:30] == 255).all()
    assert off(pixels[30:, :40], photo()[30:, :40] / 2 + 127.5) <= 2
    assert np.array_equal(pixels[30:, 40:], photo()[30:, 40:])


def test_a_transparent_colour_of_a_palette_or_of_plain_rgb_lies_on_white() -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(0, (0, 0, 2, 2))
    for kind in ("PNG", "GIF"):
        pixels = decode_image(encoded(palette, kind, transparency=0), LIMIT)
        assert pixels[0].tolist() == [[255, 255, 255]] * 2 + [[0, 255, 0]] * 2
    plain = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode_image(encoded(plain, "PNG", transparency=(1, 2, 3)), LIMIT).tolist() == [[[255] * 3, [4, 5, 6]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_stands_upright(kind: str, orientation: int) -> None:
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(photo())))
    pixels = decode_image(encoded(stored, kind, exif=exif, quality=97, lossless=True), LIMIT)
    assert pixels.shape == (60, 80, 3)
    assert off(pixels, photo()) <= 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00" + b"\x99" * 40]
)
def test_broken_exif_data_does_not_matter(kind: str, block: bytes) -> None:
    assert decode_image(encoded(photo(), kind, exif=block), LIMIT).shape == (60, 80, 3)


def test_an_orientation_that_does_not_exist_does_not_matter() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 42
    assert decode_image(encoded(photo(), "JPEG", exif=exif), LIMIT).shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [Image.fromarray(photo()), Image.fromarray(photo()[::-1].copy())]
    error = refused(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
    assert error.status == 422
    assert "animation" in error.message


def test_of_a_jpeg_with_further_pictures_the_first_counts() -> None:
    other = Image.new("RGB", (20, 20), "red")
    data = encoded(photo(), "MPO", save_all=True, append_images=[other], quality=97)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
        assert getattr(opened, "n_frames", 1) == 2
    assert off(decode_image(data, LIMIT), photo()) <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_smallest_image(kind: str) -> None:
    assert decode_image(encoded(photo(1, 1), kind), LIMIT).shape == (1, 1, 3)


@pytest.mark.parametrize("size", [(20_000, 40), (40, 20_000), (70_000, 1)])
def test_very_long_images(size: tuple[int, int]) -> None:
    width, height = size
    assert decode_image(encoded(photo(width, height), "PNG"), LIMIT).shape == (height, width, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_too_many_pixels_are_refused_by_the_header_alone(kind: str) -> None:
    data = encoded(Image.new("RGB", (6000, 5000), "grey"), kind)
    tracemalloc.start()
    error = refused(data, 6000 * 5000 - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.status == 413
    assert "6000×5000" in error.message
    assert peak < 2_000_000
    assert decode_image(data, 6000 * 5000).shape == (5000, 6000, 3)


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_a_decompression_bomb(side: int) -> None:
    """A small PNG that says that it is huge: nothing is allocated for it."""
    assert refused(png(side, side, 8, 2, b"\x00" * 1000)).status == 413


@pytest.mark.parametrize("side", [5001, 65_535])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_gif_whose_picture_is_larger_than_its_screen(side: int) -> None:
    size = struct.pack("<HH", side, side)
    data = b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(6) + b"," + bytes(4) + size + b"\x00\x02\x02L\x01\x00;"
    assert refused(data).status in (413, 422)


@pytest.mark.parametrize("chunk", ["VP8X", "VP8L", "VP8 "])
def test_the_size_of_a_webp_file_is_read_from_every_kind_of_header(chunk: str) -> None:
    image = Image.fromarray(photo(123, 45))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    options: dict[str, dict[str, Any]] = {"VP8X": {"exif": exif}, "VP8L": {"lossless": True}, "VP8 ": {}}
    data = encoded(image, "WEBP", **options[chunk])
    assert data[12:16] == chunk.encode()
    assert "123×45" in refused(data, 123 * 45 - 1).message
    assert decode_image(data, 123 * 45).shape == (45, 123, 3)


def test_a_text_chunk_that_inflates_is_refused() -> None:
    bomb = _chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(50_000_000)))
    assert refused(png(1, 1, 8, 2, b"\x00" * 4, bomb)).status == 422


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    data = encoded(noise, kind)
    assert refused(data[: max(12, int(len(data) * share))]).status == 422


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello, this is text", id="text"),
        pytest.param(b"%PDF-1.7 ...", id="PDF"),
        pytest.param(encoded(photo(), "BMP"), id="BMP"),
        pytest.param(encoded(photo(), "TIFF"), id="TIFF"),
        pytest.param(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", id="HEIC"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="SVG"),
    ],
)
def test_what_is_no_image_of_an_accepted_kind(data: bytes) -> None:
    error = refused(data)
    assert error.status == 415
    assert "JPEG" in error.hint


def test_a_jpeg_has_the_picture_s_size_if_it_fits() -> None:
    jpeg = encode_jpeg(photo(640, 480), 6_000_000)
    assert jpeg is not None
    assert jpeg.size == (640, 480)
    assert off(decode_image(jpeg.data, LIMIT), photo(640, 480)) < 3


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
def test_a_jpeg_that_would_not_fit_is_reduced_without_wasting_room(share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
    whole = encode_jpeg(noise, 10**7)
    assert whole is not None
    limit = int(share * len(whole.data))
    jpeg = encode_jpeg(noise, limit)
    assert jpeg is not None
    assert limit / 4 < len(jpeg.data) <= limit
    assert jpeg.size[0] / jpeg.size[1] == pytest.approx(900 / 700, rel=0.02)
    assert Image.open(io.BytesIO(jpeg.data)).size == jpeg.size


@pytest.mark.parametrize("limit", [300, 0, -5])
def test_where_no_picture_fits_there_is_none(limit: int) -> None:
    assert encode_jpeg(photo(640, 480), limit) is None


@pytest.mark.parametrize("size", [(70_000, 1), (1, 70_000)])
def test_a_side_longer_than_a_jpeg_can_have_is_reduced(size: tuple[int, int]) -> None:
    jpeg = encode_jpeg(photo(*size), 6_000_000)
    assert jpeg is not None
    assert max(jpeg.size) == 65_000
    assert min(jpeg.size) == 1


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    bomb = jpeg_of_scans(12_000, side=4992)
    assert len(bomb) < 600_000
    started = time.perf_counter()
    error = refused(bomb)
    # Decoding takes half a minute.
    assert time.perf_counter() - started < 2
    assert error.status == 422
    assert "more than 20 scans" in error.message


@pytest.mark.parametrize(
    ("scans", "width", "height", "passes"),
    [
        pytest.param(90, 500, 499, False, id="a large one, walked over 90 times"),
        pytest.param(21, 500, 499, False, id="a large one of more than encoders write"),
        pytest.param(18, 500, 499, True, id="a large one as libjpeg writes CMYK"),
        pytest.param(90, 200, 199, True, id="a small one"),
        pytest.param(101, 200, 199, False, id="a small one of very many"),
    ],
)
def test_a_large_jpeg_has_fewer_scans(
    scans: int, width: int, height: int, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decoding costs is the scans times the pixels: it is refused before anything is decoded."""
    data = jpeg_of_coloured_scans(scans, width, height)
    decoded = []
    load = JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda image: decoded.append(image.size) or load(image))
    if passes:
        assert decode_image(data, 250_000).shape == (height, width, 3)
        assert decoded
    else:
        error = refused(data, 250_000)
        assert (error.status, f"its {width}×{height} pixels" in error.message) == (422, True)
        assert not decoded


def test_a_jpeg_of_no_height_is_broken() -> None:
    data = jpeg_of_scans(30)
    height = data.index(b"\xff\xc2") + 5
    assert refused(data[:height] + b"\x00\x00" + data[height + 2 :]).status == 422


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_progressive_pictures_of_the_largest_size_pass(mode: str) -> None:
    data = encoded(Image.new(mode, (1200, 900)), "JPEG", progressive=True)
    assert decode_image(data, 1200 * 900).shape == (900, 1200, 3)


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(b"\xff" * 9, id="fill bytes"),
        pytest.param(b"\x00\x12junk", id="bytes without a marker"),
        pytest.param(b"\xff\xd0\xff\xd7", id="restart markers"),
        pytest.param(jpeg_segment(0xFE, b"\xff\xd9 no end"), id="the end of the image in a comment"),
        pytest.param(jpeg_segment(0xFE, b""), id="empty comment"),
        pytest.param(b"\xff\xfe\x00\x00", id="comment that is shorter than its length"),
    ],
)
def test_scans_cannot_be_hidden(hidden: bytes) -> None:
    """What libjpeg reads as so many scans is counted as so many."""
    assert decode_image(jpeg_of_scans(100, before_scans=hidden), LIMIT).shape == (64, 64, 3)
    assert refused(jpeg_of_scans(101, before_scans=hidden)).status == 422


def test_reserved_markers_that_libjpeg_passes_over_hide_no_scans() -> None:
    # With restarts libjpeg looks for the next marker behind a reserved one, whatever length follows it.
    restarts = jpeg_segment(0xDD, b"\x00\x01")
    data = jpeg_of_scans(150, before_scans=restarts)
    first = data.index(b"\xff\xda") + 10
    assert refused(data[:first] + b"\xff\x02\xff\xfe" + data[first:]).message.startswith(
        "The image is a JPEG of more than 100 scans"
    )


def test_ordinary_progressive_jpegs_pass_whatever_their_other_segments_hold() -> None:
    picture = photo(640, 480)
    ordinary = encoded(picture, quality=90, progressive=True)
    assert ordinary.count(b"\xff\xda") > 5
    starts = b"\xff\xda" * 200
    for data in (
        ordinary[:2] + jpeg_segment(0xFE, starts) + ordinary[2:],  # as thumbnails and colour profiles may
        ordinary + starts,  # as further pictures behind the first do
    ):
        assert off(decode_image(data, LIMIT), picture) <= 3


def test_counting_scans_takes_a_time_that_grows_as_the_file_does() -> None:
    worst = jpeg_of_scans(1)[:-2] + b"\xff\xda" * 200 + b"\xff" * 4_000_000 + b"\x00"
    started = time.perf_counter()
    assert refused(worst).status == 422
    assert time.perf_counter() - started < 5


def padded(pixels: np.ndarray) -> np.ndarray:
    """With a fourth value that must change nothing."""
    return np.dstack([pixels, np.random.default_rng(0).integers(0, 256, pixels.shape[:2], dtype=np.uint8)])


@pytest.mark.parametrize("limit", [10**6, 9_000], ids=["whole", "reduced"])
def test_the_fourth_value_of_a_pixel_is_not_encoded(limit: int) -> None:
    jpegs = [encode_jpeg(pixels, limit) for pixels in (photo(640, 480), padded(photo(640, 480)))]
    assert jpegs[0] == jpegs[1]
    assert jpegs[0] is not None
    assert (jpegs[0].size == (640, 480)) == (limit == 10**6)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_is_decoded_to_pixels_of_four(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    stored = Image.fromarray(photo()[..., 0].astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(photo())
    data = encoded(stored if mode == "I;16" else stored.convert(mode), kind)
    pixels = decode_padded(data, LIMIT)
    assert pixels.shape == (60, 80, 4)
    assert np.array_equal(pixels[..., :3], decode_image(data, LIMIT))
    box = np.array([7.5, 3.0, 50.0, 40.0])
    center, scale = box_to_center_scale(box, (80, 60), (32, 48))
    assert np.array_equal(
        crop(pixels, center, scale, (32, 48))[..., :3], crop(pixels[..., :3], center, scale, (32, 48))
    )
    assert np.array_equal(resize(pixels, (33, 21))[..., :3], resize(pixels[..., :3], (33, 21)))


@pytest.mark.parametrize(("kind", "module"), [("PNG", "Png"), ("WEBP", "WebP"), ("GIF", "Gif")])
def test_readers_of_seldom_kinds_are_imported_when_such_an_image_comes(kind: str, module: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(encoded(photo(), kind))
    code = (
        "import sys; from pathlib import Path; from hpe_tasks.serving.images import decode_image, encode_jpeg\n"
        f"name = 'PIL.{module}ImagePlugin'; encode_jpeg(decode_image(Path(sys.argv[2]).read_bytes(), 10**6), 10**6)\n"
        "before = name in sys.modules; decode_image(Path(sys.argv[1]).read_bytes(), 10**6)\n"
        "print(before, name in sys.modules)"
    )
    jpeg = tmp_path / "jpeg"
    jpeg.write_bytes(encoded(photo(), "JPEG"))
    done = subprocess.run([sys.executable, "-c", code, file, jpeg], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
