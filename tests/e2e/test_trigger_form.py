"""The trigger form in a browser: what a person sees who starts a run by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.airflow_server import AirflowServer, airflow_server
from support.chromium import chromium_browser
from support.triggering import trigger

__all__ = ["airflow_server"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECTIONS = (
    "Run Parameters",
    "Model",
    "Data set",
    "Quantization recipe",
    "Evaluation",
    "Gate",
    "Destination",
    "Reproducibility",
)


@pytest.fixture(scope="module")
def browser_page(airflow_server: AirflowServer, chromium: str) -> Iterator[Page]:
    """A page of the UI with the operator logged in."""
    with chromium_browser(chromium) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(airflow_server.url)
        page.fill("input[name=username]", "operator")
        page.fill("input[name=password]", airflow_server.passwords["operator"])
        page.click("button[type=submit]")
        expect(page.get_by_role("link", name="Dags", exact=True)).to_be_visible()
        yield page


@pytest.fixture
def form(airflow_server: AirflowServer, browser_page: Page) -> Page:
    """The trigger form, freshly opened."""
    browser_page.goto(f"{airflow_server.url}/dags/hpe_requantize")
    browser_page.get_by_role("button", name="Trigger").first.click()
    expect(browser_page.get_by_role("button", name="Run Parameters")).to_be_visible()
    return browser_page


def open_section(form: Page, name: str) -> None:
    form.get_by_role("button", name=name, exact=True).click()


def test_the_form_has_a_section_for_each_part_of_the_configuration(form: Page, tmp_path: Path) -> None:
    for section in SECTIONS:
        expect(form.get_by_role("button", name=section, exact=True)).to_be_visible()
    # The first section is open: the preset, and what each preset is for.
    expect(form.get_by_text("Every setting below that stays empty is as the preset has it.")).to_be_visible()
    expect(form.locator("#element_model\\.checkpoint")).to_be_visible()
    form.locator("#element_preset").click()
    expect(form.get_by_role("option").first).to_have_text(
        "sample: The project's own drawn people and the small network trained on them"
    )
    form.keyboard.press("Escape")
    form.screenshot(path=tmp_path / "form.png")


def test_a_choice_offers_the_values_and_starts_as_in_the_preset(form: Page) -> None:
    open_section(form, "Quantization recipe")
    choice = form.locator("#element_recipe\\.scheme")
    expect(choice).to_contain_text("as in the preset")
    choice.click()
    expect(form.get_by_role("option")).to_have_text(["as in the preset", "min_max", "tf_enhanced", "percentile", "mse"])
    form.keyboard.press("Escape")


def test_a_number_shows_its_description_bounds_and_default(form: Page) -> None:
    open_section(form, "Gate")
    expect(form.get_by_text("Min AP", exact=True)).to_be_visible()
    expect(form.get_by_text("gate.min_ap", exact=True)).to_be_visible()
    expect(form.get_by_text("Lowest AP of the exported file.")).to_contain_text("at least 0, at most 1, default 0.5")


def test_a_number_out_of_bounds_is_refused_and_not_changed(form: Page) -> None:
    open_section(form, "Gate")
    field = form.locator("input[name='element_gate.min_ap']")
    field.fill("5")
    field.blur()
    expect(field).to_have_value("5")
    form.get_by_role("button", name="Trigger", exact=True).last.click()
    expect(form.get_by_text(re.compile("gate.min_ap: Input should be less than or equal to 1")).first).to_be_visible()


def test_settings_that_do_not_go_together_are_explained_on_the_form(form: Page) -> None:
    open_section(form, "Data set")
    form.locator("#element_dataset\\.calibration_split").fill("val")
    form.get_by_role("button", name="Trigger", exact=True).last.click()
    expect(form.get_by_text(re.compile("must not be calibrated on the images that judge it")).first).to_be_visible()


def test_the_forms_fields_are_those_of_the_settings_types(form: Page) -> None:
    """The fields' schemas also take texts of numbers, true and false: the form must not show that."""
    open_section(form, "Quantization recipe")
    form.locator("#element_recipe\\.fold_batch_norms").click()
    expect(form.get_by_role("option")).to_have_text(["as in the preset", "true", "false"])
    form.get_by_role("option", name="true").click()
    form.locator("#element_recipe\\.param_bw").click()
    expect(form.get_by_role("option")).to_have_text(["as in the preset", "4", "8", "16"])
    form.get_by_role("option", name="8").click()
    open_section(form, "Gate")
    expect(form.locator("input[name='element_gate.min_ap']")).to_have_attribute("role", "spinbutton")


