"""Debian's Chromium, as all tests that drive a browser start it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support.processors import as_processor
from support.requirements import missing


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("no Chromium is installed")
    return found


@contextmanager
def chromium_browser(executable: str, *arguments: str) -> Iterator[Browser]:
    """A running Chromium.

    Where tests run as on another processor, it runs as on this one: its sandbox ends it where an instruction is
    answered by somebody else, and what it computes is not what is tested.

    Args:
        executable: Its file.
        arguments: Beside those that it always gets.
    """
    # As root, as in a container, Chromium has no sandbox.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    hidden = as_processor().VARIABLES
    environment: dict[str, str | float | bool] = {
        name: value for name, value in os.environ.items() if name not in hidden
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*sandbox, *arguments], env=environment)
        yield browser
        browser.close()


def hard_to_use(page: Page) -> list[str]:
    """What axe-core finds on a page that keeps people from using it, with the elements: serious and critical rules."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {', '.join(' '.join(map(str, node['target'])) for node in one['nodes'][:5])}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]


def hindrances(page: Page, width: int) -> list[str]:
    """What keeps people from using a page on a screen of this width, in pixels: of `hard_to_use`, or wider than it."""
    wide = page.evaluate("document.documentElement.scrollWidth")
    return hard_to_use(page) + ([f"{wide} px wide"] if wide > width else [])
