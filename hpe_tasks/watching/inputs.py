"""What a run's model would be made of now: checkpoint and data by their content, settings, and installed tools.

Content decides, and not where it lies. To look often at large files, what an address offers (ETag, date and size; of
an S3 prefix its listing) is remembered with the digest of what was fetched from it: as long as it offers the same,
nothing is fetched again, on any worker. What else is offered is fetched, as the run that would follow fetches it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.addresses import address_identity, without_credentials
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.data.fetch.download import offered_version
from hpe_tasks.data.fetch.mirror import listing_digest
from hpe_tasks.data.fetch.sources import is_prefix
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.records.watch import MadeOf
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

TOOLS = ("aimet-torch", "aimet-onnx", "torch", "onnx", "onnxruntime")
"""Distributions whose versions decide the numbers in a file and how fast it runs: a new one is a reason to try."""

SEEN = "watching/seen"

_REMOTE = ("http://", "https://", "s3://")
_PATIENCE = HttpPatience(read_timeout_s=20.0, retries=1)

_BY_CONTENT = {
    *("model.checkpoint", "model.checkpoint_sha256"),
    *("dataset.source", "dataset.sha256", "dataset.image_archives", "dataset.images_by_url"),
    *("dataset.boxes", "dataset.valid_images"),
}
"""Settings that say where something lies whose content is compared."""

_OF_NO_EFFECT = {
    *("schema_version", "preset", "model.trained_on"),
    *("dataset.requests_per_second", "dataset.allow_private_addresses", "evaluation.shards"),
}
"""Settings that change nothing of a version but its description."""

_OF_OTHERS = ("training.", "destination.")
"""Sections that say how a checkpoint is trained, and where a version is published."""


def made_of_now(config: RunConfig, workspace: Workspace, cache: Path, s3: Callable[[], S3Client]) -> MadeOf:
    """What a run of this configuration would be made of on this machine.

    Args:
        config: The run.
        workspace: Remembers what addresses gave.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.

    Raises:
        HpeError: Checkpoint or data set are not there, denied, or not what the configuration promises.
    """
    dataset, boxes = _dataset(config, workspace, cache, s3)
    return MadeOf(
        checkpoint_sha256=_checkpoint(config, workspace, cache, s3),
        dataset_digest=dataset,
        boxes_sha256=boxes,
        settings=settings_of(without_credentials(config).model_dump(mode="json")),
        tools=installed_tools(),
    )


def settings_of(asked: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a configuration that decide what a model is, or whether it passes, as JSON by dotted key."""
    flat = dict(_flat(asked))
    kept = {key for key in flat if not key.startswith(_OF_OTHERS) or key == "destination.processors"}
    return {key: json.dumps(flat[key], sort_keys=True) for key in sorted(kept - _BY_CONTENT - _OF_NO_EFFECT)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def installed_tools() -> dict[str, str]:
    """Versions of the tools that are installed here; of others, those of the lock that stands beside the code."""
    locked = _locked()
    found = {}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in locked:
                found[name] = locked[name]
    return found


def _locked() -> dict[str, str]:
    """What the hashed lock pins: that of HPE_LOCK, or of the checkout; nothing where there is none."""
    given = os.environ.get("HPE_LOCK")
    lock = Path(given) if given else Path(__file__).parents[2] / "requirements.txt"
    if not lock.is_file():
        return {}
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned}


def _checkpoint(config: RunConfig, workspace: Workspace, cache: Path, s3: Callable[[], S3Client]) -> str:
    from hpe_tasks.data.fetch.digests import DigestCache
    from hpe_tasks.data.fetch.download import checkpoint_folder, fetch, local_path
    from hpe_tasks.models.checkpoint import sample_checkpoint

    model, allowed = config.model, config.dataset.allow_private_addresses
    if model.checkpoint == SAMPLE or not model.checkpoint.lower().startswith(_REMOTE):
        path = sample_checkpoint(model.architecture) if model.checkpoint == SAMPLE else local_path(model.checkpoint)
        digests = DigestCache(cache / "digests" / "watched.json")
        found = digests.sha256(path.resolve())
        digests.save()
        return found

    def fetched() -> dict[str, Any]:
        folder = checkpoint_folder(cache, model.checkpoint)
        file = fetch(model.checkpoint, folder, sha256=model.checkpoint_sha256, s3=s3, allow_private_addresses=allowed)
        return {"checkpoint": file.sha256}

    offers = partial(_offer_of_file, model.checkpoint, s3, allow_private_addresses=allowed)
    return str(_remembered(workspace, ["checkpoint", model.checkpoint_sha256], offers, fetched)["checkpoint"])


def _dataset(
    config: RunConfig, workspace: Workspace, cache: Path, s3: Callable[[], S3Client]
) -> tuple[str, str | None]:
    from hpe_tasks.data.fetch import fetch_dataset

    dataset, images = config.dataset, config.recipe.calibration_images

    def fetched() -> dict[str, Any]:
        _, found = fetch_dataset(dataset, cache, s3, calibration_images=images, seed=config.seed)
        return {"dataset": found.digest, "boxes": found.boxes_sha256}

    drawn = [images, config.seed] if dataset.images_by_url else None
    parts = [dataset.kind, dataset.splits, dataset.evaluation_split, dataset.images_by_url, dataset.sha256, drawn]
    known = _remembered(workspace, ["dataset", *parts], partial(_offers_of_dataset, dataset, s3), fetched)
    return str(known["dataset"]), known["boxes"]


def _offers_of_dataset(dataset: DatasetConfig, s3: Callable[[], S3Client]) -> list[Any] | None:
    """What each address of a data set offers; None where one of them does not say."""
    places = (dataset.source, *(dataset.image_archives or ()))
    files = [address for address in (dataset.boxes, dataset.valid_images) if address is not None]
    found: list[Any] = []
    for address in (*places, *files):
        if address in places and is_prefix(address):
            client = s3()
            listed = listing_digest(S3Location.parse(address), client)
            found.append([client.meta.endpoint_url, address_identity(address), listed])
            continue
        offered = _offer_of_file(address, s3, allow_private_addresses=dataset.allow_private_addresses)
        if offered is None:
            return None
        found.append(offered)
    return found


def _offer_of_file(address: str, s3: Callable[[], S3Client], *, allow_private_addresses: bool) -> list[Any] | None:
    """What an address offers; None for a file of this machine, and where the server does not say."""
    # Digests of what lies on this machine are remembered here, file by file.
    if not address.lower().startswith(_REMOTE):
        return None
    version = offered_version(address, s3=s3, patience=_PATIENCE, allow_private_addresses=allow_private_addresses)
    return [address_identity(address), asdict(version)] if version is not None and version.certain else None


def _remembered(
    workspace: Workspace,
    what: list[Any],
    offers: Callable[[], list[Any] | None],
    fetched: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What was fetched when the same was offered before; or what is fetched now, for the next time."""
    offered = offers()
    if offered is None:
        return fetched()
    name = f"{SEEN}/{digest_of([what, offered])}.json"
    known = workspace.read(name)
    if known is not None:
        try:
            return dict(json.loads(known))
        except (ValueError, TypeError):
            log.warning("%s in %s cannot be read and is written anew", name, workspace.uri)
    made = fetched()
    if offers() == offered:  # Otherwise what was fetched may be the one or the other.
        workspace.write(name, json.dumps(made).encode())
    return made
