"""Publishing, smoke test and promotion as steps of runs whose earlier steps have left their records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import (
    BadInputError,
    ChannelConflictError,
    ConfigError,
    DigestError,
    MissingInputError,
    SupersededError,
)
from hpe_tasks.gate.floor import check_floor
from hpe_tasks.packaging import PackagedModel
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.runs import Pointer, Run, RunFile, open_run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pipeline.steps.inputs import split_of
from hpe_tasks.records.base import Record
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.inputs import DatasetValidation
from hpe_tasks.records.network import QuantizedModel
from hpe_tasks.records.release import SmokeTest
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.operations import Operations
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.golden import is_clear
from hpe_tasks.release.smoke_test import SmokeTestError
from hpe_tasks.report.records import verdict_of
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.played_s3 import client, moto_client
from support.signing_keys import key_pem

__all__ = ["client", "moto_client"]

REGISTRY = S3Location("models", "registry")


def leave(run: Run, step: Step[Any], record: Record) -> None:
    """Let a step have left this record in the run."""
    pointer = Pointer(
        step=step.name,
        key=run.key(step),
        reused=False,
        finished_at=datetime.now(UTC),
        record=record.model_dump(mode="json"),
    )
    run.keep(pointer)


OpenAtPublish = Callable[..., Run]


@pytest.fixture
def at_publish(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenAtPublish:
    """Opens runs that have passed the gate, each with files of its own content."""

    def found(images: np.ndarray) -> dict[str, np.ndarray]:
        """Every joint of every crop in one cell, with certainty."""
        maps = np.zeros((len(images), 17, 48, 32), dtype=np.float32)
        for joint in range(17):
            maps[:, joint, 8 + 2 * joint, 8 + joint] = 0.9
        return {"heatmaps": maps}

    monkeypatch.setattr("hpe_tasks.inference.onnx_predictor", lambda *_: found)
    # The model is some text, of which onnxruntime makes nothing; test_lambda_emulator.py has a real one.
    monkeypatch.setattr("hpe_tasks.onnx_runtime.optimized_graph.make_graph", lambda *_: None)

    def open_one(name: str, content: str = "one", **destination: object) -> Run:
        settings = {"registry": str(REGISTRY), "name": "pose", "smoke_test": False, **destination}
        config = load_config("sample", overrides={f"destination.{key}": value for key, value in settings.items()})
        workspace = (tmp_path / "workspace").as_uri()
        run = open_run(config, workspace=workspace, cache=tmp_path / "cache", name=name, s3=lambda: client)
        steps.fetch_dataset(run)
        steps.fetch_checkpoint(run)
        files = records.write_files(tmp_path / content, content)
        described = records.exported(records.artifact(files["model"]), records.artifact(files["encodings"]))
        fp32 = records.report("fp32", 0.71)
        evaluation = QuantizedEvaluation(
            quantsim=records.report("quantsim", 0.705),
            onnx=records.report("onnxruntime", 0.7),
            model_sha256=described.model.sha256,
            kernels=records.kernels(),
        )
        made = [
            DatasetValidation(passed=True, checks_run=1, problems=(), splits=(), data_docs=described.encodings),
            fp32,
            check_floor(config.gate, fp32, config.dataset.gate_metric),
            QuantizedModel(
                recipe=config.recipe,
                model=described.model,
                encodings=described.encodings,
                calibration_image_ids=(1, 2),
                calibration_persons=4,
                device="cpu",
                tool_versions={},
            ),
            described.model_copy(update={"placement": described.placement.model_copy(update={"int8_mac_share": 1.0})}),
            evaluation,
            PairedComparison(num_images=2, available_images=2, confidence=None, resamples=config.gate.resamples),
        ]
        by_kind = {step.kind: step for step in REQUANTIZE.steps}
        for record in made:
            leave(run, by_kind[type(record)], record)
        assert steps.gate(run).passed
        return run

    return open_one


class Function:
    """Stands in for the function, which tests/integration/test_lambda_emulator.py runs; notes what it is given."""

    def __init__(self) -> None:
        self.manifest: ModelManifest | None = None
        self.images: dict[str, bytes] = {}
        self.works = True

    def __call__(
        self, manifest: ModelManifest, model: PackagedModel, images: Mapping[str, Path], *, public_key: bytes | None
    ) -> SmokeTest:
        self.manifest, self.images = manifest, {role: path.read_bytes() for role, path in images.items()}
        if not self.works:
            raise SmokeTestError("It serves nothing.")
        return SmokeTest(
            version=manifest.version,
            manifest_sha256=hashlib.sha256(model.manifest).hexdigest(),
            package_sha256="0" * 64,
            zipped_bytes=1,
            unzipped_bytes=1,
            cold_start_ms=1.0,
            python="3.13",
            cpu_features=("x86_64",),
            images=(),
        )


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> Function:
    function = Function()
    monkeypatch.setattr("hpe_tasks.release.smoke_test.smoke_test", function)
    return function


def serves(client: Any, channel: str = "staging") -> str:
    return ModelRegistry(client, REGISTRY).show("pose", channel).version


class CountingWorkspace(LocalWorkspace):
    """Counts how often each file is read, as a bucket would be asked for it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: Counter[str] = Counter()

    @override
    def read(self, name: str) -> bytes | None:
        self.reads[name] += 1
        return super().read(name)


