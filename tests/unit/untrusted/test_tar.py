from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from hpe_tasks.data.fetch.archive import extract_archive
from hpe_tasks.data.fetch.preview import _names_in
from hpe_tasks.errors import ArchiveError, CheckpointError, HpeError
from hpe_tasks.models.checkpoint import _read
from hpe_tasks.untrusted.tar import MAX_HEADER_BYTES, PlainTarInfo
from support.bombs import tar_block as block

BOMB_BYTES = 24 * 2**20
ROOM_BYTES = 4 * 2**20
"""What Python may allocate while it looks: tables of gzip and of tarfile, and one header."""


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def sparse_attributes() -> bytes:
    """A sparse file of the newest form; its map of holes would be the many lines that follow."""
    fields = b"".join(f"{len(text) + 4} {text}\n".encode() for text in ("GNU.sparse.major=1", "GNU.sparse.minor=0"))
    assert fields.startswith(b"22 ")
    return block(tarfile.XHDTYPE, len(fields)) + padded(fields) + block(tarfile.REGTYPE, BOMB_BYTES)


BOMBS: dict[str, tuple[bytes, bytes]] = {
    "gnu-long-name": (block(tarfile.GNUTYPE_LONGNAME, BOMB_BYTES), b"n"),
    "gnu-long-link": (block(tarfile.GNUTYPE_LONGLINK, BOMB_BYTES), b"n"),
    "pax": (block(tarfile.XHDTYPE, BOMB_BYTES), b"9"),
    "pax-global": (block(tarfile.XGLTYPE, BOMB_BYTES), b"9"),
    "pax-solaris": (block(tarfile.SOLARIS_XHDTYPE, BOMB_BYTES), b"9"),
    "sparse": (block(tarfile.GNUTYPE_SPARSE, 512)[:482] + b"\x01" + bytes(29), b"7"),
    "sparse-pax": (sparse_attributes(), b"9999999\n"),
}


def with_checksum(header: bytes) -> bytes:
    """The last block of a header with a new checksum, for those that were changed."""
    before, last = header[:-512], header[-512:]
    total = sum(last[:148]) + 8 * 32 + sum(last[156:])
    return before + last[:148] + f"{total:06o}\0 ".encode() + last[156:]


def write_bomb(path: Path, header: bytes, filling: bytes) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(with_checksum(header))
        for _ in range(BOMB_BYTES // 2**20):
            file.write(filling * (2**20 // len(filling)))
        file.write(block(tarfile.REGTYPE, 0, "w.pth") + bytes(1024))
    return path


OPENED: dict[str, tuple[Callable[[Path], object], type[HpeError]]] = {
    "checkpoint": (_read, CheckpointError),
    "data set": (lambda path: extract_archive(path, path.parent / "out"), ArchiveError),
    "preview": (_names_in, ArchiveError),
}


@pytest.mark.parametrize(("use", "kind"), OPENED.values(), ids=OPENED)
@pytest.mark.parametrize(("header", "filling"), BOMBS.values(), ids=BOMBS)
def test_a_header_is_refused_before_it_takes_memory(
    header: bytes, filling: bytes, use: Callable[[Path], object], kind: type[HpeError], tmp_path: Path
) -> None:
    path = write_bomb(tmp_path / "bomb.tgz", header, filling)
    assert path.stat().st_size < BOMB_BYTES // 100
    tracemalloc.start()
    try:
        with pytest.raises(kind, match=r"bomb\.tgz") as caught:
            use(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < ROOM_BYTES
    assert len(str(caught.value)) < 1000
    assert [file.name for file in tmp_path.iterdir()] == ["bomb.tgz"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_names_and_attributes_of_usual_size_are_read(form: int, tmp_path: Path) -> None:
    name = "/".join(["a folder with a long name, as data sets have them" * 2] * 30) + "/é.txt"
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "c" * 60_000}) as archive:
        member = tarfile.TarInfo(name)
        member.size = 5
        member.pax_headers = {"SCHILY.xattr.user.note": "n" * 100_000}
        archive.addfile(member, io.BytesIO(b"hello"))
    with tarfile.open(tmp_path / "a.tar", tarinfo=PlainTarInfo) as archive:
        [found] = archive.getmembers()
        assert found.name == name
        assert archive.extractfile(found).read() == b"hello"


def test_the_largest_header_is_one_that_python_writes(tmp_path: Path) -> None:
    for length, good in ((MAX_HEADER_BYTES - 1, True), (MAX_HEADER_BYTES, False)):
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(tarfile.TarInfo("n" * length))
        if good:
            with tarfile.open(tmp_path / "a.tar", tarinfo=PlainTarInfo) as archive:
                assert len(archive.getnames()[0]) == length
        else:
            with (
                pytest.raises(tarfile.ReadError, match="a header with a name"),
                tarfile.open(tmp_path / "a.tar", tarinfo=PlainTarInfo),
            ):
                pass


def test_an_archive_of_very_many_empty_files_is_no_checkpoint(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "many.tgz", "wb", compresslevel=1) as file:
        for index in range(5000):
            file.write(block(tarfile.REGTYPE, 0, f"{index}.txt"))
    with pytest.raises(CheckpointError, match=r"many\.tgz holds more than 1,000 files"):
        _read(tmp_path / "many.tgz")


def test_a_chain_of_names_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    link = block(tarfile.GNUTYPE_LONGNAME, 512) + padded(b"n" * 500)
    with gzip.open(tmp_path / "chain.tgz", "wb", compresslevel=1) as file:
        file.write(link * 5000)
    with pytest.raises(CheckpointError, match=r"chain\.tgz cannot be read"):
        _read(tmp_path / "chain.tgz")
