"""The preflight: what a run will need, looked at in seconds and all at once, before anything long begins.

Nothing here is an input of another step: every step works without it, and finds out for itself what it cannot use. The
preflight finds it out earlier, and together with what other steps would find out later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.addresses import CREDENTIALS_ADVICE, credentials_text, settings_with_credentials
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError, HpeError, PreflightError, TransientError
from hpe_tasks.preflight.findings import Check, Finding
from hpe_tasks.records.preflight import Preflight, PreflightCheck
from hpe_tasks.storage.files import megabytes, path_of
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["preflight", "refuse_failed", "signature_required_by"]


def preflight(
    config: RunConfig,
    *,
    workspace: Workspace,
    cache: Path,
    s3: Callable[[], S3Client],
    signing_key: Callable[[], bytes | None],
    publishing: bool = True,
) -> Preflight:
    """Look at everything that a run of this configuration needs.

    A check that fails does not keep the others from being made: each is in the record, with what to do.

    Args:
        config: What the run is asked.
        workspace: Where it keeps its artifacts; written to and cleaned again.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.
        signing_key: Gives the private key for manifests in PEM; None without one.
        publishing: Look at what only publishing needs, too: the destination, the key, and what the smoke test needs.
    """
    looks = _Looks(config, workspace, cache, s3, signing_key, publishing)
    records: list[PreflightCheck] = []
    for check in looks.checks():
        record, finding = check.carry_out()
        records.append(record)
        looks.cache_bytes += finding.cache_bytes if finding else 0
    return Preflight(checks=tuple(records))


def refuse_failed(record: Preflight) -> None:
    """Raise where the run must not begin; the message lists everything that failed, and what to do about each.

    Raises:
        TransientError: Only the network failed: trying again may help.
        PreflightError: Something that was given cannot be used.
    """
    if not record.failed:
        return
    told = " ".join(f"{check.title}: {check.found} {check.advice}".rstrip() for check in record.failed)
    kind = TransientError if all(check.may_pass for check in record.failed) else PreflightError
    raise kind(f"{len(record.failed)} of {len(record.checks)} preflight checks failed. {told}")


def signature_required_by(config: RunConfig) -> str | None:
    """Why a manifest must be signed, for `open_signing_key`; None where it may go without."""
    return "destination.require_signature is on" if config.destination.require_signature else None


@dataclass
class _Looks:
    """The checks of one run, in their order; those at the end use what the earlier ones found.

    Attributes:
        checkpoint: The checkpoint's file, once it is known to fit.
        checkpoint_bytes: Its size, or what its server says of it; 0 while it is not known.
        cache_bytes: What the run will write into its cache.
    """

    config: RunConfig
    workspace: Workspace
    cache: Path
    s3: Callable[[], S3Client]
    signing_key: Callable[[], bytes | None]
    publishing: bool = True
    checkpoint: Path | None = None
    checkpoint_bytes: int = 0
    cache_bytes: int = 0

    def checks(self) -> Iterator[Check]:
        yield Check("configuration", "Configuration", self._configuration)
        if self.credentials:
            yield Check("credentials", "Credentials", self._credentials)
        yield Check("workspace", "Workspace", self._workspace)
        if self.publishing:
            yield Check("destination", "Destination", self._destination)
            yield Check("signing_key", "Signing key", self._signing_key)
            if self.config.destination.smoke_test:
                yield Check("smoke_test", "Smoke test", self._smoke_test)
        yield Check("checkpoint", "Checkpoint", self._checkpoint)
        yield Check("dataset", "Data set", self._dataset)
        yield from self._other_files()
        yield Check("disk", "Disk", self._disk)
        yield Check("memory", "Memory", self._memory)
        yield Check("processor", "Processor", self._processor)

    def _configuration(self) -> Finding:
        """Settings that are valid each by itself, but cannot lead to a published model."""
        config = self.config
        if config.recipe.aimet_config is not None:
            from hpe_tasks.quantization.aimet import aimet_config_file

            with aimet_config_file(config.recipe, "aimet_torch"):
                pass
        width, height = config.model.input_size
        found = config.recipe.search != "off"
        recipe = f"the ladder of recipes (search={config.recipe.search})" if found else config.recipe.name
        described = f"{config.model.architecture}, input {width}×{height}, {recipe}, preset {config.preset}"
        if config.recipe.activation_bw != 8 and config.gate.min_int8_mac_share > 0:
            return Finding(
                f"{described}; with {config.recipe.activation_bw}-bit activations the file runs in float, and the "
                "gate will refuse it",
                warning="To publish, set recipe.activation_bw=8; to only look at QuantSim, go on.",
            )
        from hpe_tasks.preflight.machine import clips_nowhere

        if config.destination.processors != "x86_64_vnni" and not clips_nowhere(config):
            return Finding(
                f"{described}; without recipe.saturation_free nothing may prove that the file computes the same on "
                f"{config.destination.processors} processors, and the gate will refuse it",
                warning="Set recipe.saturation_free=true, or destination.processors=x86_64_vnni.",
            )
        return Finding(described)

    @property
    def credentials(self) -> tuple[str, ...]:
        """Settings that hold an address with a credential."""
        return settings_with_credentials(self.config)

    def _credentials(self) -> Finding:
        return Finding(credentials_text(self.credentials), warning=CREDENTIALS_ADVICE)

    def _workspace(self) -> Finding:
        name = "preflight/probe"  # always the same: what a process leaves that is killed here goes with the next
        self.workspace.write(name, b"preflight")
        self.workspace.read(name)
        self.workspace.remove(name)
        return Finding(f"{self.workspace.uri} can be written")

    def _destination(self) -> Finding:
        from hpe_tasks.preflight.destination import check_registry

        return Finding(check_registry(self.s3(), S3Location.parse(self.config.destination.registry)))

    def _signing_key(self) -> Finding:
        from hpe_tasks.registry.signing import open_signing_key

        pem = self.signing_key()
        required = signature_required_by(self.config) or (self._channel_is_signed() if pem is None else None)
        key = open_signing_key(pem, required_because=required)
        if key is None:
            return Finding("none: the manifest will not be signed")
        return Finding(f"Ed25519, public key with the SHA-256 {key.public_sha256[:16]}…")

    def _channel_is_signed(self) -> str | None:
        """Why the channel cannot be moved without a key; None where it can, or cannot be read."""
        from hpe_tasks.registry.publishing import ModelRegistry

        destination = self.config.destination
        try:
            registry = ModelRegistry(self.s3(), S3Location.parse(destination.registry))
            signed = registry.is_signed(destination.name, destination.channel)
        except HpeError:
            return None  # The check of the destination says why.
        return f"channel {destination.channel!r} of {destination.name!r} is signed" if signed else None

    def _smoke_test(self) -> Finding:
        from hpe_tasks.contract.cpu import cpu_features
        from hpe_tasks.local.environment import lambda_python
        from hpe_tasks.serving.processors import fits_processor

        processors, features = self.config.destination.processors, cpu_features()
        if not fits_processor(processors, features):
            raise ConfigError(
                f"The function would not start here: destination.processors is {processors}, and this processor is "
                f"{', '.join(features)}.",
                hint="Run it on such a processor, or set destination.smoke_test=false or destination.processors=any.",
            )
        return Finding(f"Lambda's Python is {lambda_python()}")

    def _checkpoint(self) -> Finding:
        from hpe_tasks.config.addresses import shown_address
        from hpe_tasks.data.fetch.download import checkpoint_folder, fetch_file, look
        from hpe_tasks.data.fetch.taken_in import check_checkpoint
        from hpe_tasks.models.checkpoint import sample_checkpoint

        model = self.config.model
        shown, folder = shown_address(model.checkpoint), checkpoint_folder(self.cache, model.checkpoint)
        if model.checkpoint == SAMPLE:
            file = sample_checkpoint(model.architecture)
        else:
            allowed = self.config.dataset.allow_private_addresses
            offer = look(model.checkpoint, folder, s3=self.s3, allow_private_addresses=allowed)
            self.checkpoint_bytes = offer.size_bytes or 0
            if offer.here is None:
                size = "of unknown size" if offer.size_bytes is None else megabytes(offer.size_bytes)
                return Finding(
                    f"{shown}, {size}, can be fetched; fetch_checkpoint sees whether it fits {model.architecture}",
                    cache_bytes=self.checkpoint_bytes,
                )
            file = offer.here
            if model.checkpoint_sha256 is not None:
                fetch_file(str(file), folder, sha256=model.checkpoint_sha256, s3=self.s3)
        check_checkpoint(model, file, self.cache)
        self.checkpoint, self.checkpoint_bytes = file, file.stat().st_size
        width, height = model.input_size
        return Finding(f"{shown}, {megabytes(self.checkpoint_bytes)}, fits {model.architecture} and {width}×{height}")

    def _dataset(self) -> Finding:
        from hpe_tasks.data.fetch.preview import preview_source

        found = preview_source(self.config.dataset, self.cache, self.s3)
        by_url = "; the images are asked for one by one" if self.config.dataset.images_by_url else ""
        return Finding(found.text + by_url, cache_bytes=found.missing_bytes)

    def _other_files(self) -> Iterator[Check]:
        dataset = self.config.dataset
        for number, address in enumerate(dataset.image_archives or (), 1):
            title = f"Image archive {number}" if len(dataset.image_archives or ()) > 1 else "Image archive"
            yield self._file("dataset.image_archives", title, address, unpacked=True)
        if dataset.boxes is not None:
            yield self._file("dataset.boxes", "Detected boxes", dataset.boxes, unpacked=False)
        if dataset.valid_images is not None:
            yield self._file("dataset.valid_images", "Validation images", dataset.valid_images, unpacked=False)

    def _file(self, option: str, title: str, address: str, *, unpacked: bool) -> Check:
        def look() -> Finding:
            from hpe_tasks.data.fetch.preview import preview_file

            found = preview_file(
                address,
                self.cache,
                self.s3,
                option=option,
                unpacked=unpacked,
                allow_private_addresses=self.config.dataset.allow_private_addresses,
            )
            return Finding(found.text, cache_bytes=found.missing_bytes)

        return Check(option, title, look)

    def _disk(self) -> Finding:
        from hpe_tasks.preflight.machine import CHECKPOINT_COPIES, OTHER_FILES_BYTES, check_disk

        written = CHECKPOINT_COPIES * self.checkpoint_bytes + OTHER_FILES_BYTES
        folders = {self.cache: self.cache_bytes}
        if self.workspace.uri.startswith("file://"):
            folders[path_of(self.workspace.uri)] = written
        else:
            folders[self.cache] += written  # a workspace in S3 keeps its scratch folders in the cache
        return check_disk(folders)

    def _memory(self) -> Finding:
        from hpe_tasks.preflight.memory import available_memory, check_memory, needed_memory

        return check_memory(needed_memory(self.checkpoint_bytes), available_memory())

    def _processor(self) -> Finding:
        from hpe_tasks.preflight.machine import check_processor, forward_seconds
        from hpe_tasks.quantization import best_device

        device = best_device()
        measured = forward_seconds(self.config, self.checkpoint) if device == "cpu" and self.checkpoint else None
        return check_processor(self.config, device, measured)
