"""Where the API keeps what it makes: as the command line does, unless told otherwise."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hpe_tasks.config.environment import Settings


def places(workspace: str | Path | None = None, cache: str | Path | None = None) -> Settings:
    """HPE_WORKSPACE and HPE_CACHE, or what is given in their place; a folder may come as a path.

    Raises:
        ConfigError: HPE_WORKSPACE is neither a folder nor an address.
    """
    # As the command sets it: threads that wait by spinning slow a busy machine down tenfold. Libraries that are
    # imported already keep what they have read.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = Settings.from_environment()
    if workspace is not None:
        address = str(workspace)
        found = replace(found, workspace=address if "://" in address else Path(address).absolute().as_uri())
    return found if cache is None else replace(found, cache=Path(cache))
