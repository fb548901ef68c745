from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Workspace
from hpe_tasks.upkeep.checking import BrokenFile, check_workspace
from support.model_runs import make_model, model_run, open_model_run, tell
from support.workspaces import objects, spoil


def found(workspace: Workspace, *, repair: bool = False) -> set[tuple[str, ...]]:
    """What is broken: the last part of its name, the problem, the step and its runs."""
    told = check_workspace(workspace, repair=repair).broken
    return {(one.name.rpartition("/")[2], one.problem, one.step, *one.runs) for one in told}


def test_all_that_is_stored_is_verified(workspace: Workspace) -> None:
    model_run(workspace, "r")
    checked = check_workspace(workspace)
    assert checked.intact
    assert (checked.files, checked.size_bytes, checked.without_digest, checked.broken) == (2, 38, 0, ())


def test_what_is_broken_is_named_with_its_step_and_runs_and_made_again(workspace: Workspace) -> None:
    first, second = model_run(workspace, "first"), model_run(workspace, "second")
    model_run(workspace, "another", seed=2)
    spoil(workspace, first.result(make_model).html)
    spoil(workspace, second.result(tell).html)
    broken = {
        ("model.onnx", "changed", "make_model", first.name, second.name),
        ("page.html", "changed", "tell", second.name),
    }
    assert found(workspace) == broken
    assert found(workspace, repair=True) == broken
    assert found(workspace) == set()
    model_run(workspace, "second")
    model_run(workspace, "first")
    assert found(workspace) == set()
    again = open_model_run(workspace, "first")
    assert workspace.local(again.result(make_model).html).read_text() == "weights of 1"


def test_small_files_that_are_broken(workspace: Workspace) -> None:
    run = model_run(workspace, "r")
    other = model_run(workspace, "other", seed=2)
    stored = f"store/make_model/{run.key(make_model)}/result.json"
    for name in (stored, f"{other.prefix}/tell/result.json", f"{other.prefix}/run.json", "latest.json"):
        workspace.write(name, b"\0")
    workspace.write("trusted/0123.json", b"[]")
    checked = check_workspace(workspace, repair=True)
    assert {(one.name, one.step, one.runs, one.repaired) for one in checked.broken} == {
        (stored, "make_model", (run.name,), True),
        (f"{other.prefix}/tell/result.json", "tell", (other.name,), True),
        (f"{other.prefix}/run.json", "", (other.name,), True),
        ("latest.json", "", (), True),
        ("trusted/0123.json", "", (), False),
    }
    assert not checked.intact, "whom to trust is for a person to say"
    workspace.remove("trusted/0123.json")
    model_run(workspace, "other", seed=2)
    model_run(workspace, "r")
    assert check_workspace(workspace).broken == ()


def test_a_missing_file_and_what_no_digest_is_of(workspace: Workspace) -> None:
    run = model_run(workspace, "r")
    name = run.result(make_model).html.uri.removeprefix(f"{workspace.uri}/")
    workspace.write(f"{name.rpartition('/')[0]}/style.css", b"")
    workspace.remove(name)
    checked = check_workspace(workspace)
    assert checked.broken == (BrokenFile(name=name, problem="missing", step="make_model", runs=(run.name,)),)
    assert checked.without_digest == 1


def test_what_a_step_replaces_meanwhile_is_not_broken(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model_run(workspace, "r")
    look = workspace.digest

    def look_late(name: str) -> str | None:
        if name.endswith("model.onnx"):
            monkeypatch.setattr(workspace, "digest", look)
            workspace.discard(f"store/make_model/{run.key(make_model)}")
        return look(name)

    monkeypatch.setattr(workspace, "digest", look_late)
    assert check_workspace(workspace, repair=True).broken == ()


@pytest.mark.parametrize("workspace", ["s3"], indirect=True)
def test_a_checksum_of_the_server_that_does_not_hold(workspace: S3Workspace) -> None:
    run = model_run(workspace, "r")
    objects()[S3Location.parse(run.result(make_model).html.uri).key].value = b"#eights of 1"
    assert found(workspace) == {("model.onnx", "changed", "make_model", run.name)}


def test_records_of_another_version_count(workspace: Workspace, tmp_path: Path) -> None:
    """What a record holds besides files with digests is not looked at."""
    file = tmp_path / "old.onnx"
    file.write_text("old")
    uri = f"{workspace.uri}/store/gone_step/k/old.onnx"
    artifact = {"uri": uri, "sha256": sha256_file(file), "size_bytes": 3}
    workspace.write("store/gone_step/k/old.onnx", b"old")
    workspace.write("store/gone_step/k/result.json", json.dumps({"unknown": [{"model": artifact}]}).encode())
    assert check_workspace(workspace).files == 1
    workspace.write("store/gone_step/k/old.onnx", b"new")
    assert found(workspace) == {("old.onnx", "changed", "gone_step")}
