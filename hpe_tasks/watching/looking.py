"""A look at one channel: what it serves, what a run would make now, and which triggers that fires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import BadInputError
from hpe_tasks.records.watch import DriftReport, Trigger, WatchReport
from hpe_tasks.registry.checkpoints import CheckpointStore
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.workspace import Workspace
from hpe_tasks.watching.claims import channel_folder, find_claim
from hpe_tasks.watching.drift import ServedSince, drift_reason, look_for_drift
from hpe_tasks.watching.inputs import made_of_now
from hpe_tasks.watching.log_lines import read_lines
from hpe_tasks.watching.settings import WatchSettings
from hpe_tasks.watching.triggers import Differences, differences

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.channels import ChannelPointer


def look(
    config: RunConfig,
    *,
    workspace: Workspace,
    cache: Path,
    s3: Callable[[], S3Client],
    settings: WatchSettings | None = None,
    logs: Callable[[], Any] | None = None,
    now: datetime | None = None,
) -> WatchReport:
    """Evaluate the triggers for the channel that a run of this configuration would publish to.

    Nothing is started. What is remembered in the workspace is only what makes the next look cheaper, and the golden
    period's histograms.

    Args:
        config: The run.
        workspace: Remembers the above, and who has started runs.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client.
        settings: Where the function's log is, and which period was good; by default there is no look at drift.
        logs: Makes the client of CloudWatch Logs; by default from the usual AWS variables and files.
        now: The moment that counts as now.

    Raises:
        HpeError: Checkpoint, data set, registry or log are not there, denied or out of reach.
    """
    settings, now, asked = settings or WatchSettings(), now or datetime.now(UTC), config
    destination = config.destination
    registry = ModelRegistry(s3(), S3Location.parse(destination.registry))
    pointer = _pointer(registry, destination.name, destination.channel)
    served = None
    if pointer is not None:
        served = registry.stored(destination.name, pointer.version, sha256=pointer.manifest_sha256).manifest
        config = _from_served_checkpoint(config, served, s3())
    made_of = made_of_now(config, workspace, cache, s3)
    first = Trigger(kind="first", reason=f"channel {destination.channel} of {destination.name} serves nothing yet")
    found, drift = Differences(triggers=(first,)), None
    if served is not None and pointer is not None:
        found = differences(served, made_of)
        drift = _drift(config, pointer, settings, workspace, now, s3=s3, logs=logs)
    drifted = () if drift is None else drift.drifted
    new_file = any(trigger.kind == "checkpoint" for trigger in found.triggers)
    report = WatchReport(
        name=destination.name,
        channel=destination.channel,
        registry=destination.registry,
        looked_at=now,
        version=None if pointer is None else pointer.version,
        manifest_sha256=None if pointer is None else pointer.manifest_sha256,
        made_of=made_of,
        triggers=(
            *found.triggers,
            *(Trigger(kind="drift", reason=drift_reason(one, drift)) for one in drifted if drift is not None),
        ),
        not_compared=found.not_compared,
        drift=drift,
        checkpoint_sha256=made_of.checkpoint_sha256 if new_file and settings.trust else None,
        model={} if config is asked else config.model.model_dump(mode="json"),
    )
    return report.model_copy(update={"claimed": find_claim(workspace, report) if report.triggers else None})


def _from_served_checkpoint(config: RunConfig, served: ModelManifest, client: S3Client) -> RunConfig:
    """The run as it goes on from what is served: with its checkpoint, where a retraining has registered that.

    The run's own settings name what the retraining began from: a run with them would go back behind it.
    """
    asked = {} if served.build is None else served.build.build_definition.external_parameters.get("model", {})
    sha256 = served.provenance.checkpoint_sha256
    store = CheckpointStore(client, S3Location.parse(config.destination.registry))
    registered = str(store.address(sha256))
    if asked.get("checkpoint") != registered or config.model.checkpoint == registered:
        return config
    try:
        model = ModelConfig.model_validate({**asked, "checkpoint_sha256": sha256})
    except ValidationError as error:
        raise BadInputError(
            f"Version {served.version} was made from a checkpoint of another version of this project: "
            f"{error.errors()[0]['msg']}.",
            hint=f"Set model.checkpoint={registered} and the settings of its network.",
        ) from error
    return config.model_copy(update={"model": model})


def _pointer(registry: ModelRegistry, name: str, channel: str) -> ChannelPointer | None:
    if channel not in registry.channels(name):
        return None
    return registry.show(name, channel)


def _drift(
    config: RunConfig,
    pointer: ChannelPointer,
    settings: WatchSettings,
    workspace: Workspace,
    now: datetime,
    *,
    s3: Callable[[], S3Client],
    logs: Callable[[], Any] | None,
) -> DriftReport | None:
    if settings.telemetry is None:
        return None
    destination = config.destination
    served = ServedSince(
        channel_folder(destination.registry, destination.name, destination.channel),
        destination.name,
        pointer.version,
        pointer.moved_at,
    )

    address = settings.telemetry

    def read(since: datetime | None, until: datetime | None) -> Iterator[dict[str, Any] | None]:
        return read_lines(address, since=since, until=until, s3=s3, logs=logs)

    return look_for_drift(served, settings, read, workspace, now)
