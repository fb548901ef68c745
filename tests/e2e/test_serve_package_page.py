"""The page of `hpe serve --package`: a bottom-up network in a folder, with golden images and without."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from hpe_tasks.records.evaluation import ScoreSpread
from hpe_tasks.registry.manifest import ModelManifest
from support.package_folder import Change, unchanged, write_package
from support.serve_browser import OpenPage, Service, browser, open_page
from support.serving_cases import encoded, photo

__all__ = ["browser", "open_page"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def change() -> Change:
    return unchanged


@pytest.fixture
def service(change: Change, tmp_path: Path) -> Iterator[Service]:
    write_package(tmp_path / "package", change)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HPE_", "AWS_"))}
    command: list[str | Path] = ["-m", "hpe_tasks", "serve", "--package", tmp_path / "package"]
    service = Service(inherited, tmp_path / "log", command, 120)
    yield service
    assert service.stop() == 0, service.said


def test_golden_images_of_a_folder_are_compared_person_by_person(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator(".thumbnail")).to_have_count(2)
    page.locator(".thumbnail").first.click()
    expect(page.locator("#compared-title")).to_have_text("The same as when it was measured")
    expect(page.locator("#compared-text")).to_contain_text("for each of 2 people")
    expect(page.locator("#compared-text")).to_contain_text("0.25 at most")
    expect(page.locator(".person")).to_have_count(2)
    assert set(page.locator(".person").first.locator("tbody tr td:last-child").all_text_contents()) == {"0.25"}
    expect(page.locator("#advice")).to_be_hidden()
    # It finds people by itself.
    expect(page.locator("#numbers")).to_be_hidden()
    expect(page.locator("#overlay .box")).to_have_count(0)


def test_a_function_that_finds_something_else_is_shown_as_such(open_page: OpenPage) -> None:
    page = open_page()
    page.locator(".thumbnail").nth(1).click()
    expect(page.locator("#compared-title")).to_have_text("Not as it was measured")
    expect(page.locator("#compared")).to_have_class(re.compile("differs"))
    expect(page.locator("#compared-text")).to_contain_text("where 0.9 is asked")


def test_what_nobody_wrote_down_is_said_to_be_unknown(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    expect(page.locator("#trained")).to_contain_text("is not recorded: model.trained_on")
    page.get_by_text("All that is known of this version").click()
    expect(page.locator("#facts")).to_contain_text(f"the folder {tmp_path / 'package' / 'model'}")
    expect(page.locator("#facts")).to_contain_text("input 64×48 or 48×64")


def demanding(manifest: ModelManifest) -> ModelManifest:
    """Was measured on people whom the network was surer of than it ever is here."""
    spread = ScoreSpread(persons=310, low=1e6, median=2e6)
    return manifest.model_copy(update={"onnx": manifest.onnx.model_copy(update={"person_scores": spread})})


@pytest.mark.parametrize("change", [demanding])
def test_low_scores_of_several_people_are_told_together(open_page: OpenPage) -> None:
    page = open_page()
    upload = {"name": "photo.png", "mimeType": "image/png", "buffer": encoded(photo(), "PNG")}
    page.set_input_files("#file", upload)  # type: ignore[arg-type]
    expect(page.locator("#advice")).to_contain_text("All 2 scores are low")
    expect(page.locator("#advice")).to_contain_text("What it was trained on is not recorded")
    expect(page.locator("#advice")).not_to_contain_text("box")


@pytest.mark.parametrize("change", [demanding])
def test_an_answer_waits_for_what_it_is_compared_with(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#trained")).not_to_be_empty()  # this page has asked; the next one is held
    held: list[Route] = []
    page.route("**/model", lambda route: held.append(route))  # noqa: PLW0108 - Playwright looks into it
    page.reload()
    upload = {"name": "photo.png", "mimeType": "image/png", "buffer": encoded(photo(), "PNG")}
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.set_input_files("#file", upload)  # type: ignore[arg-type]
    expect(page.locator("#people-title")).to_be_hidden()
    (asked,) = held
    asked.continue_()
    expect(page.locator("#advice")).to_contain_text("All 2 scores are low")


def without_golden(manifest: ModelManifest) -> ModelManifest:
    return manifest.model_copy(update={"golden": ()})


@pytest.mark.parametrize("change", [without_golden])
def test_without_golden_images_the_page_says_how_to_have_some(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#golden-note")).to_contain_text("destination.smoke_test was off")
    expect(page.locator(".thumbnail")).to_have_count(0)
    expect(page.locator("#golden-text")).to_be_hidden()


def test_an_image_that_is_lost_while_it_is_served_is_named(
    open_page: OpenPage, service: Service, tmp_path: Path
) -> None:
    page = open_page()
    expect(page.locator(".thumbnail")).to_have_count(2)
    (tmp_path / "package" / "model" / "golden-1.jpg").write_bytes(b"another picture")
    page.reload()
    expect(page.locator(".thumbnail")).to_have_count(1)
    assert service.process.poll() is None
