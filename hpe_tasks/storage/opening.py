"""Which workspace an address stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.addresses import redacted
from hpe_tasks.errors import ConfigError
from hpe_tasks.storage.files import path_of
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def open_workspace(uri: str, *, s3: Callable[[], S3Client], cache: Path) -> Workspace:
    """Open the workspace at a `file://` or `s3://` address.

    Args:
        uri: The address.
        s3: Makes the client, when one is needed.
        cache: Local folder for files of a remote workspace.
    """
    if uri.startswith("s3://"):
        return S3Workspace(S3Location.parse(uri), s3(), cache)
    if uri.startswith("file://"):
        return LocalWorkspace(path_of(uri))
    raise ConfigError(f"{redacted(uri)!r} is not a workspace.", hint="Use file:///folder or s3://bucket/prefix.")