def counted(run: Run) -> tuple[Run, Counter[str]]:
    """The run as another process opens it, with a count of what it reads."""
    assert isinstance(run.workspace, LocalWorkspace)
    workspace = CountingWorkspace(run.workspace.root)
    return replace(run, workspace=workspace), workspace.reads


def test_every_result_is_read_once_by_a_step_and_twice_by_the_one_that_makes_it(
    at_publish: OpenAtPublish, tested: Function
) -> None:
    run = at_publish("r", smoke_test=True)
    for step in (steps.gate, steps.publish, steps.smoke_test_lambda, steps.promote, steps.report):
        fresh, reads = counted(run)
        assert not REQUANTIZE.skip_reason(step, fresh)
        step(fresh)
        results = {name: count for name, count in reads.items() if name.endswith("result.json")}
        stored = {name for name in results if name.startswith("store/")}
        assert all(name.startswith(f"store/{step.name}/") for name in stored)
        assert max(results.values()) <= 2, results
        assert {count for name, count in results.items() if name not in stored} <= {1}, results
        assert len(results) <= len(REQUANTIZE.steps) + len(stored)
    assert sum(results.values()) == len(REQUANTIZE.ordered), "the report reads one of each"


def test_a_whole_process_reads_what_others_left_once(at_publish: OpenAtPublish, tested: Function) -> None:
    """As `hpe run` does from the gate on: what a step has just written is not asked for again."""
    run, reads = counted(at_publish("r", smoke_test=True))
    for step in (steps.gate, steps.publish, steps.smoke_test_lambda, steps.promote):
        step(run)
    records_of(run)
    records_of(run, looking_back=True)
    steps.report(run)
    results = {name: count for name, count in reads.items() if name.startswith("runs/") and "result" in name}
    assert set(results.values()) == {1}
    made = {"gate", "publish", "smoke_test_lambda", "promote"}
    assert {name.split("/")[2] for name in results} == {step.name for step in REQUANTIZE.ordered} - made


def test_no_image_leaves_the_data_set_without_a_smoke_test(client: Any, at_publish: OpenAtPublish) -> None:
    run = at_publish("r")
    published = steps.publish(run)
    manifest = ModelRegistry(client, REGISTRY).stored("pose", published.version).manifest
    assert manifest.golden == ()
    assert [file.role for file in manifest.files] == ["checkpoint", "encodings", "fp32", "model"]
    steps.promote(run)
    assert serves(client) == published.version


def test_a_version_is_tested_with_the_golden_images_that_were_published_with_it(
    client: Any, at_publish: OpenAtPublish, tested: Function
) -> None:
    run = at_publish("r", smoke_test=True)
    manifest = ModelRegistry(client, REGISTRY).stored("pose", steps.publish(run).version).manifest
    steps.smoke_test_lambda(run)
    assert tested.manifest == manifest
    assert set(tested.images) == {"golden-1", "golden-2", "golden-3"} == {one.file for one in manifest.golden}
    assert all(is_clear(person) for golden in manifest.golden for person in golden.people)


