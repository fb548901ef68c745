"""Reading many small objects of S3 at once, for a fraction of what boto3 spends on each.

A signed address is asked for by urllib3, which boto3 itself rests on. What comes back counts where its MD5 is its ETag,
as it is of objects that were put in one piece and are not encrypted by a key of KMS. For all else, and where such
addresses are refused, boto3 is asked; and so is AWS, where waiting takes longer than computing, and where proxies and
certificates may stand between that boto3 knows of.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3

from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import StoredBytes, get_bytes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_OF_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_NEAR_THREADS = 3
"""More wait for one another: little is waited for, and what is read is parsed in the same process."""
_AWS_THREADS = 10
"""As many as a client keeps connections."""

_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)

log = logging.getLogger(__name__)


class ManySmallObjects:
    """Reads objects, from several threads.

    Args:
        client: Signs addresses, and reads what cannot be read by them.

    Attributes:
        threads: How many should read at once.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._addresses_work = not (urlsplit(client.meta.endpoint_url).hostname or "").endswith(_OF_AWS)
        self.threads = _NEAR_THREADS if self._addresses_work else _AWS_THREADS
        self._http = urllib3.PoolManager(maxsize=self.threads, timeout=_TIMEOUT, retries=False)

    def read(self, location: S3Location) -> StoredBytes | None:
        """An object whole; None when there is none. Raises as `get_bytes`."""
        found = self._by_address(location) if self._addresses_work else None
        return get_bytes(self._client, location, "reading") if found is None else found

    def _by_address(self, location: S3Location) -> StoredBytes | None:
        place = {"Bucket": location.bucket, "Key": location.key}
        try:
            answer = self._http.request("GET", self._client.generate_presigned_url("get_object", Params=place))
        except urllib3.exceptions.HTTPError as error:
            log.debug("A signed address could not be read (%s): boto3 reads on", type(error).__name__)
            self._addresses_work = False
            return None
        etag = answer.headers.get("ETag", "")
        if answer.status == 200 and etag == f'"{hashlib.md5(answer.data, usedforsecurity=False).hexdigest()}"':
            return StoredBytes(answer.data, etag)
        if answer.status != 404:
            self._addresses_work = False
        return None
