"""Images by their addresses, from a real server on loopback that misbehaves; the photographs are real."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.calibration import choose_calibration, draw_calibration
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.fetch import coco_images, fetch_dataset, image_pool
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.data.image_files import look_at
from hpe_tasks.errors import DatasetError, StorageError, TransientError
from hpe_tasks.records.inputs import FetchedDataset
from support.dot_pictures import measure
from support.faulty_server import Mood, Site, serve
from support.no_s3 import no_s3

SPLITS = ("train2017", "val2017")
CALIBRATION_IMAGES = 12
FAST = HttpPatience(connect_timeout_s=2, read_timeout_s=0.5, retries=2, first_wait_s=0.02, longest_wait_s=2)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> HttpPatience:
    """Errors come soon."""
    monkeypatch.setattr(image_pool, "PATIENCE", FAST)
    return FAST


@pytest.fixture
def site(test_data: Path) -> Iterator[Site]:
    with serve(b"") as site:
        site.files = {
            f"/{split}/{path.name}": path.read_bytes()
            for split in SPLITS
            for path in (test_data / "coco-mini" / "images" / split).iterdir()
        }
        yield site


@pytest.fixture
def records(test_data: Path, tmp_path: Path, site: Site) -> Path:
    """The annotations of coco-mini, with addresses that lead to the server."""
    folder = tmp_path / "records" / "annotations"
    folder.mkdir(parents=True)
    for split in SPLITS:
        name = f"person_keypoints_{split}.json"
        content = json.loads((test_data / "coco-mini" / "annotations" / name).read_text())
        for row in content["images"]:
            row["coco_url"] = f"{site.address}/{split}/{row['file_name']}"
        (folder / name).write_text(json.dumps(content))
    return folder.parent


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(
    records: Path, cache: Path, *, images: int = CALIBRATION_IMAGES, seed: int = 0, **fields: Any
) -> tuple[Path, FetchedDataset]:
    usual = {"images_by_url": True, "requests_per_second": 1000, "allow_private_addresses": True}
    fields = {**usual, **fields}
    config = DatasetConfig(source=str(records), **fields)
    return fetch_dataset(config, cache, no_s3, calibration_images=images, seed=seed)


def edit(records: Path, split: str) -> Any:
    from support.coco_factory import edited

    return edited(records, split)


def files(root: Path, split: str) -> set[str]:
    return {path.name for path in (root / "images" / split).iterdir()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_persons(records: Path) -> set[str]:
    dataset = load_coco(records, "val2017")
    return {image.file_name for image in dataset.images if dataset.persons(image.id)}


def test_the_selection_is_a_small_data_set(records: Path, cache: Path, site: Site, test_data: Path) -> None:
    root, found = fetch(records, cache)
    whole = load_coco(records, "train2017")
    chosen = choose_calibration(whole, num_images=CALIBRATION_IMAGES, seed=0)
    assert files(root, "train2017") == {i.file_name for i in whole.images if i.id in set(chosen)}
    assert files(root, "val2017") == with_persons(records)
    assert sorted(site.paths()) == sorted(f"/{split}/{name}" for split in SPLITS for name in files(root, split))
    for split in SPLITS:
        for path in (root / "images" / split).iterdir():
            assert path.read_bytes() == (test_data / "coco-mini" / "images" / split / path.name).read_bytes()
    cut, complete = load_coco(root, "val2017"), load_coco(records, "val2017")
    assert [p.annotation_id for p in cut.all_persons()] == [p.annotation_id for p in complete.all_persons()]
    drawn = draw_calibration(load_coco(root, "train2017"), cut, num_images=CALIBRATION_IMAGES, seed=0)
    assert {image.id for image in drawn.images} == set(chosen)
    assert found.num_files == len(site.paths()) + 2


def test_annotations_keep_crowds_and_everything_else_of_the_chosen_images(records: Path, cache: Path) -> None:
    root, _ = fetch(records, cache)
    for split in SPLITS:
        name = f"annotations/person_keypoints_{split}.json"
        cut, whole = (json.loads((folder / name).read_text()) for folder in (root, records))
        kept = {row["file_name"] for row in cut["images"]}
        ids = {row["id"] for row in cut["images"]}
        assert cut["images"] == [row for row in whole["images"] if row["file_name"] in kept]
        assert cut["annotations"] == [row for row in whole["annotations"] if row["image_id"] in ids]
        assert cut["images_left_out"] == sorted({row["id"] for row in whole["images"]} - ids)
        assert {key: cut[key] for key in cut if key not in {"images", "annotations", "images_left_out"}} == {
            key: whole[key] for key in whole if key not in {"images", "annotations"}
        }
    whole = json.loads((records / "annotations/person_keypoints_val2017.json").read_text())
    assert any(row["num_keypoints"] == 0 for row in cut["annotations"])
    assert len(cut["annotations"]) < len(whole["annotations"])


def test_annotation_files_are_read_once(records: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def count(path: Path) -> dict[str, Any]:
        read.append(path.name)
        return read_annotations(path)

    monkeypatch.setattr(coco_images, "read_annotations", count)
    monkeypatch.setattr("hpe_tasks.data.coco.read_annotations", count)
    fetch(records, cache)
    assert read == [f"person_keypoints_{split}.json" for split in SPLITS]


def grey_network(images: np.ndarray) -> np.ndarray:
    """Heatmaps whose peaks depend on every pixel of the crop: another crop gives another pose."""
    small = np.abs(images).mean(axis=1).reshape(len(images), images.shape[2] // 4, 4, images.shape[3] // 4, 4)
    return np.stack([np.roll(small.mean(axis=(2, 4)), 3 * joint, axis=1) for joint in range(17)], axis=1)


def detections(records: Path) -> list[dict[str, Any]]:
    """As a detector gives them: people in most images, also where nobody is annotated, and other things."""
    rows = []
    for number, image in enumerate(load_coco(records, "val2017").images):
        for n in range(number % 3):
            box = [5.0 + 40 * n, 8.0 + n, image.width / 3, image.height / 2]
            rows.append({"image_id": image.id, "category_id": 1, "bbox": box, "score": 0.5 + 0.1 * n})
        rows.append({"image_id": image.id, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.9})
    return rows


def test_published_boxes_fit_a_selection(records: Path, cache: Path, test_data: Path, tmp_path: Path) -> None:
    """A detector's file is about all images of the split; those that were not fetched are passed over."""
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(detections(records)))
    root, _ = fetch(records, cache, boxes=str(file))
    complete_root = tmp_path / "complete"
    complete_root.mkdir()
    for name in ("annotations", "images"):
        (complete_root / name).symlink_to(test_data / "coco-mini" / name)
    part, whole = load_coco(root, "val2017"), load_coco(complete_root, "val2017")
    assert part.left_out == set(whole.image_ids) - set(part.image_ids)
    assert part.left_out & {row["image_id"] for row in detections(records) if row["category_id"] == 1}
    report, rows = measure(part, grey_network, boxes=file)
    complete, expected = measure(whole, grey_network, boxes=file)
    assert rows == expected
    assert len(rows) > 20
    assert report.stats == complete.stats
    same = {"image_ids_digest", "num_images", "num_persons", "box_source", "boxes_digest"}
    assert report.fingerprint.model_dump(include=same) == complete.fingerprint.model_dump(include=same)


