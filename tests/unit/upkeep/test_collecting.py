from __future__ import annotations

import copy
import itertools
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import AccessError, HpeError
from hpe_tasks.pipeline.runs import UNFINISHED
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage import claims
from hpe_tasks.storage.claims import claim, collecting
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Scratch, Workspace
from hpe_tasks.upkeep.collecting import collect
from support.model_runs import make_model, model_run, open_model_run, tell
from support.workspaces import age

LATER = datetime.now(UTC) + timedelta(days=40)


@pytest.fixture(autouse=True)
def quick_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_POLL_S", 0.01)


def names(workspace: Workspace, below: str = "") -> set[str]:
    return {file.name for file in workspace.files(below)}


def test_what_only_old_runs_point_to_goes(workspace: Workspace) -> None:
    old, shared = model_run(workspace, "old", seed=1), model_run(workspace, "old too", seed=2)
    age(workspace, days=40)
    new = model_run(workspace, "new", seed=2)
    would_go = collect(workspace, 30)
    assert names(workspace, f"store/make_model/{old.key(make_model)}"), "nothing is deleted unless it is asked for"
    gone = collect(workspace, 30, delete=True)
    assert gone.model_copy(update={"deleted": False}) == would_go
    assert (gone.runs, gone.recent_runs, gone.kept_results) == (3, 1, 1)
    assert [one.name for one in gone.dropped if one.kind == "result"] == [f"store/make_model/{old.key(make_model)}"]
    assert not names(workspace, f"store/make_model/{old.key(make_model)}")
    for run in (new, shared):
        assert workspace.local(run.result(make_model).html).read_text() == "weights of 2"
    # An old run still tells how it went.
    again = open_model_run(workspace, "old", seed=1)
    assert workspace.local(again.result(tell).html).read_text() == "A page about weights of 1."
    assert f"{old.prefix}/make_model/model.onnx" not in names(workspace)
    assert not collect(workspace, 30, delete=True).dropped
    # And runs again.
    assert workspace.local(model_run(workspace, "old", seed=1).result(make_model).html).read_text() == "weights of 1"


def test_old_runs_go_where_that_is_asked_for_but_the_last(workspace: Workspace) -> None:
    for name in ("first", "last"):
        run = model_run(workspace, name, seed=len(name))
    workspace.write("latest.json", json.dumps({"run": run.name}).encode())
    gone = collect(workspace, 30, delete=True, drop_runs=True, now=LATER)
    assert {one.name for one in gone.dropped if one.kind == "old run"} == {"runs/first-12345678"}
    assert workspace.folders("runs") == (run.name,)
    assert workspace.local(run.result(make_model).html).read_text() == "weights of 4"


def test_what_is_new_or_in_use_stays_with_what_it_names(workspace: Workspace) -> None:
    """A step that tries a recipe names files of the steps that it ran, whose results only it points to at first."""

    def inner(scratch: Scratch) -> RunReport:
        file = scratch.path / "table.npz"
        file.write_text("table")
        return RunReport(html=scratch.artifact(file))

    table, _ = workspace.once("evaluate", "inner", RunReport, inner)
    workspace.once("try_rung", "outer", RunReport, lambda _: table)
    workspace.once("evaluate", "other", RunReport, inner)
    age(workspace, days=40)
    claim(workspace, "store/try_rung/outer")
    gone = collect(workspace, 1, delete=True)
    assert [one.name for one in gone.dropped if one.kind == "result"] == ["store/evaluate/other"]
    assert workspace.local(table.html).read_text() == "table"


def test_leftovers_of_killed_processes_go_once_they_are_old(workspace: Workspace, tmp_path: Path) -> None:
    run = model_run(workspace, "r")
    half = f"{run.prefix}/make_model/.result.json.0123456789ab"
    workspace.write(half, b"{")
    workspace.write(f"watching/pose-staging-01234567/.claim.json.{'0' * 32}", b"{")
    workspace.write("watching/pose-staging-01234567/claim.json", b"{}")
    workspace.write("collecting/killed.json", b"{}")
    workspace.write("clock/killed.json", b"{}")
    with collecting(workspace):
        assert not collect(workspace, 30, delete=True).dropped
    assert half in names(workspace)
    gone = collect(workspace, 100, delete=True, now=LATER)
    assert {one.kind for one in gone.dropped} == {"leftover"}
    assert names(workspace) == {name for name in names(workspace) if name.startswith(("runs/r", "store/"))} - {half} | {
        "watching/pose-staging-01234567/claim.json"
    }
    assert workspace.local(run.result(make_model).html).read_text() == "weights of 1"


