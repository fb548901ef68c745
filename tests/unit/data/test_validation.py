from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.validation import ValidationOutcome, validate_dataset
from hpe_tasks.errors import StorageError
from hpe_tasks.records.inputs import Lookalike, SplitCounts
from support.coco_factory import (
    CALIBRATION,
    EVALUATION,
    HEIGHT,
    WIDTH,
    annotations_file,
    edited,
    person,
    write_coco,
    write_image,
)

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def validate(root: Path, *, min_persons: int = 6, max_failed: float = 0.0) -> ValidationOutcome:
    config = DatasetConfig(source=str(root), min_persons=min_persons)
    return validate_dataset(root, config, root.parent / "out", DIGEST, max_failed=max_failed)


def image(root: Path, number: int, split: str = EVALUATION) -> Path:
    return root / "images" / split / f"{number:012d}.jpg"


def edit(change: Callable[[dict[str, Any]], object], split: str = EVALUATION) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        with edited(root, split) as content:
            change(content)

    return plant


WHOLE_FAULTS = [
    # What is planted, the check that finds it, what is named.
    pytest.param(lambda root: shutil.rmtree(root / "images" / EVALUATION), "layout_present", "images/val2017",
                 id="image folder missing"),
    pytest.param(lambda root: annotations_file(root, EVALUATION).unlink(), "layout_present",
                 "annotations/person_keypoints_val2017.json", id="annotation file missing"),
    pytest.param(lambda root: annotations_file(root, EVALUATION).write_text('{"images": ['), "annotations_readable",
                 "person_keypoints_val2017.json is not JSON", id="annotation file cut off"),
    pytest.param(lambda root: annotations_file(root, CALIBRATION).write_text("[]"), "annotations_readable",
                 "person_keypoints_train2017.json is not a COCO annotation file", id="annotation file of another kind"),
    pytest.param(edit(lambda c: c.update(categories=[{"id": 1, "name": "person"}])), "keypoints_category_present",
                 "val2017", id="category without keypoints"),
    pytest.param(edit(lambda c: c.update(annotations=c["annotations"][:3])), "enough_persons",
                 "val2017: 2 persons", id="too few persons"),
    pytest.param(edit(lambda c: c.update(annotations=[]), CALIBRATION), "enough_persons", "train2017",
                 id="no person to calibrate on"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "check", "named"), WHOLE_FAULTS)
def test_fault_of_a_split(root: Path, plant: Callable[[Path], object], check: str, named: str) -> None:
    plant(root)
    (found,) = (problem for problem in validate(root).problems if problem.check == check)
    assert found.count == 1
    assert found.message.endswith(": 1.")
    assert any(named in example for example in found.examples), found


@dataclass(frozen=True)
class Target:
    """The image that a fault is planted in: its file, its record and its first person's annotation."""

    file: Path
    image: dict[str, Any]
    annotation: dict[str, Any]
    annotations: list[dict[str, Any]]
    calibration_image: dict[str, Any]
    calibration_annotations: list[dict[str, Any]]
    calibration_file: Path


def give_id(record: dict[str, Any], annotations: list[dict[str, Any]], value: object) -> None:
    record["id"] = value
    for row in annotations:
        row["image_id"] = 200 if isinstance(value, str) else value


def share_name(target: Target) -> None:
    target.calibration_image["file_name"] = target.file.name
    target.calibration_file.rename(target.calibration_file.with_name(target.file.name))


def truncate(target: Target) -> None:
    target.file.write_bytes(target.file.read_bytes()[:-200])


def keypoints(**values: Any) -> list[Any]:
    result = person(1, 1, (2, 2, 20, 40))["keypoints"]
    for position, value in values.items():
        result[int(position[1:])] = value
    return result


def on_person(**fields: Any) -> Callable[[Target], None]:
    return lambda target: target.annotation.update(fields)


def on_image(**fields: Any) -> Callable[[Target], None]:
    return lambda target: target.image.update(fields)


