"""Which products onnxruntime's int8 kernels add in 16 bits, and which weights they therefore cannot get wrong.

Sources: onnxruntime's MLAS (`platform.cpp` chooses the kernels; `QgemmU8S8Kernel*`, `QgemvU8S8Kernel*` and
`ConvSymKernel*` hold them), and small layers run through every pair of weights on each kind of processor
(`tests/integration/test_kernel_model.py`).

* x86-64 with AVX2 or AVX-512 and without VNNI multiplies unsigned activations with signed weights by `vpmaddubsw`: the
  products of weights 2i and 2i + 1 of an output channel are added in 16 bits and clipped there. Weights are counted
  along (row of the kernel, column, input channel of the group).
* x86-64 with VNNI or AMX, or without AVX2 (on Linux), and every depthwise kernel adds in 32 bits.
* arm64 without dot products moves activations into -128…127 and adds two products in 16 bits, which two depends on
  the layer's shape. With dot products it adds in 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_PAIR = 128
"""Largest sum of two weights of one sign, as codes, that x86-64 adds exactly: 255 × 128 = 32640 fits in 16 bits."""

SMALLEST_CODE = -127
"""With codes from here on, any two products on arm64 fit: 2 × 128 × 127 = 32512. With two codes of -128 they do not."""

PHASE_TAPS = ((3, 1), (2, 0))
"""Rows (columns) of a 4×4 transposed kernel of stride 2 and padding 1 that even and odd rows (columns) of its output
see, in the order of the input's: output = 2 × input − 1 + tap. Each of the four phases is an ordinary convolution."""

_LARGEST_ACTIVATION = 255
_INT16 = np.iinfo(np.int16)
_INT32 = np.iinfo(np.int32)


def kernel_order(weight: NDArray[Any]) -> NDArray[Any]:
    """The weights of a convolution as its kernels run through them, a row for each output channel.

    Args:
        weight: C_out × C_in/groups × height × width, or C_out × C_in of a matrix product.

    Returns:
        C_out × (height · width · C_in/groups): of two neighbours 2i and 2i + 1 the products are added first.
    """
    channels_last = np.moveaxis(weight, 1, -1)
    return channels_last.reshape(len(weight), -1)


def pairs(rows: NDArray[Any]) -> NDArray[Any]:
    """Neighbours 2i and 2i + 1 of each row, C × ⌈K/2⌉ × 2; a weight that is left over is paired with 0."""
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    return rows.reshape(len(rows), -1, 2)


def x86_margin(codes: NDArray[Any], *, depthwise: bool) -> NDArray[np.int64]:
    """How far each channel stays from clipping on x86-64, whatever the activations; negative where it can clip.

    Args:
        codes: Signed 8-bit weights in `kernel_order`, C × K.
        depthwise: Whether each channel sees one input channel only, so that sums have 32 bits.

    Returns:
        C int64, in units of products of codes.
    """
    sums = codes.astype(np.int64)
    low = np.minimum(sums, 0).sum(axis=1) * _LARGEST_ACTIVATION
    high = np.maximum(sums, 0).sum(axis=1) * _LARGEST_ACTIVATION
    margin: NDArray[np.int64] = np.minimum(_INT32.max - high, low - _INT32.min)
    if not depthwise:
        both = pairs(sums)
        low = np.minimum(both, 0).sum(axis=2).min(axis=1, initial=0) * _LARGEST_ACTIVATION
        high = np.maximum(both, 0).sum(axis=2).max(axis=1, initial=0) * _LARGEST_ACTIVATION
        margin = np.minimum(margin, np.minimum(_INT16.max - high, low - _INT16.min))
    return margin


def arm64_margin(codes: NDArray[Any]) -> NDArray[np.int64]:
    """As `x86_margin` for arm64, where any two weights of a channel may be added first.

    Activations are within -128…127 there.
    """
    sums = codes.astype(np.int64)
    total = np.abs(sums).sum(axis=1) * 128
    # The two that give the largest sum: activations of -128 against negative weights, 127 against positive ones.
    largest = np.maximum(-128 * sums, 127 * sums)
    smallest = np.minimum(-128 * sums, 127 * sums)
    if sums.shape[1] > 2:
        largest = np.partition(largest, -2, axis=1)[:, -2:]
        smallest = np.partition(smallest, 1, axis=1)[:, :2]
    high, low = largest.sum(axis=1), smallest.sum(axis=1)
    margin: NDArray[np.int64] = np.minimum(np.minimum(_INT16.max - high, low - _INT16.min), _INT32.max - total)
    return margin
