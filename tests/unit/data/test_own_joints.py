"""Data sets in COCO's layout with joints of their own: five points, and whatever the files say."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.fetch import fetch_dataset
from hpe_tasks.data.fetch.preview import preview_source
from hpe_tasks.data.own_joints import UNKNOWN_SIGMA
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.sample.dataset import FIVE_POINTS
from hpe_tasks.data.validation import validate_dataset
from hpe_tasks.datasets import COCO, CUSTOM
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.report.page import ReportFiles, render_report
from support.dot_pictures import CONFIG, ONE, TWO, measure, write_dataset
from support.no_s3 import no_s3
from support.run_cases import complete

SPEC = SampleSpec(train=1, calibration=3, val=4, width=200, height=150)
SPLITS = ["calibration", "val"]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    make_sample(tmp_path / "data", SPEC, splits=SPLITS, kind=CUSTOM)
    return tmp_path / "data"


def config_of(root: Path | str) -> DatasetConfig:
    return DatasetConfig(
        kind="custom", source=str(root), min_persons=1, calibration_split="calibration", evaluation_split="val"
    )


def load(root: Path, split: str = "val") -> CocoDataset:
    return load_coco(root, split, CUSTOM)


def fetch(source: Path | str, cache: Path) -> tuple[Path, Any]:
    return fetch_dataset(config_of(source), cache, no_s3, sample=SPEC)


@contextmanager
def edited(root: Path, split: str = "val") -> Iterator[dict[str, Any]]:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def write_sigmas(root: Path, sigmas: Any) -> None:
    (root / "annotations" / "sigmas.json").write_text(json.dumps(sigmas))


def problems(root: Path, out: Path) -> list[str]:
    outcome = validate_dataset(root, config_of(root), out, "0" * 64)
    return [f"{problem.message} {problem.examples}" for problem in outcome.problems]


def test_joints_and_limbs_come_from_the_file(drawn: Path, tmp_path: Path) -> None:
    dataset = load(drawn)
    assert dataset.skeleton.joints == FIVE_POINTS.joints
    assert dataset.skeleton.limbs == FIVE_POINTS.limbs
    assert dataset.groups == {"hand": ("left_hand", "right_hand"), "foot": ("left_foot", "right_foot")}
    assert dataset.num_persons > 0
    assert problems(drawn, tmp_path / "docs") == []


def test_sigmas_that_no_file_says_are_derived_and_told(
    drawn: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in SPLITS:
        with edited(drawn, split) as content:
            content["categories"][0]["keypoints"][0] = "nose"
    with caplog.at_level(logging.WARNING):
        sigmas = load(drawn).sigmas
    assert sigmas == {"nose": COCO.sigmas["nose"], **dict.fromkeys(FIVE_POINTS.joints[1:], UNKNOWN_SIGMA)}
    assert UNKNOWN_SIGMA == 0.072
    assert "no OKS sigma is known for left_hand, right_hand, left_foot, right_foot: 0.072 is used" in caplog.text
    outcome = validate_dataset(drawn, config_of(drawn), tmp_path / "docs", "0" * 64)
    assert outcome.problems == ()
    (warning,) = outcome.warnings
    assert warning.message == "Splits with joints whose OKS sigma is not known (0.072 is used): 2."
    assert warning.examples == ("calibration: 4 joints", "val: 4 joints")


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([0.1, 0.02, 0.03, 0.04, 0.05], id="a list in the order of the joints"),
        pytest.param(
            {"right_foot": 0.05, "left_foot": 0.04, "head": 0.1, "left_hand": 0.02, "right_hand": 0.03}, id="by name"
        ),
    ],
)
def test_sigmas_come_from_a_file_of_the_data_set(drawn: Path, tmp_path: Path, given: Any) -> None:
    _, without = fetch(drawn, tmp_path / "cache")
    write_sigmas(drawn, given)
    assert list(load(drawn).sigmas.items()) == list(zip(FIVE_POINTS.joints, [0.1, 0.02, 0.03, 0.04, 0.05], strict=True))
    _, fetched = fetch(drawn, tmp_path / "cache")
    assert fetched.digest != without.digest
    assert fetched.num_files == without.num_files + 1
    assert fetched.own_joints.skeleton == FIVE_POINTS.__class__("dataset", FIVE_POINTS.joints, FIVE_POINTS.limbs)
    assert problems(drawn, tmp_path / "docs") == []


def _sigmas(value: Any) -> Callable[[Path], None]:
    return lambda root: write_sigmas(root, value)


def _category(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with edited(root) as content:
            content["categories"][0].update(changes)

    return change


def _no_joints(root: Path) -> None:
    with edited(root) as content:
        del content["categories"][0]["keypoints"]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        pytest.param(_sigmas([0.1] * 4), "holds 4 sigmas, and not those of the 5 joints", id="few sigmas"),
        pytest.param(_sigmas([0.1] * 6), "sigmas.json holds 6 sigmas", id="many sigmas"),
        pytest.param(_sigmas({"head": 0.1}), "sigmas.json holds 1 sigmas", id="sigmas by name, some missing"),
        pytest.param(
            _sigmas(dict.fromkeys((*FIVE_POINTS.joints[:4], "tail"), 0.1)), "not those of", id="sigmas of other joints"
        ),
        pytest.param(
            _sigmas([0.1, 0.1, 0, 0.1, 0.1]), "the sigma of right_hand is 0, not a number above 0", id="sigma 0"
        ),
        pytest.param(_sigmas([0.1, 0.1, "a", 0.1, 0.1]), "right_hand is 'a'", id="sigma no number"),
        pytest.param(_sigmas("0.1"), "holds no sigmas", id="sigmas no list"),
        pytest.param(
            _category(skeleton=[[1, 6]]), r"\[1, 6\], which is not a pair of numbers from 1 to 5", id="limb too large"
        ),
        pytest.param(_category(skeleton=[[0, 1]]), r"skeleton holds \[0, 1\]", id="limb counted from 0"),
        pytest.param(_category(skeleton=[[1, 2, 3]]), r"skeleton holds \[1, 2, 3\]", id="limb of three"),
        pytest.param(_category(skeleton="1-2"), "skeleton is not a list", id="skeleton no list"),
        pytest.param(_category(keypoints=["a:b", "c", "d", "e", "f"]), "'a:b' cannot be a joint's name", id="colon"),
    ],
)
def test_joints_that_cannot_be_used(drawn: Path, tmp_path: Path, break_it: Callable[[Path], None], says: str) -> None:
    break_it(drawn)
    with pytest.raises(DatasetError, match=says) as caught:
        load(drawn)
    assert caught.value.hint
    found = problems(drawn, tmp_path / "docs")
    assert any(caught.value.message[:40] in problem for problem in found), found
    # It is fetched all the same: the validation, not the download, says what is wrong.
    assert fetch(drawn, tmp_path / "cache")[1].own_joints is None


@pytest.mark.parametrize(
    "break_it", [pytest.param(_no_joints, id="missing"), pytest.param(_category(keypoints=[]), id="empty")]
)
def test_a_category_without_joints(drawn: Path, tmp_path: Path, break_it: Callable[[Path], None]) -> None:
    break_it(drawn)
    with pytest.raises(DatasetError, match=r"val\.json: no category names joints"):
        load(drawn)
    assert any("without a category that names its joints" in problem for problem in problems(drawn, tmp_path / "d"))


def test_all_categories_with_the_same_joints_are_measured(drawn: Path) -> None:
    """As AP-10K has it: a category for each species."""
    before = load(drawn)
    with edited(drawn) as content:
        content["categories"].append(content["categories"][0] | {"id": 2, "name": "cat"})
        content["categories"].append({"id": 3, "name": "other", "keypoints": ["x"]})
        content["annotations"][0]["category_id"] = 2
        dropped = content["annotations"][-1] | {"category_id": 3, "keypoints": [1, 1, 2], "id": 9_999_999}
        content["annotations"].append(dropped)
    after = load(drawn)
    assert [p.annotation_id for p in after.all_persons()] == [p.annotation_id for p in before.all_persons()]


def test_images_may_lie_in_one_folder(drawn: Path, tmp_path: Path) -> None:
    for folder in ("calibration", "val"):
        for image in list((drawn / "images" / folder).iterdir()):
            image.rename(drawn / "images" / image.name)
        (drawn / "images" / folder).rmdir()
    root, fetched = fetch(drawn, tmp_path / "cache")
    assert fetched.num_files == 2 + 3 + 4
    assert problems(root, tmp_path / "docs") == []


def test_annotation_files_may_have_coco_s_own_name(drawn: Path, tmp_path: Path) -> None:
    before = fetch(drawn, tmp_path / "cache")[1]
    for split in SPLITS:
        (drawn / "annotations" / f"{split}.json").rename(drawn / "annotations" / f"person_keypoints_{split}.json")
    root, fetched = fetch(drawn, tmp_path / "cache")
    assert fetched.digest == before.digest
    assert problems(root, tmp_path / "docs") == []
    assert preview_source(config_of(drawn), tmp_path / "cache", no_s3).text.endswith("calibration and val")


def test_joints_that_coco_knows_are_measured_as_coco_measures_them(tmp_path: Path) -> None:
    """The same files as either kind: sigmas by name are COCO's, and so is AP."""
    coco = write_dataset(tmp_path, [ONE, TWO], [TWO])
    wrong = ModelConfig(**CONFIG.model_dump(exclude={"joint_names"}) | {"joint_names": COCO17.joints[::-1]})
    for network in (CONFIG, wrong):
        one, other = (measure(kind, config=network)[0] for kind in (coco, load_coco(tmp_path, "val", CUSTOM)))
        assert other.stats == one.stats
        assert other.by_joint == one.by_joint
        assert other.fingerprint.sigmas == one.fingerprint.sigmas


