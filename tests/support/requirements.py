"""What happens when something that a test needs is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where CI promises that everything needed is there (HPE_REQUIRE_TOOLS=1)."""
    if os.environ.get("HPE_REQUIRE_TOOLS") == "1":
        pytest.fail(f"HPE_REQUIRE_TOOLS=1, but {what}")
    pytest.skip(what)


def folder_named_by(variable: str, holds: str) -> Path:
    """The folder that an environment variable names; without it the test is skipped, or fails, as for `missing`."""
    value = os.environ.get(variable)
    if not value:
        missing(f"{variable} is not set: it names the folder that holds {holds}")
    folder = Path(value).resolve()
    if not folder.is_dir():
        missing(f"{variable}={value} is not a folder")
    return folder
