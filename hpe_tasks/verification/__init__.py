"""A published version verified from its registry alone: nothing is asked of the run or its workspace.

What is **computed again**: the version from the content; each figure of the three measurements from their tables, the
differences and intervals of the comparison from the same tables, and every check of the gate from all of these and the
manifest. What is **checked by digest or signature**: every file, the manifest, the channel's pointer. What is **held
against each other**: predictions and tables, the provenance and the rest of the manifest. With the **data set** at
hand, whose digest the manifest names, the tables themselves are made again from the stored predictions, and AP50, AP75
and the recalls. What is **not** checked: latency, kernels, placement and proof, which the gate takes as they are
recorded.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.registry.channels import ChannelPointer, ChannelState, read_channel
from hpe_tasks.registry.layout import MANIFEST_LIMIT_BYTES, SIGNATURE_LIMIT_BYTES, RegistryLayout
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import get_bytes
from hpe_tasks.verification.findings import VerificationCheck, VerifiedVersion, carried_out
from hpe_tasks.verification.judged import comparison_found, gate_found
from hpe_tasks.verification.made import asked_found, provenance_found
from hpe_tasks.verification.matched import MeasuredTruth, match_checks, no_truth, open_truth
from hpe_tasks.verification.measured import PublishedEvidence, measurement_checks
from hpe_tasks.verification.stored import (
    file_checks,
    manifest_found,
    pointer_checks,
    read_manifest,
    signature_found,
    version_found,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["VerifiedVersion", "verify_version"]

_Truth = Callable[[ModelManifest, Path], MeasuredTruth]
"""Opens the annotations of a version, with a folder for what is fetched."""


def verify_version(
    client: S3Client,
    registry: S3Location,
    name: str,
    *,
    version: str | None = None,
    channel: str | None = None,
    public_keys: tuple[bytes, ...] = (),
    dataset: str | None = None,
    cache: Path | None = None,
) -> VerifiedVersion:
    """Verify a version, or the one that a channel serves; give one of the two.

    Args:
        client: Needs s3:GetObject alone.
        registry: Bucket and prefix.
        name: Of the model.
        version: 16 hexadecimal digits.
        channel: In place of a version.
        public_keys: Manifest and pointer must be signed with one of them; without, signatures are not looked at.
        dataset: Where the data set is, as `dataset.source` of a run: what was found is matched with it again.
        cache: Folder of this machine for what is fetched of it; by default one that is removed afterwards.

    Returns:
        Every check, with its outcome.

    Raises:
        AccessError: There is no such version or channel.
        DatasetError: The data set is another than that of the version, or cannot be used.
        DigestError: The channel's pointer is none.
        TransientError: The registry cannot be reached.
    """
    layout = RegistryLayout(registry)
    pointed = None if channel is None else _pointed(client, layout, name, channel)
    version = version if pointed is None else pointed[1].version
    assert version is not None
    stored = get_bytes(client, layout.manifest(name, version), "reading the manifest", limit_bytes=MANIFEST_LIMIT_BYTES)
    if stored is None:
        raise AccessError(
            f"Model {name!r} has no version {version!r} in {registry}.", hint=f"See `hpe channel versions {name}`."
        )
    found = get_bytes(
        client, layout.signature(name, version), "reading the signature", limit_bytes=SIGNATURE_LIMIT_BYTES
    )
    signature = None if found is None else found.data
    sha256 = hashlib.sha256(stored.data).hexdigest()

    def truth(manifest: ModelManifest, folder: Path) -> MeasuredTruth:
        if dataset is None:
            return no_truth(manifest)
        return open_truth(manifest, dataset, cache or folder / "cache", lambda: client)

    def checks() -> Iterator[VerificationCheck]:
        if pointed is not None:
            yield from pointer_checks(*pointed, str(registry), sha256, public_keys)
        yield carried_out(
            "signature", "Manifest: signed", "signature", lambda: signature_found(stored.data, signature, public_keys)
        )
        yield from _content_checks(client, registry, stored.data, name, version, truth)

    return VerifiedVersion(
        registry=str(registry),
        name=name,
        version=version,
        channel=channel,
        manifest_sha256=sha256,
        checks=tuple(checks()),
    )


def _pointed(client: S3Client, layout: RegistryLayout, name: str, channel: str) -> tuple[ChannelState, ChannelPointer]:
    state = read_channel(client, layout.pointer(name, channel))
    pointer = state.pointer
    if pointer is None:
        raise AccessError(
            f"Model {name!r} has no channel {channel!r} in {layout.root}.",
            hint="Give 16 hexadecimal digits for a version, or see `hpe channel versions`.",
        )
    if (pointer.name, pointer.channel) != (name, channel):
        raise DigestError(
            f"The pointer of channel {channel!r} of {name!r} in {layout.root} is one of channel {pointer.channel!r} of "
            f"{pointer.name!r}.",
            hint="It was put there by hand: promote a version anew.",
        )
    return state, pointer


def _content_checks(
    client: S3Client, registry: S3Location, data: bytes, name: str, version: str, truth: _Truth
) -> Iterator[VerificationCheck]:
    """The manifest, and everything that it names."""
    read: list[ModelManifest] = []

    def manifest_read() -> str:
        read.append(read_manifest(data))
        return manifest_found(read[0], data)

    yield carried_out("manifest", "Manifest: bytes", "comparison", manifest_read)
    if not read:
        return
    manifest = read[0]
    yield carried_out("version", "Version", "computation", lambda: version_found(manifest, data, name, version))
    with tempfile.TemporaryDirectory(prefix="hpe-verify-") as folder:
        whole: dict[str, Path] = {}
        for file, check in file_checks(client, registry, manifest, Path(folder)):
            if check.outcome == "passed":
                whole[file.role] = Path(folder) / file.role
            yield check
        evidence = PublishedEvidence(whole)
        yield from measurement_checks(manifest, evidence)
        yield from match_checks(manifest, evidence, lambda: truth(manifest, Path(folder)))
        yield carried_out("comparison", "Comparison", "computation", lambda: comparison_found(manifest, evidence))
    yield carried_out("gate", "Gate", "computation", lambda: gate_found(manifest))
    yield carried_out("provenance", "Provenance", "comparison", lambda: provenance_found(manifest))
    yield carried_out("configuration", "Configuration", "comparison", lambda: asked_found(manifest))
