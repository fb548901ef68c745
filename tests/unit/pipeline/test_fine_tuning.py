from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.config.fine_tuning import fine_tuning_stages
from hpe_tasks.config.loading import load_config
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import AccessError, BadInputError, ConfigError, DigestError, HpeError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.fine_tuning import StartingPoint, starting_point
from hpe_tasks.pipeline.published_origins import published_origins
from hpe_tasks.pipeline.runs import open_run
from hpe_tasks.records.training_curves import read_curves
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.named_versions import find_version
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.workspace import Scratch
from support.played_s3 import client, moto_client
from support.published_weights import LOCATION, SMALL, publish_weights, small_weights, version_of_weights
from support.training_factory import metadata

__all__ = ["client", "moto_client"]

SMALL_MODEL = {"model.input_width": 64, "model.input_height": 64, "model.width_multiplier": 0.125}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")


def start(client: Any, folder: Path, manifest: ModelManifest, **asked: Any) -> StartingPoint:
    return starting_point(
        manifest,
        ModelRegistry(client, LOCATION),
        asked,
        workspace=(folder / "workspace").as_uri(),
        cache=folder / "cache",
        s3=lambda: client,
    )


@pytest.mark.parametrize("named", ["pose", "pose@staging", "pose@{version}", "{version}"])
def test_a_version_is_found_by_any_of_its_names(client: Any, tmp_path: Path, weights: Path, named: str) -> None:
    manifest = publish_weights(client, tmp_path, weights)
    found = find_version(
        ModelRegistry(client, LOCATION), named.format(version=manifest.version), channel="staging"
    ).manifest
    assert found == manifest


@pytest.mark.parametrize(
    ("named", "error", "says"),
    [
        pytest.param("nobody", AccessError, "has no channel 'staging'", id="no such model"),
        pytest.param("pose@live", AccessError, "has no channel 'live'", id="no such channel"),
        pytest.param("pose@" + "0" * 16, AccessError, "has no version", id="not a version of it"),
        pytest.param("0" * 16, AccessError, "No model has the version.*models: pose", id="no such version"),
        pytest.param("Pose!", ConfigError, "is not a model name", id="no name"),
        pytest.param("", ConfigError, "is not a model name", id="nothing"),
    ],
)
def test_what_is_no_version_is_named(
    client: Any, tmp_path: Path, weights: Path, named: str, error: type[HpeError], says: str
) -> None:
    publish_weights(client, tmp_path, weights)
    with pytest.raises(error, match=says):
        find_version(ModelRegistry(client, LOCATION), named, channel="staging")


def test_a_version_that_two_models_have_is_asked_for_by_model(client: Any, tmp_path: Path, weights: Path) -> None:
    manifest, files = version_of_weights(tmp_path, weights)
    registry = ModelRegistry(client, LOCATION)
    for name in ("pose", "other"):
        registry.store(manifest.model_copy(update={"name": name}), files)
    with pytest.raises(BadInputError, match=f"other, pose all have the version {manifest.version}"):
        find_version(registry, manifest.version, channel="staging")


def test_network_and_checkpoint_are_those_of_the_version(client: Any, tmp_path: Path, weights: Path) -> None:
    """And the settings are careful ones, but for those that were asked for."""
    manifest = publish_weights(client, tmp_path, weights)
    found = start(client, tmp_path, manifest, epochs=3)
    assert (found.name, found.version) == ("pose", manifest.version)
    assert found.checkpoint.read_bytes() == weights.read_bytes()
    head, settings = found.stages
    assert (settings.architecture, settings.codec, settings.skeleton) == ("pose_mobilenet", "heatmap", "coco17")
    assert (settings.input_width, settings.input_height) == (64, 64)
    # Of the checkpoint's own training what belongs to the network, and not how fast it learnt.
    assert (settings.width_multiplier, settings.sigma) == (0.125, 1.0)
    assert (settings.epochs, settings.learning_rate, settings.freeze_backbone) == (3, 3e-4, False)
    assert head == settings.model_copy(
        update={"freeze_backbone": True, "learning_rate": 1e-3, "early_stop": None,
                "ema_decay": None, "epochs": 3}
    )  # fmt: skip
    load_checkpoint(build_model(settings.model_config_for("unused")), Path(str(settings.initial_weights)))
    # What was fetched once is there: the registry is not asked for it again.
    again = start(ModelRegistryGone(), tmp_path, manifest)
    assert again.checkpoint == found.checkpoint


