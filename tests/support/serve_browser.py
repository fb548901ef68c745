"""A running local service and a browser that looks at its page, for the tests of either."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from hpe_tasks.local.processes import end_with_parent
from support.chromium import chromium_browser


class Service:
    """A running `hpe serve`; what it says goes into a file, because a full pipe would stop it."""

    def __init__(
        self, environment: dict[str, str], log: Path, command: Sequence[str | Path], patience_s: float
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", *command],
                env=environment,
                stdout=output,
                stderr=output,
                # A test run that is killed stops no service.
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509
            )
        self.url = self._wait_for_address(patience_s)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def _wait_for_address(self, patience_s: float) -> str:
        deadline = time.monotonic() + patience_s
        while self.process.poll() is None and time.monotonic() < deadline:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", self.said):
                return found[0]
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"no address: {self.said}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with chromium_browser(chromium) as browser:
        yield browser


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[OpenPage]:
    """Opens the page; nothing may ask another address, and nothing unexpected may appear on the console."""
    contexts = []
    elsewhere: list[str] = []
    messages: list[str] = []

    def opened(*, width: int = 1200, scheme: str = "light", touch: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=touch,
            is_mobile=touch,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("console", lambda message: messages.append(message.text))
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url) if not request.url.startswith((service.url, "data:", "blob:")) else None
            ),
        )
        page.goto(service.url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not elsewhere
    # The browser itself notes answers with an error status.
    assert [message for message in messages if "the server responded with a status of 4" not in message] == []
