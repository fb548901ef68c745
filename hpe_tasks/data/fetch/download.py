"""Fetching one file from wherever it is: streamed, resumable, verified, and complete or absent."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote
from urllib.request import url2pathname

from hpe_tasks.config.addresses import split_address
from hpe_tasks.data.fetch.addresses import get
from hpe_tasks.data.fetch.transports import Answer, HttpFile, HttpPatience, S3File, Transport, Version
from hpe_tasks.errors import AccessError, ConfigError, DigestError, StorageError, TransientError
from hpe_tasks.progress import track
from hpe_tasks.storage.files import digest_of, sha256_file, storage_errors
from hpe_tasks.storage.folders import check_space, hold, locked
from hpe_tasks.storage.s3 import S3Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_MIB = 2**20


@dataclass(frozen=True)
class FetchedFile:
    """A file at hand; `sha256` is that of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class _Origin:
    """What is remembered beside a downloaded file or its part."""

    identity: str
    version: Version
    sha256: str = ""
    mtime_ns: int = 0

    @classmethod
    def read(cls, path: Path) -> _Origin | None:
        try:
            content = json.loads(path.read_text())
            return cls(**(content | {"version": Version(**content["version"])}))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None  # Absent or written by another version of this program: fetch anew.

    def write(self, path: Path) -> None:
        working = path.with_suffix(".tmp")
        working.write_text(json.dumps(asdict(self)))
        working.replace(path)


def checkpoint_folder(cache: Path, address: str) -> Path:
    """Where a checkpoint is kept: a folder for each address, so that two files of one name do not meet."""
    return cache / "checkpoints" / digest_of(address)[:16]


def fetch_file(
    source: str,
    destination_dir: Path,
    *,
    sha256: str | None,
    s3: Callable[[], S3Client],
    patience: HttpPatience | None = None,
    allow_private_addresses: bool = False,
) -> Path:
    """The path of the file at hand; see fetch."""
    return fetch(
        source,
        destination_dir,
        sha256=sha256,
        s3=s3,
        patience=patience,
        allow_private_addresses=allow_private_addresses,
    ).path


def fetch(
    source: str,
    destination_dir: Path,
    *,
    sha256: str | None,
    s3: Callable[[], S3Client],
    patience: HttpPatience | None = None,
    room_to_unpack: bool = False,
    allow_private_addresses: bool = False,
) -> FetchedFile:
    """Bring a file to this machine; a local one is used where it lies.

    A download that is interrupted leaves `<name>.part`, and the next call continues it if the server still offers
    the same bytes. A file that was fetched before is not fetched again while the server offers the same version,
    and the server is not even asked when `sha256` is given and matches.

    Args:
        source: A path, or a file://, s3:// or http(s):// address.
        destination_dir: Where downloads are kept, under the name that the address ends with.
        sha256: Digest that the content must have.
        s3: Makes the client when it is needed.
        patience: Timeouts and retries for HTTP.
        room_to_unpack: Begin only where the disk has room for the file and as much again.
        allow_private_addresses: Ask web servers that not everybody can reach as well; see `addresses.open_session`.

    Raises:
        ConfigError: The address cannot be understood.
        AccessError: There is no such file, it is denied, or its server must not be asked.
        DigestError: The content is another than promised; a download is removed, a local file is left.
        TransientError: The network failed; the part is kept.
        StorageError: The disk is full (the part is removed) or not writable.
    """
    transport = _transport(source, s3, patience, allow_private_addresses)
    if transport is None:
        return _local(local_path(source), sha256)
    target = destination_dir / _file_name(source)
    hold(target)
    with locked(target):
        return _download(transport, target, sha256, room_to_unpack=room_to_unpack)


def _transport(
    source: str, s3: Callable[[], S3Client], patience: HttpPatience | None, allow_private_addresses: bool
) -> Transport | None:
    """How the file at an address comes here; None for a local one."""
    scheme = split_address(source).scheme if "://" in source else "file"
    if scheme == "file":
        return None
    if scheme == "s3":
        return S3File(S3Location.parse(source), s3())
    if scheme in {"http", "https"}:
        return HttpFile(
            source, patience or HttpPatience(), get=partial(get, allow_private_addresses=allow_private_addresses)
        )
    raise ConfigError(
        f"{scheme}:// addresses are not supported.", hint="Use a path, or a file://, s3:// or http(s):// address."
    )


@dataclass(frozen=True)
class Offer:
    """What an address offers.

    Attributes:
        size_bytes: None where the server does not say.
        here: The complete file on this machine; None while it has to be fetched.
    """

    size_bytes: int | None
    here: Path | None = None


def look(
    source: str,
    destination_dir: Path,
    *,
    s3: Callable[[], S3Client],
    patience: HttpPatience | None = None,
    allow_private_addresses: bool = False,
) -> Offer:
    """Ask for a file without its content: whether `fetch` with the same arguments would get it, and how large it is.

    Raises:
        HpeError: As `fetch` does where there is no such file, it is denied, or the network fails.
    """
    transport = _transport(source, s3, patience, allow_private_addresses)
    if transport is None:
        path = local_path(source)
        try:
            with path.open("rb"):
                return Offer(path.stat().st_size, path)
        except FileNotFoundError as error:
            raise AccessError(f"{path} does not exist.", hint="Check the path.") from error
        except OSError as error:
            raise AccessError(
                f"{path} cannot be read: {error.strerror}.", hint="Check the path and its rights."
            ) from error
    target = destination_dir / _file_name(source)
    known = _complete(target, _origin_file(target), transport)
    with transport.open(have=known.version if known else None, part=None, offset=0) as answer:
        return Offer(target.stat().st_size, target) if answer is None else Offer(answer.version.size)


