"""A checkpoint is trained, compared with the one that the live version came from, and registered on an S3 server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import AccessError
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.retrain import RETRAIN
from hpe_tasks.pipeline.running import end_run, run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.steps.retraining import unfinished
from hpe_tasks.records.retraining import CheckpointLineage
from hpe_tasks.report.records import verdict_of
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.training.kept_training import KeptTraining
from support.figures import figures_of
from support.retrained import config_of, retraining_settings, serve_version
from support.tiny_networks import write_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

PARTS = 3
STEPS = (
    *(steps.fetch_dataset, steps.validate_dataset, steps.fetch_start, steps.train),
    *(steps.evaluate_checkpoint, steps.find_live, steps.evaluate_parent),
)
SMALL = {"model__input_width": 64, "model__input_height": 64, "model__width_multiplier": 0.25}


class Place:
    """A workspace, a registry and the settings of a retraining."""

    def __init__(self, folder: Path, bucket: Any) -> None:
        self.folder, self.s3, self.bucket = folder, bucket.server.client, bucket.bucket
        self.settings = retraining_settings(folder) | {"destination.registry": f"s3://{bucket.bucket}/registry"}

    def open(self, name: str, **changes: Any) -> Run:
        config = config_of(self.settings, **changes)
        workspace, cache = (self.folder / "workspace").as_uri(), self.folder / "cache"
        return open_run(config, workspace=workspace, cache=cache, name=name, s3=self.s3, pipeline=RETRAIN.name)

    def run(self, name: str, **changes: Any) -> Run:
        run = self.open(name, **changes)
        run_steps(RETRAIN, run, RETRAIN.ordered)
        end_run(RETRAIN, run)
        return run

    def read(self, uri: str) -> bytes:
        where = S3Location.parse(uri)
        return bytes(self.s3().get_object(Bucket=where.bucket, Key=where.key)["Body"].read())

    def serve(self, content: str, source: str, checkpoint: Path, **changes: Any) -> str:
        return serve_version(self.s3(), config_of(self.settings, **changes), self.folder / content, source, checkpoint)


@pytest.fixture
def place(tmp_path: Path, s3_bucket: Any) -> Place:
    return Place(tmp_path, s3_bucket)


def report_of(run: Run) -> str:
    return run.workspace.local(run.result(steps.report).html).read_text()


def states(run: Run) -> dict[str, str]:
    return {step.name: step.state for step in records_of(run).steps}


@pytest.mark.long
def test_both_checkpoints_are_measured_in_parts_that_come_to_the_same(place: Place, tmp_path: Path) -> None:
    untaught = tmp_path / "untaught.safetensors"
    small = {**SMALL, "model__checkpoint": str(untaught), "evaluation__batch_size": 2}
    write_checkpoint(untaught, config_of(place.settings, **small).model)
    # The live version's network takes another size of image than the new checkpoint's.
    place.serve("untaught", str(untaught), untaught, **{**small, "model__input_width": 96})
    measured = {}
    for name, shards in (("whole", 1), ("parts", PARTS)):
        run = place.open(name, **small, evaluation__shards=shards)
        for step in STEPS:
            if step.sharding is not None:
                run.workspace.discard(f"store/{step.name}")
                for number in range(shards if shards > 1 else 0):
                    step.make_shard(place.open(name, **small, evaluation__shards=shards), number)
            step(run)
        reports = (run.result(steps.evaluate_checkpoint), run.result(steps.evaluate_parent))
        measured[name] = [figures_of(report.model_dump(mode="json")) for report in reports]
    assert measured["parts"] == measured["whole"]
    ours, parents = (report["fingerprint"]["input_size"] for report in measured["parts"])
    assert ours != parents
    stored = (place.folder / "workspace" / "store").glob("evaluate_*_shards/*/poses.parquet")
    assert sorted(file.parts[-3] for file in stored) == [
        f"{step}_shards" for step in ("evaluate_checkpoint", "evaluate_parent") for _ in range(PARTS)
    ]


@pytest.mark.long
def test_a_checkpoint_goes_on_only_where_it_is_better(place: Place, tmp_path: Path) -> None:
    # No version is served: there is nothing to be better than.
    first = place.run("first")
    assert {name for name, state in states(first).items() if state != "done"} == {"evaluate_parent"}
    registered, told = first.result(steps.register_checkpoint), first.result(steps.announce_checkpoint)
    assert (registered.outcome, told.checkpoint, told.sha256) == ("first", registered.checkpoint, registered.sha256)
    assert "serves no version" in verdict_of(records_of(first)).detail
    assert hashlib.sha256(place.read(told.checkpoint)).hexdigest() == told.sha256
    assert told.model["input_width"] == 128
    lineage = CheckpointLineage.model_validate_json(place.read(registered.lineage.uri))
    assert lineage.dataset_digest == first.result(steps.fetch_dataset).digest
    assert lineage.started_from == hashlib.sha256(sample_checkpoint().read_bytes()).hexdigest()
    assert (lineage.parent_sha256, lineage.training_split, lineage.stages[-1]["epochs"]) == (None, "calibration", 1)
    assert lineage.code
    assert lineage.figure.checkpoint is not None
    assert not list(first.workspace.files(unfinished(first)))
    assert "Learning rate" in report_of(first)

    # The live version came from a network of another size that has learned nothing.
    untaught = tmp_path / "untaught.safetensors"
    write_checkpoint(untaught, config_of(place.settings, model__checkpoint=str(untaught), **SMALL).model)
    version = place.serve("untaught", str(untaught), untaught, model__checkpoint=str(untaught), **SMALL)
    better = place.run("better")
    compared = better.result(steps.compare_checkpoints)
    assert (compared.outcome, compared.live_version) == ("better", version)
    assert compared.protocols_differ_in == ("input_size",)
    whole = compared.paired and compared.paired.part("all")
    assert whole
    assert whole.low is not None
    assert 0 < whole.low <= (whole.after or 0) - (whole.before or 0)
    assert better.result(steps.announce_checkpoint).checkpoint == registered.checkpoint
    # Nothing is trained again, and the same weights are one object with two lineages.
    pointer = better.pointer(steps.train.name)
    assert pointer
    assert pointer.reused
    again = better.result(steps.register_checkpoint)
    assert (again.created, again.lineage.uri == registered.lineage.uri) == (False, False)

    # The live version came from this very checkpoint, as it was registered.
    checkpoint = better.workspace.local(better.result(steps.train).checkpoint)
    place.serve("same", registered.checkpoint, checkpoint)
    same = place.run("same")
    assert same.result(steps.find_live).source == registered.checkpoint
    assert same.result(steps.compare_checkpoints).outcome == "equal"
    assert states(same)["announce_checkpoint"] == "skipped"

    # What starts at random is worse, is kept all the same, and starts nothing.
    worse = place.run("worse", training__start="random")
    kept = worse.result(steps.register_checkpoint)
    assert kept.outcome == "worse"
    assert (states(worse)["fetch_start"], states(worse)["announce_checkpoint"]) == ("skipped", "skipped")
    verdict = verdict_of(records_of(worse))
    # Nothing has failed, and nothing is to be glad of.
    assert (verdict.kind, verdict.good, verdict.tone) == ("kept", True, "")
    assert "Kept, and worse" in verdict_of(records_of(worse)).title
    assert json.loads(place.read(kept.lineage.uri))["outcome"] == "worse"
    assert hashlib.sha256(place.read(kept.checkpoint)).hexdigest() == kept.sha256
    page = worse.workspace.local(worse.result(steps.report).html).read_text()
    assert "Training report" in page
    assert "What the new checkpoint gains" in page
    assert "Ranges of activations" in page
    assert "Examples per second" in page
    assert "marked as worse" in page


def test_a_live_version_whose_checkpoint_is_gone_or_another_is_told(place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(sample_checkpoint().read_bytes())
    place.serve("moved", str(moved), moved)
    run = place.open("r")
    moved.write_bytes(b"another")
    with pytest.raises(AccessError, match="where it came from: another file lies there"):
        steps.find_live(run)
    moved.unlink()
    with pytest.raises(AccessError, match=r"where it came from: .*moved\.safetensors"):
        steps.find_live(run)


def test_a_training_that_was_killed_goes_on_in_the_same_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast = {"training__epochs": 2, "training__state_every_steps": 1}
    run = place.open("killed", **fast)
    run_steps(RETRAIN, run, RETRAIN.ordered[: RETRAIN.ordered.index(steps.train)])
    copied = KeptTraining.stepped

    def killed(kept: KeptTraining, step: int, figures: Mapping[str, float]) -> None:
        copied(kept, step, figures)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeptTraining, "stepped", killed)
    with pytest.raises(KeyboardInterrupt):
        steps.train(run)
    monkeypatch.undo()
    assert list(run.workspace.files(unfinished(run)))
    caplog.set_level("INFO")
    trained = steps.train(place.open("killed", **fast))
    assert "going on after step 3" in caplog.text
    undisturbed = place.open("undisturbed", **fast, training__state_every_s=1e6)
    run_steps(RETRAIN, undisturbed, RETRAIN.ordered[: RETRAIN.ordered.index(steps.train) + 1])
    assert undisturbed.result(steps.train).losses == trained.losses


def test_a_training_goes_on_from_what_is_served(place: Place, tmp_path: Path) -> None:
    changed = tmp_path / "changed.safetensors"
    write_checkpoint(changed, config_of(place.settings, model__checkpoint=str(changed)).model)
    version = place.serve("changed", str(changed), changed)
    start = steps.fetch_start(place.open("r", training__start="live"))
    assert (start.live_version, start.file.sha256) == (version, hashlib.sha256(changed.read_bytes()).hexdigest())
    usual = steps.fetch_start(place.open("r"))
    assert (usual.live_version, usual.source) == (None, "sample")
