"""What the smoke test makes of an answer; the function itself runs in tests/integration/test_lambda_emulator.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.packaging import PackagedModel
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.release import smoke_test as module
from hpe_tasks.release.smoke_test import SmokeTestError, check_answer, function_url_event, smoke_test
from support import sample_records as records

Joints = Sequence[tuple[float, float, float] | None]


def standing(x: float, *, known: int = 17) -> Joints:
    return [(x + 10 * (i % 4), 50.0 + 20 * (i // 4), 0.9) if i < known else None for i in range(17)]


def answer(*people: Joints) -> dict[str, Any]:
    return {
        "people": [
            {
                "joints": [
                    {"name": n, "x": j[0], "y": j[1], "score": j[2]}
                    for n, j in zip(COCO17.joints, joints, strict=True)
                    if j
                ]
            }
            for joints in people
        ],
        "timings_ms": {"total": 21.5},
    }


def golden(*people: Joints, boxes: bool = True) -> GoldenImage:
    box = (0.0, 0.0, 200.0, 200.0) if boxes else None
    found = tuple(GoldenPerson(box=box, joints=tuple(joints)) for joints in people)
    return GoldenImage(file="golden-1", width=200, height=200, people=found)


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    made: ModelManifest = records.manifest(records.write_files(tmp_path))
    return made


@pytest.fixture
def bottom_up(manifest: ModelManifest) -> ModelManifest:
    return manifest.model_copy(update={"serving": manifest.serving.model_copy(update={"codec": "paf"})})


def test_the_same_people_pass(manifest: ModelManifest) -> None:
    smoked = check_answer(golden(standing(20), standing(120)), answer(standing(20), standing(121)), manifest)
    assert (smoked.people, smoked.expected, smoked.duration_ms) == (2, 2, 21.5)
    assert smoked.min_oks is not None
    assert 0.9 < smoked.min_oks < 1


@pytest.mark.parametrize(
    ("found", "says"),
    [
        pytest.param([standing(20)], "finds 1 people in 2 boxes", id="one person missing"),
        pytest.param([standing(120), standing(20)], "with an OKS of", id="the boxes' people swapped"),
        pytest.param([standing(20), standing(140)], "with an OKS of", id="a person elsewhere"),
        pytest.param([standing(20), standing(120, known=12)], "with an OKS of", id="joints missing"),
    ],
)
def test_in_boxes_every_person_counts(manifest: ModelManifest, found: list[Joints], says: str) -> None:
    with pytest.raises(SmokeTestError, match=says) as caught:
        check_answer(golden(standing(20), standing(120)), answer(*found), manifest)
    assert manifest.version in caught.value.message
    assert "golden-1" in caught.value.message


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([standing(120), standing(20)], id="another order"),
        pytest.param([standing(20), standing(120), standing(60, known=4)], id="somebody of four joints more"),
    ],
)
def test_bottom_up_people_are_matched(bottom_up: ModelManifest, found: list[Joints]) -> None:
    smoked = check_answer(golden(standing(20), standing(120), boxes=False), answer(*found), bottom_up)
    assert smoked.min_oks == 1


@pytest.mark.parametrize(
    ("found", "says"),
    [
        pytest.param([standing(20)], "finds 1 people, where 2 were found", id="one person missing"),
        pytest.param([standing(20), standing(20)], "with an OKS of", id="one person twice"),
        pytest.param([standing(20), standing(60), standing(120)], "finds 3 people, where 2", id="one invented"),
    ],
)
def test_bottom_up_clear_people_count(bottom_up: ModelManifest, found: list[Joints], says: str) -> None:
    with pytest.raises(SmokeTestError, match=says):
        check_answer(golden(standing(20), standing(120), boxes=False), answer(*found), bottom_up)


def test_without_clear_people_there_is_no_similarity(manifest: ModelManifest) -> None:
    smoked = check_answer(golden(standing(20, known=2)), answer(standing(90, known=1)), manifest)
    assert smoked.min_oks is None


def test_boxes_go_into_the_address() -> None:
    assert "queryStringParameters" not in function_url_event(b"image")
    assert function_url_event(b"image", [(1.5, 2, 3, 4)])["queryStringParameters"] == {"boxes": "[[1.5, 2, 3, 4]]"}


@pytest.mark.parametrize(
    ("images", "says"),
    [
        pytest.param((), r"it has no golden image\..*smoke_test=false", id="no image"),
        pytest.param(
            (golden(standing(20, known=4)),), "none of its 1 golden images has a person", id="nobody is clear"
        ),
        pytest.param((golden(), golden(boxes=False)), "none of its 2 golden images has a person", id="nobody at all"),
    ],
)
def test_golden_images_that_prove_nothing_fail_before_the_package_is_built(
    manifest: ModelManifest,
    images: tuple[GoldenImage, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("nothing to build")

    monkeypatch.setattr(module, "build_package", build)
    model = PackagedModel(manifest.to_bytes(), None, tmp_path / "model.onnx")
    with pytest.raises(SmokeTestError, match=says):
        smoke_test(manifest.model_copy(update={"golden": images}), model, {}, public_key=None)


BOX = (100.0, 50.0, 90.0, 240.0)
CELL = 1.25 * 240 / 64
"""Of a map of 64 rows, in pixels: the crop is a quarter higher than the box."""


def person_in_box(known: int, change: Callable[[int, float, float], tuple[float, float]] | None = None) -> Joints:
    """The joints that COCO names first, from the head down to the feet of a standing person."""
    places = [(145, 70), (149, 66), (141, 66), (154, 69), (136, 69), (165, 100), (125, 100), (172, 135), (118, 135)]
    places += [(174, 165), (116, 165), (158, 170), (132, 170), (158, 220), (132, 220), (158, 275), (132, 275)]
    moved = [(x, y) if change is None else change(i, x, y) for i, (x, y) in enumerate(places)]
    return [(x, y, 0.9) if i < known else None for i, (x, y) in enumerate(moved)]


def in_box(known: int) -> GoldenImage:
    people = (GoldenPerson(box=BOX, joints=tuple(person_in_box(known))),)
    return GoldenImage(file="golden-1", width=400, height=300, people=people)


@pytest.mark.parametrize("known", [5, 17])
@pytest.mark.parametrize("joint", range(5))
def test_a_joint_in_the_next_cell_of_its_map_passes(manifest: ModelManifest, known: int, joint: int) -> None:
    beside = person_in_box(known, lambda i, x, y: (x + CELL * (i == joint), y))
    smoked = check_answer(in_box(known), answer(beside), manifest)
    assert smoked.min_oks is not None
    assert 0.96 <= smoked.min_oks < 1


@pytest.mark.parametrize(
    "decode",
    [
        pytest.param(lambda _, x, y: (290 - x, y), id="mirrored"),
        pytest.param(lambda _, x, y: (x - 100, y - 50), id="in the box's coordinates"),
        pytest.param(lambda _, x, y: (145 + (x - 145) / 1.25, 170 + (y - 170) / 1.25), id="without the padding"),
        pytest.param(lambda _, x, y: (100 + (x - 100) * 0.75, 50 + (y - 50) * 4 / 3), id="another aspect"),
        pytest.param(lambda _, x, y: (x + 3 * CELL, y + 3 * CELL), id="three cells off"),
    ],
)
@pytest.mark.parametrize("known", [5, 17])
def test_a_wrong_decode_fails(
    manifest: ModelManifest, decode: Callable[[int, float, float], tuple[float, float]], known: int
) -> None:
    with pytest.raises(SmokeTestError, match="with an OKS of"):
        check_answer(in_box(known), answer(person_in_box(known, decode)), manifest)
