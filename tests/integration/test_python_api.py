"""The Python API on tiny inputs: what it computes the command line finds, and what is published can be read back."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hpe_tasks
from hpe_tasks.cli.app import app
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.version import content_version
from hpe_tasks.errors import (
    AccessError,
    BadInputError,
    BelowFloorError,
    ConfigError,
    DatasetError,
    DigestError,
    MissingInputError,
    PreflightError,
)
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.signing import SigningKey
from support.signing_keys import key_pem
from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

Made = Callable[..., hpe_tasks.RunResult]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python-api")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    return {**tiny_settings(folder), "destination.smoke_test": False}


@pytest.fixture(scope="module")
def config(settings: dict[str, Any]) -> RunConfig:
    return hpe_tasks.load_preset("sample", {key: value for key, value in settings.items() if key != "preset"})


@pytest.fixture(scope="module")
def places(folder: Path) -> dict[str, Any]:
    return {"workspace": folder / "workspace", "cache": folder / "cache"}


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def result(config: RunConfig, places: dict[str, Any], told: list[str]) -> hpe_tasks.RunResult:
    return hpe_tasks.run(config, **places, on_progress=told.append)


def ends(told: list[str]) -> dict[str, str]:
    """How each step ended, by the lines that were told."""
    return {line.split()[0]: line.split()[1] for line in told if not line.startswith("  ")}


def test_a_run_is_all_but_publishing(result: hpe_tasks.RunResult, told: list[str]) -> None:
    assert result.passed
    assert result.decision.passed
    assert result.verdict.title == "Passed the gate, not published yet"
    assert (result.records.published, result.records.preflight) == (None, None)
    assert list(ends(told)) == [
        *("fetch_checkpoint", "fetch_dataset", "validate_dataset", "evaluate_fp32", "check_fp32", "quantize"),
        *("export_onnx", "evaluate_quantized", "compare_accuracy", "gate"),
    ]
    assert set(ends(told).values()) == {"done"}
    assert not logging.getLogger("hpe_tasks.progress").handlers
    assert logging.getLogger("hpe_tasks.progress").propagate


def test_every_part_shows_itself(result: hpe_tasks.RunResult, folder: Path) -> None:
    for one in (result, result.decision, result.fp32, result.quantsim, result.onnx, result.quantized, result.exported):
        assert one._repr_html_().startswith('<div class="hpe-result">')
        assert str(one)
    assert result.fp32.record.runtime == "fp32"
    assert result.onnx.stats == result.onnx.record.stats
    assert set(result.onnx.by_joint) == {joint for joint, _, _ in result.onnx.record.fingerprint.joint_map}
    assert result.onnx.by_group.keys() == result.fp32.by_group.keys()
    assert isinstance(json.loads(result.onnx.predictions().read_text()), list)
    assert result.placement == result.exported.record.placement
    assert result.kernel_proof.model_sha256 == result.exported.record.model.sha256
    assert result.kernel_agreement.num_images >= 1
    assert result.latency.one_thread.threads == 1
    assert result.quantized.model().is_file()
    assert result.quantized.encodings().is_file()
    assert result.exported.size_bytes == result.exported.file().stat().st_size
    copy = result.save_model(folder / "out" / "mine.onnx")
    assert copy.read_bytes() == result.exported.file().read_bytes()
    assert "Passed the gate" in result.report().read_text(encoding="utf-8")
    assert "gate" in repr(result)


def test_pictures(result: hpe_tasks.RunResult) -> None:
    pictures = result.pictures(2)
    assert len(pictures) == 2
    assert pictures._repr_html_().count("data:image/jpeg;base64,") == 6
    assert len(str(pictures).splitlines()) == 2
    with pytest.raises(ConfigError, match="0 pictures"):
        result.pictures(0)


def test_the_command_line_finds_it(result: hpe_tasks.RunResult, places: dict[str, Any], folder: Path) -> None:
    environment = {"HPE_WORKSPACE": str(places["workspace"]), "HPE_CACHE": str(places["cache"])}

    def hpe(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpe_tasks", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=os.environ | environment,
        )

    told = hpe("show", "--json")
    assert told.returncode == 0, told.stderr
    shown = json.loads(told.stdout)
    assert (shown["run"], shown["decision"]["passed"]) == (result.name, True)
    words = result.command.split()
    assert words[:3] == ["hpe", "run", "--preset"]
    # The same settings, and so the same run: its step is there.
    again = hpe("quantize", *words[2:], "--json", "--verbose")
    assert again.returncode == 0, again.stderr
    assert "quantize: reused the result of the same inputs" in again.stderr
    assert json.loads(again.stdout)["model"] == json.loads(result.quantized.record.model.model_dump_json())


def test_a_run_that_was_started_elsewhere(result: hpe_tasks.RunResult, places: dict[str, Any]) -> None:
    for name in (None, "local", result.name):
        found = hpe_tasks.find_run(name, **places)
        assert (found.name, found.records.decision) == (result.name, result.records.decision)
    with pytest.raises(MissingInputError, match="No runs are called 'nothing'"):
        hpe_tasks.find_run("nothing", **places)


def test_a_single_result_runs_what_it_needs(config: RunConfig, places: dict[str, Any], result: Any) -> None:
    told: list[str] = []
    measured = hpe_tasks.evaluate(config, name="alone", **places, on_progress=told.append)
    assert measured.record == result.fp32.record
    assert list(ends(told)) == ["fetch_checkpoint", "fetch_dataset", "validate_dataset", "evaluate_fp32"]
    assert set(ends(told).values()) == {"reused"}
    with pytest.raises(MissingInputError, match="has no result of gate"):
        _ = hpe_tasks.find_run("alone", **places).decision
    silent = hpe_tasks.quantize(config, name="alone", **places, on_progress=None)
    assert silent.record == result.quantized.record
    assert hpe_tasks.export(config, name="alone", **places, on_progress=None).record == result.exported.record


def test_other_limits_make_nothing_again(result: hpe_tasks.RunResult) -> None:
    told: list[str] = []
    decision = hpe_tasks.decide(result, {"gate.max_size_mb": 0.1}, on_progress=told.append)
    assert not decision.passed
    assert "above 0.1 MB" in decision.reason
    assert [check.name for check in decision.checks if not check.passed] == ["size_mb"]
    assert {step for step, end in ends(told).items() if end == "done"} == {"gate"}
    assert hpe_tasks.decide(result, on_progress=None).record == result.decision.record


def test_a_checkpoint_below_the_floor_is_a_result(config: RunConfig, places: dict[str, Any]) -> None:
    asked = hpe_tasks.with_settings(config, {"gate.min_ap": 0.99})
    refused = hpe_tasks.run(asked, **places, on_progress=None)
    assert not refused.passed
    assert "Stopped before quantization" in refused._repr_html_()
    assert "Stopped before quantization" in refused.report().read_text(encoding="utf-8")
    with pytest.raises(MissingInputError, match="has no result of quantize"):
        _ = refused.quantized
    with pytest.raises(BelowFloorError):
        hpe_tasks.decide(asked, **places, on_progress=None)


def test_a_search_for_a_recipe_shows_its_rungs(
    result: hpe_tasks.RunResult, config: RunConfig, places: dict[str, Any]
) -> None:
    told: list[str] = []
    asked = hpe_tasks.with_settings(config, {"recipe": "auto"})
    searched = hpe_tasks.run(asked, **places, on_progress=told.append)
    assert searched.config == asked
    assert [name for name in ends(told) if name.startswith("try_")] == ["try_min_max"]
    ladder, choice = searched.ladder, searched.ladder.choice
    assert choice is not None
    assert (choice.rung, choice.recipe) == ("min_max", searched.quantized.record.recipe)
    tried = ladder["min_max"].tried
    assert tried is not None
    assert tried.onnx == searched.onnx.accuracy
    assert [rung.state for rung in ladder] == ["passed", *["skipped"] * (len(ladder) - 1)]
    assert "Recipes that were tried" in str(ladder)
    assert "The run takes min max" in ladder._repr_html_()
    assert "The run takes min max" in searched._repr_html_()
    # Asked for by its name it is the same recipe.
    named = hpe_tasks.export(hpe_tasks.with_settings(config, {"recipe": "min_max"}), **places, on_progress=told.append)
    assert named.record == searched.exported.record
    assert ends(told)["quantize"] == "reused"
    assert (len(result.ladder), result.ladder.choice) == (0, None)
    assert "recipe.search is off" in result.ladder._repr_html_()


def test_bad_input_is_told_before_anything_begins(config: RunConfig, places: dict[str, Any], folder: Path) -> None:
    changed = {"model.checkpoint": str(folder / "nothing.safetensors"), "dataset.source": str(folder / "nowhere")}
    with pytest.raises(PreflightError) as caught:
        hpe_tasks.run(hpe_tasks.with_settings(config, changed), **places)
    assert "2 of " in str(caught.value)
    assert "nothing.safetensors" in str(caught.value)
    assert "Destination" not in str(caught.value)


MATCHES = {"matches/fp32", "matches/quantsim", "matches/onnxruntime"}


def matched_with_the_data_set(bucket: Any, manifest: ModelManifest, data: Path, other: Path, key: SigningKey) -> None:
    """With the annotations: true of what was measured on them, and not of what only says so.

    The liar's tables, figures, intervals and gate fit each other and are signed: they are of other annotations than
    those whose digest his manifest names.
    """
    from hpe_tasks.data.fetch import fetch_dataset

    def checks(version: str, *arguments: str) -> Any:
        place = ("--registry", f"s3://{bucket.bucket}/models", "--public-key", public_key)
        return CliRunner().invoke(app, ["verify", version, "--name", "tiny", *place, "--strict", "--json", *arguments])

    public_key = base64.b64encode(key.public_bytes).decode()
    honest = checks(manifest.version, "--dataset", str(data))
    assert honest.exit_code == 0, honest.output
    told = {check["name"]: check for check in json.loads(honest.stdout)["checks"]}
    assert {check["outcome"] for check in told.values()} == {"passed"}
    assert set(told) > MATCHES
    assert "matched again with" in told["matches/onnxruntime"]["found"]

    shutil.copytree(data, other)
    (annotations,) = (other / "annotations").glob("*_val.json")
    content = json.loads(annotations.read_text())
    for person in content["annotations"]:
        person["keypoints"] = [value + 9 * (number % 3 < 2) for number, value in enumerate(person["keypoints"])]
    annotations.write_text(json.dumps(content))
    strange = checks(manifest.version, "--dataset", str(other))
    assert isinstance(strange.exception, DatasetError)
    assert f"is not the data set of version {manifest.version}" in strange.exception.message

    assert manifest.build is not None
    asked = RunConfig.model_validate(manifest.build.build_definition.external_parameters)
    _, fetched = fetch_dataset(
        asked.dataset.model_copy(update={"source": str(other)}), other.with_name("other-cache"), lambda: bucket.client
    )
    honest_text = manifest.to_bytes().decode()
    record = json.loads(honest_text.replace(manifest.provenance.dataset_digest, fetched.digest))
    limits = {check["name"]: check["limit"] for check in record["gate"]["checks"]}
    protocol, model = record["onnx"]["fingerprint"], manifest.file("model").sha256
    version = record["version"] = content_version(model, record["serving"], protocol, limits)
    data_of_liar = type(manifest).model_validate(record).to_bytes()
    place = f"models/models/tiny/versions/{version}/manifest.json"
    bucket.client.put_object(Bucket=bucket.bucket, Key=place, Body=data_of_liar)
    bucket.client.put_object(Bucket=bucket.bucket, Key=f"{place}.sig", Body=key.sign(data_of_liar))
    believed = checks(version)
    assert believed.exit_code == 0, believed.output
    found_out = checks(version, "--dataset", str(other))
    assert found_out.exit_code == 1
    failed = {check["name"] for check in json.loads(found_out.stdout)["checks"] if check["outcome"] == "failed"}
    assert failed == MATCHES


def test_published_only_when_asked(
    config: RunConfig, places: dict[str, Any], folder: Path, s3_bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    pem = key_pem()
    (folder / "key.pem").write_bytes(pem)
    monkeypatch.setenv("HPE_SIGNING_KEY", str(folder / "key.pem"))
    public_key = base64.b64encode(SigningKey(pem).public_bytes).decode()
    registry = hpe_tasks.Registry(f"s3://{s3_bucket.bucket}/models")
    assert registry.models() == ()
    assert "no model yet" in registry._repr_html_()

    asked = hpe_tasks.with_settings(config, {"destination.registry": registry.address})
    published = hpe_tasks.run(asked, publish=True, **places, on_progress=None)
    assert published.records.promoted is not None
    version = published.records.promoted.version
    assert (registry.models(), registry.channels("tiny")) == (("tiny",), ("staging",))
    assert [(one.version, one.channels) for one in registry.versions("tiny")] == [(version, ("staging",))]
    assert registry.channel("tiny", "staging").version == version
    assert version in registry._repr_html_()
    assert version in str(registry)

    manifest = registry.manifest("tiny", channel="staging")
    assert manifest == registry.manifest("tiny", version)
    assert manifest.onnx.stats == published.onnx.stats
    out = registry.fetch("tiny", version, folder=folder / "fetched", roles=["model", "encodings"])
    assert (out / "model.onnx").read_bytes() == published.exported.file().read_bytes()
    assert sorted(file.name for file in out.iterdir()) == ["encodings", "manifest.json", "model.onnx"]
    found = registry.verify("tiny", channel="staging", public_key=public_key)
    assert (found.version, found.files, found.signed) == (version, len(manifest.files), True)

    # The same from the registry alone, with every figure and the gate computed again.
    checked = CliRunner().invoke(
        app, ["verify", "staging", "--name", "tiny", "--registry", registry.address, "--strict", "--json"],
        env={"HPE_PUBLIC_KEY": public_key},
    )  # fmt: skip
    assert checked.exit_code == 0, checked.output
    outcomes = {check["name"]: check["outcome"] for check in json.loads(checked.stdout)["checks"]}
    assert {name for name, outcome in outcomes.items() if outcome == "not_asked"} == MATCHES
    assert set(outcomes.values()) == {"passed", "not_asked"}
    again = registry.recheck("tiny", channel="staging", public_key=public_key)
    assert {check.name: check.outcome for check in again.checks} == outcomes
    matched = registry.recheck("tiny", version, public_key=public_key, dataset=config.dataset.source)
    assert {check.outcome for check in matched.checks} == {"passed"}
    assert (matched.version, matched.failed) == (version, ())
    private = SigningKey(pem)
    matched_with_the_data_set(s3_bucket, manifest, Path(config.dataset.source), folder / "other-data", private)

    other = base64.b64encode(SigningKey(key_pem()).public_bytes).decode()
    with pytest.raises(DigestError, match="signed with another key"):
        registry.verify("tiny", version, public_key=other)
    with pytest.raises(ConfigError, match="public_key is not an Ed25519"):
        registry.verify("tiny", version, public_key="AAAA")
    for chosen in ({}, {"version": version, "channel": "staging"}):
        with pytest.raises(ConfigError, match="Which version"):
            registry.manifest("tiny", **chosen)
        with pytest.raises(ConfigError, match="Which version"):
            registry.recheck("tiny", **chosen)
    with pytest.raises(AccessError, match="has no version"):
        registry.manifest("tiny", "0" * 16)
    with pytest.raises(BadInputError, match="served nothing before"):
        registry.rollback("tiny", "staging")
    assert registry.promote("tiny", version, "production").channel == "production"

    blob = f"models/{manifest.file('encodings').blob}"
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key=blob, Body=b"damaged")
    with pytest.raises(DigestError, match="damaged or missing"):
        registry.verify("tiny", version)
