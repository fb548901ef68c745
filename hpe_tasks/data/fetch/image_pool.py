"""Many images by their addresses: in parallel, at a limited rate, each complete and looked at, or absent."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import requests

from hpe_tasks.config.addresses import public_address
from hpe_tasks.data.fetch.addresses import open_session
from hpe_tasks.data.fetch.transports import HttpFile, HttpPatience, retry_after_s
from hpe_tasks.data.image_files import ImageFile, look_at
from hpe_tasks.errors import AccessError, DatasetError, HpeError, TransientError
from hpe_tasks.progress import track
from hpe_tasks.storage.files import storage_errors
from hpe_tasks.storage.folders import check_space, hold, locked

log = logging.getLogger(__name__)

THREADS = 16
"""Most requests that wait for an answer at one time."""

AVERAGE_BYTES = 200_000
"""Taken for the size of an image that is not here yet; those of COCO have 155 kB on average."""

MAX_REFUSED = 100
"""The fetch ends early with so many images that cannot be had, and then names them."""

MAX_UNREACHABLE = 20
"""The fetch ends early with so many images that the network failed on, retries included."""

_SHOWN = 3

PATIENCE = HttpPatience(read_timeout_s=20.0)
"""Timeouts and retries for each image. A longer `Retry-After` ends the fetch."""


@dataclass(frozen=True)
class WantedImage:
    """An image as its record describes it: the pixels as they are stored."""

    name: str
    url: str
    width: int
    height: int

    @property
    def size(self) -> str:
        """The size as people read it."""
        return f"{self.width}x{self.height}"

    @property
    def most_bytes(self) -> int:
        """Far more than a file with these pixels needs in any format."""
        return 2**20 + 16 * self.width * self.height


@dataclass(frozen=True)
class PooledImage:
    """An image at hand."""

    path: Path
    sha256: str
    size_bytes: int


class ImagePool:
    """A folder of images by address, shared by everything that is fetched into one cache.

    Args:
        folder: Where the images are kept.
        requests_per_second: Most requests that are sent in a second, by all threads and processes that share the
            folder.
        allow_private_addresses: Ask servers that not everybody can reach as well.
    """

    def __init__(self, folder: Path, *, requests_per_second: float, allow_private_addresses: bool = False) -> None:
        self._folder = folder
        self._per_second = requests_per_second
        self._allow_private = allow_private_addresses

    def fetch(self, wanted: Sequence[WantedImage]) -> dict[str, PooledImage]:
        """Bring the images here that are not, and look at all of them.

        What has arrived stays, whatever happens: the next call continues with what is missing. Other processes wait.

        Returns:
            The images by their address.

        Raises:
            DatasetError: Images do not exist, are denied, are not images or have another size than their record says;
                names the first few. Or two records give one address different sizes.
            TransientError: The network failed.
            StorageError: The disk is full or not writable.
        """
        images: dict[str, WantedImage] = {}
        for image in wanted:
            other = images.setdefault(image.url, image)
            if other.size != image.size:
                raise DatasetError(
                    f"The records of {other.name} ({other.size}) and {image.name} ({image.size}) have one address, "
                    f"{public_address(image.url)}, but different sizes.",
                    hint="Correct the address or the size in the annotation file.",
                )
        hold(self._folder)
        with locked(self._folder):
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            missing = sum(not self._path(image).is_file() for image in images.values())
            log.info("%d of %d images are here already", len(images) - missing, len(images))
            estimate = f"an estimate: {missing:,} images of {AVERAGE_BYTES // 1000} kB"
            check_space(self._folder, missing * AVERAGE_BYTES, reason=estimate)
            with Throttle(
                self._per_second,
                longest_pause_s=PATIENCE.longest_wait_s,
                allow_private_addresses=self._allow_private,
            ) as throttle:
                return self._fetch_all(images, throttle)

    def _fetch_all(self, images: Mapping[str, WantedImage], throttle: Throttle) -> dict[str, PooledImage]:
        found: dict[str, PooledImage] = {}
        failures: list[tuple[WantedImage, HpeError]] = []
        with ThreadPoolExecutor(THREADS) as threads:
            futures = {threads.submit(self._at_hand, image, throttle): url for url, image in images.items()}
            try:
                for future in track(as_completed(futures), "Fetching", total=len(futures), unit="images"):
                    url = futures[future]
                    try:
                        found[url] = future.result()
                    except _StoppedError:
                        break  # For the throttle's `refusal`.
                    except (AccessError, DatasetError, TransientError) as error:
                        failures.append((images[url], error))
                        if _hopeless(failures):
                            break
            finally:
                throttle.stop()
                threads.shutdown(cancel_futures=True)
        if throttle.refusal is not None:
            raise throttle.refusal
        if failures:
            raise _failure(failures, total=len(images))
        return found

    def _path(self, image: WantedImage) -> Path:
        name = hashlib.sha256(image.url.encode()).hexdigest()
        return self._folder / name[:2] / name

    def _at_hand(self, image: WantedImage, throttle: Throttle) -> PooledImage:
        path = self._path(image)
        if path.is_file():
            seen = look_at(path)
            if not _fault(image, path, seen):
                return PooledImage(path, seen.digest, seen.size_bytes)
        for attempt in range(PATIENCE.retries):
            try:
                return self._download(image, path, throttle)
            except (DatasetError, TransientError) as error:
                log.debug("%s Trying again", error.message)
                throttle.sleep(PATIENCE.first_wait_s * 2**attempt)
        return self._download(image, path, throttle)

    def _download(self, image: WantedImage, path: Path, throttle: Throttle) -> PooledImage:
        part = path.with_name(f"{path.name}.part")
        # Attempts are counted for the image as a whole, whatever each of them fails of.
        remote = HttpFile(image.url, replace(PATIENCE, retries=0), get=throttle.get)
        try:
            with remote.open(have=None, part=None, offset=0) as answer, storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with part.open("wb") as file:
                    for chunk in answer.chunks if answer is not None else ():
                        file.write(chunk)
                        if file.tell() > image.most_bytes:
                            raise DatasetError(f"{remote.name} is far too long for an image of {image.size}.")
            seen = look_at(part)
            if fault := _fault(image, part, seen):
                raise DatasetError(f"{remote.name} {fault}.")
            with storage_errors(path):
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return PooledImage(path, seen.digest, seen.size_bytes)


def _fault(image: WantedImage, path: Path, seen: ImageFile) -> str:
    """What is wrong with a file that should be this image; empty when nothing is."""
    if seen.fault:
        with path.open("rb") as file:
            if file.read(200).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                return "is a web page, not an image"
        return seen.fault
    if (seen.width, seen.height) != (image.width, image.height):
        return f"is an image of {seen.width}x{seen.height} pixels, but its record says {image.size}"
    return ""


def _hopeless(failures: list[tuple[WantedImage, HpeError]]) -> bool:
    transient = sum(isinstance(error, TransientError) for _, error in failures)
    return transient >= MAX_UNREACHABLE or len(failures) - transient >= MAX_REFUSED


def _failure(failures: list[tuple[WantedImage, HpeError]], *, total: int) -> HpeError:
    final = [(image, error) for image, error in failures if not isinstance(error, TransientError)]
    shown = "; ".join(f"{image.name}: {error.message.rstrip('.')}" for image, error in (final or failures)[:_SHOWN])
    more = "; …" if len(final or failures) > _SHOWN else ""
    count = f"{'At least ' * _hopeless(failures)}{len(failures):,} of {total:,}"
    message = f"{count} images could not be fetched: {shown}{more}."
    if final:
        return DatasetError(
            message,
            hint="What was fetched is kept. Remove these images' records from the annotation file, correct their "
            "addresses, or set dataset.image_archives instead of dataset.images_by_url.",
        )
    return TransientError(message, hint="Try again: what was fetched is kept. The DAG retries this by itself.")


class _StoppedError(TransientError):
    """Another image's failure ended the fetch."""


