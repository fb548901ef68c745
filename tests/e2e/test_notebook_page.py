"""Results as a notebook shows them, in a real browser: quiet, readable in either theme, and no neighbour is changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from hpe_tasks.report.fragments import evaluation_html, run_html
from support.chromium import chromium_browser
from support.run_cases import complete, gate_failed

pytestmark = pytest.mark.e2e

# What JupyterLab gives tables, headings and lists of an output, in its own words.
JUPYTER = """
.jp-RenderedHTMLCommon table { font-size: 12px; table-layout: fixed; margin: 0 auto 1em; }
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { text-align: right; vertical-align: middle; padding: 0.5em; }
.jp-RenderedHTMLCommon tbody tr:nth-child(odd) { background: rgb(1, 2, 3); }
.jp-RenderedHTMLCommon h1 { font-weight: 100; }
.jp-RenderedHTMLCommon dt { float: left; width: 20%; }
"""
NEIGHBOUR = '<table id="neighbour"><tbody><tr><th>a</th><td>1</td></tr></tbody></table><h1 id="title">Title</h1>'
STYLES = "e => JSON.stringify([...getComputedStyle(e)].map(name => getComputedStyle(e).getPropertyValue(name)))"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium, "--disable-gpu") as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 800}, color_scheme="light")
    yield context.new_page()
    context.close()


def notebook(*outputs: str, light: bool = True) -> str:
    shown = "".join(f'<div class="jp-RenderedHTMLCommon">{output}</div>' for output in outputs)
    return (
        f"<!doctype html><style>{JUPYTER}</style>"
        f'<body data-jp-theme-light="{str(light).lower()}">{NEIGHBOUR}{shown}</body>'
    )


def test_it_changes_no_neighbour_and_asks_for_nothing(page: Page) -> None:
    page.set_content(notebook())
    before = [page.eval_on_selector(one, STYLES) for one in ("#neighbour td", "#neighbour th", "#title")]
    heard: list[str] = []
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.set_content(notebook(run_html(complete()), run_html(gate_failed())))
    assert [page.eval_on_selector(one, STYLES) for one in ("#neighbour td", "#neighbour th", "#title")] == before
    assert heard == []


def test_a_notebooks_own_styles_do_not_show_through(page: Page) -> None:
    page.set_content(notebook(run_html(complete())))

    def style(selector: str, name: str) -> str:
        found: str = page.eval_on_selector(selector, f"e => getComputedStyle(e).getPropertyValue('{name}')")
        return found

    assert style(".hpe-result .gate tbody th", "text-align") == "left"
    assert style(".hpe-result .gate tbody tr:first-child", "background-color") == "rgba(0, 0, 0, 0)"
    assert style(".hpe-result .gate", "table-layout") == "auto"
    assert int(style(".hpe-result h1", "font-weight")) > 600
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]


@pytest.mark.parametrize("light", [True, False], ids=["light theme", "dark theme"])
def test_colours_follow_the_notebooks_theme(light: bool, page: Page) -> None:
    """The system's scheme is light in both cases: the notebook's counts."""
    report = complete().fp32
    assert report is not None
    page.set_content(notebook(evaluation_html(report), light=light))
    ink, paper = (
        page.eval_on_selector(".hpe-result .card", f"e => getComputedStyle(e).{name}.match(/\\d+/g).map(Number)")
        for name in ("color", "backgroundColor")
    )
    assert (sum(paper) > sum(ink)) == light
    assert abs(sum(paper) - sum(ink)) > 450
