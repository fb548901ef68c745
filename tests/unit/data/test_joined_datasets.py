"""Annotations from one source and images from others: COCO's and MPII's own archives, and what else they may hold."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.fetch import fetch_boxes, fetch_dataset
from hpe_tasks.data.mpii import load_mpii, load_truth
from hpe_tasks.errors import AccessError, ArchiveError, DatasetError, DigestError, StorageError, TransientError
from hpe_tasks.records.inputs import FetchedDataset
from support.coco_factory import CALIBRATION, EVALUATION, edited, write_coco
from support.faulty_server import Mood, serve
from support.mpii_factory import edited_mat, edited_rows, write_mpii
from support.mpii_original import TRAINING, image, person
from support.mpii_original import write as write_original
from support.no_s3 import no_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def mpii(tmp_path: Path) -> Path:
    return write_mpii(tmp_path / "mpii")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Client]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


def fetch(
    source: object, cache: Path, *archives: object, s3: Any = no_s3, **fields: Any
) -> tuple[Path, FetchedDataset]:
    if archives:
        fields["image_archives"] = tuple(str(archive) for archive in archives)
    config = DatasetConfig(source=str(source), allow_private_addresses=True, **fields)
    return fetch_dataset(config, cache, s3)


def pack(path: Path, root: Path, *names: str, below: str = "") -> Path:
    """A .zip or .tar.gz of some folders or files of `root`, named as in it; `below` goes before the names."""
    files = [
        (file, below + file.relative_to(root).as_posix())
        for name in names
        for file in ([root / name] if (root / name).is_file() else sorted((root / name).rglob("*")))
        if file.is_file()
    ]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in files:
                archive.write(file, name)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for file, name in files:
                tar.add(file, name)
    return path


def coco_archives(coco: Path, folder: Path) -> tuple[Path, Path, Path]:
    """As COCO publishes them: annotations_trainval.zip, train2017.zip with train2017/*.jpg, val2017.zip."""
    return (
        pack(folder / "annotations_trainval.zip", coco, "annotations"),
        pack(folder / "train.zip", coco / "images", CALIBRATION),
        pack(folder / "val.zip", coco / "images", EVALUATION),
    )


def test_archives_of_coco_are_joined_without_copies(coco: Path, cache: Path, tmp_path: Path) -> None:
    annotations, train, val = coco_archives(coco, tmp_path)
    root, found = fetch(annotations, cache, train, val)
    assert found == fetch(coco, cache)[1].model_copy(update={"source": str(annotations)})
    for split in (CALIBRATION, EVALUATION):
        data = load_coco(root, split)
        assert len(data.all_persons()) == 6
        assert all(data.image_path(image).is_file() for image in data.images)
    photographs = [path for path in cache.rglob("*.jpg") if not path.is_symlink()]
    assert len({path.resolve() for path in photographs}) == 6 == len([p for p in photographs if p.stat().st_nlink == 1])
    assert fetch(annotations, cache, train, val) == (root, found)


@pytest.mark.parametrize("form", ["images/", "my photographs/"])
def test_one_image_archive_may_hold_all_splits(coco: Path, cache: Path, tmp_path: Path, form: str) -> None:
    archive = pack(tmp_path / "images.tgz", coco / "images", CALIBRATION, EVALUATION, below=form)
    assert fetch(coco / "annotations", cache, archive)[1].digest == fetch(coco, cache)[1].digest


def test_archives_come_from_the_web(coco: Path, cache: Path, tmp_path: Path) -> None:
    packed = coco_archives(coco, tmp_path)
    with serve(b"") as site:
        site.files = {f"/zips/{path.name}": path.read_bytes() for path in packed}
        addresses = [f"{site.address}/zips/{path.name}" for path in packed]
        site.moods_of["/zips/val.zip"].append(Mood(cut_after=2000))
        with pytest.raises(TransientError, match=r"zips/val\.zip"):
            fetch(addresses[0], cache, *addresses[1:])
        assert not (cache / "joined").is_dir() or not list((cache / "joined").glob("[!.]*/images"))
        root, found = fetch(addresses[0], cache, *addresses[1:])
        assert found.digest == fetch(coco, cache)[1].digest
        assert site.headers_sent("If-None-Match") == [None] * 3 + ['"v1"'] * 2 + [None]
        assert len(load_coco(root, EVALUATION).all_persons()) == 6


