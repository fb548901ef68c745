"""One reason starts one run: whoever writes its claim first starts it, and says so to all who look later."""

from __future__ import annotations

import logging
from datetime import datetime

from pydantic import ValidationError

from hpe_tasks.records.watch import StartClaim, WatchReport
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import Workspace

log = logging.getLogger(__name__)


def channel_folder(registry: str, name: str, channel: str) -> str:
    """Folder of the workspace for what is remembered of a channel."""
    return f"watching/{name}-{channel}-{digest_of([registry, name, channel])[:8]}"


def find_claim(workspace: Workspace, report: WatchReport) -> StartClaim | None:
    """Who has started a run for what this look has found; None where nobody has."""
    file = _file(report)
    data = workspace.read(file)
    if data is None:
        return None
    try:
        return StartClaim.model_validate_json(data)
    except ValidationError:
        # Rather one run too few than one a day: a person sees the line, and may delete the file.
        log.warning("%s in %s cannot be read; it counts as claimed", file, workspace.uri)
        return StartClaim(key=report.key, run_id=report.run_id, reasons=(), by="unknown", at=report.looked_at)


def claim_start(workspace: Workspace, report: WatchReport, by: str, at: datetime) -> StartClaim | None:
    """Take it upon oneself to start the run for what a look has found.

    Who asks again under the same name gets the same answer: a task that was killed between its claim and its start goes
    on. The run's name follows from the reason, so that starting it twice is noticed where it is started.

    Returns:
        The claim; None where somebody else has it.
    """
    claim = StartClaim(
        key=report.key, run_id=report.run_id, reasons=tuple(one.reason for one in report.triggers), by=by, at=at
    )
    if workspace.create(_file(report), claim.model_dump_json(indent=1).encode()):
        return claim
    first = find_claim(workspace, report)
    return first if first is not None and first.by == by else None


def _file(report: WatchReport) -> str:
    return f"{channel_folder(report.registry, report.name, report.channel)}/claims/{report.key}.json"
