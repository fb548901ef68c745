"""The pages' templates, and the content policy that each answer brings along."""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader

from hpe_airflow.access import form_token, may_edit
from hpe_tasks.gate.accuracy import metric_named
from hpe_tasks.report.templating import templates_for

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

    from hpe_tasks.datasets import MetricName
    from hpe_tasks.errors import HpeError

_HERE = Path(__file__).parent / "templates"


def page(
    request: Request,
    user: BaseUser,
    template: str,
    *,
    figures_of: MetricName | None = None,
    status: int = 200,
    **shown: Any,
) -> HTMLResponse:
    """A page; it runs its own script and styles, and asks nobody but this server.

    Args:
        request: What is answered.
        user: Sees the buttons for what he may do.
        template: Name of the template, without its ending.
        figures_of: What the figures are of; None for pages that bring them as text.
        status: Of the answer.
        shown: What the template shows.
    """
    return _answer(
        request,
        template,
        figures_of,
        status,
        {"may_act": may_edit(request, user), "form_token": form_token(user), **shown},
    )


def problem_page(request: Request, error: HpeError, status: int) -> HTMLResponse:
    """What is wrong, and what to do."""
    titles = {400: "That cannot be done", 404: "Not there", 409: "Somebody was faster"}
    shown = {"title": titles.get(status, "The registry cannot be read"), "message": error.message, "hint": error.hint}
    return _answer(request, "problem", None, status, shown)


def _answer(
    request: Request, template: str, metric: MetricName | None, status: int, shown: dict[str, Any]
) -> HTMLResponse:
    nonce, base = secrets.token_urlsafe(16), request.scope.get("root_path", "").rstrip("/")
    text = _templates(metric).get_template(f"{template}.html.j2").render(base=base, nonce=nonce, **shown)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    )
    return HTMLResponse(text, status, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


@cache
def _templates(metric: MetricName | None) -> Environment:
    environment = templates_for(None if metric is None else metric_named(metric))
    environment.loader = ChoiceLoader([FileSystemLoader(_HERE), PackageLoader("hpe_tasks.report")])
    environment.filters["when"] = lambda at: "" if at is None else f"{at:%Y-%m-%d %H:%M}"
    return environment
