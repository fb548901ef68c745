from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from hpe_tasks.catalogue.comparing import ComparedSection, ModelComparison, compare
from hpe_tasks.catalogue.orders import RunOrder, Verdict, VersionOrder
from hpe_tasks.catalogue.rows import RUN_COLUMNS, VERSION_COLUMNS, chosen_versions, run_record, version_record
from hpe_tasks.catalogue.runs import RunSummary
from hpe_tasks.catalogue.subjects import ComparedModel, subject_of_run, subject_of_version
from hpe_tasks.catalogue.summaries import VersionSummary, summary_of
from hpe_tasks.errors import BadInputError
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.report.records import VerdictKind
from support import run_cases
from support import sample_records as records


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def manifest(content: str, **described: Any) -> ModelManifest:
        return records.manifest(records.write_files(tmp_path / content, content), **described)

    return manifest


def section(comparison: ModelComparison, name: str) -> ComparedSection:
    return next(one for one in comparison.sections if one.name == name)


def row(comparison: ModelComparison, name: str, label: str) -> Any:
    return next(one for one in section(comparison, name).rows if one.label == label)


def test_figures_stand_beside_each_other_with_the_best_marked(make: Any) -> None:
    one, two = make("one", ap=0.6, speed=records.latency(3.5)), make("two", ap=0.65, speed=records.latency(2.5))
    found = compare([subject_of_version(one), subject_of_version(two)])
    assert found.columns == (f"pose@{one.version}", f"pose@{two.version}")
    assert found.notes == tuple(
        f"{name} does not say what it was asked: it was published before that was recorded." for name in found.columns
    )
    accuracy = row(found, "figures", "AP, int8")
    assert (accuracy.values, accuracy.best, accuracy.better) == (("0.600", "0.650"), (1,), "higher")
    assert row(found, "figures", "AP lost").values == ("+0.010", "+0.010")
    assert row(found, "figures", "AP lost").best == ()
    assert row(found, "figures", "Times as fast as FP32").best == (0,)
    assert row(found, "joints", "left_wrist").values == ("0.400", "0.400")
    assert row(found, "gate", "Accuracy of the exported file").values[1].startswith("passed: 0.650")


def test_only_settings_that_differ_are_shown_unless_all_are_asked_for(make: Any) -> None:
    config = records.run_config()
    other = config.model_copy(update={"recipe": config.recipe.changed(scheme="min_max")})
    pair = [subject_of_version(make("one", config=config)), subject_of_version(make("two", config=other))]
    recipe = section(compare(pair), "recipe")
    assert [(one.label, one.values) for one in recipe.rows] == [("scheme", ("tf_enhanced", "min_max"))]
    everything = section(compare(pair, everything=True), "recipe")
    assert len(everything.rows) == recipe.alike + 1
    assert {one.label for one in everything.rows} == set(config.recipe.model_dump())


def test_accuracies_that_were_not_measured_alike_have_no_best(make: Any) -> None:
    pair = [make("one", ap=0.6), make("two", ap=0.7, protocol={"flip_test": True, "num_persons": 99})]
    found = compare([subject_of_version(one) for one in pair])
    assert "they were not measured alike (flip_test, num_persons)" in found.notes[0]
    assert row(found, "figures", "AP, int8").best == ()
    assert {one.label for one in section(found, "protocol").rows} == {"flip_test", "num_persons"}


def test_times_of_two_processors_have_no_best(make: Any) -> None:
    slow = records.latency(2.0).model_copy(update={"processor": "Graviton 2"})
    pair = [make("one", speed=records.latency(3.5)), make("two", speed=slow)]
    found = compare([subject_of_version(one) for one in pair])
    assert any("AMD EPYC 9R14 and Graviton 2" in note for note in found.notes)
    assert row(found, "figures", "Time of the int8 file").best == ()


def test_metrics_of_two_kinds_are_not_put_into_one_row(make: Any) -> None:
    config = records.run_config(
        dataset={"source": "x", "kind": "mpii", "calibration_split": "a", "evaluation_split": "b"}
    )
    pair = [make("one"), make("two", metric="pckh", ap=80.0, config=config)]
    found = compare([subject_of_version(one) for one in pair])
    assert not any(one.label.startswith(("AP", "PCKh")) for one in section(found, "figures").rows)
    assert "joints" not in {one.name for one in found.sections}


def test_runs_are_compared_as_far_as_they_have_come() -> None:
    found = compare([subject_of_run(run_cases.complete()), ComparedModel(name="empty")])
    accuracy = row(found, "figures", "AP, int8")
    assert accuracy.values[1] == "–"
    assert accuracy.best == ()
    refused = subject_of_run(run_cases.gate_failed())
    texts = [one.values[0] for one in section(compare([refused, ComparedModel(name="x")]), "gate").rows]
    assert any(text.startswith("failed: ") for text in texts)


@pytest.mark.parametrize("names", [(), ("a",), ("a", "a")])
def test_fewer_than_two_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError, match="nothing to compare"):
        compare([ComparedModel(name=name) for name in names])


def test_rows_are_chosen_and_sorted_and_those_without_the_figure_come_last(make: Any) -> None:
    fast, slow = summary_of(make("one", ap=0.7, speed=records.latency(4.0))), summary_of(make("two", ap=0.8))
    damaged = VersionSummary(name="pose", version="0" * 16, published_at=fast.published_at, problem="It is damaged.")
    rows = [slow.model_copy(update={"channels": ("staging",)}), damaged, fast.model_copy(update={"retired": True})]

    def shown(**asked: Any) -> list[float | None]:
        return [one.int8 for one in chosen_versions(rows, **asked)]

    assert shown(order="accuracy") == [0.8, 0.7, None]
    assert shown(order="accuracy", reverse=True) == [0.7, 0.8, None]
    assert shown(order="speed-up")[0] == 0.7
    assert shown(served=True) == [0.8]
    assert shown(channel="staging") == [0.8]
    assert shown(channel="production") == []
    assert shown(retired=False, order="accuracy") == [0.8, None]
    assert shown(search="DAMAGED") == [None]
    assert shown(model="other") == []


def test_flat_records_have_the_columns_that_are_promised(make: Any) -> None:
    assert tuple(version_record(summary_of(make("one", speed=records.latency())))) == VERSION_COLUMNS
    assert tuple(run_record(RunSummary(name="one"))) == RUN_COLUMNS


def test_the_commands_offer_what_there_is() -> None:
    assert get_args(Verdict) == get_args(VerdictKind)
    assert len(get_args(VersionOrder)) == 8
    assert "started" in get_args(RunOrder)
