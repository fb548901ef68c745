from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from hpe_tasks.data.fetch.archive import extract_archive
from hpe_tasks.errors import ArchiveError, StorageError

FILES = {"coco/annotations/a.json": b'{"a": 1}' * 50, "coco/images/val/1.jpg": os.urandom(3000), "coco/empty": b""}


def make_zip(path: Path, files: dict[str, bytes] = FILES, **kw: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **kw) as archive:
        archive.mkdir("coco/folder")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


TarMode = Literal["w", "w:gz", "w:bz2", "w:xz"]


def make_tar(path: Path, mode: TarMode = "w:gz", files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("coco/folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def unpacked(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refuse(archive: Path, tmp_path: Path, says: str, **limits: int) -> ArchiveError:
    """The archive is refused, and neither the folder nor anything beside it is left."""
    target = tmp_path / "work" / "out"
    with pytest.raises(ArchiveError, match=says) as caught:
        extract_archive(archive, target, **limits)
    assert str(archive) in str(caught.value)
    assert caught.value.hint
    assert list(target.parent.iterdir()) == [] if target.parent.exists() else True
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make_zip, id="zip"),
        pytest.param(lambda path: make_tar(path, "w"), id="tar"),
        pytest.param(lambda path: make_tar(path, "w:gz"), id="tar.gz"),
        pytest.param(lambda path: make_tar(path, "w:bz2"), id="tar.bz2"),
        pytest.param(lambda path: make_tar(path, "w:xz"), id="tar.xz"),
    ],
)
def test_content_decides_the_kind(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    target = tmp_path / "deep" / "out"
    extract_archive(make(tmp_path / "archive.bin"), target)
    assert unpacked(target) == FILES
    assert (target / "coco/folder").is_dir()
    assert [p.name for p in target.parent.iterdir()] == ["out"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_modes_are_not_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "tool", b"#!/bin/sh", mode=0o6777, uid=12345)
    extract_archive(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out/tool").stat().st_mode & 0o7111 == 0


def test_backslashes_of_windows_archives_are_slashes(tmp_path: Path) -> None:
    extract_archive(make_zip(tmp_path / "a.zip", {"coco\\images\\1.jpg": b"1"}), tmp_path / "out")
    assert unpacked(tmp_path / "out") == {"coco/images/1.jpg": b"1"}


ESCAPES = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "a/.."]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    files = {"good": b"1", name: b"evil"}
    make = make_zip if kind == "zip" else make_tar
    error = refuse(make(tmp_path / "a", files=files), tmp_path, "outside the folder|absolute path")
    assert repr(name) in error.message
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["", "\0hidden"], ids=["empty", "empty-before-a-zero"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_without_a_name(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / "a"
    if kind == "tar":
        make_tar(archive, files={"good": b"1", name: b"evil"})
    else:
        # zipfile writes no such name: another one of this length is bent, in both of its places.
        stand_in = b"?" * len(name)
        with zipfile.ZipFile(archive, "w") as written:
            written.writestr(zipfile.ZipInfo("good"), b"1")
            written.writestr(zipfile.ZipInfo(stand_in.decode() or "?"), b"evil")
        archive.write_bytes(bent_names(archive.read_bytes(), stand_in or b"?", name.encode()))
    refuse(archive, tmp_path, "'' has no name")


def bent_names(data: bytes, old: bytes, new: bytes) -> bytes:
    """A ZIP file in which a member has another name, not longer than its own."""
    for signature, length_at, name_at in ((b"PK\x03\x04", 26, 30), (b"PK\x01\x02", 28, 46)):
        start = data.index(old, data.rindex(signature)) - name_at
        assert data[start : start + 4] == signature
        length = struct.pack("<H", len(new))
        rest = data[start + length_at + 2 : start + name_at]
        data = data[: start + length_at] + length + rest + new + data[start + name_at + len(old) :]
    end = data.rindex(b"PK\x05\x06")
    where = data.index(b"PK\x01\x02")
    return data[: end + 12] + struct.pack("<II", end - where, where) + data[end + 20 :]


TYPES = {
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


@pytest.mark.parametrize("kind", list(TYPES))
def test_links_and_devices_in_tar(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good", b"1")
        add(archive, "bad", type=TYPES[kind], linkname="/etc/passwd", devmajor=1, devminor=3)
        add(archive, "bad/inside", b"evil")
    refuse(tmp_path / "a.tar", tmp_path, "'bad' is a link, a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO], ids=["symlink", "device", "fifo"])
def test_links_and_devices_in_zip(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("bad")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    refuse(tmp_path / "a.zip", tmp_path, "'bad' is a link or a device")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bomb_by_ratio(tmp_path: Path, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    refuse(make(tmp_path / "a", files={"zeros": bytes(70 * 2**20)}), tmp_path, "more than 100 times its size")


def test_bomb_of_zeros_behind_the_last_member(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", "w").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar + bytes(70 * 2**20)))
    refuse(tmp_path / "a.tar.gz", tmp_path, "more than 100 times its size")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_limit_of_size(tmp_path: Path, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    refuse(make(tmp_path / "a"), tmp_path, "more than 3,100 bytes", max_bytes=3100)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_limit_of_files(tmp_path: Path, kind: str) -> None:
    make = make_zip if kind == "zip" else make_tar
    refuse(make(tmp_path / "a"), tmp_path, "more than 2 files", max_files=2)


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(5000)})
    raw = path.read_bytes()
    assert raw.count((5000).to_bytes(4, "little")) == 2
    path.write_bytes(raw.replace((5000).to_bytes(4, "little"), (2**31).to_bytes(4, "little")))
    refuse(path, tmp_path, "more than 100 times its size")
    path.write_bytes(raw.replace((5000).to_bytes(4, "little"), (7).to_bytes(4, "little")))
    refuse(path, tmp_path, "corrupt")


def test_tar_that_declares_a_huge_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good", b"1")
        member = tarfile.TarInfo("huge")
        member.size = 2**40
        archive.addfile(member)
    refuse(tmp_path / "a.tar", tmp_path, "corrupt, truncated")


def test_sparse_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
        add(archive, "sparse", b"1\n0\n1\n".ljust(512, b"\0"), pax_headers=fields)
    refuse(tmp_path / "a.tar", tmp_path, "sparse")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "./a"), ("a/b", "a//b")], ids="+".join)
def test_duplicate_names(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    path = tmp_path / "x"
    if kind == "zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # zipfile says itself that this is odd.
            for name in names:
                archive.writestr(name, b"1")
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                add(archive, name, b"1")
    refuse(path, tmp_path, "is there twice")


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_truncated(tmp_path: Path, mode: Literal["zip"] | TarMode, share: float) -> None:
    path = make_zip(tmp_path / "a") if mode == "zip" else make_tar(tmp_path / "a", mode)
    whole = path.read_bytes()
    if mode == "w":  # A tar file is padded with zeros, which nobody misses.
        whole = whole[: len(whole.rstrip(b"\0")) + 1]
    path.write_bytes(whole[: int(len(whole) * share)])
    refuse(path, tmp_path, "corrupt, truncated|neither a .zip nor")


def test_tar_cut_between_members(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", "w")
    end = path.read_bytes().index(b"coco/images/val/1.jpg")
    path.write_bytes(path.read_bytes()[:end])
    refuse(path, tmp_path, "the end is missing")


@pytest.mark.parametrize("mode", ["zip", "w:gz", "w"])
def test_damaged_anywhere(tmp_path: Path, mode: Literal["zip"] | TarMode) -> None:
    """A flipped bit gives the same files or one clear error, and never half a folder."""
    path = make_zip(tmp_path / "a") if mode == "zip" else make_tar(tmp_path / "a", mode)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        target = tmp_path / "work" / "out"
        try:
            extract_archive(path, target)
        except ArchiveError:
            assert list(target.parent.iterdir()) == []
        else:
            target.rename(tmp_path / "work" / "done")
            assert len(unpacked(tmp_path / "work" / "done")) >= 1
            shutil.rmtree(tmp_path / "work" / "done")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"<html>Not found</html>", "neither a .zip nor a .tar", id="web page"),
        pytest.param(b"", "neither", id="empty"),
        pytest.param(gzip.compress(b"just text"), "corrupt", id="gzip of text"),
        pytest.param(b"PK\x05\x06" + bytes(18), "no files", id="empty zip"),
        pytest.param(b"PK\x03\x04 and nothing else", "corrupt", id="zip in name only"),
    ],
)
def test_not_an_archive(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refuse(tmp_path / "a.zip", tmp_path, says)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"secret": b"1"})
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.rindex(signature) + offset] |= 1
    path.write_bytes(raw)
    refuse(path, tmp_path, "'secret' is encrypted")


def test_missing_archive(tmp_path: Path) -> None:
    refuse(tmp_path / "none.zip", tmp_path, "is not a file")


def test_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(StorageError, match="exists already"):
        extract_archive(make_zip(tmp_path / "a.zip"), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_disk_full(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / "a")
    real = Path.open

    def small_disk(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "xb" and self.name == "1.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", small_disk)
    with pytest.raises(StorageError, match=r"disk is full: .*1.jpg"):
        extract_archive(archive, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_not_enough_space_is_seen_before(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / "a")
    # The index of a zip file tells its size unpacked; a tar file has none, and is at least as large.
    needed = 3400 if kind == "zip" else archive.stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(StorageError, match=rf"needs {needed:,} bytes more, .* only 100 bytes free"):
        extract_archive(archive, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []
