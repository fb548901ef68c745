"""The pages about models in a browser, in Airflow's frame: look, compare, promote, roll back; a viewer only looks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect

from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.airflow_server import AirflowServer, airflow_server
from support.chromium import chromium_browser
from support.triggering import trigger

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
    airflow_server: AirflowServer, browser: Browser, versions: tuple[str, str], tmp_path: Path, pictures: Path
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
    page.screenshot(path=pictures / "compare.png")
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


def by_the_form(server: AirflowServer, page: Page, settings: dict[str, Any]) -> str:
    """Trigger a run by the form, its settings pasted into the form's JSON; the id of the run."""
    page.goto(f"{server.url}/dags/hpe_requantize")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_role("button", name="Advanced Options").click()
    editor = page.locator(".monaco-editor").last
    expect(editor).to_be_visible()
    editor.click()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", json.dumps(settings))
    page.keyboard.press("Control+A")
    page.keyboard.press("Control+V")
    page.get_by_role("button", name="Advanced Options").focus()
    return str(trigger(page)["dag_run_id"])


def ended(server: AirflowServer, page: Page, path: str, until: set[str]) -> str:
    """Wait for a run or a task, with a browser that does not redraw the run's page meanwhile."""
    page.goto("about:blank")
    return server.wait(server.session("operator"), path, until, patience_s=1200)


def approve(server: AirflowServer, page: Page, run: str, pictures: Path) -> None:
    """Say yes in Airflow; and again where it asks again, as it does of an answer that comes before it is idle."""
    task, said = f"{quote(run)}/taskInstances/approve", 0
    while ended(server, page, task, {"awaiting_input", "failed", "skipped", "success"}) == "awaiting_input":
        said += 1
        assert said < 4, "asked again and again"
        page.goto(f"{server.url}/required_actions?response_received=false")
        page.get_by_role("link", name=re.compile("May guarded serve tiny ")).first.click()
        expect(page.get_by_text("Nothing: the channel is new.")).to_be_visible()
        page.screenshot(path=pictures / "approval.png")
        with page.expect_response(lambda got: got.request.method == "PATCH"):
            page.get_by_role("button", name="Approve").click()
        page.wait_for_timeout(5_000)
    assert said, "nobody was asked"


def run_tab(server: AirflowServer, page: Page, run: str) -> FrameLocator:
    """The tab of a run, reached from the run's page in Airflow."""
    page.goto(f"{server.url}/dags/hpe_requantize/runs/{quote(run, safe='')}")
    page.get_by_role("link", name="Pose model", exact=True).click()
    return page.frame_locator("iframe").first


def published_version(frame: FrameLocator, model: str = "tiny") -> str:
    """The version that a run's tab says was published."""
    title = frame.get_by_role("heading", name=re.compile(f"^Published {model} "))
    expect(title).to_be_visible()
    found = re.search("[0-9a-f]{16}", title.inner_text())
    assert found is not None
    return found[0]


def pictured(page: Page, folder: Path, name: str, address: str) -> None:
    """Pictures of a page for whoever changes how it looks: wide and narrow, light and dark."""
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.goto(address)
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.timeout(3600)  # it competes with whatever else the machine does
def test_the_sample_goes_from_the_form_to_a_channel(airflow_server: AirflowServer, browser: Browser) -> None:
    """What somebody does first: press Trigger on the form as it is, wait, and look at what was published."""
    server, registry = airflow_server, ModelRegistry(airflow_server.store.client(), REGISTRY)
    page = logged_in(server, browser, "operator")
    page.goto(f"{server.url}/dags/hpe_requantize")
    page.get_by_role("button", name="Trigger").first.click()
    expect(page.locator("#element_preset")).to_be_visible()
    run = str(trigger(page)["dag_run_id"])
    assert ended(server, page, quote(run), {"success", "failed"}) == "success"
    version = published_version(run_tab(server, page, run), "sample-pose")
    assert registry.show("sample-pose", "staging").version == version
    frame = models_frame(page)
    frame.get_by_role("link", name=version).first.click()
    expect(frame.get_by_text("served by staging")).to_be_visible()
    expect(frame.get_by_text("✓ passed").first).to_be_visible()


