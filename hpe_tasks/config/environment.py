"""Where this machine keeps the pipeline's state; read from the environment when asked, never at import."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.config.addresses import redacted
from hpe_tasks.errors import ConfigError

_MOST_SHARD_TASKS = 1000


@dataclass(frozen=True)
class Settings:
    """Places that belong to the machine and not to a run.

    Attributes:
        workspace: `file://` or `s3://` address under which runs keep their artifacts; all workers share it.
        cache: Folder of this machine for downloads and data sets; may be deleted at any time.
        signing_key: File with the private key that published manifests and channels are signed with.
        public_key: Public keys that are accepted beside that of this key, as `read_public_keys` reads them.
        cache_max_gb: What the cache may hold at the end of a run, in GB of 10⁹ bytes; None for all that there is.
        approve_channels: Channels that move only when a person has approved it; `*` stands for all.
    """

    workspace: str
    cache: Path
    signing_key: Path | None = None
    public_key: str | None = None
    cache_max_gb: float | None = None
    approve_channels: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls) -> Settings:
        """Read HPE_WORKSPACE, HPE_CACHE, HPE_CACHE_MAX_GB, HPE_SIGNING_KEY, HPE_PUBLIC_KEY and HPE_APPROVE_CHANNELS.

        The first two are by default in `.hpe/` in AIRFLOW_HOME, or else in the working directory.
        """
        home = Path(os.environ.get("AIRFLOW_HOME") or Path.cwd()) / ".hpe"
        workspace = os.environ.get("HPE_WORKSPACE") or (home / "workspace").absolute().as_uri()
        if "://" not in workspace:
            workspace = Path(workspace).absolute().as_uri()
        if not workspace.startswith(("file://", "s3://")):
            raise ConfigError(
                f"HPE_WORKSPACE is {redacted(workspace)!r}.",
                hint="Set it to a folder, file:///folder or s3://bucket/prefix.",
            )
        key = os.environ.get("HPE_SIGNING_KEY")
        return cls(
            workspace=workspace,
            cache=Path(os.environ.get("HPE_CACHE") or home / "cache"),
            signing_key=Path(key) if key else None,
            public_key=os.environ.get("HPE_PUBLIC_KEY"),
            cache_max_gb=_gigabytes(os.environ.get("HPE_CACHE_MAX_GB")),
            approve_channels=frozenset(os.environ.get("HPE_APPROVE_CHANNELS", "").replace(",", " ").split()),
        )

    def read_signing_key(self) -> bytes | None:
        """The signing key as it is written, None without one; raises ConfigError when its file cannot be read."""
        if self.signing_key is None:
            return None
        try:
            return self.signing_key.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"The signing key {self.signing_key} cannot be read: {error.strerror or error}.",
                hint="Correct HPE_SIGNING_KEY, or unset it to publish without a signature.",
            ) from error


def shard_tasks() -> int:
    """How many tasks of a step make its parts beside each other, at most: HPE_SHARD_TASKS, or 8."""
    said = os.environ.get("HPE_SHARD_TASKS") or "8"
    if not said.isascii() or not said.isdigit() or not 0 < int(said) <= _MOST_SHARD_TASKS:
        raise ConfigError(
            f"HPE_SHARD_TASKS is {said!r}.", hint=f"Set it to a whole number from 1 to {_MOST_SHARD_TASKS}."
        )
    return int(said)


def _gigabytes(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"HPE_CACHE_MAX_GB is {text!r}.", hint="Set it to a number of GB, such as 50, or unset it for no limit."
        )
    return value
