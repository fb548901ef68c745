"""Which triggers fire when something has changed, over a real registry, and that one reason starts one run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpe_tasks.config.run import RunConfig
from hpe_tasks.records.watch import MadeOf, WatchReport
from hpe_tasks.registry.checkpoints import CheckpointStore
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.workspace import Workspace
from hpe_tasks.watching import inputs
from hpe_tasks.watching.claims import claim_start, find_claim
from hpe_tasks.watching.inputs import made_of_now
from hpe_tasks.watching.looking import look
from hpe_tasks.watching.settings import WatchSettings
from support.played_s3 import client, moto_client
from support.request_logs import IMAGES, answered, as_files, spread
from support.watched_versions import REGISTRY, serve, version_made_of, watched_config

__all__ = ["client", "moto_client"]

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Watched:
    """A channel that serves a version, and the run that it came from."""

    def __init__(self, folder: Path, client: Any) -> None:
        self.folder, self.client = folder, client
        self.config = watched_config(folder)
        self.workspace = LocalWorkspace(folder / "workspace")
        self.registry = ModelRegistry(client, S3Location.parse(REGISTRY))

    def made(self, config: RunConfig | None = None) -> MadeOf:
        return made_of_now(config or self.config, self.workspace, self.folder / "cache", lambda: self.client)

    def serve(self, **changes: Any) -> str:
        """Publish what would be made now, but for the changes, and serve it."""
        made = self.made().model_copy(update=changes)
        return serve(self.registry, version_made_of(self.config, made, self.folder / "files"))

    def look(self, config: RunConfig | None = None, workspace: Workspace | None = None, **options: Any) -> WatchReport:
        return look(
            config or self.config,
            workspace=workspace or self.workspace,
            cache=self.folder / "cache",
            s3=lambda: self.client,
            **{"now": NOW, **options},
        )


@pytest.fixture
def watched(tmp_path: Path, client: Any) -> Watched:
    return Watched(tmp_path, client)


def test_the_same_fingerprint_does_nothing(watched: Watched) -> None:
    version = watched.serve()
    report = watched.look()
    assert (report.version, report.triggers, report.not_compared, report.due) == (version, (), (), False)


def test_a_channel_that_serves_nothing_is_a_reason(watched: Watched) -> None:
    report = watched.look()
    assert report.due
    assert report.note == "first: channel staging of pose serves nothing yet"


def replace_checkpoint(watched: Watched) -> RunConfig:
    (watched.folder / "a.safetensors").write_bytes(b"other weights")
    return watched.config


def add_an_image(watched: Watched) -> RunConfig:
    (image, *_) = (watched.folder / "data" / "images" / "calibration").iterdir()
    image.with_name("one more.jpg").write_bytes(image.read_bytes())
    return watched.config


def move_everything(watched: Watched) -> RunConfig:
    """The same content elsewhere is no reason."""
    moved = watched.folder / "moved"
    moved.mkdir()
    (watched.folder / "data").rename(moved / "data")
    (watched.folder / "a.safetensors").rename(moved / "b.safetensors")
    return watched_config(moved, **{"model.checkpoint": str(moved / "b.safetensors"), "model.trained_on": "people"})


def settings(**changes: Any) -> Callable[[Watched], RunConfig]:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return lambda watched: watched_config(watched.folder, **dotted)


@pytest.mark.parametrize(
    ("change", "fired"),
    [
        pytest.param(replace_checkpoint, [("checkpoint", "new checkpoint: SHA-256 ")], id="checkpoint"),
        pytest.param(add_an_image, [("data", "new data to calibrate and measure on: digest ")], id="data"),
        pytest.param(move_everything, [], id="moved"),
        pytest.param(settings(recipe__param_bw=4), [("recipe", "recipe.param_bw 8 → 4")], id="recipe"),
        pytest.param(
            settings(recipe__scheme="min_max", seed=3),
            [("recipe", "recipe.scheme tf_enhanced → min_max"), ("recipe", "seed 0 → 3")],
            id="two of a recipe",
        ),
        pytest.param(settings(gate__min_ap=0.123), [("terms", "gate.min_ap ")], id="gate"),
        pytest.param(
            settings(destination__processors="x86_64"),
            [("recipe", "destination.processors any → x86_64")],
            id="processors",
        ),
        pytest.param(
            settings(evaluation__shards=7, training__epochs=5), [], id="shards, and how checkpoints are trained"
        ),
        pytest.param(
            settings(destination__smoke_test=True, destination__require_signature=True),
            [],
            id="where and how it is published",
        ),
    ],
)
def test_a_difference_fires_its_trigger(
    watched: Watched, change: Callable[[Watched], RunConfig], fired: list[tuple[str, str]]
) -> None:
    watched.serve()
    report = watched.look(change(watched))
    assert len(report.triggers) == len(fired)
    for trigger, (kind, reason) in zip(report.triggers, fired, strict=True):
        assert trigger.kind == kind
        assert trigger.reason.startswith(reason)


def test_a_new_tool_fires_by_its_versions(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = watched.made().tools
    assert tools.keys() == set(inputs.TOOLS)
    watched.serve(tools=tools | {"onnxruntime": "1.30.9", "aimet_torch": "2.41.0"} | {"numpy": "1.0"})
    monkeypatch.setattr(inputs, "installed_tools", lambda: {k: v for k, v in tools.items() if k != "torch"})
    report = watched.look()
    assert {trigger.reason for trigger in report.triggers} == {
        f"onnxruntime 1.30.9 → {tools['onnxruntime']}",
        f"aimet-torch 2.41.0 → {tools['aimet-torch']}",
    }
    assert report.not_compared == ("torch: it is not installed here, and no lock names it",)


def test_what_is_not_installed_is_looked_up_in_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("aimet_torch==2.43.0 \\\n    --hash=sha256:00\nonnx==1.99 ; python_version < '4'\n")
    monkeypatch.setenv("HPE_LOCK", str(lock))
    monkeypatch.setattr(inputs, "TOOLS", ("aimet-torch", "not-there", "onnxruntime"))

    def nothing_but_onnxruntime(name: str) -> str:
        if name != "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.31.0"

    monkeypatch.setattr(importlib.metadata, "version", nothing_but_onnxruntime)
    assert inputs.installed_tools() == {"aimet-torch": "2.43.0", "onnxruntime": "1.31.0"}


def test_a_version_that_does_not_say_what_it_was_asked_is_compared_as_far_as_it_goes(watched: Watched) -> None:
    made = watched.made().model_copy(update={"checkpoint_sha256": "0" * 64})
    manifest, files = version_made_of(watched.config, made, watched.folder / "files")
    version = serve(watched.registry, (manifest.model_copy(update={"build": None}), files))
    report = watched.look()
    assert [trigger.kind for trigger in report.triggers] == ["checkpoint"]
    assert report.not_compared == (f"settings: version {version} does not say what its run was asked",)


def test_a_setting_that_came_later_had_its_default_then(watched: Watched) -> None:
    manifest, files = version_made_of(watched.config, watched.made(), watched.folder / "files")
    asked = manifest.build.build_definition
    older = json.loads(json.dumps(asked.external_parameters))
    del older["gate"]["max_looks"], older["recipe"]["joint_ranges"]
    definition = asked.model_copy(update={"external_parameters": older})
    build = manifest.build.model_copy(update={"build_definition": definition})
    serve(watched.registry, (manifest.model_copy(update={"build": build}), files))
    assert watched.look().triggers == ()
    (one,) = watched.look(watched_config(watched.folder, **{"recipe.joint_ranges": True})).triggers
    assert one.reason == "recipe.joint_ranges false → true"


def test_a_run_goes_on_from_the_checkpoint_that_a_retraining_has_registered(watched: Watched) -> None:
    """Whatever fires, the run that is started does not go back to what the retraining began from."""
    weights = b"trained further"
    sha256 = hashlib.sha256(weights).hexdigest()
    place = CheckpointStore(watched.client, S3Location.parse(REGISTRY)).address(sha256)
    watched.client.put_object(Bucket=place.bucket, Key=place.key, Body=weights)
    retrained = watched_config(watched.folder, **{"model.checkpoint": str(place), "model.checkpoint_sha256": sha256})
    made = watched.made(retrained)
    serve(watched.registry, version_made_of(retrained, made, watched.folder / "files"))
    assert watched.look().triggers == ()
    report = watched.look(watched_config(watched.folder, **{"recipe.param_bw": 4}))
    assert [trigger.reason for trigger in report.triggers] == ["recipe.param_bw 8 → 4"]
    assert (report.model["checkpoint"], report.model["checkpoint_sha256"]) == (str(place), sha256)
    assert watched.look(retrained).model == {}


def test_a_run_is_given_the_new_digest_only_where_new_files_are_trusted(watched: Watched) -> None:
    watched.serve(checkpoint_sha256="0" * 64)
    assert watched.look().checkpoint_sha256 is None
    trusting = watched.look(settings=WatchSettings(trust=True))
    assert trusting.checkpoint_sha256 == watched.made().checkpoint_sha256


def test_requests_that_have_drifted_are_a_reason(watched: Watched, tmp_path: Path) -> None:
    version = watched.serve()
    promoted = watched.registry.show("pose", "staging").moved_at
    now, said = promoted + timedelta(days=20), {"model": "pose", "model_version": version}
    lines = answered(tmp_path / "usual")
    good, later = spread(lines, promoted, 1, **said), now - timedelta(days=2)

    def judged(folder: str, since: list[str]) -> WatchReport:
        settings = WatchSettings(telemetry=as_files(tmp_path / folder, [*good, *since]))
        return watched.look(settings=settings, now=now)

    same = judged("same", spread(lines, later, 1, **said))
    assert same.drift is not None
    assert (same.drift.not_judged, same.drift.images, same.triggers, same.due) == ("", IMAGES, (), False)
    dark = judged("dark", spread(answered(tmp_path / "dark", 0.5), later, 1, **said))
    assert {trigger.kind for trigger in dark.triggers} == {"drift"}
    assert dark.due
    (brightness,) = (trigger for trigger in dark.triggers if trigger.reason.startswith("brightness of "))
    assert f"{IMAGES} images since" in brightness.reason
    assert dark.note.startswith("drift: ")
    assert brightness.reason in dark.note
    # Nobody looks where no log is named.
    assert watched.look().drift is None


def test_two_watchers_at_once_start_one_run(watched: Watched) -> None:
    reports = [watched.look() for _ in range(2)]
    assert reports[0].key == reports[1].key
    got, barrier = list[Any](), threading.Barrier(6)

    def claim(name: str) -> None:
        barrier.wait()
        got.append(claim_start(watched.workspace, reports[int(name) % 2], name, NOW))

    threads = [threading.Thread(target=claim, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [one for one in got if one is not None]
    again = watched.look()
    assert not again.due
    assert again.claimed == winner == find_claim(watched.workspace, again)
    # Killed between the claim and the start, the same caller goes on; nobody else does.
    assert claim_start(watched.workspace, again, winner.by, NOW) == winner
    assert claim_start(watched.workspace, again, "somebody", NOW) is None


def test_what_was_started_for_is_a_reason_again_once_another_version_is_served(watched: Watched) -> None:
    watched.serve(checkpoint_sha256="0" * 64)
    first = watched.look()
    assert claim_start(watched.workspace, first, "ada", NOW) is not None
    assert not watched.look().due
    # Another reason in the meantime is one of its own.
    other = watched.look(watched_config(watched.folder, seed=9))
    assert other.due
    assert other.run_id != first.run_id


def test_a_claim_that_cannot_be_read_counts(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    report = watched.look()
    claim_start(watched.workspace, report, "ada", NOW)
    (file,) = [file.name for file in watched.workspace.files("watching") if "/claims/" in file.name]
    watched.workspace.write(file, b"{")
    assert not watched.look().due
    assert "counts as claimed" in caplog.text


def test_the_command_says_what_fired_and_says_a_claimed_reason_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpe_tasks.cli.app import app

    monkeypatch.setenv("HPE_WORKSPACE", str(watched.folder / "workspace"))
    monkeypatch.setenv("HPE_CACHE", str(watched.folder / "cache"))
    monkeypatch.setattr("hpe_tasks.storage.s3.make_client", lambda: watched.client)
    version = watched.serve(tools=watched.made().tools | {"onnxruntime": "1.30.9"})
    own = {"model.checkpoint": watched.config.model.checkpoint, "dataset.source": watched.config.dataset.source}
    asked = {**own, "destination.registry": REGISTRY, "destination.name": "pose"}
    chosen = [word for key, value in asked.items() for word in ("--set", f"{key}={value}")]
    hpe = partial(CliRunner().invoke, app)
    shown = hpe(["watch", "--preset", "sample", *chosen])
    assert shown.exit_code == 1, shown.output
    assert f"pose, channel staging, serves version {version}." in shown.output
    assert "Quantize again: 1 trigger fired" in shown.output
    assert "onnxruntime 1.30.9 → " in shown.output
    told = hpe(["watch", "--preset", "sample", *chosen, "--json", "--claim"])
    assert told.exit_code == 1
    assert WatchReport.model_validate_json(told.stdout).triggers[0].kind == "tools"
    after = hpe(["watch", "--preset", "sample", *chosen])
    assert after.exit_code == 0
    assert "Nothing to do: a run was started for this on " in after.output