def test_a_training_that_nobody_went_on_with_goes(workspace: Workspace) -> None:
    for name in ("given up", "goes on"):
        run = model_run(workspace, name, seed=len(name))
        workspace.write(f"{run.prefix}/{UNFINISHED}/{'0' * 64}/state.safetensors", name.encode())
    age(workspace, days=40)
    # Its epochs take long, and nothing else of the run is written meanwhile.
    workspace.write(f"{run.prefix}/{UNFINISHED}/{'0' * 64}/state.safetensors", b"one epoch more")
    gone = collect(workspace, 30, delete=True)
    dropped = [one for one in gone.dropped if one.kind == "unfinished training"]
    assert [(one.name, one.files, one.size_bytes) for one in dropped] == [
        (f"runs/given up-12345678/{UNFINISHED}", 1, 8)
    ]
    assert {name for name in names(workspace) if UNFINISHED in name} == {
        f"{run.prefix}/{UNFINISHED}/{'0' * 64}/state.safetensors"
    }
    assert workspace.local(run.result(make_model).html).read_text() == "weights of 7"


@pytest.mark.parametrize("workspace", ["s3"], indirect=True)
def test_on_s3_attempts_and_uploads_that_were_killed_go(workspace: S3Workspace) -> None:
    run = model_run(workspace, "r")
    folder = f"store/make_model/{run.key(make_model)}"
    workspace.write(f"{folder}/0123456789ab/model.onnx", b"of an attempt that was killed")
    workspace.write("store/make_model/no-record/0123456789ab/model.onnx", b"of another")
    bucket, key = workspace.location.bucket, (workspace.location / folder).key
    workspace.client.create_multipart_upload(Bucket=bucket, Key=f"{key}/large")
    # moto says of every upload that it began in 2010.
    assert {one.kind for one in collect(workspace, 100, delete=True).dropped} == {"unfinished upload"}
    assert len(names(workspace, "store")) == 4
    age(workspace, days=3)
    gone = collect(workspace, 100, delete=True, now=datetime.now(UTC) + timedelta(days=3))
    assert {one.kind for one in gone.dropped} == {"leftover", "result"}
    assert len(names(workspace, "store")) == 2
    assert workspace.local(run.result(make_model).html).read_text() == "weights of 1"
    assert not workspace.client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_an_old_run_that_is_gone_on_with_is_a_recent_one(workspace: Workspace) -> None:
    """Its step has begun, and has not written anything yet."""
    model_run(workspace, "old")
    age(workspace, days=40)
    gone = []

    class Beside(type(workspace)):  # type: ignore[misc]
        def local(self, artifact: Artifact) -> Path:
            gone.append(collect(workspace, 1, delete=True))
            found: Path = super().local(artifact)
            return found

    run = open_model_run(workspace, "old")
    workspace.__class__ = Beside
    tell(run)
    assert [one.kept_results for one in gone] == [1]
    assert not [one for one in gone[0].dropped if one.kind == "result"]


