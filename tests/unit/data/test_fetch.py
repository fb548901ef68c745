from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.fetch import digests, fetch_dataset
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.data.sample import SampleSpec
from hpe_tasks.errors import (
    AccessError,
    ArchiveError,
    ConfigError,
    DatasetError,
    DigestError,
    HpeError,
    StorageError,
    TransientError,
)
from hpe_tasks.records.inputs import FetchedDataset
from support.coco_factory import CALIBRATION, EVALUATION, edited, write_coco
from support.faulty_server import Mood, serve
from support.no_s3 import no_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SPEC = SampleSpec(train=1, calibration=2, val=2, width=200, height=150)
SPLITS = {"calibration_split": "calibration", "evaluation_split": "val"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set with a third split that the runs do not use."""
    return write_coco(tmp_path / "coco", splits=(CALIBRATION, EVALUATION, "test2017"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Client]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


def fetch(source: object, cache: Path, s3: Any = no_s3, **fields: Any) -> tuple[Path, FetchedDataset]:
    config = DatasetConfig(source=str(source), allow_private_addresses=True, **fields)
    return fetch_dataset(config, cache, s3, sample=SPEC)


def make_zip(root: Path, path: Path, *, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, below + file.relative_to(root).as_posix())
    return path


def make_tgz(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, "coco")
    return path


def upload(client: S3Client, root: Path, prefix: str) -> None:
    for file in root.rglob("*"):
        if file.is_file():
            client.put_object(Bucket="bucket", Key=prefix + file.relative_to(root).as_posix(), Body=file.read_bytes())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_content_has_the_same_digest_whatever_the_way(
    root: Path, cache: Path, tmp_path: Path, bucket: S3Client
) -> None:
    upload(bucket, root, "data/coco/")
    archive = make_zip(root, tmp_path / "coco.zip")
    bucket.upload_file(str(archive), "bucket", "coco.zip")
    (root / "images" / EVALUATION / ".DS_Store").write_text("left behind by a file manager")
    (root / "readme.txt").write_text("hello")
    bare = tmp_path / "bare"
    shutil.copytree(root, bare)
    for split in (CALIBRATION, EVALUATION):
        (bare / "images" / split).rename(bare / split)
    results = [
        fetch(source, cache, lambda: bucket)
        for source in (
            root,
            f"file://{root}",
            archive,
            make_zip(root, tmp_path / "deeper.zip", below="my data/"),
            make_tgz(root, tmp_path / "coco.tgz"),
            bare,
            "s3://bucket/data/coco",
            "s3://bucket/data/coco/",
            "s3://bucket/coco.zip",
        )
    ]
    assert {(r.digest, r.num_files, r.size_bytes) for _, r in results} == {
        (results[0][1].digest, 8, results[0][1].size_bytes)
    }
    for folder, _ in results:
        assert len(load_coco(folder, EVALUATION).all_persons()) == 6


def test_digest_tells_every_change(root: Path, cache: Path) -> None:
    seen = {fetch(root, cache)[1].digest}
    image = root / "images" / EVALUATION / "000000000200.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    seen.add(fetch(root, cache)[1].digest)
    image.rename(image.with_name("other.jpg"))
    seen.add(fetch(root, cache)[1].digest)
    with edited(root) as content:
        content["annotations"][0]["area"] += 1
    seen.add(fetch(root, cache)[1].digest)
    assert len(seen) == 4
    before = fetch(root, cache)[1].digest
    with edited(root, "test2017") as content:
        content["images"] = []
    assert fetch(root, cache)[1].digest == before


def test_folder_is_used_in_place_and_hashed_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    first = fetch(root, cache)
    assert first[0] == root
    hashed: list[Path] = []
    monkeypatch.setattr(digests, "sha256_file", lambda path: hashed.append(path) or "0" * 64)
    assert fetch(root, cache) == first
    assert hashed == []
    os.utime(root / "images" / EVALUATION / "000000000200.jpg", (2e9, 2e9 + 1))
    fetch(root, cache)
    assert [p.name for p in hashed] == ["000000000200.jpg"]


def test_file_of_this_moment_is_not_remembered(root: Path, cache: Path) -> None:
    """It could change again within one tick of the clock, with the same size."""
    image = root / "images" / EVALUATION / "000000000200.jpg"
    first = fetch(root, cache)[1].digest
    status = image.stat()
    image.write_bytes(bytes(reversed(image.read_bytes())))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch(root, cache)[1].digest != first


def test_damaged_memory_is_made_anew(root: Path, cache: Path) -> None:
    first = fetch(root, cache)
    (cache / "digests").mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    (cache / "digests" / f"{name}.json").write_text('{"a": 1}')
    assert fetch(root, cache) == first


def test_nothing_is_written_into_a_folder_of_the_user(root: Path, cache: Path) -> None:
    before = sorted(root.rglob("*"))
    fetch(root, cache)
    assert sorted(root.rglob("*")) == before


def test_archive_is_unpacked_once(root: Path, cache: Path, tmp_path: Path) -> None:
    archive = make_zip(root, tmp_path / "coco.zip")
    folder, _ = fetch(archive, cache, sha256=sha256(archive))
    assert folder.parent == cache / "archives"
    inode = folder.stat().st_ino
    shutil.copy(archive, tmp_path / "copy.zip")
    assert fetch(tmp_path / "copy.zip", cache)[0] == folder
    assert folder.stat().st_ino == inode


def test_killed_extraction_is_cleaned_up(root: Path, cache: Path, tmp_path: Path) -> None:
    archive = make_zip(root, tmp_path / "coco.zip")
    leftover = cache / "archives" / f".{sha256(archive)}.abc.extracting"
    (leftover / "half").mkdir(parents=True)
    fetch(archive, cache)
    assert not leftover.exists()


@pytest.mark.parametrize("kind", ["archive", "http", "s3"])
def test_wrong_digest(root: Path, cache: Path, tmp_path: Path, bucket: S3Client, kind: str) -> None:
    archive = make_zip(root, tmp_path / "coco.zip")
    bucket.upload_file(str(archive), "bucket", "coco.zip")
    with serve(archive.read_bytes()) as site:
        source = {"archive": str(archive), "http": f"{site.address}/coco.zip", "s3": "s3://bucket/coco.zip"}[kind]
        with pytest.raises(DigestError, match=f"{sha256(archive)}, not {'0' * 64}"):
            fetch(source, cache, lambda: bucket, sha256="0" * 64)
    assert archive.exists()
    assert not (cache / "archives").exists()
    assert not list(cache.rglob("*.zip"))


@pytest.mark.parametrize("kind", ["folder", "prefix", "sample"])
def test_digest_of_something_without_one(root: Path, cache: Path, bucket: S3Client, kind: str) -> None:
    source = {"folder": str(root), "prefix": "s3://bucket/data", "sample": "sample"}[kind]
    with pytest.raises(DatasetError, match="only an archive has a SHA-256"):
        fetch(source, cache, lambda: bucket, sha256="0" * 64)


def test_http_archive(root: Path, cache: Path, tmp_path: Path) -> None:
    archive = make_tgz(root, tmp_path / "coco.tgz")
    expected = fetch(root, cache)[1]
    with serve(archive.read_bytes()) as site:
        address = f"{site.address}/download?token=s3cr3t"
        folder, found = fetch(address, cache)
        assert found.digest == expected.digest
        assert found.source == f"{site.address}/download"
        assert fetch(address, cache)[0] == folder
        assert site.headers_sent("If-None-Match") == [None, '"v1"']
        fetch(address, cache, sha256=sha256(archive))
        assert len(site.requests) == 2


LOOP = [Mood(status=302, headers={"Location": "/coco.zip"})] * 40


@pytest.mark.parametrize(
    ("moods", "content", "kind", "says"),
    [
        pytest.param([Mood(stall_after=900)], None, TransientError, "did not answer|failed or was cut", id="stalls"),
        pytest.param([Mood(cut_after=900)], None, TransientError, "failed or was cut", id="cuts"),
        pytest.param(
            [Mood(headers={"Content-Length": "9999999"}, cut_after=900)], None, TransientError, "cut", id="says more"
        ),
        pytest.param(
            [Mood(headers={"Content-Length": "900"})], None, ArchiveError, "corrupt, truncated", id="says less"
        ),
        pytest.param(
            [Mood(headers={"Content-Length": None}, cut_after=900)], None, ArchiveError, "corrupt", id="says nothing"
        ),
        pytest.param(LOOP, None, AccessError, "redirects without end", id="loop"),
        pytest.param([Mood(status=403)], None, AccessError, r"was denied \(HTTP 403\)", id="403"),
        pytest.param([Mood(status=404)], None, AccessError, r"does not exist \(HTTP 404\)", id="404"),
        pytest.param([Mood(status=429)] * 3, None, TransientError, "answered 429", id="429"),
        pytest.param([Mood(status=503)] * 3, None, TransientError, "answered 503", id="503"),
        pytest.param([], b"<html>Log in</html>", ArchiveError, "neither a .zip nor a .tar", id="web page"),
    ],
)
def test_archive_of_a_server_that_misbehaves(
    root: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moods: list[Mood],
    content: bytes | None,
    kind: type[HpeError],
    says: str,
) -> None:
    """What went wrong is named, nothing of it is taken for the data set, and the next call has it whole."""
    fast = HttpPatience(connect_timeout_s=2, read_timeout_s=0.5, retries=2, first_wait_s=0.01)
    monkeypatch.setattr("hpe_tasks.data.fetch.download.HttpPatience", lambda: fast)
    archive = make_zip(root, tmp_path / "coco.zip").read_bytes()
    with serve(content or archive) as site:
        site.moods += moods
        with pytest.raises(kind, match=says) as caught:
            fetch(f"{site.address}/coco.zip", cache)
        assert "/coco.zip" in caught.value.message
        assert caught.value.hint
        assert not list((cache / "archives").glob("[!.]*"))
        site.moods.clear()
        site.content = archive
        assert fetch(f"{site.address}/coco.zip", cache)[1].digest == fetch(root, cache)[1].digest


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        pytest.param("/no/such/folder", DatasetError, "'/no/such/folder' does not exist", id="path"),
        pytest.param("gs://bucket/coco.zip", ConfigError, "gs:// addresses are not supported", id="scheme"),
        pytest.param("s3://nobody/coco", AccessError, "'nobody' does not exist", id="bucket"),
        pytest.param("s3://bucket/none", DatasetError, r"no annotations/.*It holds: nothing", id="prefix"),
        pytest.param("s3://bucket/other", DatasetError, r"It holds: a/, letter.txt", id="other prefix"),
        pytest.param("s3://bucket/none.zip", AccessError, "does not exist", id="object"),
    ],
)
def test_addresses_that_lead_nowhere(
    cache: Path, bucket: S3Client, source: str, kind: type[HpeError], says: str
) -> None:
    for key in ("other/letter.txt", "other/a/b"):
        bucket.put_object(Bucket="bucket", Key=key, Body=b"hello")
    with pytest.raises(kind, match=says) as caught:
        fetch(source, cache, lambda: bucket)
    assert caught.value.hint


def test_file_that_is_no_archive(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "coco.zip").write_text("<html>Not found</html>")
    with pytest.raises(ArchiveError, match="neither"):
        fetch(tmp_path / "coco.zip", cache)
    assert [p.name for p in (cache / "archives").iterdir() if not p.name.endswith(".lock")] == []


def test_archive_of_something_else(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a")
    with pytest.raises(DatasetError, match=r"has no annotations/person_keypoints_train2017.json\. It holds: a.txt"):
        fetch(make_zip(tmp_path / "letters", tmp_path / "a.zip", below="letters/"), cache)


def test_prefix_copies_only_what_is_needed_and_new(
    root: Path, cache: Path, bucket: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, root, "coco/")
    read: list[str] = []
    bucket.meta.events.register("before-call.s3.GetObject", lambda params, **_: read.append(params["url_path"]))
    folder, first = fetch("s3://bucket/coco", cache, lambda: bucket)
    assert len(read) == 8
    assert not any("test2017" in path for path in read)
    assert fetch("s3://bucket/coco", cache, lambda: bucket) == (folder, first)
    assert len(read) == 8
    bucket.put_object(Bucket="bucket", Key="coco/images/val2017/000000000200.jpg", Body=b"new")
    bucket.delete_object(Bucket="bucket", Key="coco/images/val2017/000000000201.jpg")
    (folder / "images/train2017/000000000100.jpg").unlink()
    (folder / "images/train2017/stranger.jpg").touch()
    _, second = fetch("s3://bucket/coco", cache, lambda: bucket)
    assert sorted(path.rpartition("/")[2] for path in read[8:]) == ["000000000100.jpg", "000000000200.jpg"]
    assert second.num_files == 7
    assert (folder / "images/val2017/000000000200.jpg").read_bytes() == b"new"
    assert not (folder / "images/val2017/000000000201.jpg").exists()


def test_interrupted_copy_of_a_prefix_continues(root: Path, cache: Path, bucket: S3Client) -> None:
    from botocore.exceptions import EndpointConnectionError

    upload(bucket, root, "coco/")
    read: list[str] = []

    def fail_once(params: dict[str, Any], **_: object) -> None:
        read.append(params["url_path"])
        if len(read) == 5:
            raise EndpointConnectionError(endpoint_url="http://s3")

    bucket.meta.events.register("before-call.s3.GetObject", fail_once)
    with pytest.raises(TransientError, match=r"s3://bucket/coco"):
        fetch("s3://bucket/coco", cache, lambda: bucket)
    assert not list(cache.rglob("*.part"))
    _, found = fetch("s3://bucket/coco", cache, lambda: bucket)
    assert found.digest == fetch(root, cache)[1].digest
    assert len(read) < 16


def test_killed_copy_of_a_prefix_is_not_taken_for_good(root: Path, cache: Path, bucket: S3Client) -> None:
    upload(bucket, root, "coco/")
    folder, first = fetch("s3://bucket/coco", cache, lambda: bucket)
    image = folder / "images/val2017/000000000200.jpg"
    journal = folder / ".objects.jsonl"
    lines = [line for line in journal.read_text().splitlines() if image.name not in line]
    journal.write_text("\n".join(lines) + '\n{"name": "images/val')  # Killed before the line was complete.
    image.write_bytes(bytes(image.stat().st_size))
    (image.parent / ".000000000201.jpg.part").touch()
    assert fetch("s3://bucket/coco", cache, lambda: bucket) == (folder, first)
    assert not list(folder.rglob("*.part"))


def test_keys_that_leave_the_folder(root: Path, cache: Path, bucket: S3Client) -> None:
    upload(bucket, root, "coco/")
    bucket.put_object(Bucket="bucket", Key="coco/images/val2017/../../../../evil.jpg", Body=b"evil")
    with pytest.raises(DatasetError, match="outside the data set's folder"):
        fetch("s3://bucket/coco", cache, lambda: bucket)
    assert not list(cache.rglob("evil.jpg"))


def test_prefix_needs_more_space_than_there_is(
    root: Path, cache: Path, bucket: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket, root, "coco/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(StorageError, match="only 100 bytes free"):
        fetch("s3://bucket/coco", cache, lambda: bucket)


def test_sample_is_made_once_for_each_specification(cache: Path) -> None:
    config = DatasetConfig(source="sample", **SPLITS)
    folder, first = fetch_dataset(config, cache, no_s3, sample=SPEC)
    made = folder.stat().st_ino
    assert {p.name for p in (folder / "images").iterdir()} == {"calibration", "val"}
    started = time.monotonic()
    assert fetch_dataset(config, cache, no_s3, sample=SPEC) == (folder, first)
    assert time.monotonic() - started < 1
    assert folder.stat().st_ino == made
    other, second = fetch_dataset(config, cache, no_s3, sample=SampleSpec(1, 2, 2, 200, 150, seed=18))
    assert other != folder
    assert second.digest != first.digest
    assert first.source == "sample"


def test_failed_sample_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hpe_tasks.data.sample.dataset.draw_picture", fail)
        with pytest.raises(KeyboardInterrupt):
            fetch("sample", cache, **SPLITS)
    assert [p for p in (cache / "samples").iterdir() if not p.name.endswith(".lock")] == []
    fetch("sample", cache, **SPLITS)


def test_sample_has_its_own_splits(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'train2017'"):
        fetch("sample", cache)


def test_real_photographs(test_data: Path, cache: Path) -> None:
    folder, found = fetch(test_data / "coco-mini", cache)
    assert folder == test_data / "coco-mini"
    assert found.num_files == 161
    assert found.size_bytes == 26_135_360
