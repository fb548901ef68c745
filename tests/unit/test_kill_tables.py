"""The table of kills keeps what was measured of other runs; what is compared after a kill tells a signature's worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.registry.signing import SigningKey
from support.fault_runs import Scene
from support.fault_trees import differences
from support.kill_tables import OPTION, SceneKills, StepKills, write_kills
from support.marked_pages import marks
from support.signing_keys import key_pem

BEGIN, END = marks(OPTION)


def test_a_run_replaces_its_own_rows_and_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n{END}\nafter\n")
    first, again = StepKills("train", 9, 9, 8), StepKills("train", 9, 9, 9)
    write_kills(page, SceneKills("training", [first, StepKills("gone", 1, 1, 1)], 90), "one core")
    write_kills(page, SceneKills("training on", [StepKills("train", 5, 5, 5)], 60, finished=False), "one core")
    write_kills(page, SceneKills("training", [again], 60, finished=False), "two cores")
    write_kills(page, SceneKills("training", [again, StepKills("report", 4, 2, 2)], 120), "two cores")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert [line for line in text.splitlines() if line.startswith("| training")] == [
        "| training | all of it | 13 | 11 | 11 | 2.0 | two cores |",
        "| training | `train` | 9 | 9 | 9 | | |",
        "| training | `report` | 4 | 2 | 2 | | |",
        "| training on | so far | 5 | 5 | 5 | 1.0 | one core |",
        "| training on | `train` | 5 | 5 | 5 | | |",
    ]


def test_a_page_without_a_place_for_it_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a page\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_kills(page, SceneKills("training", [], 0), "one core")
    assert page.read_text() == "a page\n"


def test_the_page_of_the_documentation_has_the_place(repository: Path) -> None:
    text = (repository / "docs" / "benchmarks.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.parametrize(
    ("signature_of", "by_another", "told"),
    [
        (b"what lies there", False, []),
        (b"what lay there", False, ["not valid"]),
        (b"what lies there", True, ["not valid"]),
        (None, False, ["of nothing"]),
    ],
    ids=["the-same", "other-bytes", "other-key", "nothing-there"],
)
def test_a_signature_is_compared_by_what_it_is_worth(
    tmp_path: Path, signature_of: bytes | None, by_another: bool, told: list[str]
) -> None:
    bucket = MemoryBucket("b")
    scene = Scene(tmp_path, {}, key_pem(), "", bucket=(bucket.client(), "b", {}))
    mine, another = SigningKey(scene.signing_key), SigningKey(key_pem())
    client = bucket.client()
    client.put_object(Bucket="b", Key="r/manifest", Body=b"what lies there")
    client.put_object(Bucket="b", Key="r/manifest.sig", Body=mine.sign(b"what lies there"))
    expected = scene.found()
    assert expected["bucket/r/manifest.sig"] == "a valid signature"
    signed = (another if by_another else mine).sign(signature_of or b"what lies there")
    client.put_object(Bucket="b", Key="r/manifest.sig", Body=signed)
    if signature_of is None:
        del bucket._objects["r/manifest"]
    wrong = [line for line in differences(expected, scene.found()) if "manifest.sig" in line]
    assert len(wrong) == len(told)
    assert all(word in line for word, line in zip(told, wrong, strict=True))
