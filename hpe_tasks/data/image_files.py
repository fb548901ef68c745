"""Image files: their pixels, and whether they are whole.

Coordinates are pixels of the image as it is stored. The annotations of COCO and MPII refer to those, so an EXIF
orientation is not applied.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hpe_tasks.data.perceptual_hash import PictureHash, perceptual_hash

_GIF = b"GIF8"
_GIF_FAULT = "is a GIF, which may hold many pictures; it must be a JPEG or PNG"


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read as its record describes it, and why: "is missing", for example."""

    path: Path
    reason: str


def read_image(path: Path) -> NDArray[np.uint8] | Unreadable:
    """Decode an image as H×W×3 BGR of 8 bits, without turning it by its EXIF orientation.

    Grey, CMYK, 16-bit and palette images are converted, transparency is dropped. A file that is cut off anywhere is
    not decoded: from memory, OpenCV refuses a JPEG that ends before its last pixel.
    """
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        return Unreadable(path, "is missing")
    except OSError as error:
        return Unreadable(path, f"cannot be read: {error.strerror}")
    if encoded[:4].tobytes() == _GIF:
        return Unreadable(path, _GIF_FAULT)
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        return Unreadable(path, "is not an image, or is cut off" if encoded.size else "is an empty file")
    return pixels.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class ImageFile:
    """What an image file is.

    Attributes:
        fault: Why it cannot be decoded; empty when it was, or when there is no file.
        width: Of the pixels as stored, before any EXIF orientation.
        size_bytes: 0 for a file that cannot be read.
        digest: SHA-256 of its bytes; empty for a file that cannot be read.
        perceptual_hash: Of what it shows; None for a file that cannot be decoded, or that shows next to nothing.
    """

    exists: bool
    fault: str = ""
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    digest: str = ""
    perceptual_hash: PictureHash | None = None


def look_at(path: Path) -> ImageFile:
    """Read and decode an image; a JPEG at an eighth of its size, which still reads every coded byte."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ImageFile(exists=False)
    except OSError as error:
        return ImageFile(exists=True, fault=f"cannot be read: {error.strerror}")
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    if content.startswith(_GIF):
        return ImageFile(exists=True, fault=_GIF_FAULT, size_bytes=size, digest=digest)
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))
            image.load()
            grey = image.convert("L").resize((32, 32), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        kind = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded: {error}"
        return ImageFile(exists=True, fault=kind, size_bytes=size, digest=digest)
    shown = perceptual_hash(np.asarray(grey))
    return ImageFile(exists=True, width=width, height=height, size_bytes=size, digest=digest, perceptual_hash=shown)
