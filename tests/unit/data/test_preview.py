"""What the addresses of a data set offer, without fetching it."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch.preview import preview_file, preview_source
from hpe_tasks.data.fetch.sources import Sources
from hpe_tasks.errors import AccessError, ArchiveError, DatasetError, HpeError, TransientError
from support.coco_factory import CALIBRATION, EVALUATION, annotations_file, write_coco
from support.faulty_server import Mood, Site, serve
from support.mpii_factory import write_mpii
from support.no_s3 import no_s3


def config(source: str | Path, **fields: Any) -> DatasetConfig:
    return DatasetConfig(source=str(source), allow_private_addresses=True, **fields)


def zipped(root: Path, *, without: str = "") -> Path:
    file = root.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != without:
                archive.write(path, path.relative_to(root.parent))
    return file


def tarred(root: Path) -> Path:
    file = root.with_suffix(".tar.gz")
    with tarfile.open(file, "w:gz") as archive:
        archive.add(root, root.name)
    return file


FITTING: dict[str, Callable[[Path], DatasetConfig]] = {
    "coco folder": config,
    "coco folder as an address": lambda root: config(root.as_uri()),
    "coco zip": lambda root: config(zipped(root)),
    "coco tar": lambda root: config(tarred(root)),
    "annotations, images by address": lambda root: config(_without_images(root), images_by_url=True),
    "annotations, images in archives": lambda root: config(_without_images(root), image_archives=("x.zip",)),
    "sample": lambda _: config("sample", calibration_split="calibration", evaluation_split="val"),
}


def _without_images(root: Path) -> Path:
    shutil.rmtree(root / "images")
    return root


@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_a_source_that_fits_is_told_in_a_few_words(make: Callable[[Path], DatasetConfig], tmp_path: Path) -> None:
    asked = make(write_coco(tmp_path / "coco"))
    assert preview_source(asked, tmp_path / "cache", no_s3).text
    assert not (tmp_path / "cache").exists()


def _cut_zip(root: Path) -> Path:
    file = zipped(root)
    file.write_bytes(file.read_bytes()[:-40])
    return file


def _remove(path: Path, root: Path) -> Path:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return root


UNFIT = {
    "nothing there": (lambda root: config(root / "no"), DatasetError, r"dataset\.source: .*no' does not exist"),
    "missing split": (
        lambda root: config(root, evaluation_split="val2014"),
        DatasetError,
        r"has no annotations/person_keypoints_val2014\.json.*It has these splits: train2017, val2017.*evaluation_split",
    ),
    "missing images": (
        lambda root: config(_remove(root / "images" / EVALUATION, root)),
        DatasetError,
        "has no images/val2017/",
    ),
    "missing annotations": (
        lambda root: config(_remove(annotations_file(root, CALIBRATION), root), images_by_url=True),
        DatasetError,
        r"has no annotations/person_keypoints_train2017\.json",
    ),
    "layout of MPII": (
        lambda root: config(write_mpii(root / "mpii")),
        DatasetError,
        "is a data set in the layout of MPII",
    ),
    "archive without a split": (
        lambda root: config(zipped(root, without="person_keypoints_val2017.json")),
        DatasetError,
        r"holds no person_keypoints_val2017\.json\. Its \.json files: person_keypoints_train2017\.json",
    ),
    "cut archive": (lambda root: config(_cut_zip(root)), ArchiveError, r"neither a \.zip nor a \.tar"),
    "a digest for a folder": (lambda root: config(root, sha256="0" * 64), DatasetError, "only an archive has"),
    "mpii without annotations": (
        lambda root: config(root, kind="mpii"),
        DatasetError,
        "is a data set in the layout of COCO",
    ),
}


@pytest.mark.parametrize(("make", "kind", "says"), UNFIT.values(), ids=UNFIT)
def test_a_source_that_does_not_fit_is_refused(
    make: Callable[[Path], DatasetConfig], kind: type[HpeError], says: str, tmp_path: Path
) -> None:
    asked = make(write_coco(tmp_path / "coco"))
    with pytest.raises(kind, match=says):
        preview_source(asked, tmp_path / "cache", no_s3)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        pytest.param("", "", id="complete"),
        pytest.param("annot/gt_valid.mat", "has no gt_valid.mat", id="truth"),
        pytest.param("annot/train.json", r"has no annot/train\.json", id="split"),
        pytest.param("images", "there is no folder images/", id="images"),
    ],
)
def test_mpii(tmp_path: Path, missing: str, says: str) -> None:
    root = write_mpii(tmp_path / "mpii")
    if missing:
        _remove(root / missing, root)
        with pytest.raises(DatasetError, match=says):
            preview_source(config(root, kind="mpii"), tmp_path / "cache", no_s3)
        return
    assert "train and valid" in preview_source(config(root, kind="mpii"), tmp_path / "cache", no_s3).text


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(os.urandom(3_000_000)) as site:
        yield site


def test_a_remote_archive_is_asked_for_but_not_fetched(site: Site, tmp_path: Path) -> None:
    found = preview_source(config(f"{site.address}/coco.zip"), tmp_path / "cache", no_s3)
    assert "can be fetched, 3.0 MB" in found.text
    # The archive, and as much again for its content.
    assert found.missing_bytes == 6_000_000
    assert not (tmp_path / "cache").exists()


def test_secrets_of_an_address_are_not_shown(site: Site, tmp_path: Path) -> None:
    address = site.address.replace("http://", "http://ada:lovelace@") + "/coco.zip?signature=secret"
    text = preview_source(config(address), tmp_path / "cache", no_s3).text
    assert "lovelace" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("mood", "kind", "says"),
    [
        pytest.param(Mood(status=404), AccessError, "does not exist", id="missing"),
        pytest.param(Mood(status=403), AccessError, "was denied", id="denied"),
        pytest.param(Mood(status=503), TransientError, "answered 503", id="server failed"),
    ],
)
def test_a_remote_archive_that_cannot_be_had(
    site: Site, tmp_path: Path, mood: Mood, kind: type[HpeError], says: str
) -> None:
    site.moods.extend([mood] * 2)
    with pytest.raises(kind, match=says):
        preview_source(config(f"{site.address}/coco.zip"), tmp_path / "cache", no_s3)


def test_what_is_here_already_is_looked_into(tmp_path: Path) -> None:
    archive = zipped(write_coco(tmp_path / "coco"))
    cache = tmp_path / "cache"
    with serve(archive.read_bytes()) as site:
        address = f"{site.address}/coco.zip"
        Sources(cache, no_s3, allow_private_addresses=True).download(address)
        found = preview_source(config(address), cache, no_s3)
        assert ("is on this machine" in found.text, found.missing_bytes) == (True, 0)
        with pytest.raises(DatasetError, match="person_keypoints_val2014"):
            preview_source(config(address, evaluation_split="val2014"), cache, no_s3)
        site.content, site.etag, site.modified = b"another archive", '"v2"', "Thu, 22 Oct 2015 07:28:00 GMT"
        assert "can be fetched" in preview_source(config(address), cache, no_s3).text


def test_other_files(site: Site, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    archive = zipped(write_coco(tmp_path / "coco"))
    option = "dataset.image_archives"
    for address in (str(archive), str(tmp_path / "coco")):
        assert preview_file(address, cache, no_s3, option=option, unpacked=True).missing_bytes == 0
    remote = f"{site.address}/boxes.json"
    found = preview_file(remote, cache, no_s3, option="dataset.boxes", unpacked=False, allow_private_addresses=True)
    assert found.missing_bytes == 3_000_000
    with pytest.raises(DatasetError, match=r"dataset\.boxes: .* does not exist"):
        preview_file(str(tmp_path / "boxes.json"), cache, no_s3, option="dataset.boxes", unpacked=False)
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 this is not an archive")
    with pytest.raises(ArchiveError, match="neither"):
        preview_file(str(tmp_path / "no.zip"), cache, no_s3, option=option, unpacked=True)


@mock_aws
def test_an_s3_prefix_is_listed(tmp_path: Path) -> None:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t")
    client.create_bucket(Bucket="data")
    root = write_coco(tmp_path / "coco")
    for path in (path for path in root.rglob("*") if path.is_file()):
        client.upload_file(str(path), "data", f"sets/{path.relative_to(root)}")
    asked = config("s3://data/sets")
    assert "train2017 and val2017" in preview_source(asked, tmp_path / "cache", lambda: client).text
    with pytest.raises(DatasetError, match=r"has no annotations/person_keypoints_val2014\.json\. It holds"):
        preview_source(config("s3://data/sets", evaluation_split="val2014"), tmp_path / "cache", lambda: client)
    with pytest.raises(AccessError, match="bucket 'absent' does not exist"):
        preview_source(config("s3://absent/sets"), tmp_path / "cache", lambda: client)
    assert not (tmp_path / "cache").exists()