# What is planted, the check that finds it, what is named: {file}, {image} and {annotation} are those of the target.
RECORD_FAULTS: dict[str, tuple[Callable[[Target], object], str, str]] = {
    "image record without width": (lambda t: t.image.pop("width"), "image_records_complete",
                                   "val2017/{file} (image {image}): width is not a positive whole number"),
    "image id is text": (lambda t: give_id(t.image, t.annotations, "five"), "image_records_complete",
                         "(image 'five'): id is not a whole number"),
    "image record without name": (lambda t: t.image.pop("file_name"), "image_records_complete",
                                  "(image {image}): file_name is missing"),
    "image id twice": (lambda t: give_id(t.image, t.annotations, 200), "image_ids_unique",
                       "val2017/{file} (image 200)"),
    "file name twice": (on_image(file_name="000000000200.jpg"), "file_names_unique",
                        "val2017/000000000200.jpg (image {image})"),
    "image missing": (lambda t: t.file.unlink(), "images_exist", "val2017/{file} (image {image})"),
    "image outside the folder": (on_image(file_name="../secret.jpg"), "images_exist",
                                 "val2017/../secret.jpg (image {image})"),
    "not an image": (lambda t: t.file.write_text("text"), "images_decode",
                     "val2017/{file} (image {image}): is not an image"),
    "empty image": (lambda t: t.file.write_bytes(b""), "images_decode",
                    "val2017/{file} (image {image}): is not an image"),
    "image cut off": (truncate, "images_decode", "val2017/{file} (image {image}): cannot be decoded"),
    "another height": (lambda t: write_image(t.file, seed=0, size=(WIDTH, HEIGHT + 1)), "image_sizes_match",
                       "val2017/{file} (image {image}): height 48, file 49"),
    "another width": (on_image(width=63), "image_sizes_match", "val2017/{file} (image {image}): width 63, file 64"),
    "splits share an id": (lambda t: give_id(t.calibration_image, t.calibration_annotations, 200),
                           "splits_disjoint",
                           "train2017/{calibration_file} (image 200)"),
    "splits share a file name": (share_name, "splits_disjoint", "train2017/{file} (image "),
    "annotation without box": (lambda t: t.annotation.pop("bbox"), "annotation_records_complete",
                               "annotation {annotation} (image {image}, val2017): bbox is not four numbers"),
    "keypoints are null": (on_person(keypoints=None), "annotation_records_complete",
                           "annotation {annotation} (image {image}, val2017): keypoints is not a list of numbers"),
    "keypoint is NaN": (on_person(keypoints=keypoints(_3=float("nan"))), "annotation_records_complete",
                        "annotation {annotation} (image {image}, val2017): keypoints is not a list of numbers"),
    "annotation id twice": (on_person(id=2001), "annotation_ids_unique", "annotation 2001 (image {image}, val2017)"),
    "annotation of an unknown image": (on_person(image_id=777), "annotations_refer_to_images",
                                       "annotation {annotation} (image 777, val2017)"),
    "16 joints": (on_person(keypoints=keypoints()[:48]), "keypoints_shape",
                  "annotation {annotation} (image {image}, val2017): 48 numbers"),
    "visibility 3": (on_person(keypoints=keypoints(_2=3)), "visibilities_valid",
                     "annotation {annotation} (image {image}, val2017)"),
    "wrong num_keypoints": (on_person(num_keypoints=14), "num_keypoints_consistent",
                            "annotation {annotation} (image {image}, val2017): num_keypoints 14, labelled 15"),
    "joint outside the image": (on_person(keypoints=keypoints(_0=WIDTH + 9.5)), "keypoints_inside_image",
                                "annotation {annotation} (image {image}, val2017): by 9.5 px"),
    "box outside the image": (on_person(bbox=[-3, 2, 20, 40]), "boxes_inside_image",
                              "annotation {annotation} (image {image}, val2017): by 3 px"),
    "flat box": (on_person(bbox=[2, 2, 20, 0]), "boxes_have_size",
                 "annotation {annotation} (image {image}, val2017): 0"),
    "negative area": (on_person(area=-1), "areas_positive", "annotation {annotation} (image {image}, val2017): -1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def all_faults(tmp_path_factory: pytest.TempPathFactory) -> tuple[ValidationOutcome, dict[str, str]]:
    """One data set with every fault of a record, each in an image of its own; and the names to expect."""
    root = write_coco(tmp_path_factory.mktemp("faults") / "coco", images=len(RECORD_FAULTS) + 1)
    names = {}
    with edited(root, CALIBRATION) as theirs, edited(root, EVALUATION) as ours:
        for i, (fault, (plant, _, named)) in enumerate(RECORD_FAULTS.items(), start=1):
            other = theirs["images"][i]
            target = Target(
                file=root / "images" / EVALUATION / ours["images"][i]["file_name"],
                image=ours["images"][i],
                annotation=ours["annotations"][3 * i],
                annotations=ours["annotations"][3 * i : 3 * i + 3],
                calibration_annotations=theirs["annotations"][3 * i : 3 * i + 3],
                calibration_image=other,
                calibration_file=root / "images" / CALIBRATION / other["file_name"],
            )
            names[fault] = named.format(
                file=target.file.name,
                image=target.image["id"],
                annotation=target.annotation["id"],
                calibration_file=target.calibration_file.name,
            )
            plant(target)
    return validate(root), names


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_fault_of_a_record(all_faults: tuple[ValidationOutcome, dict[str, str]], fault: str) -> None:
    outcome, names = all_faults
    examples = [
        example
        for problem in outcome.problems
        if problem.check == RECORD_FAULTS[fault][1]
        for example in problem.examples
    ]
    assert any(names[fault] in example for example in examples), examples


def test_no_check_fails_without_its_fault(all_faults: tuple[ValidationOutcome, dict[str, str]]) -> None:
    outcome, _ = all_faults
    assert {problem.check for problem in outcome.problems} == {check for _, check, _ in RECORD_FAULTS.values()}
    counts = {problem.check: problem.count for problem in outcome.problems}
    # Each fault counts once, a record that equals another counts with it.
    assert counts["image_records_complete"] == counts["images_decode"] == counts["annotation_records_complete"] == 3
    assert counts["image_ids_unique"] == counts["file_names_unique"] == counts["annotation_ids_unique"] == 2
    assert counts["images_exist"] == 2
    assert counts["keypoints_shape"] == counts["visibilities_valid"] == counts["num_keypoints_consistent"] == 1


def test_sound_data_set(root: Path) -> None:
    outcome = validate(root)
    assert outcome.problems == outcome.warnings == ()
    assert outcome.checks_run == 27
    assert outcome.splits == tuple(
        SplitCounts(split=split, images=3, annotations=9, persons=6) for split in (CALIBRATION, EVALUATION)
    )
    assert sorted(p.name for p in root.parent.iterdir()) == ["coco", "out"]
    assert [p.name for p in (root.parent / "out").iterdir()] == ["data_docs.html"]


def test_what_real_data_sets_do_is_accepted(root: Path) -> None:
    """Grayscale, CMYK, 16-bit and rotated photographs, boxes over the border by less than a pixel, odd crowds."""
    write_image(image(root, 200), seed=1, mode="L")
    write_image(image(root, 201), seed=2, mode="CMYK")
    deep = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 20
    Image.fromarray(deep).save(image(root, 202).with_suffix(".png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turned by a quarter.
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(image(root, 100, CALIBRATION), exif=exif)
    with edited(root) as content:
        content["images"][2]["file_name"] = "000000000202.png"
        content["annotations"][0] |= {"bbox": [-0.4, 2, WIDTH + 0.9, 40], "keypoints": keypoints(_0=WIDTH, _1=HEIGHT)}
        content["annotations"][1] |= {"bbox": [0, 0, 0, 0], "num_keypoints": 0, "keypoints": [0] * 51, "area": 0}
        del content["annotations"][2]["keypoints"]
        content["categories"].append({"id": 2, "name": "dog"})
        content["annotations"].append({"id": 5, "image_id": 200, "category_id": 2, "bbox": [0, 0, 9, 9]})
    outcome = validate(root, min_persons=5)
    assert outcome.problems == ()
    assert outcome.splits[1] == SplitCounts(split=EVALUATION, images=3, annotations=10, persons=5)


def test_copies_of_evaluation_images_are_warned_of(root: Path) -> None:
    """COCO's own train2017 and val2017 share a few photographs under two names."""
    shutil.copy(image(root, 101, CALIBRATION), image(root, 202))
    outcome = validate(root)
    assert outcome.problems == ()
    (warning,) = outcome.warnings
    assert warning.check == "contents_disjoint"
    assert warning.count == 1
    assert warning.examples == ("train2017/000000000101.jpg (image 101)",)
    assert "Fit for a run, with warnings from 1 of 27 expectations." in outcome.data_docs.read_text()


def test_pictures_of_evaluation_images_in_other_files_are_warned_of(root: Path) -> None:
    """The same photograph, saved again a little smaller: its bytes say nothing."""
    coarse = np.random.default_rng(7).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    shown = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    shown.save(image(root, 202))
    shown.resize((WIDTH // 2, HEIGHT // 2)).resize((WIDTH, HEIGHT)).save(image(root, 101, CALIBRATION), quality=60)
    outcome = validate(root)
    assert outcome.problems == ()
    (warning,) = outcome.warnings
    assert (warning.check, warning.count) == ("pictures_disjoint", 1)
    assert warning.examples == ("train2017/000000000101.jpg (image 101): like val2017/000000000202.jpg (image 202)",)
    assert outcome.lookalikes == (Lookalike(image=101, file_name="000000000101.jpg", like="000000000202.jpg"),)


@pytest.mark.parametrize(("max_failed", "stops"), [(0.0, True), (0.3, True), (0.34, False)])
def test_share_of_unreadable_images(root: Path, max_failed: float, stops: bool) -> None:
    """Two of six images."""
    image(root, 201).write_text("text")
    image(root, 100, CALIBRATION).write_bytes(image(root, 100, CALIBRATION).read_bytes()[:-200])
    outcome = validate(root, max_failed=max_failed)
    (found,) = outcome.problems if stops else outcome.warnings
    assert not (outcome.warnings if stops else outcome.problems)
    assert found.check == "images_decode"
    assert found.message == "Image files that cannot be decoded: 2."
    assert len(found.examples) == 2


def test_share_of_missing_images(root: Path) -> None:
    image(root, 201).unlink()
    outcome = validate(root, max_failed=0.2)
    assert outcome.problems == ()
    assert [warning.check for warning in outcome.warnings] == ["images_exist"]


@pytest.mark.parametrize("empty", ["images", "annotations"])
def test_data_set_of_nothing(root: Path, empty: str) -> None:
    for split in (CALIBRATION, EVALUATION):
        with edited(root, split) as content:
            content[empty] = []
    checks = {problem.check: problem for problem in validate(root).problems}
    assert checks[f"{empty}_listed"].count == 1
    assert checks[f"{empty}_listed"].examples == ()


def test_everything_missing(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (problem,) = validate(tmp_path / "coco").problems
    assert problem.check == "layout_present"
    assert problem.count == 4


def test_wild_records_are_problems_and_no_crash(root: Path) -> None:
    wild: list[Any] = [None, True, -1, 1e400, "x", [], {}, [None] * 51, [1e308] * 51, "9" * 999, 10**400, "\ud800"]
    with edited(root) as content:
        for value in wild:
            content["images"] += [{key: value} for key in ("id", "file_name", "width", "height")]
            content["annotations"] += [
                person(3000, 200, (1, 1, 9, 9)) | {key: value}
                for key in ("id", "image_id", "category_id", "bbox", "area", "num_keypoints", "keypoints", "iscrowd")
            ]
    outcome = validate(root)
    checks = {problem.check for problem in outcome.problems}
    assert {"image_records_complete", "annotation_records_complete"} <= checks
    assert all(len(problem.examples) <= 5 for problem in outcome.problems)
    assert all(len(example) < 300 for problem in outcome.problems for example in problem.examples)


def test_names_of_joints_decide_their_number(root: Path) -> None:
    for split in (CALIBRATION, EVALUATION):
        with edited(root, split) as content:
            content["categories"][0]["keypoints"] = [f"joint_{i}" for i in range(16)]
            for row in content["annotations"]:
                row["keypoints"] = row["keypoints"][:48]
    assert validate(root).problems == ()


def test_data_docs_need_no_network_and_run_no_script(root: Path) -> None:
    name = "<script>alert(1)</script>.jpg"
    with edited(root) as content:
        content["images"][0]["file_name"] = name
    outcome = validate(root)
    text = outcome.data_docs.read_text()
    assert outcome.data_docs.parent == root.parent / "out"
    assert re.findall(r"(?:src|href|url)\s*[=(]|@import|https?://", text) == []
    assert "<script" not in text
    assert "val2017/&lt;script&gt;alert(1)&lt;/script&gt;.jpg (image 200)" in text
    assert DIGEST in text
    assert "1 of 27 expectations are not met." in text
    assert "Every image&#39;s file exists" in text or "Every image's file exists" in text
    assert len(text) < 1_000_000


def test_folder_that_cannot_be_written(root: Path) -> None:
    (root.parent / "out").write_text("a file is in the way")
    with pytest.raises(StorageError, match=r"out\S* could not be written"):
        validate(root)


def test_real_photographs(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "coco-mini"
    outcome = validate_dataset(root, DatasetConfig(source=str(root)), tmp_path, DIGEST)
    assert outcome.problems == ()
    assert [split.model_dump() for split in outcome.splits] == [
        {"split": CALIBRATION, "images": 80, "annotations": 172, "persons": 86},
        {"split": EVALUATION, "images": 79, "annotations": 118, "persons": 68},
    ]
    assert outcome.splits[1].persons == len(load_coco(root, EVALUATION).all_persons())
