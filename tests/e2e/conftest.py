"""Fixtures of the tests that drive a browser."""

from __future__ import annotations

import shutil

import pytest

from support.requirements import missing


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("no Chromium is installed")
    return found
