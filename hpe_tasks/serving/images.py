"""Image files as pixels, within limits, and pixels as a JPEG of a bounded size.

Accepted are JPEG, PNG, WebP and GIF. Pixels are what a viewer shows: turned by the EXIF orientation, transparency on
white, palettes, grey, CMYK and 16 bits as 8-bit RGB. An animation is refused: it is not clear which of its pictures
was meant. Of a JPEG that holds further pictures (depth, gain map) the first, which viewers show, counts.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.serving.errors import RequestError

Pixels = npt.NDArray[np.uint8]
"""H×W×3, RGB; or H×W×4 with a value that is not looked at, as Pillow keeps pixels."""

# What Pillow raises on broken files. Most are OSError and SyntaxError; the others come from its readers' arithmetic.
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What a JPEG's reader takes for a marker, wherever it looks for one: a zero after 0xFF is data, more 0xFF fill up.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Each may cost a few bytes, and a walk over every pixel. Encoders write up to 18 (libjpeg, of CMYK): a picture of the
# largest size may have as many, and a smaller one more, as long as it takes no longer.
_MAX_SCANS, _MAX_SCANS_OF_LARGEST = 100, 20

# A viewer sees no difference to 85 beside a skeleton; the file has half to two thirds of the bytes.
_QUALITY = 75
# Below this a picture shows nothing; above, libjpeg refuses.
_MIN_SIDE, _MAX_SIDE = 64, 65_000


def decode_image(data: bytes, max_pixels: int) -> Pixels:
    """Decode an image file to H×W×3 as `decode_padded` does."""
    return decode_padded(data, max_pixels)[..., :3]


def decode_padded(data: bytes, max_pixels: int) -> Pixels:
    """Decode an image file.

    Args:
        data: The file's bytes.
        max_pixels: Larger images are refused by what their header says, before a pixel is decoded.

    Returns:
        H×W×4 uint8, RGB and a value without meaning, upright; not writable.

    Raises:
        RequestError: It is not a JPEG, PNG, WebP or GIF (415), has too many pixels (413), is broken, cut off or
            animated, or a JPEG of a great many scans (422).
    """
    kind = _kind(data)
    if kind is None:
        raise RequestError(
            415, "The file is not an image of a kind that is accepted.", hint="Send a JPEG, PNG, WebP or GIF."
        )
    try:
        if kind.format == "WEBP":
            _refuse_large(_webp_size(data), max_pixels)  # its reader allocates the whole picture
        with kind(io.BytesIO(data)) as image:
            _refuse_large(image.size, max_pixels)
            _refuse_animation(image)
            if kind is JpegImageFile:
                _refuse_scans(data, image.size, max_pixels)
            image.load()
            return _rgb(_upright(image))
    except RequestError:
        raise
    except _BROKEN:
        raise RequestError(422, "The image is broken or cut off.", hint="Send the whole file.") from None


def _kind(data: bytes) -> type[ImageFile] | None:
    """The reader of a file; seldom ones are imported with the first file of their kind, not at every start."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        from PIL.WebPImagePlugin import WebPImageFile

        return WebPImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile
    return None


def _webp_size(data: bytes) -> tuple[int, int]:
    """(W, H) from the first chunk of a WebP file (RFC 9649); (0, 0) for an unknown one, which its reader refuses."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _refuse_large(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise RequestError(
            413, f"The image has {width}×{height} pixels; at most {max_pixels} are accepted.", hint="Send it smaller."
        )


def _refuse_animation(image: Image.Image) -> None:
    if getattr(image, "is_animated", False):
        raise RequestError(422, "The image is an animation.", hint="Send the one picture that you mean.")


def _refuse_scans(data: bytes, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    most = min(_MAX_SCANS, _MAX_SCANS_OF_LARGEST * max_pixels // max(1, width * height))
    # Nearly always enough: every start of a scan is this pair of bytes. Other segments may hold the pair as well.
    if data.count(b"\xff\xda") > most and _scans(data) > most:
        raise RequestError(
            422,
            f"The image is a JPEG of more than {most} scans, too many for its {width}×{height} pixels.",
            hint="Save it with another program.",
        )


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG's first picture (ITU-T T.81, annex B); where it is broken, rather too many.

    What follows a start of scan, data and restart markers, is passed over by looking for the next marker, as libjpeg
    does. Reserved markers (below 0xC0) have no length: looking for a restart, libjpeg passes over the marker alone.
    """
    scans, position = 0, 0
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            break
        scans += code == _START_OF_SCAN
        if code >= 0xC0 and not 0xD0 <= code <= 0xD8:
            position += max(2, int.from_bytes(data[position : position + 2]))
    return scans


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return image  # viewers show a picture with broken EXIF data as it is stored
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        grey = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 4, axis=2)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.new("RGB", colours.size, "white")
        image.paste(colours, mask=colours.getchannel("A"))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)


@frozen
class Jpeg:
    """An encoded picture.

    Attributes:
        size: (W, H).
    """

    data: bytes
    size: tuple[int, int]


def encode_jpeg(pixels: Pixels, max_bytes: int) -> Jpeg | None:
    """Encode a picture, smaller if it would exceed `max_bytes`; None where even a tiny one would."""
    picture = _picture(pixels)
    factor = _MAX_SIDE / max(picture.size)
    while True:
        if factor < 1:
            width, height = (max(1, round(side * factor)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BOX)
        file = _JpegFile()
        picture.save(file, quality=_QUALITY)
        data = file.getvalue()
        if len(data) <= max_bytes:
            return Jpeg(data, picture.size)
        # Bytes grow about as pixels do; a little less than fits, so that the next attempt is the last.
        factor = 0.9 * math.sqrt(max(max_bytes, 0) / len(data))
        if max(picture.size) * factor < _MIN_SIDE:
            return None


class _JpegFile(io.BytesIO):
    """A file in memory whose name says its kind: told the kind itself, Pillow first imports what it has for others."""

    name = "picture.jpg"


def _picture(pixels: Pixels) -> Image.Image:
    height, width, values = pixels.shape
    if values == 4:
        # In the form in which Pillow keeps pixels itself: this looks at the memory and copies nothing.
        return Image.frombuffer("RGBX", (width, height), np.ascontiguousarray(pixels), "raw", "RGBX", 0, 1)
    return Image.fromarray(pixels)
