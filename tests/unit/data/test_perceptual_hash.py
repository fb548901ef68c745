"""Pictures that are the same though their files are not, and pictures that are others."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageOps

from hpe_tasks.data.perceptual_hash import MOST_DIFFERENT_BITS, PictureHash, find_alike, perceptual_hash


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft shapes of all sizes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def hash_of(image: Image.Image) -> PictureHash | None:
    return perceptual_hash(np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX)))


def encoded_again(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


def brightened(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, int(1.1 * value + 5)))


def edge_cut(image: Image.Image) -> Image.Image:
    """Two pixels of a hundred off each edge."""
    x, y = image.width // 50, image.height // 50
    return image.crop((x, y, image.width - x, image.height - y))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(encoded_again, id="encoded-again"),
        pytest.param(lambda image: image.resize((160, 120)), id="half-as-large"),
        pytest.param(lambda image: image.resize((640, 480)), id="twice-as-large"),
        pytest.param(brightened, id="brightened"),
        pytest.param(edge_cut, id="edge-cut"),
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(lambda image: encoded_again(ImageOps.mirror(image)), id="mirrored-and-encoded-again"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_file_of_the_same_picture_is_found(change: Callable[[Image.Image], Image.Image], seed: int) -> None:
    others = [hash_of(picture(number)) for number in range(5)]
    assert find_alike([hash_of(change(picture(seed)))], others) == [seed]


def test_a_mirror_image_of_a_mirror_image_is_the_image() -> None:
    shown, turned = hash_of(picture(3)), hash_of(ImageOps.mirror(picture(3)))
    assert shown is not None
    assert turned == PictureHash(shown.mirrored, shown.bits)


def test_other_pictures_are_far_apart() -> None:
    hashes = [hash_of(picture(seed)) for seed in range(60)]
    pairs = list(combinations(filter(None, hashes), 2))
    apart = [(a.bits ^ bits).bit_count() for a, b in pairs for bits in (b.bits, b.mirrored)]
    assert min(apart) > MOST_DIFFERENT_BITS
    assert find_alike(hashes[:30], hashes[30:]) == [None] * 30


def test_a_picture_of_nothing_is_like_no_other() -> None:
    walls = [hash_of(Image.new("RGB", (64, 64), colour)) for colour in ("black", "gray")]
    assert walls == [None, None]
    assert find_alike([*walls, hash_of(picture(1))], walls) == [None] * 3
    assert find_alike(walls, [hash_of(picture(1))]) == [None] * 2
    assert find_alike([], []) == []


def test_a_hash_has_63_bits_and_belongs_to_one_size() -> None:
    shown = hash_of(picture(0))
    assert shown is not None
    assert 0 < shown.bits < 2**63
    assert 0 < shown.mirrored < 2**63
    with pytest.raises(ValueError, match="32×32, not 8×8"):
        perceptual_hash(np.zeros((8, 8), np.uint8))
