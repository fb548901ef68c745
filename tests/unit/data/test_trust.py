"""Trust on first use, with a real workspace, and a server whose file changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from hpe_tasks.data.fetch.download import fetch
from hpe_tasks.data.fetch.trust import check_trusted
from hpe_tasks.errors import DigestError
from hpe_tasks.storage.local_workspace import LocalWorkspace
from support.faulty_server import Site, serve
from support.no_s3 import no_s3


@pytest.fixture
def workspace(tmp_path: Path) -> LocalWorkspace:
    return LocalWorkspace(tmp_path / "workspace")


def use(workspace: LocalWorkspace, source: str, found: str, pinned: str | None = None) -> None:
    check_trusted(source, found, pinned, option="model.checkpoint_sha256", read=workspace.read, write=workspace.write)


def get(site: Site, workspace: LocalWorkspace, tmp_path: Path, pinned: str | None = None) -> str:
    source = f"{site.address}/weights.pth"
    found = fetch(source, tmp_path / "cache", sha256=pinned, s3=no_s3, allow_private_addresses=True).sha256
    use(workspace, source, found, pinned)
    return found


def test_first_use_is_recorded_and_said(
    workspace: LocalWorkspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(b"weights") as site:
        found = get(site, workspace, tmp_path)
        assert [r.levelno for r in caplog.records if found in r.message] == [logging.WARNING]
        get(site, workspace, tmp_path)
        assert caplog.text.count("is used for the first time") == 1


def test_other_content_is_refused_until_it_is_accepted(workspace: LocalWorkspace, tmp_path: Path) -> None:
    with serve(b"weights") as site:
        first = get(site, workspace, tmp_path)
        site.content, site.etag = b"other weights", '"v2"'
        for _ in range(2):
            with pytest.raises(DigestError, match=rf"now has the SHA-256 [0-9a-f]{{64}}, but it was {first}") as caught:
                get(site, workspace, tmp_path)
        source = f"{site.address}/weights.pth"
        second = fetch(source, tmp_path / "x", sha256=None, s3=no_s3, allow_private_addresses=True).sha256
        assert second in caught.value.message
        assert "set model.checkpoint_sha256 to the new one to accept it" in caught.value.hint
        assert get(site, workspace, tmp_path, pinned=second) == second
        assert get(site, workspace, tmp_path) == second
        site.content, site.etag = b"weights", '"v3"'
        with pytest.raises(DigestError, match=f"now has the SHA-256 {first}, but it was {second}"):
            get(site, workspace, tmp_path)


def test_promised_digest_is_recorded_in_silence(workspace: LocalWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    use(workspace, "https://example.com/w.pth", "1" * 64, pinned="1" * 64)
    assert caplog.text == ""
    with pytest.raises(DigestError):
        use(workspace, "https://example.com/w.pth", "2" * 64)


@pytest.mark.parametrize("source", ["https://example.com/w.pth", "HTTP://example.com/w", "s3://bucket/w.pth"])
def test_remote_sources_are_enforced_each_for_itself(workspace: LocalWorkspace, source: str) -> None:
    use(workspace, source, "1" * 64)
    use(workspace, f"{source}2", "2" * 64)
    with pytest.raises(DigestError):
        use(workspace, source, "2" * 64)


@pytest.mark.parametrize("source", ["/home/me/w.pth", "file:///home/me/w.pth", "sample"])
def test_files_of_this_machine_may_change(workspace: LocalWorkspace, source: str) -> None:
    use(workspace, source, "1" * 64)
    use(workspace, source, "2" * 64)
    assert not workspace.root.exists()


def test_the_record_holds_no_secret(workspace: LocalWorkspace) -> None:
    use(workspace, "https://me:hunter2@example.com/w.pth?X-Amz-Signature=s3cr3t", "1" * 64)
    (record,) = (workspace.root / "trusted").iterdir()
    assert json.loads(record.read_text()) == {"address": "https://example.com/w.pth", "sha256": "1" * 64}


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b"nonsense"])
def test_damaged_record_is_not_taken_for_none(workspace: LocalWorkspace, damaged: bytes) -> None:
    use(workspace, "https://example.com/w.pth", "1" * 64)
    (record,) = (workspace.root / "trusted").iterdir()
    record.write_bytes(damaged)
    with pytest.raises(DigestError, match=rf"trusted/{record.name} .*cannot be read\. Delete it"):
        use(workspace, "https://example.com/w.pth", "1" * 64)