def test_changed_archive_gives_another_folder(coco: Path, cache: Path, tmp_path: Path) -> None:
    annotations, train, val = coco_archives(coco, tmp_path)
    first = fetch(annotations, cache, train, val)
    with edited(coco) as content:
        content["annotations"][0]["area"] += 1
    second = fetch(pack(tmp_path / "new.zip", coco, "annotations"), cache, train, val)
    assert first[0] != second[0]
    assert first[1].digest != second[1].digest


def test_annotations_may_come_with_a_digest(coco: Path, cache: Path, tmp_path: Path) -> None:
    annotations, train, val = coco_archives(coco, tmp_path)
    with pytest.raises(DigestError, match=f"not {'0' * 64}"):
        fetch(annotations, cache, train, val, sha256="0" * 64)


def wrong_archive(name: str, tmp_path: Path, coco: Path, mpii: Path) -> Path:
    if name == "mpii":
        return pack(tmp_path / "mpii.zip", mpii, "annot", "images")
    if name == "one split":
        return pack(tmp_path / "train.zip", coco / "images", CALIBRATION)
    if name == "annotations":
        return pack(tmp_path / "again.zip", coco, "annotations")
    path = tmp_path / "page.zip"
    path.write_text("<html>Not found</html>")
    return path


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("mpii", DatasetError, "is a data set in the layout of MPII, not of COCO"),
        ("one split", DatasetError, r"images of the split 'val2017' are missing: .*train\.zip: It holds: train2017/"),
        ("annotations", DatasetError, r"images of the split 'train2017' are missing: .*It holds: annotations/"),
        ("page", ArchiveError, "neither a .zip nor a .tar"),
    ],
)
def test_image_archive_with_the_wrong_content(
    coco: Path, mpii: Path, cache: Path, tmp_path: Path, name: str, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        fetch(coco / "annotations", cache, wrong_archive(name, tmp_path, coco, mpii))
    assert getattr(caught.value, "hint", "")


@pytest.mark.parametrize("fields", [{}, {"images_by_url": True}], ids=["complete", "annotations"])
def test_mpii_where_coco_was_asked(mpii: Path, cache: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    for source in (mpii, pack(tmp_path / "mpii.zip", mpii, "annot", "images")):
        with pytest.raises(DatasetError, match="in the layout of MPII, not of COCO") as caught:
            fetch(source, cache, **fields)
        assert "dataset.kind to mpii" in caught.value.hint


def test_coco_where_mpii_was_asked(coco: Path, cache: Path, tmp_path: Path) -> None:
    for source in (coco, pack(tmp_path / "coco.zip", coco, "annotations", "images")):
        with pytest.raises(DatasetError, match="in the layout of COCO, not of MPII"):
            fetch(source, cache, kind="mpii")


def test_image_archive_that_does_not_exist(coco: Path, cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.image_archives: '/no/such.zip' does not exist"):
        fetch(coco / "annotations", cache, "/no/such.zip")


def test_download_needs_room_for_the_content_too(
    coco: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "coco.zip", coco, "annotations", "images")
    size = archive.stat().st_size
    free = int(1.5 * size)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())
    with (
        serve(archive.read_bytes()) as site,
        pytest.raises(
            StorageError, match=rf"needs {2 * size:,} bytes more \(.*coco.zip and its content\), .* {free:,}"
        ),
    ):
        fetch(f"{site.address}/coco.zip", cache)
    assert not list(cache.rglob("*.part"))


def mpii_digest(mpii: Path, cache: Path) -> str:
    return fetch(mpii, cache, kind="mpii")[1].digest


MPII_SOURCES: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "folder": lambda mpii, _: (mpii,),
    "archive": lambda mpii, to: (pack(to / "m.zip", mpii, "annot", "images"),),
    "archive with a folder": lambda mpii, to: (pack(to / "m.tgz", mpii, "annot", "images", below="mpii/"),),
    "annotations in an archive": lambda mpii, to: (
        pack(to / "a.zip", mpii, "annot"),
        pack(to / "mpii_human_pose_v1.tar.gz", mpii, "images"),
    ),
    "bare annotation files": lambda mpii, to: (mpii / "annot", pack(to / "i.tar.gz", mpii, "images", below="x/")),
    "folders": lambda mpii, _: (mpii, mpii),
}


@pytest.mark.parametrize("form", list(MPII_SOURCES))
def test_mpii_is_the_same_whatever_the_way(mpii: Path, cache: Path, tmp_path: Path, form: str) -> None:
    (mpii / "images" / "unlisted.jpg").touch()
    sources = MPII_SOURCES[form](mpii, tmp_path)
    root, found = fetch_in(sources, cache)
    assert (found.digest, found.num_files) == (mpii_digest(mpii, cache), 2 + 1 + 6)
    data = load_mpii(root, "valid")
    assert all(data.image_path(person).is_file() for person in data.persons)
    assert len(load_truth(data).joints) == 4
    assert fetch_in(sources, cache)[0] == root


def fetch_in(sources: tuple[object, ...], cache: Path) -> tuple[Path, FetchedDataset]:
    return fetch(sources[0], cache, *sources[1:], kind="mpii")


def test_mpii_folder_is_used_in_place(mpii: Path, cache: Path) -> None:
    before = sorted(mpii.rglob("*"))
    assert fetch(mpii, cache, kind="mpii")[0] == mpii
    assert sorted(mpii.rglob("*")) == before


def test_mpii_prefix(mpii: Path, cache: Path, bucket: S3Client) -> None:
    with pytest.raises(DatasetError, match="has no annot/"):
        fetch("s3://bucket/mpii", cache, kind="mpii", s3=lambda: bucket)
    for file in (path for path in mpii.rglob("*") if path.is_file()):
        bucket.put_object(Bucket="bucket", Key=f"mpii/{file.relative_to(mpii)}", Body=file.read_bytes())
    found = fetch("s3://bucket/mpii", cache, kind="mpii", s3=lambda: bucket)[1]
    assert found.digest == mpii_digest(mpii, cache)


def test_parts_of_coco_in_a_bucket(coco: Path, cache: Path, tmp_path: Path, bucket: S3Client) -> None:
    for file in (coco / "annotations").iterdir():
        bucket.put_object(Bucket="bucket", Key=f"records/annotations/{file.name}", Body=file.read_bytes())
    images = pack(tmp_path / "images.tar.gz", coco / "images", CALIBRATION, EVALUATION)
    bucket.upload_file(str(images), "bucket", "images.tar.gz")
    found = fetch("s3://bucket/records", cache, "s3://bucket/images.tar.gz", s3=lambda: bucket)[1]
    assert found.digest == fetch(coco, cache)[1].digest


def test_mpii_digest_tells_every_change(mpii: Path, cache: Path) -> None:
    seen = {mpii_digest(mpii, cache)}
    with edited_rows(mpii, "train") as rows:
        rows[0]["scale"] = 0.5
    seen.add(mpii_digest(mpii, cache))
    with edited_mat(mpii) as variables:
        variables["headboxes_src"] = variables["headboxes_src"] * 1.0 + 0.5
    seen.add(mpii_digest(mpii, cache))
    photograph = mpii / "images" / "1000002.jpg"
    photograph.write_bytes(photograph.read_bytes() + b"x")
    seen.add(mpii_digest(mpii, cache))
    photograph.unlink()  # The data set's validation says what is missing.
    seen.add(mpii_digest(mpii, cache))
    assert len(seen) == 5
    before = mpii_digest(mpii, cache)
    (mpii / "annot" / "gt_train.mat").unlink()  # Nothing is measured on it.
    assert mpii_digest(mpii, cache) == before


def test_real_mpii_photographs(test_data: Path, cache: Path) -> None:
    config = DatasetConfig(kind="mpii", source=str(test_data / "mpii-mini"), calibration_split="valid")
    root, found = fetch_dataset(config, cache, no_s3)
    assert root == test_data / "mpii-mini"
    assert found.num_files == 7


@pytest.fixture
def original(tmp_path: Path) -> Path:
    validating = image("c.jpg", person(30.0), video=3)
    return write_original(tmp_path / "mpii_human_pose_v1_u12_1.mat", [*TRAINING, validating])


@pytest.fixture
def photographs(tmp_path: Path, mpii: Path) -> Path:
    """As MPII publishes them: images/ in an archive."""
    folder = tmp_path / "published" / "images"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg", "nobody.jpg"):
        shutil.copy(mpii / "images" / "0000001.jpg", folder / name)
    return pack(tmp_path / "mpii_human_pose_v1.tar.gz", folder.parent, "images")


def test_original_annotations_are_converted_once(
    original: Path, photographs: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    packed = pack(tmp_path / "mpii_human_pose_v1_u12_2.zip", tmp_path, original.name, below="mpii_human_pose_v1_u12_2/")
    folder = tmp_path / "all"
    folder.mkdir()
    shutil.copy(original, folder)
    shutil.copytree(tmp_path / "published" / "images", folder / "images")
    results = [
        fetch(original, cache, photographs, kind="mpii"),
        fetch(packed, cache, photographs, kind="mpii"),
        fetch(folder, cache, kind="mpii"),
    ]
    assert len({found.digest for _, found in results}) == 1
    assert results[0][1].num_files == 2 + 1 + 3
    assert caplog.text.count("Converted mpii_human_pose_v1_u12_1.mat to the splits train (2 persons)") == 1
    assert "valid (1 persons); 2 persons of training images lack joints" in caplog.text
    assert "not those that published figures were measured on" in caplog.text
    for root, _ in results:
        data = load_mpii(root, "valid")
        assert all(data.image_path(person).is_file() for person in data.persons)
        assert len(load_truth(data).joints) == 1


def persons_of(root: Path) -> dict[str, list[str]]:
    return {split: [person.image for person in load_mpii(root, split).persons] for split in ("train", "valid")}


def test_the_images_that_validate_can_be_named(
    original: Path, photographs: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The published list has a line for each person, and Windows line ends."""
    names = tmp_path / "valid_images.txt"
    names.write_bytes(b"\xef\xbb\xbfa.jpg\r\na.jpg\r\n\r\nb.jpg\r\n")
    first = fetch(original, cache, photographs, kind="mpii", valid_images=str(names))
    assert persons_of(first[0]) == {"train": ["c.jpg"], "valid": ["a.jpg", "b.jpg"]}
    assert "published figures" not in caplog.text
    with serve(b"b.jpg\na.jpg") as site:
        assert fetch(original, cache, photographs, kind="mpii", valid_images=f"{site.address}/x")[0] == first[0]
    names.write_text("b.jpg\n")
    second = fetch(original, cache, photographs, kind="mpii", valid_images=str(names))
    assert persons_of(second[0]) == {"train": ["a.jpg", "c.jpg"], "valid": ["b.jpg"]}
    usual = fetch(original, cache, photographs, kind="mpii")
    assert persons_of(usual[0]) == {"train": ["a.jpg", "b.jpg"], "valid": ["c.jpg"]}
    assert len({first[1].digest, second[1].digest, usual[1].digest}) == 3


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"a.jpg\nx.jpg\n", DatasetError, r"1 of the 2 images .* not training images .*first 'x\.jpg'"),
        (b"\n", DatasetError, "would give the split 'valid' no persons"),
        (b"\xff\xd8\xff\xe0", DatasetError, r"dataset\.valid_images: .*names is not a text file"),
        (None, AccessError, "names does not exist"),
    ],
    ids=["unknown", "empty", "binary", "missing"],
)
def test_a_list_of_images_that_cannot_be_used(
    original: Path,
    photographs: Path,
    cache: Path,
    tmp_path: Path,
    content: bytes | None,
    kind: type[Exception],
    says: str,
) -> None:
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(kind, match=says):
        fetch(original, cache, photographs, kind="mpii", valid_images=str(tmp_path / "names"))


def test_images_cannot_be_named_where_the_splits_are_made(mpii: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("0000001.jpg")
    with pytest.raises(DatasetError, match=r"valid_images is set, but .*/annot holds .* split already") as caught:
        fetch(mpii, cache, kind="mpii", valid_images=str(tmp_path / "names"))
    assert "original annotation file" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda original, **_: (original,), r"images .* are missing: .*It is a \.mat file", id="no images"),
        pytest.param(
            lambda original, photographs, **_: (photographs, photographs),
            "has no annot/train.json",
            id="no annotations",
        ),
        pytest.param(lambda mpii, **_: (mpii / "annot",), "there is no folder images/", id="annotations only"),
        pytest.param(
            lambda mpii, to, **_: (mpii, pack(to / "a.zip", mpii, "annot")), "there is no folder images/", id="archive"
        ),
        pytest.param(lambda mpii, **_: (mpii / "annot" / "gt_valid.mat", mpii), "no struct RELEASE", id="another .mat"),
    ],
)
def test_mpii_with_the_wrong_content(
    original: Path, photographs: Path, mpii: Path, cache: Path, tmp_path: Path, make: Any, says: str
) -> None:
    sources = make(original=original, photographs=photographs, mpii=mpii, to=tmp_path)
    with pytest.raises(DatasetError, match=says) as caught:
        fetch_in(sources, cache)
    assert caught.value.hint


def test_mpii_split_that_is_not_there(mpii: Path, cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no annot/test.json\. It holds: gt_train.mat"):
        fetch(mpii, cache, kind="mpii", evaluation_split="test")


def test_matlab_file_where_coco_was_asked(original: Path, cache: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a \.mat file, and a COCO data set has none"):
        fetch(original, cache)


def test_detected_boxes(coco: Path, cache: Path, tmp_path: Path) -> None:
    assert fetch_boxes(DatasetConfig(source=str(coco)), cache, no_s3) is None
    assert fetch(coco, cache)[1].boxes_sha256 is None
    rows = json.dumps([{"image_id": 200, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]).encode()
    (tmp_path / "boxes.json").write_bytes(rows)
    with serve(rows) as site:
        for boxes in (str(tmp_path / "boxes.json"), f"{site.address}/COCO_val2017_detections_AP_H_56_person.json"):
            config = DatasetConfig(source=str(coco), boxes=boxes, allow_private_addresses=True)
            found = fetch_boxes(config, cache, no_s3)
            assert found is not None
            assert found.read_bytes() == rows
            digest = fetch_dataset(config, cache, no_s3)[1].boxes_sha256
            assert digest == hashlib.sha256(rows).hexdigest()


def test_detected_boxes_that_cannot_be_used(coco: Path, cache: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "boxes.zip", coco, "annotations")
    with pytest.raises(DatasetError, match=r"dataset\.boxes: .*boxes\.zip is an archive"):
        fetch_boxes(DatasetConfig(source=str(coco), boxes=str(archive)), cache, no_s3)
    with pytest.raises(AccessError, match=r"none\.json does not exist"):
        fetch(coco, cache, boxes="/none.json")


def test_killed_join_is_made_again(coco: Path, cache: Path, tmp_path: Path) -> None:
    annotations, train, val = coco_archives(coco, tmp_path)
    root, found = fetch(annotations, cache, train, val)
    shutil.rmtree(root)
    half = root.with_name(f".{root.name}.abc.making")
    half.mkdir()
    (half / "annotations").symlink_to("/nowhere")
    assert fetch(annotations, cache, train, val) == (root, found)
    assert not half.exists()
