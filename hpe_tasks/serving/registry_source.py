"""A model from the S3 registry: the one that a channel points to, or a pinned version.

Reads `models/<name>/channels/<channel>.json`, `models/<name>/versions/<version>/manifest.json` and its `.sig`, and
`blobs/sha256/<hex>` below the registry's prefix; s3:GetObject there is all that the function's role needs.

The pointer says the manifest's SHA-256 and the manifest that of the model, so what is served is what was published.
Keys are made from these digests: no manifest can name another place, here or in the bucket. Where signatures are
required, that of the manifest proves who published it, and that of the pointer who chose it; an earlier pointer is
followed only by a function that has not seen a later one: see `channel_pointer`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.keys import blob_key, manifest_key, pointer_key, signature_key
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, DigestError, StorageError
from hpe_tasks.serving.channel_pointer import Channel, FollowedPointer, HighestCounter, PointerError, read_pointer
from hpe_tasks.serving.s3 import s3_client, s3_errors
from hpe_tasks.serving.telemetry import log
from hpe_tasks.serving.verified_model import NetworkFile, VerifiedModel, is_network, network_file, verified_manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_POINTER_LIMIT_BYTES = 64 * 1024
_SIGNATURE_LIMIT_BYTES = 1024
_MANIFEST_LIMIT_BYTES = 4 * 1024**2
_CHUNK_BYTES = 1024**2
# What else the function may need of /tmp.
_SPARE_BYTES = 4 * 1024**2


@frozen
class _FetchedObject:
    data: bytes
    etag: str


class _UnchangedError(Exception):
    """The object still is the one that was read before."""


class RegistrySource:
    """Models of one name in a registry. Not to be used by two threads at once.

    Args:
        registry: s3://bucket/prefix.
        name: Name of the model.
        channel: Channel to follow, unless a version is named.
        version: Version to stay with.
        public_keys: Manifests and pointers must be signed with one of them; none accept them unsigned.
        min_counter: Smallest counter of the channel's pointer, where it must be signed.
        folder: Where models are kept: the one in use and the one before. Made if missing; one process may use it.
    """

    def __init__(
        self,
        registry: str,
        name: str,
        *,
        channel: str | None,
        version: str | None,
        public_keys: tuple[bytes, ...],
        min_counter: int = 0,
        folder: Path,
    ) -> None:
        self._bucket, _, prefix = registry.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._name, self._channel, self._version = name, channel, version
        self._public_keys = public_keys
        self._folder = folder
        self._followed_channel = None if channel is None else Channel(registry, name, channel)
        self._counter = (
            HighestCounter(folder, self._followed_channel, public_keys, min_counter)
            if self._followed_channel is not None and public_keys
            else None
        )
        self._pointer: FollowedPointer | None = None
        self._refused: dict[str, str] | None = None
        self._client: S3Client
        self._settled: str | None = None
        """ETag of the pointer that was followed or refused last: until it changes, there is nothing to do."""

    def load(self) -> VerifiedModel:
        """The model that is to be served now.

        Raises:
            AccessError: The channel, the version or its model does not exist, or the function may not read it.
            DigestError: The manifest, its signature or the model does not verify.
            StorageError: There is no room for the model.
            TransientError: S3 cannot be reached, or failed.
        """
        with self._connected(s3_client()):
            if self._version is not None:
                return self._open(self._version, None, in_use=None)
            found = self._get(self._pointer_key, _POINTER_LIMIT_BYTES)
            pointer = self._trusted_pointer(found.data)
            verified = self._open(pointer.version, pointer.manifest_sha256, in_use=None)
            self._settled, self._pointer = found.etag, pointer
            return verified

    def newer(self, current: VerifiedModel) -> VerifiedModel | None:
        """What the channel points to by now; None when that is `current`, and always for a pinned version.

        A version that does not verify is refused once, with an error, and not read again until the pointer changes.
        A server that does not answer is given up after one attempt.
        """
        if self._version is not None:
            return None
        with self._connected(s3_client(renewal=True)):
            return self._followed(current)

    @property
    def channel(self) -> dict[str, Any] | None:
        """What is known of the channel that is followed, to be shown to anybody; None for a pinned version.

        `refused` says why something else is not served that the channel holds by now.
        """
        if self._pointer is None:
            return None
        told = {"name": self._channel, "counter": self._pointer.counter, "moved_at": self._pointer.moved_at}
        return told | ({} if self._refused is None else {"refused": self._refused})

    @contextmanager
    def _connected(self, client: S3Client) -> Iterator[None]:
        """Read with a client, and keep none of its connections.

        Lambda freezes the function between invocations: the server has closed them when they are needed again.
        """
        self._client = client
        try:
            yield
        finally:
            client.close()

    def _followed(self, current: VerifiedModel) -> VerifiedModel | None:
        try:
            found = self._get(self._pointer_key, _POINTER_LIMIT_BYTES, unless=self._settled)
        except _UnchangedError:
            return None
        try:
            pointer = self._trusted_pointer(found.data)
            changed = pointer.manifest_sha256 != current.manifest_sha256
            verified = self._open(pointer.version, pointer.manifest_sha256, current.file) if changed else None
        except DigestError as error:
            self._settled = found.etag
            # Without addresses, for whoever asks the function; the log has the rest.
            problem = f"pointer is refused: {error.problem}" if isinstance(error, PointerError) else "model is refused"
            reason = f"The channel's {problem}."
            self._refused = {"reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            raise
        self._settled, self._pointer, self._refused = found.etag, pointer, None
        return verified

    @property
    def _pointer_key(self) -> str:
        assert self._channel is not None
        return pointer_key(self._name, self._channel)

    def _trusted_pointer(self, data: bytes) -> FollowedPointer:
        """The pointer, if it is one of this channel, signed where that is required, and no earlier one."""
        assert self._followed_channel is not None
        pointer = read_pointer(data, self._followed_channel, self._public_keys)
        if self._counter is not None:
            self._make_folder()
            self._counter.check(pointer)
            unkept = self._counter.keep(pointer)
            if unkept is not None:
                reason = unkept.strerror or str(unkept)
                log("WARNING", "The channel's counter is kept by this process alone.", reason=reason)
        return pointer

    def _open(self, version: str, manifest_sha256: str | None, in_use: Path | None) -> VerifiedModel:
        """Verify a version and bring its model here."""
        key = manifest_key(self._name, version)
        address = self._address(key)
        data = self._get(key, _MANIFEST_LIMIT_BYTES).data
        actual = hashlib.sha256(data).hexdigest()
        if manifest_sha256 is not None and actual != manifest_sha256:
            raise DigestError(
                f"{address} has the SHA-256 {actual}, but the channel says {manifest_sha256}.",
                hint="Restore the earlier version of that object, or promote another version.",
            )
        signature = self._signature(signature_key(self._name, version))
        model = verified_manifest(data, signature, self._public_keys, address)
        if (model.name, model.version) != (self._name, version):
            raise DigestError(
                f"{address} describes version {model.version} of {model.name!r}.", hint="Publish the model again."
            )
        network = network_file(model)
        return VerifiedModel(model, network, self._bring(network, in_use), actual, address)

    def _signature(self, key: str) -> bytes | None:
        if not self._public_keys:
            return None
        try:
            return self._get(key, _SIGNATURE_LIMIT_BYTES).data
        except AccessError:
            # Where the role may not list the bucket, S3 says "access denied" of an object that does not exist.
            return None

    def _bring(self, network: NetworkFile, in_use: Path | None) -> Path:
        """The model's file in the folder, verified: the one that is there, or downloaded.

        Once it is there, others than it and `in_use` are removed: those of earlier switches, and torn downloads.
        """
        file = self._folder / f"{network.sha256}.onnx"
        try:
            self._make_folder()
            if not (file.is_file() and is_network(file, network)):
                self._download(blob_key(network.sha256), network, file)
            for other in self._folder.glob("*.onnx*"):
                if other not in (file, in_use):
                    other.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{file} could not be written: {error.strerror or error}.",
                hint="Check the function's ephemeral storage, or TMPDIR.",
            ) from error
        return file

    def _make_folder(self) -> None:
        """Make the folder, if it is not there, and see that nobody else writes to it."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = self._folder.is_symlink() or self._folder.stat().st_uid != os.getuid()
        except OSError as error:
            raise StorageError(
                f"{self._folder} could not be made: {error.strerror or error}.",
                hint="Check the function's ephemeral storage, or TMPDIR.",
            ) from error
        if foreign:
            raise StorageError(f"{self._folder} belongs to another user.", hint="Set TMPDIR to a folder of yours.")

    def _download(self, key: str, network: NetworkFile, file: Path) -> None:
        """Write the model's blob to `file`, which appears whole and verified, or not at all."""
        free = shutil.disk_usage(self._folder).free
        if free < network.size_bytes + _SPARE_BYTES:
            raise StorageError(
                f"The model has {network.size_bytes:,} bytes, but {self._folder} has room for {free:,}.",
                hint="Give the function more ephemeral storage.",
            )
        address = self._address(key)
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        try:
            with partial.open("xb") as target, s3_errors(address):
                response = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                with closing(response["Body"]) as body:
                    # Looked at first: what is larger than it should be is not downloaded.
                    if response["ContentLength"] == network.size_bytes:
                        for chunk in body.iter_chunks(_CHUNK_BYTES):
                            digest.update(chunk)
                            target.write(chunk)
            if digest.hexdigest() != network.sha256:
                raise DigestError(
                    f"{address} is corrupt: it has another size or SHA-256 than the manifest says.",
                    hint="Publish the model again: that puts the file back.",
                )
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _get(self, key: str, limit_bytes: int, *, unless: str | None = None) -> _FetchedObject:
        """Read a small object whole; raises _UnchangedError when it still is the one with the ETag `unless`."""
        from botocore.exceptions import ClientError

        condition: dict[str, Any] = {} if unless is None else {"IfNoneMatch": unless}
        address = self._address(key)
        with s3_errors(address):
            try:
                response = self._client.get_object(
                    Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED", **condition
                )
            except ClientError as error:
                if error_code(error) == "304":
                    raise _UnchangedError from None
                raise
            with closing(response["Body"]) as body:
                if response["ContentLength"] > limit_bytes:
                    raise DigestError(
                        f"{address} has {response['ContentLength']:,} bytes, too many for what it should be.",
                        hint="Publish the model again, or promote another version.",
                    )
                return _FetchedObject(body.read(), response["ETag"])

    def _address(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"