class Throttle:
    """Sends requests of several threads, evenly spread, on average at most `per_second`; closes its connections.

    Attributes:
        refusal: Set when a server asked for a pause that is longer than `longest_pause_s`.
    """

    def __init__(self, per_second: float, *, longest_pause_s: float, allow_private_addresses: bool = False) -> None:
        self.refusal: TransientError | None = None
        self._interval_s = 1 / per_second
        self._longest_pause_s = longest_pause_s
        self._allow_private = allow_private_addresses
        self._next = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Throttle:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions:
            session.close()

    def get(self, url: str, **options: Any) -> requests.Response:
        """`requests.get` when it is this request's turn; a server's `Retry-After` holds up all threads."""
        self._wait_for_turn()
        response = self._session().get(url, **options)
        pause_s = retry_after_s(response) if response.status_code in {429, 503} else None
        if pause_s is not None and pause_s > self._longest_pause_s:
            self.refusal = TransientError(
                f"The server of {public_address(url)} answered {response.status_code} and asks to wait for "
                f"{pause_s:,.0f} s.",
                hint="Try again then, or set dataset.requests_per_second lower: what was fetched is kept.",
            )
            self.stop()
        elif pause_s is not None:
            with self._lock:
                self._next = max(self._next, time.monotonic() + pause_s)
        return response

    def stop(self) -> None:
        """Let no request begin any more."""
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, unless the fetch is stopped meanwhile."""
        if self._stopped.wait(seconds):
            raise _StoppedError("The fetch was stopped.")

    def _wait_for_turn(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                wait_s = self._next - now
                if wait_s <= 0:
                    # A turn that came late may be caught up on, one at a time.
                    self._next = max(self._next + self._interval_s, now)
                    break
            self.sleep(wait_s)
        self.sleep(0)

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = open_session(allow_private_addresses=self._allow_private)
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session
