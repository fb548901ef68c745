"""What the smoke test makes of an answer; the function itself runs in tests/integration/test_lambda_emulator.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.skeletons import COCO17
from hpe_tasks.smoke_test import SmokeTestError, check_answer, function_url_event

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
def manifest(records: ModuleType, tmp_path: Path) -> ModelManifest:
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
