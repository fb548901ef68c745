"""The report in a real browser: quiet, offline, usable on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from hpe_tasks.report.page import render_report
from support.chromium import chromium_browser, hard_to_use
from support.run_cases import STATES
from support.run_files import files_of_states

pytestmark = pytest.mark.e2e

_QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium, *_QUIET) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    files = files_of_states(folder, STATES)
    return {name: render_report(make(), files[name], folder / f"{name}.html") for name, make in STATES.items()}


class Visit:
    """An open page, what it logged, and what it asked the network for."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        self.page: Page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


OpenPage = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, pages: dict[str, Path]) -> Iterator[OpenPage]:
    visits: list[Visit] = []

    def open_page(state: str, *, width: int = 1200, scheme: str = "light") -> Visit:
        visits.append(Visit(browser, pages[state], width, scheme))
        return visits[-1]

    yield open_page
    for each in visits:
        each.context.close()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("width", [390, 768, 1200])
def test_quiet_offline_and_without_horizontal_scroll(
    state: str, width: int, visit: OpenPage, pages: dict[str, Path]
) -> None:
    seen = visit(state, width=width)
    for details in seen.page.locator("details").all():
        # Where a run has no data set and no checkpoint, its configuration is open already.
        if details.get_attribute("open") is None:
            details.locator("> summary").click()
    assert seen.page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.messages == []
    own = {pages[state].as_uri(), "about:srcdoc"}
    assert [url for url in seen.requests if url not in own and not url.startswith("data:")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["published", "gate_failed"])
def test_nothing_keeps_people_from_reading_it(state: str, scheme: str, visit: OpenPage) -> None:
    assert hard_to_use(visit(state, scheme=scheme).page) == []


def test_pictures_load_and_data_docs_open_in_their_frame(visit: OpenPage) -> None:
    page = visit("published").page
    assert page.locator(".person img").count() == 18
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.locator("#data-docs > summary").click()
    assert page.frame_locator("#data-docs iframe").get_by_text("31 expectations met").is_visible()


def test_whole_images_and_missing_people_are_shown(visit: OpenPage) -> None:
    page = visit("bottom_up", width=390).page
    assert page.locator(".scene img").count() == 6
    assert page.locator(".person img").count() == 18
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.get_by_text("not found").count() == 2
    page.get_by_text("AP of each joint").click()
    assert page.get_by_role("row", name="left wrist").is_visible()


def test_hostile_values_do_nothing(visit: OpenPage) -> None:
    for state in ("only_config", "step_failed", "broken_dataset", "detected"):
        page = visit(state).page
        assert page.locator("script").count() == 0
        assert page.get_by_text('alert("x")').first.is_visible()


def _luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("state", "selectors"),
    [
        (
            "gate_failed",
            (
                "h1",
                ".eyebrow",
                ".mark.fail",
                ".badge",
                ".steps .done",
                ".steps .skipped",
                ".tile .note",
                "td.bad-text",
            ),
        ),
        ("as_published", (".mark.differs", ".published .mark.pass", ".published .sub")),
    ],
    ids=["gate failed", "published figures"],
)
def test_text_has_contrast_in_both_schemes(
    state: str, selectors: tuple[str, ...], scheme: str, visit: OpenPage
) -> None:
    page = visit(state, scheme=scheme).page
    for selector in selectors:
        text, ground = page.locator(selector).first.evaluate(
            """element => {
                let ground = element;
                while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
                return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
            }"""
        )
        light, dark = sorted((_luminance(text), _luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, text, ground)


def test_it_prints(visit: OpenPage, tmp_path: Path) -> None:
    seen = visit("published", scheme="dark")
    pdf = seen.page.pdf(
        path=tmp_path / "report.pdf",
        format="A4",
        margin={"top": "12mm", "bottom": "12mm", "left": "12mm", "right": "12mm"},
    )
    assert pdf.startswith(b"%PDF")
    seen.page.emulate_media(media="print")
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
