"""The kinds of data sets: what each is made of, and that nothing else in the project tells them apart."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.cocoeval import Params

import hpe_tasks
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.model import MODEL_SKELETONS
from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.data.fetch.digests import coco_files
from hpe_tasks.data.fetch.preview import preview_source
from hpe_tasks.data.formats import FORMATS, format_of
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.splits import load_split
from hpe_tasks.datasets import COCO, CROWDPOSE, CUSTOM, KINDS, MPII, DatasetKind, Layout
from hpe_tasks.errors import DatasetError
from hpe_tasks.gate.accuracy import METRICS, metric_named
from hpe_tasks.pose.skeletons import Skeleton
from support.dot_pictures import measure
from support.no_s3 import no_s3

ALL = [pytest.param(kind, id=kind.name) for kind in KINDS.values()]


@pytest.mark.parametrize("kind", ALL)
def test_a_kind_is_listed_under_its_name_and_can_be_asked_for(kind: DatasetKind) -> None:
    config = DatasetConfig.model_validate({"kind": kind.name, "source": "/data"})
    assert config.described is kind
    assert (config.calibration_split, config.evaluation_split) == kind.splits
    assert format_of(kind) is FORMATS[kind.format]
    assert metric_named(kind.metric).key == kind.gate_metric in METRICS


@pytest.mark.parametrize("kind", ALL)
def test_sigmas_and_groups_are_those_of_its_joints(kind: DatasetKind) -> None:
    joints = set() if kind.skeleton is None else set(kind.skeleton.joints)
    assert set(kind.sigmas) in (set(), joints)
    assert {joint for group in kind.groups.values() for joint in group} <= joints
    if kind.skeleton is not None:
        assert len(kind.skeleton.limb_indices()) == len(kind.skeleton.limbs)
        assert MODEL_SKELETONS[kind.skeleton.name] == kind.skeleton


def test_sigmas_of_coco_are_those_of_pycocotools() -> None:
    assert list(COCO.sigmas.values()) == Params(iouType="keypoints").kpt_oks_sigmas.tolist()


def test_sigmas_of_crowdpose_are_those_of_its_authors() -> None:
    assert CROWDPOSE.skeleton is not None
    assert CROWDPOSE.skeleton.joints[-2:] == ("top_head", "neck")
    assert list(CROWDPOSE.sigmas.values()) == [
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "annotations", "images", "parts"),
    [
        pytest.param(
            COCO,
            "annotations/person_keypoints_a.json",
            "images/a",
            [("annotations/person_keypoints_a.json",), ("images/a/", "a/")],
            id="coco",
        ),
        pytest.param(MPII, "annot/a.json", "images", [("annot/",), ("images/",)], id="mpii"),
        pytest.param(
            CROWDPOSE, "json/crowdpose_a.json", "images", [("json/crowdpose_a.json",), ("images/",)], id="crowdpose"
        ),
        pytest.param(
            CUSTOM, "annotations/a.json", "images/a", [("annotations/",), ("images/a/", "a/", "images/")], id="custom"
        ),
    ],
)
def test_layouts(
    kind: DatasetKind, annotations: str, images: str, parts: list[tuple[str, ...]], tmp_path: Path
) -> None:
    layout = kind.layout
    assert layout.annotation_path(tmp_path, "a") == tmp_path / annotations
    assert layout.image_folder(tmp_path, "a") == tmp_path / images
    assert layout.parts(["a"], images=True) == parts
    assert set(layout.parts(["a", "b"], images=False)) == {
        parts[0], tuple(name.replace("_a.", "_b.") for name in parts[0])
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"kind": "mpii", "source": "sample"}, "source 'sample' is for kind 'coco'", id="drawn"),
        pytest.param({"kind": "crowdpose", "images_by_url": True}, "images_by_url is for kind 'coco'", id="addresses"),
        pytest.param({"kind": "mpii", "boxes": "b.json"}, "boxes are for kind 'coco'", id="boxes"),
        pytest.param(
            {"kind": "custom", "valid_images": "v"}, "valid_images is for kind 'mpii', not for 'custom'", id="mat"
        ),
    ],
)
def test_settings_that_a_kind_does_not_have(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DatasetConfig.model_validate({"source": "/data"} | settings)


@pytest.mark.parametrize("kind", [pytest.param(CROWDPOSE, id="crowdpose"), pytest.param(CUSTOM, id="custom")])
def test_a_folder_is_looked_at_before_anything_is_fetched(kind: DatasetKind, tmp_path: Path) -> None:
    make_sample(tmp_path, SampleSpec(train=1, calibration=1, val=1), splits=["calibration", "val"], kind=kind)
    splits = {"calibration_split": "calibration", "evaluation_split": "val"}
    config = DatasetConfig.model_validate({"kind": kind.name, "source": str(tmp_path)} | splits)
    assert "holds the splits calibration and val" in preview_source(config, tmp_path / "cache", no_s3).text
    missing = config.model_copy(update={"evaluation_split": "x"})
    with pytest.raises(DatasetError, match=f"has no {kind.layout.annotations.format(split='x')}"):
        preview_source(missing, tmp_path / "cache", no_s3)
    other = DatasetConfig.model_validate({"kind": "mpii", "source": str(tmp_path)})
    with pytest.raises(DatasetError, match=r"layout of .*, not of MPII") as caught:
        preview_source(other, tmp_path / "cache", no_s3)
    assert f"Set dataset.kind to {kind.name}" in caught.value.hint


def test_another_kind_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the list, it is drawn, digested, read, chosen from and measured without a word elsewhere."""
    wrists = Skeleton("wrists", ("right_wrist", "left_wrist"), (("right_wrist", "left_wrist"),))
    kind = replace(
        CROWDPOSE, name="wrists", title="Wrists", layout=Layout("truth/of_{split}.json", ("pictures",)), groups={},
        skeleton=wrists, sigmas={"left_wrist": 0.05, "right_wrist": 0.05}, metric="coco_oks_ap", crowd_levels=None,
    )  # fmt: skip
    monkeypatch.setitem(KINDS, "wrists", kind)
    make_sample(tmp_path, SampleSpec(train=1, calibration=2, val=3), splits=["calibration", "val"], kind=kind)
    assert len(list(coco_files(tmp_path, ["calibration", "val"], kind))) == 2 + 5
    dataset = load_split("wrists", tmp_path, "val")
    assert isinstance(dataset, CocoDataset)
    drawn = draw_calibration(load_split("wrists", tmp_path, "calibration"), dataset, num_images=1, seed=0)
    assert drawn.num_images == 1
    noise = np.random.default_rng(0)
    report, rows = measure(dataset, lambda images: noise.random((len(images), 17, 64, 48), np.float32))
    assert report.fingerprint.metric == "coco_oks_ap"
    assert [joint for joint, _, _ in report.fingerprint.joint_map] == list(wrists.joints)
    assert report.fingerprint.sigmas == (0.05, 0.05)
    assert all(len(row["keypoints"]) == 6 for row in rows)


def test_no_module_tells_kinds_apart() -> None:
    """What differs between kinds is asked of their objects: a comparison with a name would have to be found by hand."""
    package = Path(hpe_tasks.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and any(
                isinstance(one, ast.Constant) and one.value in KINDS for one in (node.left, *node.comparators)
            ):
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert found == []


def test_a_metric_of_its_own_takes_six_files() -> None:
    """Those in which its figures are named, computed, stored, shown, asked for and exported, besides its kind's."""
    package = Path(hpe_tasks.__file__).parent
    words = ("crowdpose_oks_ap", "CrowdPoseStats", "crowdpose_stats")
    named = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert named - {"datasets/crowdpose.py"} == {
        "__init__.py",
        "datasets/kind.py",
        "evaluation/coco.py",
        "gate/accuracy.py",
        "metrics/crowdpose.py",
        "records/evaluation.py",
    }