def paste_over(form: Page, text: str | None = None) -> None:
    """Put a text, or what is in the clipboard, in the place of what the form's JSON holds."""
    form.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if text is not None:
        form.evaluate("text => navigator.clipboard.writeText(text)", text)
    form.keyboard.press("Control+A")
    form.keyboard.press("Control+V")


def test_the_forms_json_takes_json(airflow_server: AirflowServer, form: Page, tmp_path: Path) -> None:
    """What a person pastes into the form's own JSON: true and 0.5, not their texts."""
    form.get_by_role("button", name="Advanced Options").click()
    editor = form.locator(".monaco-editor").last
    expect(editor).to_be_visible()
    editor.click()
    settings = {
        "preset": "sample",
        "model.checkpoint": str(airflow_server.no_checkpoint),
        "recipe.cross_layer_equalization": True,
        "gate.min_ap": 0.25,
        "seed": "7",
    }
    # Pasted, for the editor closes brackets that are typed.
    paste_over(form, json.dumps(settings))
    form.get_by_role("button", name="Advanced Options").focus()
    form.screenshot(path=tmp_path / "json.png")
    run = trigger(form)
    given = {key: value for key, value in run["conf"].items() if value is not None}
    assert given == settings
    runs = f"{airflow_server.url}/api/v2/dags/hpe_requantize/dagRuns"
    session = airflow_server.session("operator")
    session.patch(f"{runs}/{run['dag_run_id']}", json={"state": "failed"}, timeout=30).raise_for_status()

    # The same once more, by the values that the tab offers: one click, and pasted.
    form.goto(f"{airflow_server.url}/dags/hpe_requantize/plugin/hpe-values")
    values = form.frame_locator("iframe[title='Last values']")
    form.evaluate("() => navigator.clipboard.writeText('nothing')")
    values.get_by_role("button", name="Copy").first.click()
    expect(values.get_by_role("button", name="Copied")).to_be_visible()
    form.screenshot(path=tmp_path / "values.png")
    form.get_by_role("button", name="Trigger").first.click()
    form.get_by_role("button", name="Advanced Options").click()
    form.locator(".monaco-editor").last.click()
    paste_over(form)
    form.get_by_role("button", name="Advanced Options").focus()
    again = trigger(form)
    assert {key: value for key, value in again["conf"].items() if value is not None} == settings
    session.patch(f"{runs}/{again['dag_run_id']}", json={"state": "failed"}, timeout=30).raise_for_status()


def test_a_run_starts_with_what_was_filled_in(airflow_server: AirflowServer, form: Page) -> None:
    # A run that fails at once: what counts here is what it was asked.
    form.locator("#element_model\\.checkpoint").fill(str(airflow_server.no_checkpoint))
    open_section(form, "Gate")
    form.locator("input[name='element_gate.min_ap']").fill("0.25")
    open_section(form, "Quantization recipe")
    form.locator("#element_recipe\\.fold_batch_norms").click()
    form.get_by_role("option", name="false").click()
    run = trigger(form)
    given = {key: value for key, value in run["conf"].items() if value is not None}
    assert given == {
        "preset": "sample",
        "model.checkpoint": str(airflow_server.no_checkpoint),
        "gate.min_ap": 0.25,
        "recipe.fold_batch_norms": "false",
    }
    session = airflow_server.session("operator")
    task = f"{run['dag_run_id']}/taskInstances/preflight"
    assert airflow_server.wait(session, task, {"failed", "success"}) == "failed"
    runs = f"{airflow_server.url}/api/v2/dags/hpe_requantize/dagRuns"
    session.patch(f"{runs}/{run['dag_run_id']}", json={"state": "failed"}, timeout=30).raise_for_status()