def test_a_version_that_was_published_without_golden_images_is_tested_with_those_of_the_run(
    client: Any, at_publish: OpenAtPublish, tested: Function
) -> None:
    first = steps.publish(at_publish("before"))
    run = at_publish("now", smoke_test=True)
    published = steps.publish(run)
    assert (published.version, published.created) == (first.version, False)
    assert published.manifest.sha256 == first.manifest.sha256
    steps.smoke_test_lambda(run)
    assert tested.manifest is not None
    assert [golden.file for golden in tested.manifest.golden] == list(tested.images)
    assert len(tested.images) == 3
    dataset = split_of(run, "val")
    assert isinstance(dataset, CocoDataset)
    contents = {dataset.image_path(image).read_bytes() for image in dataset.images}
    assert set(tested.images.values()) <= contents
    steps.promote(run)
    assert serves(client) == published.version


def test_only_a_passed_test_of_what_was_published_promotes(
    at_publish: OpenAtPublish, tested: Function, client: Any
) -> None:
    run = at_publish("r", smoke_test=True)
    published = steps.publish(run)
    with pytest.raises(MissingInputError, match="has not passed the smoke test"):
        steps.promote(run)
    passed = steps.smoke_test_lambda(run)
    for other in ({"version": "0" * 16}, {"manifest_sha256": "0" * 64}):
        leave(run, steps.smoke_test_lambda, passed.model_copy(update=other))
        with pytest.raises(MissingInputError, match="has not passed the smoke test"):
            steps.promote(run)
    leave(run, steps.smoke_test_lambda, passed)
    tested.works = False
    with pytest.raises(SmokeTestError):
        steps.smoke_test_lambda(run)
    # The same content once more, on a worker whose clock is ahead, does not make up for the failure.
    steps.publish(run)
    with pytest.raises(MissingInputError, match="has not passed the smoke test"):
        steps.promote(run)
    assert run.failure("smoke_test_lambda") is not None
    tested.works = True
    steps.smoke_test_lambda(run)
    assert steps.promote(run).version == published.version == serves(client)


def test_clocks_of_workers_do_not_matter(at_publish: OpenAtPublish, tested: Function, client: Any) -> None:
    run = at_publish("r", smoke_test=True)
    steps.publish(run)
    steps.smoke_test_lambda(run)
    file = f"{run.prefix}/smoke_test_lambda/result.json"
    pointer = Pointer.model_validate_json(run.workspace.read(file) or b"")
    late = pointer.model_copy(update={"finished_at": pointer.finished_at - timedelta(hours=1)})
    run.workspace.write(file, late.model_dump_json().encode())
    # Another worker reads it.
    assert steps.promote(replace(run)).version == serves(client)


