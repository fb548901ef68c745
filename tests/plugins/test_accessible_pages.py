"""The pages about models in a browser, which is answered by Airflow's own application: light, dark, and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route

from support.chromium import chromium, chromium_browser, hard_to_use
from support.model_pages import World, airflow, world
from support.played_s3 import client, moto_client

__all__ = ["airflow", "chromium", "client", "moto_client", "world"]

SITE = "http://airflow.local"
WIDE, PHONE = 1280, 390

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium) as browser:
        yield browser


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDE), ("dark", WIDE), ("light", PHONE)])
def test_nothing_keeps_people_from_using_a_page(world: World, browser: Browser, scheme: str, width: int) -> None:
    """No serious finding of axe-core's, no error in the console, and nothing wider than the screen."""

    def answer(route: Route) -> None:
        asked = urlsplit(route.request.url)
        path = f"{asked.path.removeprefix('/hpe')}?{asked.query}"
        got = world.ask(route.request.method, path, "admin")
        route.fulfill(status=got.status_code, headers=dict(got.headers), body=got.content)

    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.route(f"{SITE}/**", answer)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    pages = {
        "/models": 200,
        f"/models/pose/{world.new}": 200,
        f"/compare?version=pose@{world.old}&version=pose@{world.new}": 200,
        f"/models/pose/actions/promote?version={world.new}&channel=staging": 200,
        "/models/pose/ffffffffffffffff": 404,
    }
    found = {}
    for path, status in pages.items():
        answered = page.goto(f"{SITE}/hpe{path}")
        assert answered is not None
        assert answered.status == status
        found[path] = hard_to_use(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        found[path] += [f"{wide} px wide"] if wide > width else []
    context.close()
    assert {path: what for path, what in found.items() if what} == {}
    # That the version does not exist is an answer of 404, which the browser notes.
    assert [one for one in said if "404" not in one] == []


def test_what_keeps_people_from_using_a_page_is_found(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content('<html lang="en"><title>A page</title><main><img src="x"><p style="color:#ccc">Pale</p></main>')
    assert {one.partition(":")[0] for one in hard_to_use(page)} == {"color-contrast", "image-alt"}
    page.close()
