"""Triggering a run by Airflow's form, in a browser."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect


def trigger(page: Page) -> dict[str, Any]:
    """Press the form's button; the run as Airflow answers it."""
    button = page.get_by_role("button", name="Trigger", exact=True).last
    expect(button).to_be_enabled()
    with page.expect_response(
        lambda answer: answer.url.endswith("/dagRuns") and answer.request.method == "POST"
    ) as got:
        button.click()
    assert got.value.status == 200, got.value.text()
    run: dict[str, Any] = got.value.json()
    return run