def test_boxes_of_another_split_are_refused_all_the_same(records: Path, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "boxes.json"
    train = load_coco(records, "train2017").images[0].id
    file.write_text(json.dumps([*detections(records), {**detections(records)[0], "category_id": 1, "image_id": train}]))
    root, _ = fetch(records, cache, boxes=str(file))
    with pytest.raises(DatasetError, match=rf"boxes\.json: entry number \d+: .* no image with the id {train}\."):
        measure(load_coco(root, "val2017"), grey_network, boxes=file)


def test_all_images_of_the_evaluation_split(records: Path, cache: Path) -> None:
    root, _ = fetch(records, cache, evaluation_images="all")
    assert len(files(root, "val2017")) == 79 > len(with_persons(records))


def test_the_manifest_names_every_file(records: Path, cache: Path, site: Site) -> None:
    with edit(records, "val2017") as content:
        for row in content["images"]:
            row["coco_url"] = row["coco_url"].replace("http://", "http://user:hunter2@")
    root, _ = fetch(records, cache)
    text = (root / "fetched.jsonl").read_text()
    assert "hunter2" not in text
    entries = [json.loads(line) for line in text.splitlines()]
    assert [e["file"] for e in entries] == [f"images/{s}/{name}" for s in SPLITS for name in sorted(files(root, s))]
    for entry in entries:
        path = root / entry["file"]
        assert entry == {
            "file": entry["file"],
            "url": f"{site.address}/{path.parent.name}/{path.name}",
            "sha256": sha256(path),
            "size_bytes": path.stat().st_size,
        }


def test_same_selection_has_the_same_digest_and_is_not_fetched_again(records: Path, cache: Path, site: Site) -> None:
    first = fetch(records, cache)
    requests = len(site.requests)
    assert fetch(records, cache) == first
    assert len(site.requests) == requests
    elsewhere, found = fetch(records, cache.with_name("other cache"))
    assert (elsewhere != first[0], found) == (True, first[1])


def test_another_selection_asks_only_for_what_is_new(records: Path, cache: Path, site: Site) -> None:
    first, _ = fetch(records, cache)
    before = {f"/{split}/{name}" for split in SPLITS for name in files(first, split)}
    site.requests.clear()
    second, _ = fetch(records, cache, seed=1, images=20)
    wanted = {f"/{split}/{name}" for split in SPLITS for name in files(second, split)}
    assert sorted(site.paths()) == sorted(wanted - before)
    assert wanted & before
    shared = next(iter(files(first, "val2017")))
    assert (first / "images/val2017" / shared).samefile(second / "images/val2017" / shared)


def test_selection_of_other_code_is_made_anew(
    records: Path, cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, found = fetch(records, cache)
    site.requests.clear()
    monkeypatch.setattr("hpe_tasks.data.fetch.coco_images.sha256_file", lambda _: "0" * 64)
    second, again = fetch(records, cache)
    assert (second != first, again, site.requests) == (True, found, [])


def test_one_split_alone(records: Path, cache: Path, site: Site) -> None:
    """As `hpe evaluate` needs it: nothing is calibrated."""
    root, _ = fetch(records, cache, calibration_split="val2017")
    assert files(root, "val2017") == with_persons(records)
    assert not any("train2017" in path for path in site.paths())


@pytest.mark.parametrize("where", ["flat folder", "archive"])
def test_annotations_wherever_they_lie(records: Path, cache: Path, tmp_path: Path, where: str) -> None:
    import zipfile

    expected = fetch(records, cache)[1]
    source = records / "annotations"
    if where == "archive":
        source = tmp_path / "annotations_trainval2017.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (records / "annotations").iterdir():
                archive.write(path, f"annotations/{path.name}")
    assert fetch(source, cache)[1].digest == expected.digest


def test_requests_are_spread_and_few_at_once(
    records: Path, cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pool, "THREADS", 4)
    site.delay_s = 0.15
    fetch(records, cache, requests_per_second=25)
    assert 3 <= site.most_at_once <= 4
    spread = [sum(begin <= t < begin + 1 for t in site.times) for begin in site.times]
    assert 8 <= max(spread) <= 27
    assert len(site.times) / (site.times[-1] - site.times[0]) <= 27


def url_of(name: str) -> str:
    return f"/val2017/{name}"


@pytest.fixture
def victim(records: Path) -> str:
    return sorted(with_persons(records))[3]


@pytest.mark.parametrize(
    "mood",
    [
        pytest.param(Mood(cut_after=5000), id="cut"),
        pytest.param(Mood(stall_after=5000), id="stalls"),
        pytest.param(Mood(headers={"Content-Length": "9000"}), id="says less than it has"),
        pytest.param(Mood(headers={"Content-Length": "99999999"}, cut_after=9000), id="says more than it has"),
        pytest.param(Mood(headers={"Content-Length": None}, cut_after=9000), id="says nothing and cuts"),
        pytest.param(Mood(status=429), id="429"),
        pytest.param(Mood(status=500), id="500"),
        pytest.param(Mood(status=503), id="503"),
    ],
)
@pytest.mark.usefixtures("patience")
def test_passing_trouble_is_overcome(records: Path, cache: Path, site: Site, victim: str, mood: Mood) -> None:
    site.moods_of[url_of(victim)] += [mood, mood]
    root, _ = fetch(records, cache)
    assert site.paths().count(url_of(victim)) == 3
    assert not look_at(root / "images/val2017" / victim).fault
    assert not list((cache / "images").rglob("*.part"))


HTML = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"


@pytest.mark.parametrize(
    ("mood", "content", "asked", "kind", "says"),
    [
        pytest.param(Mood(status=404), None, 1, DatasetError, "does not exist (HTTP 404)", id="404"),
        pytest.param(Mood(status=403), None, 1, DatasetError, "was denied (HTTP 403)", id="403"),
        pytest.param(Mood(status=302, headers={"Location": "/again"}), None, 1, DatasetError, "redirects", id="loop"),
        pytest.param(Mood(), HTML, 3, DatasetError, "is a web page, not an image", id="web page"),
        pytest.param(Mood(), b"", 3, DatasetError, "is not an image", id="nothing"),
        pytest.param(Mood(), "half", 3, DatasetError, "cannot be decoded: image file is truncated", id="half an image"),
        pytest.param(Mood(), "other", 3, DatasetError, "is an image of 640x427 pixels, but its record", id="another"),
        pytest.param(Mood(), bytes(6 * 2**20), 3, DatasetError, "far too long for an image of", id="endless"),
        pytest.param(Mood(cut_after=500), None, 3, TransientError, "failed or was cut", id="always cut"),
        pytest.param(Mood(stall_after=500), None, 3, TransientError, "did not answer|failed or was cut", id="stalls"),
        pytest.param(Mood(status=503), None, 3, TransientError, "answered 503", id="503"),
    ],
)
@pytest.mark.usefixtures("patience")
def test_an_image_that_cannot_be_had_is_named_and_the_others_are_kept(
    records: Path,
    cache: Path,
    site: Site,
    victim: str,
    mood: Mood,
    content: bytes | str | None,
    asked: int,
    kind: type[Exception],
    says: str,
) -> None:
    import re

    assert site.files is not None
    whole = site.files[url_of(victim)]
    if content == "half":
        content = whole[: len(whole) // 2]
    if content == "other":
        content = next(
            f for p, f in site.files.items() if p.startswith("/train") and size_of(f) == (640, 427) != size_of(whole)
        )
    if content is not None:
        site.files[url_of(victim)] = content if isinstance(content, bytes) else content.encode()
    site.moods_of[url_of(victim)] += [mood] * 3
    site.moods_of["/again"] += [mood] * 100
    pattern = says if "|" in says else re.escape(says)
    with pytest.raises(kind, match=rf"^1 of \d+ images could not be fetched: {victim}: .*{pattern}") as caught:
        fetch(records, cache)
    assert f"{site.address}/val2017/{victim}" in str(caught.value)
    assert "What was fetched is kept" in str(caught.value) or "what was fetched is kept" in str(caught.value)
    assert site.paths().count(url_of(victim)) == asked
    assert not list((cache / "selections").glob("[!.]*"))
    assert not list((cache / "images").rglob("*.part"))
    site.files[url_of(victim)] = whole
    site.moods_of.clear()
    site.requests.clear()
    fetch(records, cache)
    assert site.paths() == [url_of(victim)]


def turned(image: Image.Image) -> bytes:
    """Its EXIF data ask to turn it by a quarter; its record is about the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image.convert("L")), id="grey"),
        pytest.param(lambda image: encoded(image.convert("CMYK")), id="cmyk"),
        pytest.param(
            lambda image: encoded(Image.fromarray(np.asarray(image)[..., 0] * np.uint16(257)), "PNG"), id="16-bit"
        ),
        pytest.param(turned, id="exif-rotated"),
        pytest.param(lambda image: encoded(image, progressive=True), id="progressive"),
    ],
)
def test_images_of_every_kind_are_taken_as_they_are(
    records: Path, cache: Path, site: Site, victim: str, change: Callable[[Image.Image], bytes]
) -> None:
    assert site.files is not None
    with Image.open(io.BytesIO(site.files[url_of(victim)])) as image:
        site.files[url_of(victim)] = change(image.convert("RGB"))
    root, _ = fetch(records, cache)
    assert (root / "images/val2017" / victim).read_bytes() == site.files[url_of(victim)]


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        return image.size


@pytest.mark.usefixtures("patience")
def test_many_missing_images_are_counted(records: Path, cache: Path, site: Site) -> None:
    assert site.files is not None
    for name in sorted(with_persons(records))[:7]:
        del site.files[url_of(name)]
    with pytest.raises(
        DatasetError, match=r"^7 of \d+ images could not be fetched: .*; …\. What was fetched"
    ) as caught:
        fetch(records, cache)
    assert str(caught.value).count("HTTP 404") == 3


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", [404, 503])
def test_a_server_without_any_image_is_not_asked_for_all(
    records: Path, cache: Path, site: Site, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pool, "MAX_REFUSED", 5)
    monkeypatch.setattr(image_pool, "MAX_UNREACHABLE", 5)
    monkeypatch.setattr(image_pool, "THREADS", 2)
    site.moods += [Mood(status=kind)] * 1000
    with pytest.raises(DatasetError if kind == 404 else TransientError, match=r"^At least 5 of \d\d images"):
        fetch(records, cache)
    assert len(site.requests) < 30


def test_nobody_listens(records: Path, cache: Path, patience: HttpPatience) -> None:
    with serve(b"") as gone:
        address = gone.address
    with edit(records, "val2017") as content:
        content["images"][0]["coco_url"] = f"{address}/x.jpg"
    with pytest.raises(TransientError, match=r"1 of \d+ images could not be fetched: .*failed or was cut"):
        fetch(records, cache, evaluation_images="all")


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("mood", [Mood(status=403), Mood(status=503), Mood(cut_after=500), Mood(stall_after=500)])
def test_tracebacks_hold_no_secret(records: Path, cache: Path, site: Site, mood: Mood) -> None:
    path = "/val2017/x.jpg?X-Amz-Signature=s3cr3t"
    assert site.files is not None
    site.files[path] = bytes(1000)
    site.moods_of[path] += [mood] * 3
    with edit(records, "val2017") as content:
        content["images"][0]["coco_url"] = site.address.replace("://", "://user:hunter2@") + path
    try:
        fetch(records, cache, evaluation_images="all")
    except (DatasetError, TransientError):
        text = traceback.format_exc()
        assert "images could not be fetched" in text
        assert "s3cr3t" not in text
        assert "hunter2" not in text
    else:
        pytest.fail("the image cannot be had")


def test_signed_addresses_are_used_and_not_kept(records: Path, cache: Path, site: Site) -> None:
    _, plain = fetch(records, cache.with_name("plain"))
    assert site.files is not None
    site.files |= {f"{path}?sig=s3cr3t": content for path, content in site.files.items()}
    written = {path: path.read_text() for path in (records / "annotations").iterdir()}
    for path, text in written.items():
        content = json.loads(text)
        for row in content["images"]:
            row["coco_url"] = row["coco_url"].replace("://", "://ada:hunter2@") + "?sig=s3cr3t"
        path.write_text(json.dumps(content))
    root, signed = fetch(records, cache)
    assert signed.digest == plain.digest
    kept = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file() and "json" in path.suffix)
    assert root.is_relative_to(cache)
    assert b"coco_url" in kept
    assert not [secret for secret in (b"hunter2", b"s3cr3t") if secret in kept]


@pytest.mark.parametrize("twin_comes", ["first", "last"])
def test_one_address_cannot_give_two_sizes(records: Path, cache: Path, site: Site, twin_comes: str) -> None:
    with edit(records, "val2017") as content:
        first = content["images"][0]
        twin = {**first, "id": 10**9, "file_name": "twin.jpg", "width": first["width"] + 1}
        content["images"].insert(0 if twin_comes == "first" else len(content["images"]), twin)
    with pytest.raises(DatasetError, match=rf"have one address, {first['coco_url']}, but different sizes") as caught:
        fetch(records, cache, evaluation_images="all")
    for row in (first, twin):
        assert f"{row['file_name']} ({row['width']}x{row['height']})" in caught.value.message
    assert site.requests == []


def test_two_records_may_share_an_image(records: Path, cache: Path, site: Site) -> None:
    with edit(records, "val2017") as content:
        content["images"].append({**content["images"][0], "id": 10**9, "file_name": "twin.jpg"})
    root, _ = fetch(records, cache, evaluation_images="all")
    first = content["images"][0]
    assert sha256(root / "images/val2017/twin.jpg") == sha256(root / "images/val2017" / first["file_name"])
    assert site.paths().count(url_of(first["file_name"])) == 1


@pytest.mark.usefixtures("patience")
def test_retry_after_holds_up_all_threads(
    records: Path, cache: Path, site: Site, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pool, "THREADS", 3)
    site.moods.append(Mood(status=429, headers={"Retry-After": "1"}))
    site.delay_s = 0.02
    fetch(records, cache)
    # Three were under way; nobody asks again before the second is over.
    assert not [t for t in site.times if 0.5 < t - site.times[0] < 0.95]
    assert site.times[-1] - site.times[0] > 1


@pytest.mark.usefixtures("patience")
def test_long_retry_after_ends_the_fetch(records: Path, cache: Path, site: Site) -> None:
    rows = json.loads((records / "annotations/person_keypoints_val2017.json").read_text())["images"]
    first = next(row["file_name"] for row in rows if row["file_name"] in with_persons(records))
    site.moods_of[url_of(first)].append(Mood(status=503, headers={"Retry-After": "3600"}))
    with pytest.raises(
        TransientError, match=r"answered 503 and asks to wait for 3,600 s\. .*requests_per_second lower"
    ):
        fetch(records, cache, requests_per_second=10)
    total = len(with_persons(records)) + CALIBRATION_IMAGES
    assert len(site.requests) < total
    site.requests.clear()
    fetch(records, cache)
    assert len(site.requests) < total


CHILD = """
import sys
from pathlib import Path
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch import fetch_dataset
config = DatasetConfig(
    source=sys.argv[1], images_by_url=True, requests_per_second=20, allow_private_addresses=True
)
fetch_dataset(config, Path(sys.argv[2]), None, calibration_images=12, seed=0)
"""


def test_killed_fetch_continues_with_what_is_missing(records: Path, cache: Path, site: Site) -> None:
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(records), str(cache)])
    try:
        deadline = time.monotonic() + 60
        while len(site.requests) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.2)
    pooled = [path for path in (cache / "images").rglob("*") if path.is_file() and len(path.name) == 64]
    assert 10 <= len(pooled) < 40
    asked = set(site.paths())
    site.requests.clear()
    root, found = fetch(records, cache)
    total = sum(len(files(root, split)) for split in SPLITS)
    assert len(site.paths()) == total - len(pooled)
    assert len(set(site.paths()) & asked) <= len(asked) - len(pooled)
    assert found.digest == fetch(records, cache.with_name("whole"))[1].digest
    assert not list((cache / "selections").glob(".*.making"))


def test_damaged_image_in_the_pool_is_fetched_again(records: Path, cache: Path, site: Site, victim: str) -> None:
    fetch(records, cache)
    path = cache / "images" / "x"
    name = hashlib.sha256(f"{site.address}{url_of(victim)}".encode()).hexdigest()
    path = cache / "images" / name[:2] / name
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    site.requests.clear()
    root, _ = fetch(records, cache, images=13)
    assert url_of(victim) in site.paths()
    assert (root / "images/val2017" / victim).read_bytes() == whole


def test_space_is_checked_before(records: Path, cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20})())
    count = len(with_persons(records)) + CALIBRATION_IMAGES
    says = rf"needs {count * 0.2:.1f} MB more \(an estimate: {count} images of 200 kB\), .* only 1.0 MB free"
    with pytest.raises(StorageError, match=says):
        fetch(records, cache)
    assert site.requests == []


def test_full_disk_ends_the_fetch(records: Path, cache: Path, site: Site, victim: str) -> None:
    name = hashlib.sha256(f"{site.address}{url_of(victim)}".encode()).hexdigest()
    part = cache / "images" / name[:2] / f"{name}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # Writing to this device fails as a full disk does.
    with pytest.raises(StorageError, match="disk is full"):
        fetch(records, cache)
    fetch(records, cache)


@pytest.mark.parametrize(
    "url", [None, "", 7, "file:///etc/passwd", "ftp://example.com/a.jpg", "http://[bad/x", "http://"]
)
def test_record_without_an_address(records: Path, cache: Path, site: Site, url: object) -> None:
    with edit(records, "val2017") as content:
        row = next(r for r in content["images"] if r["file_name"] in with_persons(records))
        row["coco_url"] = url
    says = (
        rf"records/annotations/person_keypoints_val2017.json: image {row['id']} \({row['file_name']}\) has no coco_url"
    )
    with pytest.raises(DatasetError, match=says) as caught:
        fetch(records, cache)
    assert "dataset.image_archives" in caught.value.hint
    assert site.requests == []


def test_split_without_persons(records: Path, cache: Path) -> None:
    with edit(records, "val2017") as content:
        for row in content["annotations"]:
            row["iscrowd"] = 1
    with pytest.raises(DatasetError, match="lists no image with persons"):
        fetch(records, cache)


def test_missing_annotations(records: Path, cache: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no annotations/person_keypoints_val2014.json\. It holds: person_key.*2017"
    ):
        fetch(records, cache, evaluation_split="val2014")


def test_progress_is_shown(
    records: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpe_tasks.progress._LOG_INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO)
    fetch(records, cache)
    total = len(with_persons(records)) + CALIBRATION_IMAGES
    assert "12 of 80 images of train2017 are needed" in caplog.text
    assert f"0 of {total} images are here already" in caplog.text
    assert f"Fetching: {total // 2} of {total}" in caplog.text