@pytest.mark.parametrize(("ahead", "told"), [(timedelta(minutes=5), False), (timedelta(0), True)])
def test_a_start_by_a_clock_that_is_ahead_is_not_told(
    at_publish: OpenAtPublish, client: Any, ahead: timedelta, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = at_publish("r")
    opened = RunFile.model_validate_json(run.workspace.read(f"{run.prefix}/run.json") or b"")
    began = opened.started + ahead
    run.workspace.write(
        f"{run.prefix}/run.json", opened.model_copy(update={"started": began}).model_dump_json().encode()
    )
    manifest = ModelRegistry(client, REGISTRY).stored("pose", steps.publish(run).version).manifest
    assert manifest.build is not None
    assert manifest.build.run_details.metadata.started_on == (began if told else None)
    assert ("by the clock of another machine" in caplog.text) == (not told)


class OvertakenWorkspace(LocalWorkspace):
    """Lets another attempt do all of a step when the first asks whether it is still the last one."""

    def __init__(self, root: Path, overtake: Callable[[], object]) -> None:
        super().__init__(root)
        self.overtake: Callable[[], object] | None = overtake

    @override
    def read(self, name: str) -> bytes | None:
        overtake, self.overtake = (self.overtake, None) if name.startswith("used/") else (None, self.overtake)
        if overtake is not None:
            overtake()
        return super().read(name)


@pytest.mark.parametrize("step", [steps.publish, steps.promote], ids=lambda step: step.name)
def test_an_attempt_that_was_given_up_publishes_nothing(
    at_publish: OpenAtPublish, client: Any, step: Step[Any]
) -> None:
    run = at_publish("r")
    if step is steps.promote:
        steps.publish(run)
    assert isinstance(run.workspace, LocalWorkspace)
    seen: list[Any] = []

    def overtake() -> None:
        step(replace(run, workspace=LocalWorkspace(root)))
        seen.extend(client.list_object_versions(Bucket="models")["Versions"])

    root = run.workspace.root
    orphan = replace(run, workspace=OvertakenWorkspace(root, overtake))
    with pytest.raises(SupersededError, match=f"Another attempt at runs/.*/{step.name} has begun"):
        step(orphan)
    # All that there is came from the other one, and that is what the run shows.
    assert seen
    assert client.list_object_versions(Bucket="models")["Versions"] == seen
    assert run.failure(step.name) is None
    assert run.pointer(step.name) is not None


def test_clearing_promote_of_an_old_run_leaves_a_later_version_in_its_place(
    at_publish: OpenAtPublish, client: Any
) -> None:
    old, later = at_publish("old"), at_publish("later", content="two")
    for run in (old, later):
        steps.publish(run)
        steps.promote(run)
    served = serves(client)
    with pytest.raises(ChannelConflictError, match=f"serves version {served}") as caught:
        steps.promote(old)
    assert "hpe channel promote pose" in caught.value.hint
    assert serves(client) == served
    steps.publish(old)
    steps.promote(old)
    recorded = old.result(steps.publish)
    assert recorded.before is not None
    assert (recorded.before.version, serves(client)) == (served, recorded.version)


def test_a_signed_version_is_tested_with_its_key_or_not_at_all(at_publish: OpenAtPublish, tested: Function) -> None:
    pem = key_pem()
    run = replace(at_publish("r", smoke_test=True), signing_key=lambda: pem)
    version = steps.publish(run).version
    with pytest.raises(ConfigError, match=f"no signing key, but version {version} of 'pose' is signed") as caught:
        steps.smoke_test_lambda(replace(run, signing_key=lambda: None))
    assert "require_signature" not in str(caught.value)
    steps.smoke_test_lambda(run)
    assert REQUANTIZE.failures(run) == ()


@pytest.mark.parametrize("measured", [pytest.param("0" * 64, id="another file"), pytest.param(None, id="unknown file")])
def test_a_file_that_is_not_the_one_measured_is_not_published(
    at_publish: OpenAtPublish, client: Any, measured: str | None
) -> None:
    """An export that was lost and made again has the same inputs, and so the stored figures of the first one."""
    run = at_publish("r")
    evaluation = run.result(steps.evaluate_quantized)
    leave(run, steps.evaluate_quantized, evaluation.model_copy(update={"model_sha256": measured}))
    exported = run.result(steps.export_onnx).model.sha256
    assert run.workspace.read(f"store/gate/{run.key(steps.gate)}/result.json") is not None
    with pytest.raises(DigestError, match=f"has the SHA-256 {exported}, but the one that was measured has {measured}"):
        steps.publish(run)
    assert client.list_objects_v2(Bucket="models")["KeyCount"] == 0
    # The gate, run again, judges anew.
    assert run.workspace.read(f"store/gate/{run.key(steps.gate)}/result.json") is None


def test_a_run_leaves_a_pinned_channel_as_it_is_and_says_so(at_publish: OpenAtPublish, client: Any) -> None:
    before, run = at_publish("before"), at_publish("run", content="two")
    steps.publish(before)
    steps.promote(before)
    served, operations = serves(client), Operations(client, REGISTRY, actor="grace")
    operations.pin("pose", "staging", note="until the release")
    published = steps.publish(run)
    reason = REQUANTIZE.skip_reason(steps.promote, run)
    assert f"pinned to version {served} (by grace at" in reason
    assert f"until the release): it stays as it is. Unpin it, and promote version {published.version}" in reason
    records = records_of(run)
    assert f"{published.version}, no channel serves it" in verdict_of(records).title
    assert verdict_of(records).detail == reason
    # Pinned only after this run has published: the step itself refuses.
    operations.unpin("pose", "staging")
    steps.publish(run)
    assert REQUANTIZE.skip_reason(steps.promote, run) == ""
    operations.pin("pose", "staging")
    with pytest.raises(BadInputError, match=f"is pinned to version {served}"):
        steps.promote(run)
    # What it serves already is no move.
    assert REQUANTIZE.skip_reason(steps.promote, before) == ""
    steps.publish(before)
    assert steps.promote(before).version == serves(client) == served
