from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import BadInputError, ConfigError, DatasetError, DigestError, MissingInputError
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.runs import Run, find_run, is_run_name, open_run
from hpe_tasks.pipeline.step import step
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.inputs import FetchedDataset
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import Scratch
from support.no_s3 import no_s3


class Toy:
    """Three real steps over one outside value, which count how often their bodies run."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.outside = "data v1"
        self.accepts = True
        self.ran: list[str] = []

        @step(FetchedDataset, "Data", found=lambda _: digest_of(self.outside))
        def fetch(run: Run, scratch: Scratch) -> FetchedDataset:
            self.ran.append("fetch")
            return FetchedDataset(source="outside", digest=self.outside, num_files=1, size_bytes=1)

        @step(GateDecision, "Verdict", needs=(fetch,), settings=lambda c: c.gate.model_dump(), accept=self.check)
        def judge(run: Run, scratch: Scratch) -> GateDecision:
            self.ran.append(f"judge {run.result(fetch).digest}")
            return GateDecision(passed=True, checks=())

        @step(RunReport, "Report", needs=(judge,), reuse=False)
        def tell(run: Run, scratch: Scratch) -> RunReport:
            self.ran.append("tell")
            file = scratch.path / "report.html"
            file.write_text(str(len(self.ran)))
            return RunReport(html=scratch.artifact(file))

        self.fetch, self.judge, self.tell = fetch, judge, tell
        self.pipeline = Pipeline("toy", "toy", "Nothing of use.", (fetch, judge, tell))

    def check(self, _: GateDecision) -> None:
        if not self.accepts:
            raise DatasetError("The toy is broken.", hint="Mend it.")

    def open(self, name: str = "r", **overrides: object) -> Run:
        config = load_config("sample", overrides={key.replace("__", "."): value for key, value in overrides.items()})
        workspace = (self.tmp_path / "w").as_uri()
        return open_run(config, workspace=workspace, cache=self.tmp_path / "cache", name=name, s3=no_s3)


@pytest.fixture
def pipeline(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_a_step_before_its_input_names_the_step_to_run(pipeline: Toy) -> None:
    with pytest.raises(MissingInputError, match=r"judge needs the result of fetch.*Run fetch first"):
        pipeline.judge(pipeline.open())
    assert pipeline.ran == []


def flip(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def test_a_step_that_finds_its_input_broken_has_it_made_again(pipeline: Toy) -> None:
    made: list[str] = []

    @step(RunReport, "Model", needs=(pipeline.fetch,))
    def model(run: Run, scratch: Scratch) -> RunReport:
        made.append("model")
        file = scratch.path / "model.onnx"
        file.write_text("weights")
        return RunReport(html=scratch.artifact(file))

    @step(GateDecision, "Verdict", needs=(model,), reuse=False)
    def publish(run: Run, _: Scratch) -> GateDecision:
        made.append(f"publish {run.workspace.local(run.result(model).html).read_text()}")
        return GateDecision(passed=True, checks=())

    run = pipeline.open()
    for one in (pipeline.fetch, model, publish):
        one(run)
    [stored] = (pipeline.tmp_path / "w" / "store" / "model").glob("*/model.onnx")
    flip(stored)
    with pytest.raises(DigestError, match=r"model\.onnx was changed.* is a result of model"):
        publish(pipeline.open())
    again = pipeline.open()
    for one in (pipeline.fetch, model, publish):
        one(again)
    assert made == ["model", "publish weights", "model", "publish weights"]
    shown = pipeline.tmp_path / "w" / again.prefix / "model" / "model.onnx"
    assert shown.read_text() == "weights", "what the run shows is the new file"


def test_a_broken_pointer_is_as_none(pipeline: Toy, caplog: pytest.LogCaptureFixture) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    folder = pipeline.tmp_path / "w" / run.prefix
    flip(folder / "fetch" / "result.json")
    flip(folder / "run.json")
    (folder / "fetch" / "failure.json").write_bytes(b"\0")
    assert run.started is None
    again = pipeline.open()
    assert again.started is not None
    assert (again.pointer("fetch"), again.failure("fetch")) == (None, None)
    assert f"{again.prefix}/fetch/result.json in {again.workspace.uri} cannot be read" in caplog.text
    with pytest.raises(MissingInputError, match="has not run yet"):
        pipeline.judge(again)
    pipeline.fetch(again)
    pipeline.judge(again)
    again.workspace.write("latest.json", b"{")
    with pytest.raises(MissingInputError, match="names the run that reported last, cannot be read"):
        find_run(None, workspace=again.workspace.uri, cache=pipeline.tmp_path, s3=no_s3)


def test_repeating_runs_no_body_again(pipeline: Toy) -> None:
    for name in ("r", "r", "another run"):
        run = pipeline.open(name)
        pipeline.fetch(run)
        pipeline.judge(run)
    assert pipeline.ran == ["fetch", "judge data v1"]


def test_a_setting_repeats_only_what_depends_on_it(pipeline: Toy) -> None:
    for limit in (0.1, 0.2):
        run = pipeline.open(gate__min_ap=limit)
        pipeline.fetch(run)
        pipeline.judge(run)
    assert pipeline.ran == ["fetch", "judge data v1", "judge data v1"]


def test_a_result_that_may_not_stand_in_is_made_again_and_replaced(
    pipeline: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step(
        RunReport,
        "Measurement",
        needs=(pipeline.fetch,),
        reusable=lambda config, told: config.seed == 0 or told.html.size_bytes > 1,
    )
    def measure(run: Run, scratch: Scratch) -> RunReport:
        pipeline.ran.append("measure")
        file = scratch.path / "report.html"
        file.write_text("x" * len(pipeline.ran))
        return RunReport(html=scratch.artifact(file))

    quiet = pipeline.open()
    pipeline.fetch(quiet)
    assert pipeline.ran == ["fetch"]
    pipeline.ran.clear()
    assert [measure(quiet).html.size_bytes for _ in range(2)] == [1, 1]
    # The same inputs, but of them one may not be reused: it is made again once, and then stands in for both.
    choosy = pipeline.open("choosy", seed=1)
    pipeline.fetch(choosy)
    assert [measure(choosy).html.size_bytes for _ in range(2)] == [2, 2]
    assert measure(quiet).html.size_bytes == 2
    assert pipeline.ran == ["measure", "measure"]
    assert choosy.workspace.local(measure(choosy).html).read_text() == "xx"


def test_a_result_that_cannot_be_made_again_stays(pipeline: Toy) -> None:
    @step(RunReport, "Measurement", needs=(pipeline.fetch,), reusable=lambda config, _: config.seed == 0)
    def measure(run: Run, scratch: Scratch) -> RunReport:
        if pipeline.ran:
            raise DatasetError("The toy is broken.")
        pipeline.ran.append("measure")
        file = scratch.path / "report.html"
        file.write_text("x")
        return RunReport(html=scratch.artifact(file))

    quiet, choosy = pipeline.open(), pipeline.open("choosy", seed=1)
    for run in (quiet, choosy):
        pipeline.fetch(run)
    pipeline.ran.clear()
    kept = measure(quiet)
    with pytest.raises(DatasetError):
        measure(choosy)
    assert measure(quiet) == kept
    assert quiet.workspace.local(kept.html).read_text() == "x"


def test_other_code_makes_other_keys(pipeline: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.judge(run)
    monkeypatch.setattr("hpe_tasks.pipeline.step.code_version", lambda _: "other")
    run = replace(run)
    with pytest.raises(MissingInputError, match="another version of the code"):
        pipeline.tell(run)
    pipeline.judge(run)
    pipeline.tell(run)
    assert pipeline.ran == ["fetch", "judge data v1", "judge data v1", "tell"]


def test_changed_inputs_make_later_results_stale(pipeline: Toy) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.judge(run)
    pipeline.tell(run)
    pipeline.outside = "data v2"
    pipeline.fetch(run)
    assert run.find(pipeline.judge) is None
    with pytest.raises(MissingInputError, match=r"made from other inputs.*Run judge again before tell"):
        pipeline.tell(run)
    pipeline.judge(run)
    assert run.find(pipeline.judge) is not None
    assert pipeline.ran[-1] == "judge data v2"


def test_a_refused_record_is_stored_and_stops_what_follows(pipeline: Toy) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.accepts = False
    for _ in range(2):
        with pytest.raises(DatasetError, match="toy is broken"):
            pipeline.judge(run)
    assert run.find(pipeline.judge) is not None, "the report shows it"
    with pytest.raises(DatasetError, match="toy is broken"):
        pipeline.tell(run)
    assert pipeline.ran == ["fetch", "judge data v1"]


def test_failures_are_kept_until_the_step_succeeds(pipeline: Toy) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.accepts = False
    with pytest.raises(DatasetError):
        pipeline.judge(run)
    (failure,) = pipeline.pipeline.failures(run)
    assert (failure.step, failure.error, failure.message, failure.hint) == (
        "judge",
        "DatasetError",
        "The toy is broken.",
        "Mend it.",
    )
    pipeline.accepts = True
    pipeline.judge(run)
    assert pipeline.pipeline.failures(run) == ()


def test_runs_of_one_name_with_other_configurations_do_not_meet(pipeline: Toy) -> None:
    assert pipeline.open(gate__min_ap=0.1).name != pipeline.open(gate__min_ap=0.2).name
    assert pipeline.open().name == pipeline.open().name


def test_a_run_is_found_again(pipeline: Toy) -> None:
    run = pipeline.open("manual__2026-01-01T00:00:00+00:00")
    workspace = (pipeline.tmp_path / "w").as_uri()
    found = find_run(run.name, workspace=workspace, cache=run.cache, s3=no_s3)
    assert found.config == run.config
    assert "/" not in run.name
    with pytest.raises(MissingInputError, match="No runs are called 'x'"):
        find_run("x", workspace=workspace, cache=run.cache, s3=no_s3)
    with pytest.raises(MissingInputError, match="No run has reported"):
        find_run(None, workspace=workspace, cache=run.cache, s3=no_s3)


def test_a_refused_input_hides_older_results_from_the_report_but_not_from_looking_back(pipeline: Toy) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.judge(run)
    pipeline.tell(run)
    pipeline.accepts = False
    assert run.find(pipeline.tell) is None
    assert run.recorded(pipeline.tell) is not None


def test_a_failure_is_outdated_once_its_input_is_made_again(pipeline: Toy) -> None:
    run = pipeline.open()
    with pytest.raises(MissingInputError):
        pipeline.judge(run)
    assert [failure.step for failure in pipeline.pipeline.failures(run)] == ["judge"]
    pipeline.fetch(run)
    assert pipeline.pipeline.failures(run) == ()


def test_a_run_is_found_by_its_name_where_that_is_clear(pipeline: Toy) -> None:
    workspace, cache = (pipeline.tmp_path / "w").as_uri(), pipeline.tmp_path / "cache"
    first = pipeline.open("mine", gate__min_ap=0.1)
    assert find_run("mine", workspace=workspace, cache=cache, s3=no_s3).name == first.name
    second = pipeline.open("mine", gate__min_ap=0.2)
    with pytest.raises(MissingInputError, match=f"2 runs are called 'mine'.*{second.name}"):
        find_run("mine", workspace=workspace, cache=cache, s3=no_s3)


@pytest.mark.parametrize("name", [".hidden", "..", "a b/c", "x" * 290, "夜" * 120], ids=lambda name: name[:9])
def test_a_run_of_any_name_is_found_by_it(pipeline: Toy, name: str) -> None:
    """Its folder is called otherwise."""
    run = pipeline.open(name)
    assert is_run_name(run.name)
    assert len(run.name.encode()) <= 255
    assert pipeline.open(name).name == run.name
    workspace = (pipeline.tmp_path / "w").as_uri()
    for asked in (name, run.name):
        assert find_run(asked, workspace=workspace, cache=run.cache, s3=no_s3).name == run.name


def test_a_name_that_is_too_long_is_no_run(pipeline: Toy) -> None:
    pipeline.open()
    with pytest.raises(MissingInputError, match="No runs are called"):
        find_run("x" * 5000, workspace=(pipeline.tmp_path / "w").as_uri(), cache=pipeline.tmp_path, s3=no_s3)


def test_a_run_has_a_name(pipeline: Toy) -> None:
    with pytest.raises(ConfigError, match="name is empty"):
        pipeline.open("")


def test_a_record_of_another_version_of_the_code_is_no_result(pipeline: Toy, caplog: pytest.LogCaptureFixture) -> None:
    run = pipeline.open()
    pipeline.fetch(run)
    pipeline.judge(run)
    for name in ("fetch", "judge"):
        file = f"{run.prefix}/{name}/result.json"
        stored = json.loads(run.workspace.read(file) or b"")
        stored["record"]["channel"] = "staging"
        run.workspace.write(file, json.dumps(stored).encode())
    run = replace(run)
    with caplog.at_level(logging.WARNING):
        assert run.recorded(pipeline.fetch) is None
    assert "The result of fetch was made by another version of the code" in caplog.text
    assert run.find(pipeline.fetch) is None
    assert run.find(pipeline.judge) is None
    with pytest.raises(MissingInputError, match=r"result of fetch was made by another version.*Run fetch again"):
        pipeline.tell(run)
    pipeline.fetch(run)
    pipeline.judge(run)
    pipeline.tell(run)


def test_a_run_with_settings_of_another_version_says_so(pipeline: Toy) -> None:
    run = pipeline.open()
    file = f"{run.prefix}/run.json"
    stored = json.loads(run.workspace.read(file) or b"")
    stored["config"]["recipe"]["unheard_of"] = 1
    run.workspace.write(file, json.dumps(stored).encode())
    workspace = (pipeline.tmp_path / "w").as_uri()
    with pytest.raises(BadInputError, match=r"another version of this project: config\.recipe\.unheard_of"):
        find_run(run.name, workspace=workspace, cache=run.cache, s3=no_s3)
