from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpe_tasks.errors import AccessError, ConfigError, DigestError, StorageError
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage.files import link_file, path_of, write_atomically
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.opening import open_workspace
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Scratch, Workspace
from support.workspaces import new_workspace, objects, spoil

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture(params=["file", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    with new_workspace(request.param, tmp_path, monkeypatch) as made:
        yield made


def writer(text: str, calls: list[str] | None = None) -> Callable[[Scratch], RunReport]:
    def make(scratch: Scratch) -> RunReport:
        if calls is not None:
            calls.append(text)
        file = scratch.path / "deep" / "report.html"
        file.parent.mkdir()
        file.write_text(text)
        return RunReport(html=scratch.artifact(file))

    return make


def test_what_was_made_once_is_reused(workspace: Workspace) -> None:
    calls: list[str] = []
    first, reused_first = workspace.once("report", "k", RunReport, writer("one", calls))
    again, reused_again = workspace.once("report", "k", RunReport, writer("two", calls))
    other, _ = workspace.once("report", "other", RunReport, writer("three", calls))
    assert (reused_first, reused_again, calls) == (False, True, ["one", "three"])
    assert first == again
    assert workspace.local(first.html).read_text() == "one"
    assert workspace.local(other.html).read_text() == "three"


def test_of_many_who_create_a_file_one_wins(workspace: Workspace) -> None:
    barrier, won = threading.Barrier(8), list[int]()

    def create(number: int) -> None:
        barrier.wait()
        if workspace.create("watching/a/claim.json", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert workspace.read("watching/a/claim.json") == b"%d" % won[0]
    assert not workspace.create("watching/a/claim.json", b"later")
    assert workspace.read("watching/a/claim.json") == b"%d" % won[0]
    assert [file.name for file in workspace.files("watching")] == ["watching/a/claim.json"]


def test_a_file_is_created_where_the_disk_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    workspace = LocalWorkspace(tmp_path)
    assert workspace.create("claim.json", b"first")
    assert not workspace.create("claim.json", b"second")
    assert workspace.read("claim.json") == b"first"


def test_a_failed_attempt_leaves_nothing(workspace: Workspace) -> None:
    def fail(scratch: Scratch) -> RunReport:
        (scratch.path / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        workspace.once("report", "k", RunReport, fail)
    assert workspace.read("store/report/k/result.json") is None
    record, reused = workspace.once("report", "k", RunReport, writer("whole"))
    assert not reused
    assert workspace.local(record.html).read_text() == "whole"


def test_of_two_makers_the_first_counts_for_both(workspace: Workspace) -> None:
    record, _ = workspace.once("report", "k", RunReport, lambda s: _while_making_another(workspace, s))
    assert workspace.local(record.html).read_text() == "theirs"


def _while_making_another(workspace: Workspace, scratch: Scratch) -> RunReport:
    workspace.once("report", "k", RunReport, writer("theirs"))
    return writer("mine")(scratch)


def test_many_threads_agree_on_one_result(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    barrier = threading.Barrier(8)
    digests: list[str] = []

    def work(i: int) -> None:
        barrier.wait()
        digests.append(workspace.once("report", "k", RunReport, writer(str(i)))[0].html.sha256)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 8
    assert len(set(digests)) == 1


def test_renew_replaces(workspace: Workspace) -> None:
    workspace.renew("runs/r/report", writer("old"))
    record = workspace.renew("runs/r/report", writer("new"))
    assert workspace.local(record.html).read_text() == "new"
    assert record.html.uri == f"{workspace.uri}/runs/r/report/deep/report.html"


def test_small_files(workspace: Workspace) -> None:
    assert workspace.read("runs/r/x.json") is None
    workspace.write("runs/r/x.json", b"1")
    workspace.write("runs/r/x.json", b"2")
    assert workspace.read("runs/r/x.json") == b"2"
    workspace.remove("runs/r/x.json")
    workspace.remove("runs/r/x.json")
    assert workspace.read("runs/r/x.json") is None


def test_a_changed_file_is_not_taken_for_good(workspace: Workspace, tmp_path: Path) -> None:
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    changed = Artifact(uri=record.html.uri, sha256="0" * 64, size_bytes=3)
    with pytest.raises(DigestError, match="was changed"):
        workspace.local(changed)
    assert not list((tmp_path / "cache" / "files").rglob("*.html")), "an unverified download must not stay"


def test_a_broken_file_is_named_once_and_made_again(workspace: Workspace) -> None:
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    other, _ = workspace.once("report", "intact", RunReport, writer("two"))
    spoil(workspace, record.html)
    with pytest.raises(
        DigestError, match=r"deep/report\.html was changed.* result of report, which stands in"
    ) as caught:
        workspace.local(record.html)
    assert "report and what follows it" in caught.value.hint
    again, reused = workspace.once("report", "k", RunReport, writer("one"))
    assert not reused
    assert workspace.local(again.html).read_text() == "one"
    assert workspace.once("report", "intact", RunReport, writer("three")) == (other, True)


def test_a_result_that_was_made_again_meanwhile_stays(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two steps that find an input broken, the later must not take away what was made again for the earlier."""
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    spoil(workspace, record.html)
    look = workspace._local

    def look_and_let_others(artifact: Artifact) -> Path:
        try:
            return look(artifact)
        finally:
            monkeypatch.setattr(workspace, "_local", look)
            workspace.forget("report", "k")
            workspace.once("report", "k", RunReport, writer("one"))

    monkeypatch.setattr(workspace, "_local", look_and_let_others)
    if isinstance(workspace, S3Workspace):
        with pytest.raises(DigestError, match="was changed"):  # This record names the files of the first attempt.
            workspace.local(record.html)
    else:
        assert workspace.local(record.html).read_text() == "one"
    assert workspace.once("report", "k", RunReport, writer("three"))[1]


@pytest.mark.parametrize("workspace", ["s3"], indirect=True)
def test_a_checksum_that_the_server_keeps_tells_as_well(workspace: S3Workspace) -> None:
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    objects()[S3Location.parse(record.html.uri).key].value = b"#ne"
    with pytest.raises(DigestError, match=r"was changed.* result of report"):
        workspace.local(record.html)
    assert workspace.read("store/report/k/result.json") is None


def test_a_lost_file_is_made_again(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    if isinstance(workspace, S3Workspace):
        where = S3Location.parse(record.html.uri)
        workspace.client.delete_object(Bucket=where.bucket, Key=where.key)
    else:
        path_of(record.html.uri).unlink()
    again, reused = workspace.once("report", "k", RunReport, writer("two"))
    assert not reused
    assert workspace.local(again.html).read_text() == "two"
    assert "is made again" in caplog.text


def test_an_unreadable_record_is_made_again(workspace: Workspace) -> None:
    workspace.once("report", "k", RunReport, writer("one"))
    workspace.write("store/report/k/result.json", b"{}")
    again, reused = workspace.once("report", "k", RunReport, writer("two"))
    assert not reused
    assert workspace.local(again.html).read_text() == "two"


def test_a_missing_artifact_is_named(workspace: Workspace) -> None:
    gone = Artifact(uri=f"{workspace.uri}/store/x/model.onnx", sha256="0" * 64, size_bytes=1)
    with pytest.raises(AccessError, match=r"model\.onnx"):
        workspace.local(gone)


def test_attached_files_lie_beside_the_record(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    workspace.once("report", "k", RunReport, writer("one"))
    for _ in range(2):
        workspace.attach("runs/r/report", "store/report/k", b"{}")
    assert (tmp_path / "runs/r/report/deep/report.html").read_text() == "one"
    # A file that is linked again is renamed onto itself, which leaves both names.
    shown = {p.relative_to(tmp_path / "runs/r/report").as_posix() for p in (tmp_path / "runs/r").rglob("*")}
    assert shown - {"."} == {"deep", "deep/report.html", "result.json"}


def test_a_link_takes_the_place_of_another_file(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    for file in ("old", "new", "new"):
        link_file(tmp_path / file, tmp_path / "shown")
    assert (tmp_path / "shown").samefile(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new", "shown"}


def test_full_disk_while_a_step_writes(workspace: Workspace, tmp_path: Path) -> None:
    def fill(scratch: Scratch) -> RunReport:
        (scratch.path / "half").write_bytes(b"x" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="disk is full"):
        workspace.once("report", "k", RunReport, fill)
    assert not list(tmp_path.rglob("half"))


def test_full_disk_while_writing_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "record.json"
    target.write_bytes(b"old")

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"record\.json"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    write_atomically(tmp_path / "record.json", b"1")
    (tmp_path / "plain").touch()
    assert (tmp_path / "record.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def rights_in(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("umask", "file", "folder"),
    [
        pytest.param(0o022, 0o640, 0o750, id="usual"),
        pytest.param(0o002, 0o660, 0o770, id="group writes"),
        pytest.param(0o077, 0o600, 0o700, id="owner alone"),
        pytest.param(0o000, 0o660, 0o770, id="everybody"),
    ],
)
def test_a_workspace_is_closed_to_others(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    root = tmp_path / "new" / "workspace"
    before = os.umask(umask)
    try:
        workspace = LocalWorkspace(root)
        workspace.write("runs/r/run.json", b"{}")
        record, _ = workspace.once("report", "k", RunReport, writer("one"))
        workspace.attach("runs/r/report", "store/report/k", record.model_dump_json().encode())
        workspace.renew("runs/r/tell", writer("two"))
        plain = tmp_path / "plain"
        plain.mkdir()
    finally:
        os.umask(before)
    rights = rights_in(root)
    files = {name: mode for name, mode in rights.items() if (root / name).is_file()}
    assert {"runs/r/run.json", "runs/r/report/deep/report.html", "runs/r/tell/deep/report.html"} <= files.keys()
    assert set(files.values()) == {file}
    assert {mode for name, mode in rights.items() if name not in files} == {folder}
    # What is not the workspace's own stays as the umask says.
    assert stat.S_IMODE(root.parent.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_that_was_there_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    LocalWorkspace(tmp_path).write("run.json", b"{}")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert not stat.S_IMODE((tmp_path / "run.json").stat().st_mode) & 0o007


def test_local_copies_of_a_workspace_in_s3_are_closed_to_others(workspace: Workspace, tmp_path: Path) -> None:
    record, _ = workspace.once("report", "k", RunReport, writer("one"))
    copy = workspace.local(record.html)
    assert not copy.stat().st_mode & 0o007
    assert not copy.parent.stat().st_mode & 0o007


def test_abandoned_scratch_is_swept(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    left = tmp_path / "scratch" / "hpe-killed"
    left.mkdir(parents=True)
    recent = tmp_path / "scratch" / "hpe-working"
    recent.mkdir()
    os.utime(left, (0, 0))
    workspace.once("report", "k", RunReport, writer("one"))
    assert not left.exists()
    assert recent.exists()


def test_addresses(tmp_path: Path) -> None:
    def no_client() -> S3Client:
        raise AssertionError("a local workspace needs no client")

    opened = open_workspace((tmp_path / "a b").as_uri(), s3=no_client, cache=tmp_path)
    opened.write("x", b"1")
    assert (tmp_path / "a b" / "x").read_bytes() == b"1"
    with pytest.raises(ConfigError, match="is not a workspace"):
        open_workspace("ftp://x", s3=no_client, cache=tmp_path)


@pytest.mark.parametrize("workspace", ["s3"], indirect=True)
def test_a_refused_upload_is_told_as_one(workspace: S3Workspace, tmp_path: Path) -> None:
    absent = S3Workspace(S3Location("absent-bucket", "x"), workspace.client, tmp_path / "cache")
    with pytest.raises(AccessError, match="'absent-bucket' does not exist"):
        absent.renew("runs/r/report", writer("one"))


def test_folders(workspace: Workspace) -> None:
    assert workspace.folders("runs") == ()
    for name in ("runs/b/x.json", "runs/a/x.json", "runs/a/deep/x.json", "latest.json"):
        workspace.write(name, b"1")
    assert workspace.folders("runs") == ("a", "b")
