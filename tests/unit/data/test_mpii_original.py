"""MPII's own annotation file, built with the nested structs that it has, converted to the Simple Baselines layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from hpe_tasks.data.mpii import load_mpii, load_truth
from hpe_tasks.data.mpii.original import ConvertedMpii, convert_original
from hpe_tasks.errors import DatasetError
from support.mpii_original import EMPTY, HEAD, TRAINING, image, person, struct, write


def test_the_layout_holds_what_the_original_holds(tmp_path: Path) -> None:
    test_image = image("test.jpg", {**HEAD, "annopoints": EMPTY, "scale": 1.0, "objpos": EMPTY})
    source = write(tmp_path / "original.mat", [*TRAINING, test_image], [1, 1, 1, 0])
    converted = convert_original(source, tmp_path / "mpii", valid_images=["b.jpg"])
    assert converted == ConvertedMpii({"train": 1, "valid": 1}, skipped=2)

    (row,) = json.loads((tmp_path / "mpii" / "annot" / "valid.json").read_text())
    assert row["image"] == "b.jpg"
    assert (row["center"], row["scale"]) == ([130.0, 220.0], 2.5)
    assert row["joints"][1] == [123.0, 205.0]
    assert row["joints"][9] == [48.5, 11.25]
    assert row["joints"][0] == row["joints"][5] == [-1.0, -1.0]
    assert row["joints_vis"] == [0, 1, 1, 1, 1, 0] + [1] * 10

    for split in ("train", "valid"):
        dataset = load_mpii(tmp_path / "mpii", split)
        truth = load_truth(dataset)
        assert truth.head_boxes.tolist() == [[[40.0, 10.0], [60.0, 40.0]]]
        assert np.array_equal(truth.visible[0], dataset.persons[0].visible)
        assert truth.joints[0, 15].tolist() == dataset.persons[0].joints[15].tolist()


def test_named_images_may_show_nobody_who_can_be_scored(tmp_path: Path) -> None:
    source = write(tmp_path / "original.mat", TRAINING)
    names = ["b.jpg", "b.jpg", "nobody.jpg"]
    assert convert_original(source, tmp_path / "mpii", valid_images=names).persons == {"train": 1, "valid": 1}


def test_without_named_images_whole_videos_validate(tmp_path: Path) -> None:
    frames = [image(f"{video}-{i}.jpg", person(float(i)), video=video) for video in range(60) for i in range(2)]
    source = write(tmp_path / "original.mat", frames)
    counts = convert_original(source, tmp_path / "mpii").persons
    assert sum(counts.values()) == 120
    assert 2 <= counts["valid"] <= 30
    videos = {
        split: {person.image.split("-")[0] for person in load_mpii(tmp_path / "mpii", split).persons}
        for split in ("train", "valid")
    }
    assert not videos["train"] & videos["valid"]
    first = (tmp_path / "mpii" / "annot" / "valid.json").read_bytes()
    convert_original(source, tmp_path / "again")
    assert (tmp_path / "again" / "annot" / "valid.json").read_bytes() == first


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param({"other": 1.0}, "holds no struct RELEASE", id="no-release"),
        pytest.param({"RELEASE": 1.0}, "holds no struct RELEASE", id="release-number"),
        pytest.param({"RELEASE": {"img_train": [1]}}, "has no field 'annolist'", id="no-annolist"),
        pytest.param({"RELEASE": {"annolist": struct(*TRAINING)}}, "has no field 'img_train'", id="no-img_train"),
        pytest.param(
            {"RELEASE": {"annolist": struct(*TRAINING), "img_train": [1, 1]}},
            "annolist has 3 entries, img_train 2",
            id="counts",
        ),
        pytest.param(
            {"RELEASE": {"annolist": struct({"image": EMPTY}), "img_train": [1]}}, "has no image.name", id="no-name"
        ),
        pytest.param(
            {"RELEASE": {"annolist": struct(image("nobody.jpg")), "img_train": [1]}}, "0 annotated persons", id="nobody"
        ),
    ],
)
def test_another_structure_is_refused(tmp_path: Path, variables: dict[str, Any], message: str) -> None:
    source = tmp_path / "original.mat"
    scipy.io.savemat(source, variables)
    with pytest.raises(DatasetError, match=message):
        convert_original(source, tmp_path / "mpii")
    assert not (tmp_path / "mpii").exists()


@pytest.mark.parametrize(
    ("valid_images", "message"),
    [
        pytest.param(
            ["x.jpg", "a.jpg"], r"1 of the 2 images .* are not training images of .*first 'x\.jpg'", id="unknown"
        ),
        pytest.param(["a.jpg", "b.jpg"], "would give the split 'train' no persons", id="all"),
        pytest.param([], "would give the split 'valid' no persons", id="none"),
    ],
)
def test_images_that_cannot_validate_are_refused(tmp_path: Path, valid_images: list[str], message: str) -> None:
    source = write(tmp_path / "original.mat", TRAINING)
    with pytest.raises(DatasetError, match=message):
        convert_original(source, tmp_path / "mpii", valid_images=valid_images)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"original\.mat does not exist"):
        convert_original(tmp_path / "original.mat", tmp_path / "mpii")


def test_an_original_that_counts_from_0_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No joint can lie at pixel 0 where the first one is 1; the data set's validation looks at the images too."""
    at_border = struct({"x": 0.0, "y": 30.0, "id": 3, "is_visible": 1})
    source = write(
        tmp_path / "original.mat", [*TRAINING, image("c.jpg", person(annopoints=struct({"point": at_border})))]
    )
    convert_original(source, tmp_path / "mpii", valid_images=["a.jpg"])
    load_mpii(tmp_path / "mpii", "valid")
    assert not caplog.text
    load_mpii(tmp_path / "mpii", "train")
    assert "train.json has joints at pixel 0 and none below: it may count pixels from 0" in caplog.text
