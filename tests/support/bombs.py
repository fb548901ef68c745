"""Small files that take much of whoever reads them: for tests that they are refused, and for benchmarks/bombs.py."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LAUGHS = "\n".join(
    ["gate: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    + [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 10)]
)
"""Ten lines of YAML, each of which names the one before nine times."""

MERGES = "\n".join(
    ["gate: &m0 {a: 1, b: 2}"] + [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 10)]
)

"""The same with maps that take in the ones before."""

_CHUNK_BYTES = 2**20


def tar_block(kind: bytes, size: int, name: str = "x") -> bytes:
    """A header of a .tar archive that says that so much follows."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.USTAR_FORMAT)


def long_name(path: Path, size_bytes: int, *, level: int = 9) -> Path:
    """A .tgz whose first header is a name of this size."""
    with gzip.open(path, "wb", compresslevel=level) as file:
        file.write(tar_block(tarfile.GNUTYPE_LONGNAME, size_bytes))
        for start in range(0, size_bytes, _CHUNK_BYTES):
            file.write(b"n" * min(_CHUNK_BYTES, size_bytes - start))
        file.write(bytes(-size_bytes % 512) + tar_block(tarfile.REGTYPE, 0, "w.pth") + bytes(1024))
    return path


def deflated_weights(path: Path, size_bytes: int, *, name: str = "heatmaps.weight") -> Path:
    """What torch.save wrote of zeros, compressed: a thousandth of what it takes."""
    import torch

    plain = path.with_name("plain.pt")
    torch.save({name: torch.zeros(size_bytes // 4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in source.namelist():
            bomb.writestr(member, source.read(member))
    plain.unlink()
    return path


def mat_of_cells(path: Path, count: int) -> Path:
    """A .mat file of one array of empty cells: each takes 8 bytes before compression, and an object when it is read."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    flags, dims = element(6, struct.pack("<II", 1, 0)), element(5, struct.pack("<ii", 1, count))
    content = flags + dims + element(1, b"cells") + element(14, b"") * count
    compressed = zlib.compress(element(14, content))
    path.write_bytes(header + struct.pack("<II", 15, len(compressed)) + compressed)
    return path


def endless_loop(path: Path) -> Path:
    """An ONNX network with a loop of 2^62 trips around its heatmaps."""
    from onnx import helper

    return _network_with_loop(path, 2**62, lambda: [helper.make_node("Sin", ["x"], ["y"])])


def slow_loop(path: Path) -> Path:
    """One with as many trips as a network may take, each of some milliseconds."""
    from onnx import helper

    def body() -> list[Any]:
        return [
            helper.make_node("Expand", ["x", "many"], ["wide"]),
            helper.make_node("Sin", ["wide"], ["waves"]),
            helper.make_node("ReduceMax", ["waves"], ["y"], axes=[0], keepdims=1),
        ]

    return _network_with_loop(path, 10_000, body)


def _network_with_loop(path: Path, trips: int, compute: Callable[[], list[Any]]) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    from support import tiny_networks

    model = tiny_networks.pose_onnx()
    for name, value in (("trips", np.array(trips)), ("yes", np.array(True)), ("many", np.array([300, 1, 1, 1]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    shape, kinds = [None] * 4, (onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT)
    inputs = [
        helper.make_tensor_value_info(name, kind, dims)
        for name, kind, dims in zip(("trip", "go", "x"), kinds, ([], [], shape), strict=True)
    ]
    outputs = [
        helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape),
    ]
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), *compute()], "body", inputs, outputs)
    model.graph.node[-1].output[0] = "maps"
    model.graph.node.append(helper.make_node("Loop", ["trips", "yes", "maps"], ["heatmaps"], body=body))
    onnx.save(model, path)
    return path


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_of_scans(scans: int, side: int = 64, before_scans: bytes = b"") -> bytes:
    """A grey progressive JPEG by hand: one scan of means, the others of nothing, each a walk over all blocks."""
    blocks = (side // 8) ** 2
    opening = [
        b"\xff\xd8",
        jpeg_segment(0xDB, b"\x00" + b"\x01" * 64),
        jpeg_segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00"),
        jpeg_segment(0xC4, b"\x00\x01" + bytes(16)),
        # One code, of one bit: an end-of-band run whose length stands in the 14 bits after it.
        jpeg_segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0"),
        before_scans,
        jpeg_segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(math.ceil(blocks / 8)),
    ]
    runs = ("0" + "1" * 14) * math.ceil(blocks / (2**15 - 1))
    runs += "1" * (-len(runs) % 8)
    data = int(runs, 2).to_bytes(len(runs) // 8).replace(b"\xff", b"\xff\x00")
    empty = jpeg_segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + data
    return b"".join(opening) + empty * (scans - 1) + b"\xff\xd9"


def jpeg_of_coloured_scans(scans: int, width: int, height: int) -> bytes:
    """A progressive JPEG of a picture, whose last scans are repeated until there are so many."""
    pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(np.repeat(pixels[..., None], 3, axis=2)).save(encoded, "JPEG", quality=30, progressive=True)
    ordinary = encoded.getvalue()
    starts = [found.start() for found in re.finditer(rb"\xff\xda", ordinary)]
    last = ordinary[starts[-1] : -2]
    return ordinary[:-2] + last * (scans - len(starts)) + b"\xff\xd9"