def test_a_step_waits_for_a_collector_and_no_longer_than_it_lives(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def use() -> None:
        claim(workspace, "runs/r")
        done.set()

    with collecting(workspace):
        step = threading.Thread(target=use)
        step.start()
        assert not done.wait(0.2)
    assert done.wait(30)
    step.join()
    assert "Waiting for `hpe workspace gc`" in caplog.text

    # One that was killed has not taken its announcement back.
    monkeypatch.setattr(claims, "_PROMISED_S", 0.1)
    monkeypatch.setattr(workspace, "remove", lambda _: None)
    with collecting(workspace):
        pass
    began = time.monotonic()
    claim(workspace, "runs/r")
    assert time.monotonic() - began < 20


TOUCHES = ("read", "write", "files", "remove", "discard", "attach", "folders", "_keep", "_drop", "_intact")


def paused(workspace: Workspace, call: int, meanwhile: Callable[[], None]) -> tuple[Any, Callable[[], bool]]:
    """The workspace with something else that happens before one of the touches of what is stored.

    Returns:
        The workspace, and whether there were so many touches.
    """
    touches = itertools.count()
    reached = False

    def instead(name: str) -> Callable[..., Any]:
        touch = getattr(type(workspace), name)

        def touching(self: Workspace, *arguments: Any) -> Any:
            nonlocal reached
            if next(touches) == call:
                reached = True
                meanwhile()
            found = touch(self, *arguments)
            return list(found) if name == "files" else found

        return touching

    slow = copy.copy(workspace)
    slow.__class__ = type("Paused", (type(workspace),), {name: instead(name) for name in TOUCHES})
    return slow, lambda: reached


def old_runs(workspace: Workspace) -> None:
    """Results that are used no more but for those that tests use again."""
    for name, seed in (("gone on with", 1), ("forgotten", 2), ("useless", 3)):
        model_run(workspace, name, seed)
    age(workspace, days=40)


def go_on(workspace: Workspace) -> None:
    """A later step of an old run."""
    page = tell(open_model_run(workspace, "gone on with", seed=1))
    assert workspace.local(page.html).read_text() == "A page about weights of 1."


def begin(workspace: Workspace) -> None:
    """A new run, which finds what an old one stored."""
    page = model_run(workspace, "new", seed=2).result(tell)
    assert workspace.local(page.html).read_text() == "A page about weights of 2."


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "before_claim"), [pytest.param(go_on, 1, id="old run"), pytest.param(begin, 0, id="new run")]
)
def test_a_collection_at_any_moment_of_a_step_leaves_it_what_it_uses(
    workspace: Workspace, steps: Callable[[Workspace], None], before_claim: int
) -> None:
    """Of an old run from the moment on that its step has begun; before, it is a run as any other."""
    dropped = []
    for call in range(before_claim + 1, 100):
        old_runs(workspace)
        slow, reached = paused(workspace, call, lambda: dropped.append(collect(workspace, 30, delete=True).dropped))
        steps(slow)
        if not reached():
            break
        workspace.local(open_model_run(workspace, "new" if steps is begin else "gone on with").result(make_model).html)
    assert call > 5
    assert len(dropped) == call - before_claim - 1
    assert all(any(one.kind == "result" for one in told) for told in dropped), "it does its work"


@pytest.mark.long
def test_a_step_at_any_moment_of_a_collection_keeps_or_gets_what_it_uses(workspace: Workspace) -> None:
    """It waits; what goes meanwhile because it came too late is made again, or it says which step makes it."""
    for call in range(100):
        old_runs(workspace)
        told: list[str] = []
        threads = [
            threading.Thread(target=one, args=(workspace, told), daemon=True) for one in (_told_go_on, _told_begin)
        ]

        def meanwhile(threads: list[threading.Thread] = threads) -> None:
            for thread in threads:
                thread.start()
            threads[0].join(0.05)  # Or both wait for the collector.

        slow, reached = paused(workspace, call, meanwhile)
        collect(slow, 30, delete=True)
        if not reached():
            break
        for thread in threads:
            thread.join(60)
        assert sorted(told) in ([], ["gone on with: gone"]), f"before touch {call}"
        for name, seed in (("new", 2), ("gone on with", 1))[: 2 - len(told)]:
            kept = open_model_run(workspace, name, seed).result(make_model).html
            assert workspace.local(kept).read_text() == f"weights of {seed}"
    assert call > 15


def _told_go_on(workspace: Workspace, told: list[str]) -> None:
    try:
        go_on(workspace)
    except AccessError:
        told.append("gone on with: gone")


def _told_begin(workspace: Workspace, told: list[str]) -> None:
    try:
        begin(workspace)
    except HpeError as error:
        told.append(f"new: {error}")
