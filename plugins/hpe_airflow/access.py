"""Who may see a page, who may act on it, and that an action was asked for on a page of this server."""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import hmac
import time
from hashlib import sha256
from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request, status

from hpe_tasks.pipeline.runs import FIRST_PIPELINE

TOKEN_FIELD = "form_token"

_TOKEN_LIVES_S = 8 * 3600


def reader(request: Request, user: GetUserDep) -> BaseUser:
    """The user, who may see plugins' pages and the pipeline's runs; raises 401 and 403."""
    requires_access_view(AccessView.PLUGINS)(request, user)
    requires_access_dag("GET", DagAccessEntity.RUN, FIRST_PIPELINE)(request, user)
    return user


def editor(request: Request, user: Annotated[BaseUser, Depends(reader)]) -> BaseUser:
    """The user, who may also edit the pipeline's DAG; raises 401 and 403."""
    requires_access_dag("PUT", None, FIRST_PIPELINE)(request, user)
    return user


Reader = Annotated[BaseUser, Depends(reader)]
Editor = Annotated[BaseUser, Depends(editor)]


def may_edit(request: Request, user: BaseUser) -> bool:
    """Whether a user who sees a page may act on it."""
    try:
        editor(request, user)
    except HTTPException:
        return False
    return True


def form_token(user: BaseUser) -> str:
    """What a form of this user carries, so that no other site's page can send it."""
    return _token(user, int(time.time()))


def require_own_form(request: Request, user: BaseUser, token: str) -> None:
    """Refuse a form that no page of this server has shown to this user.

    A browser sends the login's cookie by itself, a program with a token in the header does not: that needs no form.

    Raises:
        HTTPException: 403.
    """
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The form was sent by a page of another site.")
    issued = token.partition(".")[0]
    known = issued.isascii() and issued.isdigit() and len(issued) < 15
    if not known or not hmac.compare_digest(token.encode(), _token(user, int(issued)).encode()):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The form is not one that was shown to you: open it again.")
    if not -60 < time.time() - int(issued) < _TOKEN_LIVES_S:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The form is too old: open it again.")


def _token(user: BaseUser, issued: int) -> str:
    key = conf.get("api", "secret_key").encode()
    return f"{issued}.{hmac.new(key, f'hpe form {issued} {user.get_id()}'.encode(), sha256).hexdigest()}"
