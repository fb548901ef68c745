"""What is done to versions and channels: a page that asks whether it is meant, and what it does then."""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from hpe_airflow.access import TOKEN_FIELD, Editor, require_own_form
from hpe_airflow.model_pages import store, views
from hpe_airflow.model_pages.rendering import page
from hpe_airflow.model_pages.routes import Name
from hpe_airflow.model_pages.telling import tell_move
from hpe_tasks.contract.names import SLUG, VERSION
from hpe_tasks.errors import BadInputError
from hpe_tasks.records.release import PromotedModel
from hpe_tasks.registry.channels import ChannelPointer, ChannelState
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.watching.moves import MOVED_BY_HAND

ActionName = Literal["promote", "rollback", "retire", "unretire", "pin", "unpin", "annotate"]

VersionQuery = Annotated[str | None, Query(pattern=f"^{VERSION}$")]
ChannelQuery = Annotated[str | None, Query(pattern=f"^{SLUG}$")]
VersionField = Annotated[str, Form(pattern=f"^({VERSION})?$")]
ChannelField = Annotated[str, Form(pattern=f"^({SLUG})?$")]

_NEW = "new"
"""In place of an ETag: the channel did not exist; of a record: none stood. (An empty field is none to FastAPI.)"""

router = APIRouter()


@dataclass(frozen=True)
class Action:
    """What an action is called, and what it is done to.

    Attributes:
        of: What it needs: a version, a channel, or both.
        effect: What it does, in a sentence.
    """

    title: str
    of: tuple[str, ...]
    effect: str
    note_needed: bool = False


ACTIONS: dict[ActionName, Action] = {
    "promote": Action("Promote", ("version", "channel"), "The channel serves this version from now on."),
    "rollback": Action("Roll back", ("channel",), "The channel serves again what it served before."),
    "retire": Action("Retire", ("version",), "No channel can be moved to this version any more. Its files stay."),
    "unretire": Action("Take retirement back", ("version",), "Channels may serve this version again."),
    "pin": Action(
        "Pin", ("channel",), "The channel stays with what it serves: runs leave it alone, nobody moves it by hand."
    ),
    "unpin": Action("Unpin", ("channel",), "Runs and people may move the channel again."),
    "annotate": Action("Annotate", ("version",), "The note stays with the version, in its log.", note_needed=True),
}


@router.get("/models/{name}/actions/{action}")
def ask(
    request: Request,
    user: Editor,
    name: Name,
    action: Annotated[ActionName, Path()],
    version: VersionQuery = None,
    channel: ChannelQuery = None,
) -> HTMLResponse:
    """Ask whether an action is meant, with what it would change."""
    wanted = ACTIONS[action]
    _require_subjects(wanted, version, channel)
    registry = store.registry()
    before = registry.state(name, channel) if channel is not None else ChannelState(None, None)
    if channel is not None and action != "promote":
        registry.show(name, channel)
    target = version if action != "rollback" else _served_before(before)
    manifest = None if target is None else registry.stored(name, target).manifest
    return page(
        request,
        user,
        "action",
        name=name,
        action=action,
        wanted=wanted,
        version=version,
        channel=channel,
        now=before.pointer,
        seen=before.etag or _NEW,
        stands=_record(registry, name, action, version, channel) or _NEW,
        target=target,
        checks=() if manifest is None else views.gate_rows(manifest.gate),
        gate=None if manifest is None else manifest.gate,
        token_field=TOKEN_FIELD,
    )


@router.post("/models/{name}/actions/{action}")
def act(
    request: Request,
    user: Editor,
    name: Name,
    action: Annotated[ActionName, Path()],
    version: VersionField = "",
    channel: ChannelField = "",
    seen: Annotated[str | None, Form(max_length=200)] = None,
    stands: Annotated[str | None, Form(max_length=40)] = None,
    note: Annotated[str, Form(max_length=4000)] = "",
    form_token: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Do it, and show what is there then.

    A channel that was moved since the page that asked was shown stays as it is, and so does what somebody else has
    pinned or retired since. A program that says nothing of what it has `seen`, and of the record that `stands`, acts on
    it as it is. A note is added, and takes nothing away.
    """
    require_own_form(request, user, form_token)
    _require_subjects(ACTIONS[action], version or None, channel or None)
    actor = user.get_name()
    seen, stands = ("" if given == _NEW else given for given in (seen, stands))
    registry, operations = store.registry(actor), store.operations(actor)
    deeds: dict[ActionName, Callable[[], object]] = {
        "promote": lambda: registry.promote(name, version, channel, keys=store.keys(), seen=seen, note=note),
        "rollback": lambda: registry.rollback(name, channel, keys=store.keys(), seen=seen, note=note),
        "retire": lambda: operations.retire(name, version, stands=stands, note=note),
        "unretire": lambda: operations.unretire(name, version, stands=stands, note=note),
        "pin": lambda: operations.pin(name, channel, seen=seen, stands=stands, note=note),
        "unpin": lambda: operations.unpin(name, channel, seen=seen, stands=stands, note=note),
        "annotate": lambda: operations.annotate(name, version, note=note),
    }
    before = registry.state(name, channel).pointer if action in MOVED_BY_HAND else None
    done = deeds[action]()
    base = request.scope.get("root_path", "").rstrip("/")
    there = f"{base}/models/{name}/{version}" if version else f"{base}/models?model={name}"
    if isinstance(done, PromotedModel | ChannelPointer):
        now, previous = done.version, None if before is None else before.version
        how = f"{MOVED_BY_HAND[action]} by {actor}"
        if now != previous and (untold := tell_move(name, channel, now, previous, action=action, how=how, note=note)):
            shown: dict[str, Any] = {"name": name, "channel": channel, "now": now, "there": there, "untold": untold}
            return page(request, user, "untold", wanted=ACTIONS[action], **shown)
    return RedirectResponse(there, status.HTTP_303_SEE_OTHER)


def _record(registry: ModelRegistry, name: str, action: ActionName, version: str | None, channel: str | None) -> str:
    """Entry of the record that retires the version or pins the channel that an action is about; empty for none."""
    if action not in ("pin", "unpin", "retire", "unretire"):
        return ""
    state = registry.log.state(name)
    entry = state.pinned.get(channel or "") if action in ("pin", "unpin") else state.retired.get(version or "")
    return "" if entry is None else entry.entry


def _require_subjects(action: Action, version: str | None, channel: str | None) -> None:
    given = {"version": version, "channel": channel}
    missing = [what for what in action.of if given[what] is None]
    if missing:
        raise BadInputError(
            f"{action.title} needs a {' and a '.join(missing)}.", hint="Start from the page of models, or of a version."
        )


def _served_before(state: ChannelState) -> str | None:
    return state.pointer.history[0].version if state.pointer is not None and state.pointer.history else None