def offered_version(
    source: str,
    *,
    s3: Callable[[], S3Client],
    patience: HttpPatience | None = None,
    allow_private_addresses: bool = False,
) -> Version | None:
    """Which bytes an address offers now, without its content; None for a local file.

    Raises:
        HpeError: As `fetch` does where there is no such file, it is denied, or the network fails.
    """
    transport = _transport(source, s3, patience, allow_private_addresses)
    if transport is None:
        return None
    with transport.open(have=None, part=None, offset=0) as answer:
        return None if answer is None else answer.version


def forget(path: Path) -> None:
    """Have a download that turned out broken fetched anew by the next call; the file stays until then."""
    _origin_file(path).unlink(missing_ok=True)


def local_path(source: str) -> Path:
    """The path that a local source means; file:// addresses and a leading ~ are understood."""
    if source.lower().startswith("file://"):
        return Path(url2pathname(split_address(source).path))
    return Path(source).expanduser()


def _local(path: Path, sha256: str | None) -> FetchedFile:
    try:
        found = sha256_file(path)
    except FileNotFoundError as error:
        raise AccessError(f"{path} does not exist.", hint="Check the path.") from error
    except OSError as error:
        raise AccessError(f"{path} cannot be read: {error.strerror}.", hint="Check the path and its rights.") from error
    if sha256 is not None and found != sha256:
        raise _wrong_digest(str(path), sha256, found)
    return FetchedFile(path, found)


def _file_name(source: str) -> str:
    name = PurePosixPath(unquote(split_address(source).path)).name
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".")[-150:] or "download"


def _download(transport: Transport, target: Path, sha256: str | None, *, room_to_unpack: bool) -> FetchedFile:
    part = target.with_name(target.name + ".part")
    part_origin, origin = _origin_file(part), _origin_file(target)
    have = _complete(target, origin, transport)
    if have is not None and have.sha256 == sha256:
        _forget(part, part_origin)
        return FetchedFile(target, have.sha256)
    begun, offset = _begun(part, part_origin, transport, trusted=sha256 is not None)
    with transport.open(have=have.version if have else None, part=begun, offset=offset) as answer:
        if answer is None and have is not None:
            _forget(part, part_origin)
            log.info("%s has not changed: using %s", transport.name, target)
            found = have.sha256
        elif answer is not None:
            if room_to_unpack and answer.version.size is not None:
                needed = 2 * answer.version.size - answer.offset
                check_space(part.parent, needed, reason=f"{transport.name} and its content")
            found = _receive(transport, answer, part, part_origin)
            if sha256 is None or found == sha256:
                with storage_errors(target):
                    part.replace(target)
                    _Origin(_digest(transport.identity), answer.version, found, target.stat().st_mtime_ns).write(origin)
                    part_origin.unlink(missing_ok=True)
    if sha256 is not None and found != sha256:
        _forget(part, part_origin, target, origin)
        raise _wrong_digest(transport.name, sha256, found)
    return FetchedFile(target, found)


def _forget(*files: Path) -> None:
    """Remove files that count no more, as those that a process left which was killed before it could do so."""
    for file in files:
        file.unlink(missing_ok=True)


def _origin_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _complete(target: Path, origin: Path, transport: Transport) -> _Origin | None:
    """What is known of a complete download, if it is of this address and untouched since."""
    known = _Origin.read(origin)
    if known is None or known.identity != _digest(transport.identity) or not target.is_file():
        return None
    return known if target.stat().st_mtime_ns == known.mtime_ns else None


def _begun(part: Path, origin: Path, transport: Transport, *, trusted: bool) -> tuple[Version | None, int]:
    """The version and size of an interrupted download that may be continued."""
    known = _Origin.read(origin)
    if known is None or known.identity != _digest(transport.identity) or not part.is_file():
        return None, 0
    if not (known.version.certain or trusted):
        return None, 0  # Without a version or a digest, two files could be joined unnoticed.
    size, total = part.stat().st_size, known.version.size
    if total is not None and size > total:
        return None, 0
    # No server answers a range that begins at the end, so one byte is read again.
    return known.version, size - 1 if size and size == total else size


def _receive(transport: Transport, answer: Answer, part: Path, part_origin: Path) -> str:
    """Write the answer into the part; returns its digest once it is complete."""
    size = answer.version.size
    missing = None if size is None else size - answer.offset
    try:
        with storage_errors(part, needed_bytes=missing):
            check_space(part.parent, missing or 0)
            _Origin(_digest(transport.identity), answer.version).write(part_origin)
            with part.open("r+b" if answer.offset else "wb") as file:
                if answer.offset:
                    file.seek(answer.offset)
                    file.truncate()
                    log.info("Continuing %s at %.1f MB", transport.name, answer.offset / 1e6)
                pieces = None if missing is None else math.ceil(missing / _MIB)
                for chunk in track(answer.chunks, f"Fetching {part.stem}", total=pieces, unit="MiB"):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                received = file.tell()
    except StorageError:
        _forget(part, part_origin)
        raise
    if size is not None and received != size:
        raise TransientError(
            f"The server of {transport.name} sent {received:,} of {size:,} bytes.",
            hint="Try again: a download continues where it stopped. The DAG retries this by itself.",
        )
    return sha256_file(part)


def _digest(identity: str) -> str:
    # Addresses may hold passwords and signatures, which do not belong into a file.
    return hashlib.sha256(identity.encode()).hexdigest()


def _wrong_digest(name: str, expected: str, found: str) -> DigestError:
    return DigestError(
        f"{name} has the SHA-256 {found}, not {expected}.",
        hint="Fetch it from a source that you trust, or correct the digest.",
    )
