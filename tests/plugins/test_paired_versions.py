"""Two versions on the same persons: the page that compares them counts it from the tables published beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hpe_airflow.model_pages import paired as paired_page

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.evaluation.checkpoints import compare_checkpoints
from hpe_tasks.metrics.image_tables import WHOLE, read_table
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.registry.evidence import table_role
from support import verified_versions as verified
from support.model_pages import World, airflow, world
from support.played_s3 import client, moto_client

__all__ = ["airflow", "client", "moto_client", "world"]


@pytest.fixture
def pair(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[verified.Version, verified.Version]:
    """Two versions whose exported files were measured on the same images; the second is off by more pixels."""
    limits = verified.config().gate  # wide: what is compared is not what a gate would pass
    made = []
    for number, noise_px in enumerate((1.6, 2.4)):
        monkeypatch.setitem(verified.NOISE_PX, "onnxruntime", noise_px)
        asked = verified.config(
            gate=limits.model_copy(
                update={
                    "min_ap": 0.1 + 0.01 * number,
                    "max_ap_drop": 0.8,
                    "max_quantsim_gap": 0.8,
                    "max_joint_drop": None,
                }
            )
        )
        version = verified.judged_version(tmp_path / f"v{number}", asked=asked)
        world.registry.store(*version)
        made.append(version)
    return made[0], made[1]


def test_the_page_shows_what_is_gained_with_its_interval(
    world: World, pair: tuple[verified.Version, verified.Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old, old_files), (new, new_files) = pair
    address = f"/compare?version=pose@{old.version}&version=pose@{new.version}"
    page = world.ask("GET", address).text
    assert f"What {new.version} gains over {old.version}" in page
    assert " style=" not in page
    kept = list((tmp_path / "cache/catalogue").glob("paired-*.json"))
    assert len(kept) == 1
    told = PairedComparison.model_validate_json(kept[0].read_bytes()).part(WHOLE)
    role = table_role("onnxruntime")
    tables = read_table(old_files[role].read_bytes()), read_table(new_files[role].read_bytes())
    known = compare_checkpoints(tables, GateLimits(), seed=0).part(WHOLE)
    assert told is not None
    assert known is not None
    assert (told.drop, told.low, told.high) == (known.drop, known.low, known.high)
    assert told.drop is not None
    assert told.drop > 0, "the second is worse"
    assert f"−{told.drop:.3f}" in page
    monkeypatch.setattr(paired_page, "try_reading", lambda *_, **__: pytest.fail("counted a second time"))
    assert world.ask("GET", address).text.count("gains over") == page.count("gains over")


def test_a_damaged_table_is_told_and_the_page_stands(
    world: World, pair: tuple[verified.Version, verified.Version]
) -> None:
    (old, _), (new, _) = pair
    file = new.file(table_role("onnxruntime"))
    world.s3.put_object(Bucket="models", Key=f"registry/{file.blob}", Body=b"x" * file.size_bytes)
    answer = world.ask("GET", f"/compare?version=pose@{old.version}&version=pose@{new.version}")
    assert answer.status_code == 200
    assert "No paired figures" in answer.text


def test_without_tables_or_alike_protocols_the_page_says_why(
    world: World, pair: tuple[verified.Version, verified.Version]
) -> None:
    (old, _), _ = pair
    without = world.ask("GET", f"/compare?version=pose@{world.old}&version=pose@{world.new}").text
    assert "was published without its table of images" in without
    unlike = world.ask("GET", f"/compare?version=pose@{world.old}&version=pose@{old.version}").text
    assert "No paired figures: They were not measured alike: image_ids_digest" in unlike


def test_a_versions_page_shows_fp32_and_int8_paired_and_what_it_took_over_from(
    world: World, pair: tuple[verified.Version, verified.Version]
) -> None:
    (old, _), (new, _) = pair
    world.registry.promote("pose", old.version, "production")
    world.registry.promote("pose", new.version, "production")
    page = world.ask("GET", f"/models/pose/{new.version}").text
    comparison = new.gate.comparison
    assert comparison is not None
    whole = comparison.part(WHOLE)
    assert whole is not None
    assert whole.drop is not None
    assert f"<b>−{whole.drop:.3f}</b>" in page
    assert "What quantization cost, and how sure that is" in page
    assert f"compare?version=pose@{old.version}&amp;version=pose@{new.version}" in page
    assert "Before it production served" in page
    assert "its Data Docs are not to be had here" in page
    assert json.loads(world.ask("GET", f"/models/pose/{new.version}/manifest").text)["version"] == new.version
