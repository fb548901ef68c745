"""A model from the S3 registry: the one that a channel points to, or a pinned version.

Reads `models/<name>/channels/<channel>.json`, `models/<name>/versions/<version>/manifest.json` and its `.sig`, and
`blobs/sha256/<hex>` below the registry's prefix; s3:GetObject there is all that the function's role needs.

The pointer says the manifest's SHA-256 and the manifest that of the model, so what is served is what was published.
Keys are made from these digests: no manifest can name another place, here or in the bucket. A signature, where one is
required, proves who published the manifest; the pointer is not signed, so whoever may write to the bucket can still
choose among signed versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.keys import blob_key, manifest_key, pointer_key, signature_key
from hpe_tasks.contract.names import SHA256, VERSION
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, DigestError, StorageError
from hpe_tasks.serving.s3 import s3_client, s3_errors
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
class _Pointer:
    version: str
    manifest_sha256: str


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
        public_key: The key that manifests must be signed with; None accepts them unsigned.
        folder: Where models are kept: the one in use and the one before. Made if missing; one process may use it.
    """

    def __init__(
        self,
        registry: str,
        name: str,
        *,
        channel: str | None,
        version: str | None,
        public_key: bytes | None,
        folder: Path,
    ) -> None:
        self._bucket, _, prefix = registry.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._name, self._channel, self._version = name, channel, version
        self._public_key = public_key
        self._folder = folder
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
            pointer = self._parse_pointer(found.data)
            verified = self._open(pointer.version, pointer.manifest_sha256, in_use=None)
            self._settled = found.etag
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
            pointer = self._parse_pointer(found.data)
            changed = pointer.manifest_sha256 != current.manifest_sha256
            verified = self._open(pointer.version, pointer.manifest_sha256, current.file) if changed else None
        except DigestError:
            self._settled = found.etag
            raise
        self._settled = found.etag
        return verified

    @property
    def _pointer_key(self) -> str:
        assert self._channel is not None
        return pointer_key(self._name, self._channel)

    def _parse_pointer(self, data: bytes) -> _Pointer:
        """Read a pointer's JSON; raises DigestError where it is not one of this channel."""
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise self._bad_pointer("it is not a JSON object")
        for field, expected in (("schema_version", 1), ("name", self._name), ("channel", self._channel)):
            if type(record.get(field)) is not type(expected) or record[field] != expected:
                raise self._bad_pointer(f"its {field} is not {expected!r}")
        for field, pattern in (("version", VERSION), ("manifest_sha256", SHA256)):
            if not isinstance(record.get(field), str) or not re.fullmatch(pattern, record[field]):
                raise self._bad_pointer(f"its {field} is not of the form {pattern}")
        return _Pointer(record["version"], record["manifest_sha256"])

    def _bad_pointer(self, problem: str) -> DigestError:
        return DigestError(
            f"The channel pointer {self._address(self._pointer_key)} is corrupt: {problem}.",
            hint="Promote the version that you want to serve again.",
        )

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
        model = verified_manifest(data, signature, self._public_key, address)
        if (model.name, model.version) != (self._name, version):
            raise DigestError(
                f"{address} describes version {model.version} of {model.name!r}.", hint="Publish the model again."
            )
        network = network_file(model)
        return VerifiedModel(model, network, self._bring(network, in_use), actual, address)

    def _signature(self, key: str) -> bytes | None:
        if self._public_key is None:
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
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.is_symlink() or self._folder.stat().st_uid != os.getuid():
                raise StorageError(f"{self._folder} belongs to another user.", hint="Set TMPDIR to a folder of yours.")
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
