"""Debian's Chromium, as all tests that drive a browser start it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from support.processors import as_processor


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
