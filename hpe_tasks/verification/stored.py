"""What a registry holds of a version: the manifest's bytes, its signature, its files, and the channel's pointer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from pydantic import ValidationError

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.contract.version import check_version
from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.registry.channel_keys import signed_pointer
from hpe_tasks.registry.channels import ChannelPointer, ChannelState
from hpe_tasks.registry.manifest import MODEL_ROLE, ManifestFile, ModelManifest
from hpe_tasks.registry.signing import signer_among
from hpe_tasks.storage.s3 import S3Location, s3_errors
from hpe_tasks.storage.s3_objects import download
from hpe_tasks.verification.findings import NotMadeError, VerificationCheck, carried_out

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NO_KEY = "no public key was given: HPE_PUBLIC_KEY, or --public-key"


def read_manifest(data: bytes) -> ModelManifest:
    """A manifest whose bytes are what this project writes for it.

    A manifest of an older version lacks fields that it does not know, and nothing else may differ: what is written
    otherwise somebody else may read otherwise.

    Raises:
        DigestError: They are something else.
    """
    try:
        manifest = ModelManifest.model_validate_json(data)
        record = json.loads(data, object_pairs_hook=_each_once)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DigestError(f"the manifest cannot be read: {where or 'content'}: {problem['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise DigestError(f"the manifest cannot be read: {error}") from error
    written = manifest.to_bytes()
    if written != data and not (_as_written(data) and _is_older(record, json.loads(written))):
        raise DigestError("the manifest's bytes are not those that are written for what it says")
    return manifest


def manifest_found(manifest: ModelManifest, data: bytes) -> str:
    """What to say of a manifest that was read."""
    if manifest.to_bytes() == data:
        return f"{len(data):,} bytes, as they are written for what it says"
    return f"{len(data):,} bytes; written by an older version of this project"


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return dict(pairs)


def _as_written(data: bytes) -> bool:
    """Whether JSON is laid out as manifests are, whatever it says; numbers stand in it as they were written."""

    def kept(token: str) -> str:
        return f"\0{token}\0"

    content = json.loads(data, parse_float=kept, parse_int=kept, parse_constant=kept)
    laid_out = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return re.sub(r'"\\u0000(.*?)\\u0000"', r"\1", laid_out).encode("utf-8", "replace") == data


def _is_older(stored: Any, written: Any) -> bool:
    """Whether what is stored only lacks fields, or says a recipe as it was said then."""
    if isinstance(stored, dict) and isinstance(written, dict):
        return all(
            name in ("recipe", "reduce_range", "four_phase_deconvolution")
            or (name in written and _is_older(value, written[name]))
            for name, value in stored.items()
        )
    if isinstance(stored, list) and isinstance(written, list):
        return len(stored) == len(written) and all(map(_is_older, stored, written))
    return bool(stored == written)


def version_found(manifest: ModelManifest, data: bytes, name: str, version: str) -> str:
    """Derive the version from the content; raises DigestError where it is another."""
    if (manifest.name, manifest.version) != (name, version):
        raise DigestError(f"the manifest describes version {manifest.version} of {manifest.name!r}")
    check_version(data, version, manifest.file(MODEL_ROLE).sha256)
    return f"{version} follows from model.onnx, how it is served, how it was measured, and the gate's limits"


def signature_found(data: bytes, signature: bytes | None, public_keys: tuple[bytes, ...]) -> str:
    """Look who signed the manifest; raises DigestError where it is none of the keys."""
    if not public_keys:
        raise NotMadeError(_NO_KEY if signature is not None else "the manifest is not signed, and no key was given")
    if signature is None:
        raise DigestError("the manifest is not signed")
    if signer_among(public_keys, data, signature) is None:
        raise DigestError("the manifest was signed with another key, or changed since")
    return f"by {'the key' if len(public_keys) == 1 else 'one of the two keys'} that was given"


def pointer_checks(
    state: ChannelState, pointer: ChannelPointer, registry: str, manifest_sha256: str, public_keys: tuple[bytes, ...]
) -> Iterator[VerificationCheck]:
    """The channel's pointer: whose it is, and whether it points to this manifest."""

    def signed() -> str:
        if not public_keys:
            raise NotMadeError(_NO_KEY if pointer.signature is not None else "it is not signed, and no key was given")
        if pointer.signature is None:
            raise DigestError("it is not signed: whoever may write to the bucket may have written it")
        if not signed_pointer(state.data, registry, public_keys):
            raise DigestError("it was signed with another key or for another registry, or changed since")
        return f"counter {pointer.counter}, moved {pointer.moved_at:%Y-%m-%d %H:%M} UTC ({pointer.reason})"

    def points() -> str:
        if pointer.manifest_sha256 != manifest_sha256:
            raise DigestError(f"the manifest's SHA-256 is {manifest_sha256}, it says {pointer.manifest_sha256}")
        return f"to the manifest with the SHA-256 {manifest_sha256[:16]}…"

    yield carried_out("pointer_signature", "Channel: signed", "signature", signed)
    yield carried_out("pointer_digest", "Channel: points", "digest", points)


def file_checks(
    client: S3Client, root: S3Location, manifest: ModelManifest, folder: Path
) -> Iterator[tuple[ManifestFile, VerificationCheck]]:
    """Every file of the version, read whole and put into a folder under its role."""
    for file in manifest.files:

        def read(file: ManifestFile = file) -> str:
            location = root / file.blob
            size = _size(client, location)
            if size != file.size_bytes:
                raise DigestError(f"{location} has {size:,} bytes, the manifest says {file.size_bytes:,}")
            download(client, location, folder / file.role, file.sha256)
            return f"{size:,} bytes, SHA-256 {file.sha256[:16]}…"

        yield file, carried_out(f"file/{file.role}", f"File {file.role}", "digest", read)


def _size(client: S3Client, location: S3Location) -> int:
    with s3_errors(location, "verifying"):
        try:
            return client.head_object(Bucket=location.bucket, Key=location.key)["ContentLength"]
        except ClientError as error:
            if error_code(error) in {"404", "NoSuchKey", "NotFound"}:
                raise AccessError(f"{location} does not exist.") from error
            raise
