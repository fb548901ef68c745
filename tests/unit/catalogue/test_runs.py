from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.catalogue.images import image_results, tables_of_run
from hpe_tasks.catalogue.runs import RunSummary, list_runs
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import BadInputError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from support import run_cases
from support import sample_records as records
from support.catalogued import leave
from support.no_s3 import no_s3


class Place:
    """A workspace with runs, of which steps have left records."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.cache = (folder / "workspace").as_uri(), folder / "cache"

    def run(self, name: str, **changes: Any) -> Run:
        config: RunConfig = records.run_config(**changes)
        return open_run(config, workspace=self.workspace, cache=self.cache, name=name, s3=no_s3)

    def rows(self) -> dict[str, RunSummary]:
        return {row.name.rpartition("-")[0]: row for row in list_runs(self.workspace, self.cache, no_s3)}

    def file(self, run: Run, name: str) -> Path:
        return Path(self.workspace.removeprefix("file://")) / run.home / name

    def settle(self) -> None:
        """Let all files be old enough to be believed."""
        before = (datetime.now(UTC) - timedelta(minutes=1)).timestamp()
        for file in Path(self.workspace.removeprefix("file://")).rglob("*"):
            os.utime(file, (before, before))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_refused_run_tells_the_failed_check_in_a_sentence(place: Place) -> None:
    case, run = run_cases.gate_failed(), place.run("friday")
    leave(run, steps.evaluate_fp32, case.fp32)
    leave(run, steps.evaluate_quantized, case.quantized_evaluation)
    leave(run, steps.gate, case.decision)
    row = place.rows()["friday"]
    failed = [check for check in case.decision.checks if not check.passed]
    assert (row.verdict, row.reason) == ("gate_failed", f"{failed[0].reason}.")
    assert row.failed_checks == tuple(check.title for check in failed)
    assert (row.fp32, row.int8) == (case.fp32.accuracy, case.onnx.accuracy)
    assert (row.version, row.ended) == (None, datetime(2026, 11, 20, 12, 0, tzinfo=UTC))


def test_a_run_that_failed_tells_the_step_and_its_error(place: Place) -> None:
    run = place.run("failing")
    run.keep_failure("fetch_dataset", BadInputError("The data set 's3://x' is not there."))
    row = place.rows()["failing"]
    assert (row.verdict, row.failed_step) == ("failed", "fetch_dataset")
    assert row.reason == "The data set 's3://x' is not there."


def test_a_run_that_goes_on_has_not_ended(place: Place) -> None:
    run = place.run("going")
    leave(run, steps.evaluate_fp32, run_cases.complete().fp32)
    row = place.rows()["going"]
    assert (row.verdict, row.ended) == ("unfinished", None)
    assert row.last_step_at is not None
    assert row.started is not None


def test_rows_are_kept_until_a_file_of_the_run_changes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.run("kept")
    place.run("other", seed=1)
    place.settle()
    first = place.rows()
    read: list[str] = []
    whole = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.append(f"{path.parent.name}/{path.name}")
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    assert place.rows() == first
    assert not any(name.endswith("/run.json") for name in read)
    leave(run, steps.evaluate_fp32, run_cases.complete().fp32)
    rows = place.rows()
    assert (rows["kept"].fp32, rows["other"]) == (run_cases.complete().fp32.accuracy, first["other"])
    assert {name for name in read if name.endswith("/run.json")} == {f"{run.name}/run.json"}


def test_a_row_that_is_only_just_made_is_made_again(place: Place) -> None:
    place.run("new")
    place.rows()
    (file,) = (place.cache / "catalogue").glob("RunSummary-*.json")
    assert json.loads(file.read_text().partition("\n")[2])["rows"] == {}


def test_a_run_of_other_code_has_a_row_that_says_so(place: Place) -> None:
    run = place.run("old")
    place.file(run, "run.json").write_text('{"started": "2020-01-01T00:00:00Z", "config": {"model": 3}}')
    place.run("new", seed=1)
    rows = place.rows()
    assert "was made by another version of this project" in rows["old"].problem
    assert rows["new"].problem == ""
    assert rows["old"].verdict is None


def test_folders_that_are_no_runs_and_runs_that_were_deleted_are_left_out(place: Place) -> None:
    run = place.run("gone")
    place.settle()
    assert place.rows().keys() == {"gone"}
    place.file(run, "run.json").unlink()
    place.file(run, "notes.txt").write_text("mine")
    assert place.rows() == {}


def test_a_workspace_without_runs_has_none(place: Place) -> None:
    assert list_runs(place.workspace, place.cache, no_s3) == ()


def test_images_that_lost_most_come_first() -> None:
    from support.verified_versions import IMAGES, NOISE_PX, PARTS, table_of

    tables: Any = {runtime: table_of(noise_px) for runtime, noise_px in NOISE_PX.items()}
    found = image_results(tables)
    assert {one.image for one in found} == set(IMAGES)
    losses = [one.lost for one in found if one.lost is not None]
    assert losses == sorted(losses, reverse=True)
    assert {one.persons for one in found} == {1, 2}
    assert len(image_results(tables, part="joint/nose")) == len(IMAGES)
    with pytest.raises(BadInputError, match="no part 'joint/tail'") as error:
        image_results(tables, part="joint/tail")
    assert set(PARTS) <= set(error.value.hint.removeprefix("Choose one of: ").rstrip(".").split(", "))


def test_a_run_without_tables_says_so(place: Place) -> None:
    run = place.run("early")
    with pytest.raises(BadInputError, match="no results of single images"):
        tables_of_run(run_cases.only_config(), run.workspace)
