"""A person's word before a channel moves: asked for by channel, kept in the run, required by the step that moves it."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import NotApprovedError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.records.release import PublishedModel

_FILE = "approval.json"


class Approval(Frozen):
    """What a person has said of a version that a channel is to serve.

    Attributes:
        manifest_sha256: Of the version's manifest, as it was published when the person was asked.
        approved: False where the person said no.
        by: Name of the person, as where they were asked knows it.
    """

    name: str
    version: str
    manifest_sha256: str
    channel: str
    approved: bool
    by: str
    at: datetime


def approval_required(config: RunConfig) -> bool:
    """Whether the channel of a run moves only when a person has said so: HPE_APPROVE_CHANNELS names it, or `*`."""
    return bool({config.destination.channel, "*"} & Settings.from_environment().approve_channels)


def keep_approval(run: Run, approval: Approval) -> None:
    """Keep what was said in the run, in place of what was said before."""
    run.workspace.write(f"{run.prefix}/{_FILE}", approval.model_dump_json(indent=1).encode())


def kept_approval(run: Run) -> Approval | None:
    """What was last said in the run; None where nobody was asked, or has answered."""
    data = run.workspace.read(f"{run.prefix}/{_FILE}")
    if data is None:
        return None
    try:
        return Approval.model_validate_json(data)
    except ValidationError:
        return None  # of another version of this project: ask again


def approver_of(run: Run, published: PublishedModel) -> str | None:
    """Who has approved that the run's channel serves a version; None where nobody has to.

    Raises:
        NotApprovedError: Somebody has to, and has not, or has refused, or was asked about another version.
    """
    if not approval_required(run.config):
        return None
    approval, channel = kept_approval(run), run.config.destination.channel
    asked = (published.name, published.version, published.manifest.sha256, channel)
    said = approval and (approval.name, approval.version, approval.manifest_sha256, approval.channel)
    if approval is None or said != asked:
        told = f"Nobody has approved that {channel!r} serves version {published.version} of {published.name!r}."
    elif not approval.approved:
        told = f"{approval.by} has refused that {channel!r} serves version {published.version} of {published.name!r}."
    else:
        return approval.by
    raise NotApprovedError(
        told,
        hint="HPE_APPROVE_CHANNELS names the channel: answer the task `approve` of the run in Airflow, or move the "
        "channel yourself with `hpe channel promote`.",
    )
