"""The pages about models in a browser, which is answered by Airflow's own application: light, dark, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hpe_airflow.access import TOKEN_FIELD
from playwright.sync_api import Browser, Locator, Route, expect

from support.chromium import chromium, chromium_browser, hard_to_use, hindrances
from support.model_pages import World, airflow, open_page, refused_run, world
from support.played_s3 import client, moto_client
from support.serving_cases import encoded, photo

__all__ = ["airflow", "chromium", "client", "moto_client", "world"]

SITE = "http://airflow.local"
WIDE, PHONE = 1280, 390

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium) as browser:
        yield browser


def test_tables_are_searched_filtered_and_sorted(world: World, browser: Browser, tmp_path: Path) -> None:
    timeless = world.publish(tmp_path / "third", "third", speed=None)
    world.registry.promote("pose", world.new, "production")
    refused_run(tmp_path / "w")
    refused_run(tmp_path / "w", "monday", seed=1)
    page = open_page(world, browser)
    page.goto(f"{SITE}/hpe/models")

    def shown(table: str) -> list[str]:
        rows = page.locator(f"#{table} tbody tr:visible th").all()
        return [row.inner_text().split()[0] for row in rows]

    versions = page.locator("[data-search=all-versions]")
    versions.get_by_label("Show").select_option("served")
    assert set(shown("all-versions")) == {world.old, world.new}
    assert versions.get_by_role("status").inner_text() == "2 of 3 shown"
    versions.get_by_role("searchbox").fill(world.new)
    assert shown("all-versions") == [world.new]
    versions.get_by_role("searchbox").fill("")
    versions.get_by_label("Show").select_option("")
    head = page.locator("#all-versions thead th", has_text="Published")
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        cells = page.locator("#all-versions tbody tr td:nth-child(12)")
        dates = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")
        assert dates == sorted(dates, reverse=order == "descending")
    time = page.locator("#all-versions thead th", has_text="Time")
    for _ in range(2):  # What has no value stands last in both orders.
        time.get_by_role("button").click()
        assert shown("all-versions")[-1] == timeless
    runs = page.locator("[data-search=refused-runs]")
    runs.get_by_label("Show").select_option("failed")
    assert shown("refused-runs") == []
    runs.get_by_label("Show").select_option("gate_failed")
    runs.get_by_role("searchbox").fill("monday")
    assert [name[:6] for name in shown("refused-runs")] == ["monday"]
    page.context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", WIDE), ("dark", WIDE), ("light", PHONE)])
def test_nothing_keeps_people_from_using_a_page(world: World, browser: Browser, scheme: str, width: int) -> None:
    """No serious finding of axe-core's, no error in the console, and nothing wider than the screen."""
    page = open_page(world, browser, scheme, width)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    pages = {
        "/models": 200,
        f"/models/pose/{world.new}": 200,
        f"/compare?version=pose@{world.old}&version=pose@{world.new}": 200,
        f"/models/pose/actions/promote?version={world.new}&channel=staging": 200,
        f"/models/pose/actions/retire?version={world.new}": 200,
        "/models/pose/actions/pin?channel=staging": 200,
        f"/models/pose/actions/annotate?version={world.new}": 200,
        "/models/pose/ffffffffffffffff": 404,
    }
    found = {}
    for path, status in pages.items():
        answered = page.goto(f"{SITE}/hpe{path}")
        assert answered is not None
        assert answered.status == status
        found[path] = hindrances(page, width)
    page.context.close()
    assert {path: what for path, what in found.items() if what} == {}
    # That the version does not exist is an answer of 404, which the browser notes.
    assert [one for one in said if "404" not in one] == []


def test_everything_is_done_by_keyboard_on_a_phone_in_airflows_own_dark_theme(
    world: World, browser: Browser, tmp_path: Path
) -> None:
    """Compare two versions, try a picture, promote with a reason; Airflow's choice counts more than the system's."""
    page = open_page(world, browser, "light", PHONE)
    page.add_init_script('localStorage.setItem("theme", "dark")')

    def tab_to(target: Locator) -> None:
        for _ in range(80):
            if target.evaluate("one => one === document.activeElement"):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not reach {target}")

    page.goto(f"{SITE}/hpe/models")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background)[:3])) < 80, background
    found = {"models": hindrances(page, PHONE)}
    for version in (world.new, world.old):
        tab_to(page.get_by_label(f"Compare {version}"))
        page.keyboard.press("Space")
    tab_to(page.get_by_role("button", name="Compare 2 versions"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="2 versions beside each other")).to_be_visible()
    found["compare"] = hindrances(page, PHONE)
    page.goto(f"{SITE}/hpe/models/pose/{world.new}")
    found["version"] = hindrances(page, PHONE)
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encoded(photo(160, 240)))
    page.get_by_label("Picture").set_input_files(picture)
    token = page.locator("form[enctype] input[type=hidden]").input_value()

    def upload(route: Route) -> None:
        """The browser keeps a file's bytes from whoever looks at its requests."""
        file = {"picture": (picture.name, picture.read_bytes(), "image/jpeg")}
        path = urlsplit(route.request.url).path.removeprefix("/hpe")
        got = world.ask("POST", path, "admin", files=file, data={TOKEN_FIELD: token})
        route.fulfill(status=got.status_code, headers=dict(got.headers), body=got.content)

    page.route("**/try", upload)
    tab_to(page.get_by_role("button", name="Find people"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your picture")).to_be_visible(timeout=60_000)
    found["tried"] = hindrances(page, PHONE)
    page.goto(f"{SITE}/hpe/models/pose/{world.new}")
    tab_to(page.get_by_label("Channel", exact=True))
    page.keyboard.press("Control+a")
    page.keyboard.type("staging")
    page.keyboard.press("Enter")
    tab_to(page.get_by_label("Why"))
    page.keyboard.type("as accurate")
    tab_to(page.get_by_role("button", name="Promote"))
    assert world.serves() == world.old
    with page.expect_response(lambda got: got.request.method == "POST"):
        page.keyboard.press("Enter")
    assert world.serves() == world.new
    page.context.close()
    assert {name: what for name, what in found.items() if what} == {}


def test_what_keeps_people_from_using_a_page_is_found(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content('<html lang="en"><title>A page</title><main><img src="x"><p style="color:#ccc">Pale</p></main>')
    assert {one.partition(":")[0] for one in hard_to_use(page)} == {"color-contrast", "image-alt"}
    page.close()