class ModelRegistryGone:
    """A client that nothing may be asked of."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_damaged_checkpoint_is_not_trained_from(client: Any, tmp_path: Path, weights: Path) -> None:
    manifest = publish_weights(client, tmp_path, weights)
    key = f"{LOCATION.key}/{manifest.file('checkpoint').blob}"
    client.put_object(Bucket="models", Key=key, Body=b"other weights")
    with pytest.raises(DigestError, match="corrupt"):
        start(client, tmp_path, manifest)


class TestOfOlderVersions:
    """Nothing was published beside them."""

    def test_the_checkpoint_is_taken_from_the_run(self, client: Any, tmp_path: Path, weights: Path) -> None:
        given = tmp_path / "given" / "weights.safetensors"
        given.parent.mkdir()
        shutil.copy(weights, given)
        config = load_config("sample", overrides={**SMALL_MODEL, "model.checkpoint": str(given)})
        workspace = (tmp_path / "workspace").as_uri()
        run = open_run(config, workspace=workspace, cache=tmp_path / "cache", name="run-1", s3=lambda: client)
        steps.fetch_checkpoint(run)
        given.unlink()
        manifest, _ = version_of_weights(tmp_path, weights, beside=False, source=str(given))
        assert sha256_file(start(client, tmp_path, manifest).checkpoint) == sha256_file(weights)

    def test_or_from_where_the_run_had_it(self, client: Any, tmp_path: Path, weights: Path) -> None:
        manifest, _ = version_of_weights(tmp_path, weights, beside=False, source=str(weights))
        assert start(client, tmp_path, manifest).checkpoint == weights

    def test_or_it_is_said_where_it_was_looked_for(self, client: Any, tmp_path: Path, weights: Path) -> None:
        other = tmp_path / "other.safetensors"
        other.write_bytes(b"other")
        manifest, _ = version_of_weights(tmp_path, weights, beside=False, source=str(other))
        with pytest.raises(AccessError) as caught:
            start(client, tmp_path, manifest)
        for said in (sha256_file(weights), "the run run-1 in file://", "where it came from: another file lies there"):
            assert said in str(caught.value)


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        pytest.param({"architecture": "onnx"}, "came from an ONNX file", id="own file"),
        pytest.param({"architecture": "of_another_version"}, "came from an ONNX file", id="unknown network"),
        pytest.param({"skeleton": "custom"}, "finds joints of its own", id="own joints"),
        pytest.param({"channel_order": "bgr"}, "its channel_order", id="blue first"),
        pytest.param({"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}, "its mean, std", id="other normalization"),
    ],
)
def test_a_network_that_a_training_would_make_another_is_refused(
    client: Any, tmp_path: Path, weights: Path, serving: dict[str, Any], says: str
) -> None:
    manifest, _ = version_of_weights(tmp_path, weights)
    changed = manifest.model_copy(update={"serving": manifest.serving.model_copy(update=serving)})
    with pytest.raises(BadInputError, match=says):
        start(client, tmp_path, changed)


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        pytest.param("sample", ".safetensors", id="the sample"),
        pytest.param("https://host/pose_resnet_50.PTH.tar", ".pth.tar", id="two endings"),
        pytest.param("s3://bucket/weights.pth", ".pth", id="torch"),
        pytest.param("/data/weights.tar.gz", ".tar.gz", id="archive"),
    ],
)
def test_a_published_checkpoint_ends_as_its_kind_of_file(
    client: Any, tmp_path: Path, weights: Path, source: str, ends: str
) -> None:
    manifest = publish_weights(client, tmp_path, weights, source=source)
    assert start(client, tmp_path, manifest).checkpoint.name == sha256_file(weights) + ends


@pytest.mark.parametrize(
    ("change", "warns"),
    [
        pytest.param({"largest": 10}, "more than the 10 that are published", id="too large"),
        pytest.param({"gone": True}, "published without its checkpoint", id="gone"),
    ],
)
def test_a_version_can_be_published_without_a_checkpoint(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    warns: str,
) -> None:
    given = shutil.copy(weights, tmp_path / "given.safetensors")
    config = load_config("sample", overrides={**SMALL_MODEL, "model.checkpoint": str(given)})
    run = open_run(config, workspace=(tmp_path / "workspace").as_uri(), cache=tmp_path / "cache", name="r",
                   s3=lambda: None)  # type: ignore[arg-type,return-value]  # fmt: skip
    fetched = steps.fetch_checkpoint(run)
    scratch = Scratch(tmp_path / "scratch", "file:///kept")
    scratch.path.mkdir()
    found = published_origins(run.workspace, fetched, config.model, scratch)
    assert found.keys() == {"checkpoint", "fp32"}
    (path,) = scratch.path.iterdir()
    assert (path, [output.name for output in onnx.load(path).graph.output]) == (found["fp32"][1], ["heatmaps"])
    of_file = config.model.model_copy(update={"architecture": "onnx"})
    assert published_origins(run.workspace, fetched, of_file, scratch) == {"fp32": found["checkpoint"]}
    monkeypatch.setattr("hpe_tasks.pipeline.published_origins.LARGEST_BYTES", change.get("largest", 10**9))
    if change.get("gone"):
        run.workspace.local(fetched.file).unlink()
    assert published_origins(run.workspace, fetched, config.model, scratch) == {}
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(warns in text for text in told)


def test_the_command_trains_on_from_a_version_in_one_line(
    client: Any, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish_weights(client, tmp_path, weights)
    make_sample(tmp_path / "data", SampleSpec(train=4, calibration=1, val=2, width=200, height=150, seed=2))
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr("hpe_tasks.storage.s3.make_client", lambda: client)
    out = tmp_path / "tuned.safetensors"
    command = ["train", "--from", "pose", "--registry", str(LOCATION), "--dataset", str(tmp_path / "data")]
    done = CliRunner().invoke(app, [*command, "--out", str(out), "--set", "epochs=1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "tuned.curves" / "curves.html").read_text()
    assert "Stage 2 of 2" in page
    assert "AP on the validation split" in page
    assert f"From pose {manifest.version}" in done.output
    load_checkpoint(build_model(SMALL), out)
    [head, whole] = read_curves(tmp_path / "tuned.curves" / "curves.jsonl")
    assert head.settings["initial_weights"] == f"{sha256_file(weights)}.safetensors"
    assert (head.settings["freeze_backbone"], whole.settings["epochs"]) == (True, 1)
    assert metadata(out)["training"] == whole.settings


@pytest.mark.parametrize(
    ("asked", "frozen", "early_stop"),
    [
        pytest.param({}, [True, False], [None, 6], id="nothing asked for"),
        pytest.param({"freeze_backbone": True}, [True], [6], id="the head only"),
        pytest.param({"freeze_backbone": False}, [False], [6], id="all layers from the beginning"),
        pytest.param({"val_split": None}, [True, False], [None, None], id="nothing to judge by"),
        pytest.param({"early_stop": 2, "learning_rate": 1e-4}, [True, False], [None, 2], id="a setting"),
    ],
)
def test_the_head_learns_first(asked: dict[str, Any], frozen: list[bool], early_stop: list[int | None]) -> None:
    stages = fine_tuning_stages({"initial_weights": "w"}, asked)
    assert [stage.freeze_backbone for stage in stages] == frozen
    assert [stage.early_stop for stage in stages] == early_stop
    assert stages[-1].learning_rate == asked.get("learning_rate", 3e-4)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="epochen"):
        fine_tuning_stages({"initial_weights": "w"}, {"epochen": 3})


def test_a_schedule_is_no_fine_tuning(client: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with a version or follows a schedule"):
        CliRunner().invoke(
            app,
            ["train", "--from", "pose", "--schedule", "sample", "--out", str(tmp_path / "x.safetensors")],
            catch_exceptions=False,
        )