@pytest.mark.timeout(3600)  # its three runs compete with whatever else the machine does
def test_the_whole_walk(airflow_server: AirflowServer, browser: Browser, tmp_path: Path, pictures: Path) -> None:
    """Two runs published, the second after a person has approved it; looked at, compared, moved; one run refused."""
    server, registry = airflow_server, ModelRegistry(airflow_server.store.client(), REGISTRY)
    page = logged_in(server, browser, "operator")
    first = by_the_form(server, page, server.settings)
    assert ended(server, page, quote(first), {"success", "failed"}) == "success"
    old = published_version(run_tab(server, page, first))
    # The second waits for a person, who says yes in Airflow.
    changed = {"recipe.scheme": "tf_enhanced", "destination.channel": "guarded", "destination.smoke_test": False}
    second = by_the_form(server, page, server.settings | changed)
    approve(server, page, second, pictures)
    assert ended(server, page, quote(second), {"success", "failed"}) == "success"
    new = published_version(run_tab(server, page, second))
    assert new != old
    pointer = registry.show("tiny", "guarded")
    assert (pointer.version, pointer.moved_by.endswith(", approved by operator")) == (new, True)
    # One whose gate refuses it: why stands on its tab, and among the models.
    refused = by_the_form(server, page, server.settings | {"gate.max_size_mb": 0.1})
    assert ended(server, page, quote(refused), {"success", "failed"}) == "success", "a refusal is a result"
    tab = run_tab(server, page, refused)
    expect(tab.get_by_role("heading", name="Not published: the gate failed")).to_be_visible()
    expect(tab.get_by_text(re.compile("MB is above")).first).to_be_visible()
    page.screenshot(path=pictures / "run_tab.png")
    # And in its note, for programs and above its tabs.
    asked = f"{server.url}/api/v2/dags/hpe_requantize/dagRuns/{quote(refused)}"
    note = str(server.session("viewer").get(asked, timeout=30).json()["note"])
    assert note.startswith("**Verdict:** Not published: the gate failed"), note
    assert "MB is above" in note
    frame = models_frame(page)
    expect(frame.get_by_role("heading", name="Runs that published nothing")).to_be_visible()
    expect(frame.get_by_role("row").filter(has_text=re.compile("MB is above"))).to_be_visible()
    # Both beside each other, on the same persons.
    frame.get_by_label(f"Compare {old}").check()
    frame.get_by_label(f"Compare {new}").check()
    frame.get_by_role("button", name="Compare 2 versions").click()
    expect(frame.get_by_text(re.compile("gains over"))).to_be_visible()
    # Promote, and back.
    frame.get_by_role("link", name=new).first.click()
    expect(frame.get_by_role("link", name="Data Docs")).to_be_visible()
    frame.get_by_label("Channel", exact=True).fill("staging")
    frame.get_by_role("button", name="Promote").click()
    frame.get_by_label("Why").fill("as accurate, and quicker")
    frame.get_by_role("button", name="Promote").click()
    expect(frame.get_by_text("served by staging")).to_be_visible()
    assert registry.show("tiny", "staging").version == new
    frame.get_by_role("link", name="Models", exact=True).click()
    frame.get_by_role("link", name="Roll back staging").click()
    frame.get_by_role("button", name="Roll back").click()
    expect(frame.get_by_role("heading", name="Channels")).to_be_visible()
    assert registry.show("tiny", "staging").version == old
    # A viewer sees the same, and nothing to press.
    viewer = logged_in(server, browser, "viewer")
    seen = models_frame(viewer)
    seen.get_by_role("row").get_by_role("link", name=new).first.click()
    expect(seen.get_by_role("heading", name="Model card")).to_be_visible()
    expect(seen.get_by_role("button", name=re.compile("Promote|Retire|Annotate"))).to_have_count(0)
    run = quote(second, safe="")
    for name, address in {
        "run-tab": f"dags/hpe_requantize/runs/{run}",
        "refused-tab": f"dags/hpe_requantize/runs/{quote(refused, safe='')}",
        "models": "models?model=tiny",
        "version": f"models/tiny/{new}",
        "compare": f"compare?version=tiny@{old}&version=tiny@{new}",
    }.items():
        pictured(page, tmp_path, name, f"{server.url}/hpe/{address}")
