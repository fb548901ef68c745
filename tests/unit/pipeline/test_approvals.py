"""Who has to say so before a channel moves, and what counts as having said so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import NotApprovedError
from hpe_tasks.pipeline.approvals import Approval, approval_required, approver_of, keep_approval
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.release import PublishedModel
from support.no_s3 import no_s3

PUBLISHED = PublishedModel(
    registry="s3://b/r",
    name="pose",
    version="0123456789abcdef",
    manifest=Artifact(uri="s3://b/r/m", sha256="a" * 64, size_bytes=1),
    created=True,
)
APPROVAL = Approval(
    name="pose",
    version="0123456789abcdef",
    manifest_sha256="a" * 64,
    channel="staging",
    approved=True,
    by="Ada",
    at=datetime(2026, 1, 2, tzinfo=UTC),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose channel is `staging`."""
    return open_run(load_config("sample"), workspace=(tmp_path / "w").as_uri(), cache=tmp_path, name="r", s3=no_s3)


@pytest.mark.parametrize(
    ("listed", "required"),
    [
        pytest.param("", False, id="off by default"),
        pytest.param("production", False, id="another channel"),
        pytest.param("production, staging", True, id="listed"),
        pytest.param("production staging", True, id="listed with a space"),
        pytest.param("*", True, id="all"),
        pytest.param("stag", False, id="a part of a name"),
    ],
)
def test_the_variable_names_the_channels(
    run: Run, monkeypatch: pytest.MonkeyPatch, listed: str, required: bool
) -> None:
    monkeypatch.setenv("HPE_APPROVE_CHANNELS", listed)
    assert approval_required(run.config) is required
    if not required:
        assert approver_of(run, PUBLISHED) is None


def test_who_has_approved_is_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_APPROVE_CHANNELS", "staging")
    keep_approval(run, APPROVAL)
    assert approver_of(run, PUBLISHED) == "Ada"


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        pytest.param(None, "Nobody has approved", id="not asked"),
        pytest.param({"approved": False}, "Ada has refused", id="refused"),
        pytest.param({"version": "f" * 16}, "Nobody has approved", id="of another version"),
        pytest.param({"manifest_sha256": "b" * 64}, "Nobody has approved", id="of another manifest"),
        pytest.param({"channel": "production"}, "Nobody has approved", id="of another channel"),
    ],
)
def test_without_a_word_for_this_version_nothing_moves(
    run: Run, monkeypatch: pytest.MonkeyPatch, kept: dict[str, object] | None, says: str
) -> None:
    monkeypatch.setenv("HPE_APPROVE_CHANNELS", "staging")
    if kept is not None:
        keep_approval(run, APPROVAL.model_copy(update=kept))
    with pytest.raises(NotApprovedError, match=says) as refused:
        approver_of(run, PUBLISHED)
    assert "hpe channel promote" in str(refused.value)


def test_an_approval_that_cannot_be_read_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_APPROVE_CHANNELS", "staging")
    run.workspace.write(f"{run.prefix}/approval.json", b'{"by": "Ada"}')
    with pytest.raises(NotApprovedError, match="Nobody has approved"):
        approver_of(run, PUBLISHED)