def test_the_sample_can_be_drawn_with_five_points(tmp_path: Path) -> None:
    root, fetched = fetch("sample", tmp_path)
    assert fetched.own_joints.joints == FIVE_POINTS.joints
    drawn = draw_calibration(load(root, "calibration"), load(root), num_images=2, seed=0)
    assert len(drawn.images) == 2


def test_a_network_is_drawn_with_the_limbs_of_the_data_set() -> None:
    joints = ("left_foot", "head", "beak")
    named = ModelConfig(checkpoint="c", architecture="onnx", joint_names=joints)
    assert named.joints.limbs == COCO.skeleton.limbs
    assert named.joints.limb_indices() == ()
    assert named.drawn_as(FIVE_POINTS).joints.limb_indices() == ((1, 0),)
    assert named.drawn_as(None) is named
    own = named.model_copy(update={"limbs": ("head:beak",)})
    assert own.drawn_as(FIVE_POINTS).joints.limb_indices() == ((1, 2),)
    known = ModelConfig(checkpoint="c")
    assert known.drawn_as(FIVE_POINTS) is known


def test_a_report_shows_joints_that_are_in_no_group(tmp_path: Path) -> None:
    records = complete()
    fp32, quantized = records.fp32, records.quantized_evaluation
    assert fp32 is not None
    assert quantized is not None
    alone = {form: getattr(quantized, form).model_copy(update={"by_group": {}}) for form in ("quantsim", "onnx")}
    bare = replace(
        records,
        fp32=fp32.model_copy(update={"by_group": {}}),
        quantized_evaluation=quantized.model_copy(update=alone),
    )
    page = render_report(bare, ReportFiles(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "AP by joint <" in page
    assert "AP of each joint" not in page


def test_mirrored_pairs_come_from_names_or_are_given() -> None:
    joints = ("left_ear", "right_ear", "paw_l", "paw_r")
    named = ModelConfig(checkpoint="c", architecture="onnx", joint_names=joints)
    assert named.joints.flip_pairs == ((0, 1),)
    given = ModelConfig(
        checkpoint="c", architecture="onnx", joint_names=joints, flip_pairs=("left_ear:right_ear", "paw_l:paw_r")
    )
    assert given.joints.flip_pairs == ((0, 1), (2, 3))
    none = ModelConfig(checkpoint="c", architecture="onnx", joint_names=joints, flip_pairs=())
    assert none.joints.flip_pairs == ()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"flip_pairs": ("a:b",)}, "flip_pairs is for joint_names", id="pairs of a skeleton"),
        pytest.param({"joint_names": ("a", "b"), "limbs": ("a:c",)}, "limbs holds 'a:c'", id="another joint"),
        pytest.param({"joint_names": ("a", "b"), "limbs": ("ab",)}, "match pattern", id="no pair"),
    ],
)
def test_pairs_that_cannot_be_used(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ModelConfig.model_validate({"checkpoint": "c", "architecture": "onnx"} | settings)
