"""The pages about models in a browser, in Airflow's frame: look, compare, promote, roll back; a viewer only looks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.airflow_server import AirflowServer, airflow_server
from support.chromium import chromium_browser

__all__ = ["airflow_server"]

# tests/plugins/test_model_pages.py asks each address with each role; tests/integration/test_airflow_rest.py a server.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

REGISTRY = S3Location("hpe-models", "registry")

FAULTS = """() => {
  const told = [];
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!field.labels.length && !field.ariaLabel) told.push(`no label: ${field.outerHTML}`);
  for (const one of document.querySelectorAll("a, button"))
    if (!(one.textContent.trim() || one.ariaLabel)) told.push(`no name: ${one.outerHTML}`);
  const levels = [...document.querySelectorAll("h1, h2, h3")].map(head => Number(head.tagName[1]));
  if (levels.filter(level => level === 1).length !== 1 || levels[0] !== 1) told.push(`headings ${levels}`);
  levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) told.push(`headings ${levels}`); });
  for (const picture of document.querySelectorAll("svg[role=img], svg[role=group]"))
    if (!picture.ariaLabel) told.push("a picture without a name");
  if (document.documentElement.scrollWidth > innerWidth) told.push("wider than the window");
  return told;
}"""


@pytest.fixture(scope="module")
def versions(airflow_server: AirflowServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two versions in the registry; a channel serves the first."""
    folder = tmp_path_factory.mktemp("versions")
    registry = ModelRegistry(airflow_server.store.client(), REGISTRY, actor="ada")
    stored = []
    for number, word in enumerate(("old", "new")):
        files = records.write_files(folder / word, word)
        made = records.manifest(
            files, ap=0.6 + 0.01 * number, speed=records.latency(), created_at=datetime(2026, 1, 1 + number, tzinfo=UTC)
        )
        stored.append(registry.store(made, files).version)
    registry.promote("pose", stored[0], "staging")
    return stored[0], stored[1]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium) as browser:
        yield browser


def logged_in(server: AirflowServer, browser: Browser, user: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(server.url)
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", server.passwords[user])
    page.click("button[type=submit]")
    expect(page.get_by_role("link", name="Dags", exact=True)).to_be_visible()
    return page


def models_frame(page: Page) -> FrameLocator:
    """The page of models, reached by Airflow's navigation."""
    page.get_by_role("link", name="Models", exact=True).click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    return frame


def test_look_compare_promote_and_roll_back(
    airflow_server: AirflowServer, browser: Browser, versions: tuple[str, str], tmp_path: Path
) -> None:
    old, new = versions
    registry = ModelRegistry(airflow_server.store.client(), REGISTRY)
    page = logged_in(airflow_server, browser, "operator")
    frame = models_frame(page)
    page.screenshot(path=tmp_path / "models.png", full_page=True)
    # The search and the order of a column, by keyboard.
    frame.get_by_role("searchbox").fill(new)
    expect(frame.get_by_text("1 of 2 shown")).to_be_visible()
    frame.get_by_role("searchbox").fill("")
    head = frame.get_by_role("columnheader", name="int8", exact=True)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    expect(frame.locator("#all-versions tbody tr").first).to_contain_text(old)
    # Two beside each other.
    expect(frame.get_by_role("button", name="Compare")).to_be_disabled()
    frame.get_by_label(f"Compare {old}").check()
    frame.get_by_label(f"Compare {new}").check()
    frame.get_by_role("button", name="Compare 2 versions").click()
    expect(frame.get_by_role("heading", name="2 versions beside each other")).to_be_visible()
    page.screenshot(path=tmp_path / "compare.png", full_page=True)
    # Promote the new one.
    frame.get_by_role("link", name=new).first.click()
    expect(frame.get_by_role("heading", name="Model card")).to_be_visible()
    frame.get_by_role("button", name="Promote").click()
    frame.get_by_label("Why").fill("better on small people")
    frame.get_by_role("button", name="Promote").click()
    expect(frame.get_by_text("served by staging")).to_be_visible()
    expect(frame.get_by_text("better on small people")).to_be_visible()
    assert registry.show("pose", "staging").version == new
    # And back.
    frame.get_by_role("link", name="Models", exact=True).click()
    frame.get_by_role("link", name="Roll back staging").click()
    frame.get_by_role("button", name="Roll back").click()
    expect(frame.get_by_role("heading", name="Channels")).to_be_visible()
    pointer = registry.show("pose", "staging")
    assert (pointer.version, pointer.reason, pointer.moved_by) == (old, "rollback", "operator")


def test_a_viewer_is_offered_no_action(
    airflow_server: AirflowServer, browser: Browser, versions: tuple[str, str]
) -> None:
    page = logged_in(airflow_server, browser, "viewer")
    frame = models_frame(page)
    expect(frame.get_by_role("link", name=versions[1]).first).to_be_visible()
    expect(frame.get_by_role("link", name="Roll back staging")).to_have_count(0)
    frame.get_by_role("row").get_by_role("link", name=versions[1]).first.click()
    expect(frame.get_by_role("heading", name="Model card")).to_be_visible()
    expect(frame.get_by_role("button", name="Promote")).to_have_count(0)
    answer = page.request.get(f"{airflow_server.url}/hpe/models/pose/actions/pin?channel=staging")
    assert answer.status == 403


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_pages_fit_and_name_what_they_show(
    airflow_server: AirflowServer, browser: Browser, versions: tuple[str, str], width: int, scheme: str, tmp_path: Path
) -> None:
    page = logged_in(airflow_server, browser, "operator")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    old, new = versions
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    for path in (
        "models",
        f"models/pose/{new}",
        f"compare?version=pose@{old}&version=pose@{new}",
        f"models/pose/actions/promote?version={new}&channel=staging",
    ):
        page.goto(f"{airflow_server.url}/hpe/{path}")
        page.screenshot(path=tmp_path / f"{path[:6]}.png", full_page=True)
        assert page.evaluate(FAULTS) == [], path
    assert problems == [], "such as a script or style that the policy refuses"
