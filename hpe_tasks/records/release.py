"""A version in the registry, its smoke test, and the channel that serves it."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Artifact, Record


class ServedBefore(Frozen):
    """What a channel served when a version was stored.

    Attributes:
        version: None for a channel that did not exist.
        pinned: By whom, when and why the channel was pinned to it; empty where it was not.
    """

    channel: str
    version: str | None
    pinned: str = ""


class PublishedModel(Record):
    """A version in the registry; no channel points to it yet.

    Attributes:
        before: What the channel served that is to be moved; None where no channel was named.
        created: False when the same content had been published before.
        signed_by: SHA-256 of the public key that the manifest's signature belongs to; None without a signature.
    """

    registry: str
    name: str
    version: str
    manifest: Artifact
    created: bool
    signed_by: str | None = None
    before: ServedBefore | None = None

    @property
    def kept_by_pin(self) -> str:
        """Why the channel stays with another version; empty where it may be moved to this one."""
        before = self.before
        if before is None or not before.pinned or before.version == self.version:
            return ""
        return (
            f"Channel {before.channel!r} of {self.name!r} is pinned to version {before.version} ({before.pinned}): it "
            f"stays as it is. Unpin it, and promote version {self.version}, if that is to be served."
        )


class SmokedImage(Frozen):
    """A golden image as the function saw it.

    Attributes:
        image: Role of the image in the manifest.
        people: People that it found.
        expected: People that were measured.
        min_oks: Similarity (OKS) of the least similar person in [0, 1]; None where none was clear enough to compare.
        duration_ms: Time that the function took, as it says.
    """

    image: str
    people: int
    expected: int
    min_oks: float | None
    duration_ms: float


class SmokeTest(Record):
    """What the built Lambda package made of a published version's golden images, in the emulator.

    Attributes:
        version: The version that was tested.
        manifest_sha256: Of its manifest's bytes.
        package_sha256: Of the .zip.
        zipped_bytes: Its size.
        unzipped_bytes: Size of its content, which Lambda limits to 250 MB.
        cold_start_ms: From the first request to its answer: the emulator starts the function then.
        python: Version of the interpreter that ran it.
        cpu_features: int8 features of the CPU that it ran on.
    """

    version: str
    manifest_sha256: str
    package_sha256: str
    zipped_bytes: int
    unzipped_bytes: int
    cold_start_ms: float
    python: str
    cpu_features: tuple[str, ...]
    images: tuple[SmokedImage, ...]


class PromotedModel(Record):
    """A channel that serves the run's version now.

    Attributes:
        previous_version: What the channel pointed to; None for a new channel.
    """

    registry: str
    name: str
    version: str
    channel: str
    previous_version: str | None
