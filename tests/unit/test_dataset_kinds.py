"""The kinds of data sets: what each is made of, and that nothing else in the project tells them apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pycocotools.cocoeval import Params

import hpe_tasks
from hpe_tasks.config.run import MODEL_SKELETONS, DatasetConfig
from hpe_tasks.data.formats import FORMATS, format_of
from hpe_tasks.datasets import COCO, CROWDPOSE, CUSTOM, KINDS, MPII, DatasetKind
from hpe_tasks.gate.accuracy import METRICS, metric_named

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


def test_no_module_tells_kinds_apart() -> None:
    """What differs between kinds is asked of their objects: a comparison with a name would have to be found by hand."""
    package = Path(hpe_tasks.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            if any(isinstance(one, ast.Constant) and one.value in KINDS for one in compared):
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert found == []
