"""Where this machine keeps the pipeline's state; read from the environment when asked, never at import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Places that belong to the machine and not to a run.

    Attributes:
        workspace: `file://` or `s3://` address under which runs keep their artifacts; all workers share it.
        cache: Folder of this machine for downloads and data sets; may be deleted at any time.
    """

    workspace: str
    cache: Path

    @classmethod
    def from_environment(cls) -> Settings:
        """Read HPE_WORKSPACE and HPE_CACHE; by default `.hpe/` in AIRFLOW_HOME, or else in the working directory."""
        home = Path(os.environ.get("AIRFLOW_HOME") or Path.cwd()) / ".hpe"
        workspace = os.environ.get("HPE_WORKSPACE") or (home / "workspace").absolute().as_uri()
        if "://" not in workspace:
            workspace = Path(workspace).absolute().as_uri()
        if not workspace.startswith(("file://", "s3://")):
            raise ConfigError(
                f"HPE_WORKSPACE is {workspace!r}.", hint="Set it to a folder, file:///folder or s3://bucket/prefix."
            )
        return cls(workspace=workspace, cache=Path(os.environ.get("HPE_CACHE") or home / "cache"))
