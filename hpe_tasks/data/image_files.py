"""What lies in an image's file, found by reading it to its end."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class ImageFile:
    """What an image file is.

    Attributes:
        fault: Why it cannot be decoded; empty when it was, or when there is no file.
        width: Of the pixels as stored, before any EXIF orientation.
        size_bytes: 0 for a file that cannot be read.
        digest: SHA-256 of its bytes; empty for a file that cannot be read.
    """

    exists: bool
    fault: str = ""
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    digest: str = ""


def look_at(path: Path) -> ImageFile:
    """Read and decode an image; a JPEG at an eighth of its size, which still reads every coded byte."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ImageFile(exists=False)
    except OSError as error:
        return ImageFile(exists=True, fault=f"cannot be read: {error.strerror}")
    size, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            image.draft(image.mode, (max(1, width // 8), max(1, height // 8)))
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        kind = "is not an image" if isinstance(error, UnidentifiedImageError) else f"cannot be decoded: {error}"
        return ImageFile(exists=True, fault=kind, size_bytes=size, digest=digest)
    return ImageFile(exists=True, width=width, height=height, size_bytes=size, digest=digest)
