"""The pages about models in Airflow's own application, with its logins and roles, on a bucket with versions."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hpe_airflow import access, pages
from hpe_airflow.model_pages import telling
from hpe_airflow.model_pages.actions import ACTIONS

from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.watching.moves import remember_moves, untold_moves
from support import airflow_home, run_cases
from support import sample_records as records
from support.model_pages import COOKIE, FORGED_NAMES, LOCATION, PNG, World, airflow, refused_run, world
from support.played_s3 import client, moto_client
from support.receivers import Receiver, http_receiver, mail_receiver, wait_for
from support.serving_cases import encoded, photo
from support.signing_keys import key_pem

__all__ = ["airflow", "client", "moto_client", "world"]


def reading(world: World) -> dict[str, str]:
    """Every page that is read, by a word for it."""
    version = f"/models/pose/{world.new}"
    return {
        "models": "/models",
        "one model": "/models?model=pose",
        "version": version,
        "manifest": f"{version}/manifest",
        "file": f"{version}/files/model",
        "picture": f"{version}/pictures/golden-1",
        "compare": f"/compare?version=pose@{world.old}&version=pose@{world.new}",
    }


def test_every_page_is_for_those_who_may_see_runs(world: World) -> None:
    """Nobody, a forged login, a viewer, an operator: all of this project's addresses are looked at."""
    for word, path in reading(world).items():
        assert world.ask("GET", path, None).status_code == 401, word
        world.airflow.cookies.clear()
        forged = world.airflow.get(f"/hpe{path}", headers={"Authorization": "Bearer forged"})
        assert forged.status_code == 403, word
        answer = world.ask("GET", path)
        assert answer.status_code == 200, (word, answer.text[-2000:])
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), word
        assert "unsafe" not in policy
        for reader in ("user", "op", "admin"):
            assert world.ask("GET", path, reader).status_code == 200, (word, reader)
    # A run that is not there: who may see runs is told so, nobody else.
    for page in ("report", "version", "data-docs"):
        path = f"/runs/none/{page}"
        world.airflow.cookies.clear()
        forged = world.airflow.get(f"/hpe{path}", headers={"Authorization": "Bearer forged"})
        assert forged.status_code == 403, path
        for role, status in ((None, 401), ("viewer", 404), ("admin", 404)):
            assert world.ask("GET", path, role).status_code == status, (path, role)
        assert world.ask("POST", path, "admin", data={"x": "1"}).status_code == 405, path
    app = pages.build_app()
    known = {route.path for route in app.routes}  # type: ignore[attr-defined]
    tried = {
        "/models", "/models/{name}/{version}", "/models/{name}/{version}/manifest", "/compare",
        "/models/{name}/{version}/files/{role}", "/models/{name}/{version}/pictures/{role}",
        "/models/{name}/{version}/try", "/models/{name}/actions/{action}",
        "/runs/{name}/report", "/runs/{name}/version", "/runs/{name}/data-docs",
    }  # fmt: skip
    assert known == tried, "a new address needs a test of its logins"


def test_trying_a_picture_needs_a_login_and_a_form_of_ones_own(world: World) -> None:
    path = f"/models/pose/{world.new}/try"
    file = {"picture": ("a.png", PNG, "image/png")}
    assert world.ask("POST", path, None, files=file).status_code == 401
    assert world.ask("POST", path, "viewer", files=file).status_code == 403, "no form of this person"
    page = world.ask("GET", f"/models/pose/{world.new}").text
    token = re.search('name="form_token" value="([^"]+)"', page)
    assert token is not None
    form = {"form_token": token[1]}
    for data, status, told in (
        (b"<svg onload=alert(1)>", 400, "no picture that can be shown"),
        (b"\xff\xd8\xff" + bytes(3_999_998), 400, "4,000,001 bytes"),
        (b"\xff\xd8\xff" + bytes(5_000_000), 413, "too large"),
    ):
        answer = world.ask("POST", path, "viewer", files={"picture": ("a", data, "image/png")}, data=form)
        assert (answer.status_code, told in answer.text) == (status, True), answer.text[-500:]
    refused = world.ask("POST", path, "viewer", files=file, data=form)
    assert refused.status_code == 200, refused.text[-500:]
    assert refused.text.count("<figcaption>") == 3, "FP32, int8 and what is served"
    assert "<image" not in refused.text, "the function says of each why it cannot read it"
    jpeg = {"picture": ("a.jpg", encoded(photo(160, 240)), "image/jpeg")}
    shown = world.ask("POST", path, "viewer", files=jpeg, data=form).text
    assert shown.count('<image href="data:image/jpeg;base64,') == 2, shown[-3000:]
    assert shown.count("1 found, score ") >= 2
    assert "this version" in shown
    assert "served by staging" in shown


@pytest.mark.parametrize("action", ACTIONS)
def test_acting_is_for_those_who_may_edit(world: World, action: str) -> None:
    subjects = {"version": world.new, "channel": "staging"}
    for role, status in ((None, 401), ("viewer", 403)):
        assert world.ask("GET", f"/models/pose/actions/{action}", role, params=subjects).status_code == status
        assert world.act(action, subjects | {"note": "x"}, role).status_code == status
    assert world.serves() == world.old
    assert [record.action for record in world.registry.log.records("pose")] == ["promote"]


def test_a_viewer_is_offered_no_action(world: World) -> None:
    for path in ("/models", f"/models/pose/{world.new}"):
        assert "/actions/" not in world.ask("GET", path, "viewer").text
        assert "/actions/" in world.ask("GET", path, "user").text


def test_promote_and_roll_back_by_the_form(world: World) -> None:
    done = world.act("promote", world.form("promote", version=world.new, channel="staging") | {"note": "better"})
    assert (done.status_code, done.headers["location"]) == (303, f"/hpe/models/pose/{world.new}")
    assert world.serves() == world.new
    pointer = world.registry.show("pose", "staging")
    assert (pointer.moved_by, pointer.reason) == ("admin-person", "promote")
    shown = world.ask("GET", f"/models/pose/{world.new}").text
    assert "served by staging" in shown
    assert "better" in shown
    done = world.act("rollback", world.form("rollback", channel="staging"))
    assert (done.status_code, done.headers["location"]) == (303, "/hpe/models?model=pose")
    assert world.serves() == world.old
    told = [(one.action, one.by, one.note) for one in world.registry.log.records("pose")]
    assert told[:2] == [("rollback", "admin-person", ""), ("promote", "admin-person", "better")]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example")
    with http_receiver() as server:
        fields = {"conn_type": "http", "host": server.address, "password": "services/se-cret"}
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps(fields))
        yield server


def test_what_a_person_moves_is_told_as_what_a_run_moves(world: World, hook: Receiver) -> None:
    form = world.form("promote", version=world.new, channel="staging")
    assert world.act("promote", form | {"note": "better <b>knees</b>."}).status_code == 303
    assert world.act("promote", form).status_code == 409
    assert world.act("rollback", world.form("rollback", channel="staging")).status_code == 303
    assert world.act("promote", world.form("promote", version=world.old, channel="staging")).status_code == 303
    assert world.act("pin", world.form("pin", channel="staging")).status_code == 303
    where = "https://airflow.example/hpe/models/pose"
    # Neither what was refused, nor what serves as before.
    assert [post.json["text"] for post in hook.posts] == [
        f"pose: channel staging now serves {world.new}, in place of {world.old}, promoted by admin-person: better "
        f"&lt;b&gt;knees&lt;/b&gt;. {where}/{world.new}",
        f"pose: channel staging now serves {world.old}, in place of {world.new}, rolled back by admin-person. "
        f"{where}/{world.old}",
    ]


def test_the_watch_tells_no_move_that_a_page_has_told(world: World, hook: Receiver, tmp_path: Path) -> None:
    workspace, address = LocalWorkspace(tmp_path / "w"), str(LOCATION)
    assert untold_moves(world.registry.log, address, "pose", workspace) == (), "what was before the first look"
    world.act("promote", world.form("promote", version=world.new, channel="staging"))
    assert len(hook.posts) == 1
    assert untold_moves(world.registry.log, address, "pose", workspace) == ()
    world.registry.rollback("pose", "staging", note="worse at night")
    [untold] = untold_moves(world.registry.log, address, "pose", workspace)
    assert (untold.action, untold.by, untold.version) == ("rollback", "ada", world.old)
    remember_moves(workspace, address, "pose", [untold.entry])
    assert untold_moves(world.registry.log, address, "pose", workspace) == ()
    assert len(untold_moves(world.registry.log, "s3://elsewhere/registry", "pose", workspace)) == 0


def test_where_nobody_hears_of_a_promotion_it_stands_and_the_page_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "PATIENCE_S", 1.0)
    with http_receiver(seconds_a_byte=0.1) as slow, mail_receiver() as mail:
        hook = {"conn_type": "http", "host": slow.address, "password": "se-cret"}
        smtp = {"disable_ssl": True, "disable_tls": True, "from_email": "a@example.com", "to": "b@example.com"}
        post = {"conn_type": "smtp", "host": "127.0.0.1", "port": mail.port, "extra": smtp}
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps(hook))
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_EMAIL", json.dumps(post))
        begin = time.monotonic()
        answer = world.act("promote", world.form("promote", version=world.new, channel="staging"))
        assert time.monotonic() - begin < 4
        wait_for(mail.mails)
    assert answer.status_code == 200
    assert "may not have got through hpe_alerts_webhook:" in answer.text
    assert "hpe_alerts_email" not in answer.text
    assert "se-cret" not in answer.text
    assert world.serves() == world.new
    # Airflow's own part fails: no connection can be looked up.
    monkeypatch.setattr(telling, "channels", lambda: 1 / 0)
    answer = world.act("rollback", world.form("rollback", channel="staging"))
    assert (answer.status_code, "Airflow&#39;s connections" in answer.text) == (200, True)
    assert world.serves() == world.old


def test_a_new_channel_is_made_by_a_promotion(world: World) -> None:
    form = world.form("promote", version=world.new, channel="production")
    assert form["seen"] == "new"
    assert world.act("promote", form).status_code == 303
    assert world.registry.show("pose", "production").version == world.new
    # The same page once more: the channel is there by now.
    again = world.act("promote", form)
    assert again.status_code == 409
    assert "was changed since it was looked at" in again.text


def test_retire_pin_and_annotate_by_the_form(world: World) -> None:
    assert world.act("retire", world.form("retire", version=world.new) | {"note": "wrong joints"}).status_code == 303
    shown = world.ask("GET", f"/models/pose/{world.new}", "user").text
    assert "Retired by admin-person" in shown
    assert "Take retirement back" in shown
    refused = world.act("promote", world.form("promote", version=world.new, channel="staging"))
    assert refused.status_code == 400
    assert "is retired" in refused.text
    served = world.act("retire", world.form("retire", version=world.old))
    assert (served.status_code, "cannot be retired" in served.text) == (400, True)
    assert world.act("unretire", world.form("unretire", version=world.new)).status_code == 303
    assert world.act("pin", world.form("pin", channel="staging")).status_code == 303
    assert "pinned" in world.ask("GET", "/models").text
    assert world.act("promote", world.form("promote", version=world.new, channel="staging")).status_code == 400
    assert world.act("unpin", world.form("unpin", channel="staging")).status_code == 303
    note = "<img src=x onerror=alert(1)>"
    assert world.act("annotate", world.form("annotate", version=world.new) | {"note": note}).status_code == 303
    page = world.ask("GET", f"/models/pose/{world.new}").text
    assert note not in page
    assert "&lt;img src=x" in page
    assert world.act("annotate", world.form("annotate", version=world.new)).status_code == 400, "without a note"


def test_a_channel_that_moved_since_the_page_was_shown_stays(world: World, tmp_path: Path) -> None:
    third = world.publish(tmp_path / "third", "third")
    form = world.form("promote", version=world.new, channel="staging")
    world.registry.promote("pose", third, "staging")
    answer = world.act("promote", form)
    assert answer.status_code == 409
    assert f"serves version {third}" in answer.text
    assert world.act("rollback", world.form("rollback", channel="staging") | {"seen": form["seen"]}).status_code == 409
    assert world.serves() == third
    assert world.act("pin", world.form("pin", channel="staging") | {"seen": form["seen"]}).status_code == 409
    assert world.registry.log.state("pose").pinned == {}, "nobody was shown the version that it would be pinned to"
    shown = world.form("pin", channel="staging")
    assert world.act("pin", shown).status_code == 303
    assert world.act("unpin", shown | {"seen": form["seen"]}).status_code == 409
    assert world.registry.log.state("pose").pinned.keys() == {"staging"}
    assert world.act("unpin", world.form("unpin", channel="staging")).status_code == 303
    assert world.registry.log.state("pose").pinned == {}


def test_what_somebody_else_has_pinned_or_retired_meanwhile_is_told(world: World) -> None:
    """Two who were shown the same page: the second is told of the first, and nothing of theirs is kept."""
    for action, back, subject in (
        ("pin", "unpin", {"channel": "staging"}),
        ("retire", "unretire", {"version": world.new}),
    ):
        first, second = (world.form(action, **subject) for _ in range(2))
        assert world.act(action, first | {"note": "a fair on Sunday"}).status_code == 303, action
        told = world.act(action, second | {"note": "mine"})
        assert told.status_code == 409, action
        assert "since it was looked at: by admin-person at " in told.text
        assert "a fair on Sunday" in told.text
        # Taken back, and done anew for another reason: who wants to take the first one back has not seen the second.
        shown = world.form(back, **subject)
        assert world.act(back, shown).status_code == 303
        assert world.act(back, shown).status_code == 400, "it is taken back already"
        assert world.act(action, world.form(action, **subject)).status_code == 303
        assert world.act(back, shown).status_code == 409, action
        assert world.act(back, world.form(back, **subject)).status_code == 303
    assert "mine" not in {record.note for record in world.registry.log.records("pose")}


@pytest.mark.parametrize(
    ("changed", "headers"),
    [
        ({"form_token": ""}, {}),
        ({"form_token": "1.0"}, {}),
        ({"form_token": "²." + "0" * 64}, {}),
        ({}, {"Origin": "https://elsewhere.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
        ({}, {"Sec-Fetch-Site": "same-site"}),
    ],
    ids=["no token", "made up", "no number", "other origin", "no origin", "cross-site", "another port of this host"],
)
def test_a_form_of_another_site_does_nothing(world: World, changed: dict[str, str], headers: dict[str, str]) -> None:
    form = world.form("promote", version=world.new, channel="staging")
    answer = world.act("promote", form | changed, headers=headers)
    assert answer.status_code == 403, answer.text
    assert world.serves() == world.old
    assert world.act("promote", form, headers={"Origin": "http://airflow.local"}).status_code == 303


def test_a_forms_token_is_of_one_person_and_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    form = world.form("promote", version=world.new, channel="staging")
    assert world.act("promote", form, "op").status_code == 403, "of another person"
    monkeypatch.setattr(access, "_TOKEN_LIVES_S", 0)
    answer = world.act("promote", form)
    assert (answer.status_code, "too old" in answer.text) == (403, True)
    assert world.serves() == world.old


def test_a_program_with_a_token_needs_no_form(world: World) -> None:
    world.airflow.cookies.clear()
    login = {"Authorization": f"Bearer {world.token('op')}"}
    done = world.airflow.post(
        "/hpe/models/pose/actions/promote",
        data={"version": world.new, "channel": "staging"},
        headers=login,
        follow_redirects=False,
    )
    assert done.status_code == 303
    assert world.serves() == world.new


@pytest.mark.parametrize("name", FORGED_NAMES, ids=lambda name: name[:20])
def test_a_forged_name_leads_nowhere(world: World, name: str) -> None:
    place = quote(name, safe="").replace(".", "%2E")
    for path in (
        f"/models/{place}/{world.new}",
        f"/models/pose/{place}",
        f"/models/pose/{world.new}/files/{place}",
        f"/models/pose/{world.new}/pictures/{place}",
        f"/models?model={place}",
        f"/compare?version={place}&version=pose@{world.new}",
        f"/models/{place}/actions/pin?channel=staging",
        f"/models/pose/actions/{place}?channel=staging",
        f"/models/pose/actions/pin?channel={place}",
        f"/models/{place}/{world.new}/manifest",
        f"/models/pose/{place}/manifest",
        f"/runs/{place}/report",
        f"/runs/{place}/version",
        f"/runs/{place}/data-docs",
    ):
        answer = world.ask("GET", path, "admin")
        assert answer.status_code in (400, 404, 422), (path, answer.status_code, answer.text[:300])
        assert "<script>alert" not in answer.text
    for path, form in (
        (f"/models/{place}/actions/pin", {"channel": "staging"}),
        (f"/models/pose/actions/{place}", {"channel": "staging"}),
        ("/models/pose/actions/pin", {"channel": name}),
        ("/models/pose/actions/retire", {"version": name}),
    ):
        answer = world.ask("POST", path, "admin", data=form | {"form_token": "1.0"})
        assert answer.status_code in (403, 404, 405, 422), (path, answer.status_code, answer.text[:300])
    assert [record.action for record in world.registry.log.records("pose")] == ["promote"]
    picture = {"picture": ("a.png", PNG, "image/png")}
    for path in (f"/models/{place}/{world.new}/try", f"/models/pose/{place}/try"):
        answer = world.ask("POST", path, "viewer", files=picture, data={"form_token": "1.0"})
        assert answer.status_code in (403, 404, 405, 422), (path, answer.status_code, answer.text[:300])


def test_what_is_not_there_is_said_with_what_is(world: World) -> None:
    missing = world.ask("GET", f"/models/pose/{'0' * 16}")
    assert (missing.status_code, "has no version" in missing.text) == (404, True)
    assert world.ask("GET", f"/models/pose/{world.new}/files/nothing").status_code == 404
    assert world.ask("GET", f"/models/pose/{world.new}/pictures/model").status_code == 404, "no picture"
    assert world.ask("GET", f"/compare?version=pose@{world.new}").status_code == 400


def test_too_much_is_refused_before_it_is_read(world: World) -> None:
    large = world.act("annotate", {"version": world.new, "note": "x" * 200_000})
    assert large.status_code == 413
    assert large.headers["content-security-policy"].startswith("default-src 'none'")
    unmeasured = world.ask("POST", "/models/pose/actions/pin", None, content=iter([b"channel=staging"]))
    assert unmeasured.status_code == 413


def test_files_come_whole_or_not_at_all(world: World) -> None:
    path = f"/models/pose/{world.new}/files/model"
    whole = world.ask("GET", path)
    assert sha256(whole.content).hexdigest() == world.registry.stored("pose", world.new).manifest.file("model").sha256
    assert whole.headers["content-disposition"].endswith(f'filename="pose-{world.new}-model.onnx"')
    file = world.registry.stored("pose", world.new).manifest.file("model")
    world.s3.put_object(Bucket="models", Key=f"registry/{file.blob}", Body=b"x" * file.size_bytes)
    strict = TestClient(world.airflow.app, base_url="http://airflow.local", cookies={COOKIE: world.token("viewer")})
    with pytest.raises(RuntimeError, match="response already started"):  # A server breaks the connection off then.
        strict.get(f"/hpe{path}")


def test_what_others_wrote_is_escaped_and_the_plots_show_what_is_served(world: World) -> None:
    for path in (*reading(world).values(), "/models"):
        assert "<script>alert" not in world.ask("GET", path).text or path.endswith("/manifest")
    page = world.ask("GET", "/models?model=pose").text
    assert page.count('<svg class="xy"') == 3
    assert len(re.findall('class="ring"', page)) == 3, "the served version stands out in each"
    for version in (world.old, world.new):
        assert f"/hpe/models/pose/{version}" in page
    nonce = re.search("script-src 'nonce-([^']+)'", world.ask("GET", "/models").headers["content-security-policy"])
    assert nonce is not None
    assert " style=" not in page
    assert " onclick=" not in page


def test_a_version_names_its_relatives_and_links_only_a_run_that_is_there(world: World) -> None:
    page = world.ask("GET", f"/models/pose/{world.new}").text
    for what in ("data", "checkpoint"):
        assert f"1 other version of the same {what}" in page
    lineage = page.partition('<ol class="lineage">')[2].partition("</ol>")[0]
    assert lineage.count(f"/hpe/models/pose/{world.old}") == 2
    assert "/report" not in lineage, "its run is not in this workspace"
    assert "AP by joint group" in page
    assert re.search('aria-label="left wrist: FP32 0.400', page)


def test_runs_that_published_nothing_are_a_table_with_figures(world: World, tmp_path: Path) -> None:
    refused_run(tmp_path / "w")
    page = world.ask("GET", "/models").text
    table = page.partition('id="refused-runs"')[2].partition("</table>")[0]
    assert "data-sortable" in table[:40]
    case = run_cases.gate_failed()
    assert case.decision is not None
    assert case.fp32 is not None
    assert case.exported is not None
    for text in (
        case.decision.failed[0].title,
        f'data-value="{case.fp32.accuracy}"',
        f'data-value="{case.exported.model.size_bytes}"',
        'data-state="gate_failed"',
    ):
        assert text in table


def test_compare_shows_what_differs_and_the_same_people(world: World) -> None:
    page = world.ask("GET", f"/compare?version=pose@{world.old}&version=pose@{world.new}").text
    assert "2 versions beside each other" in page
    assert page.count("<image href=") == 2
    assert "settings are alike" in page
    by_channel = world.ask("GET", f"/compare?version=pose&version=pose@{world.new}")
    assert by_channel.status_code == 200, "a model alone is what its channel serves"


def test_a_signature_is_checked_with_the_keys_that_are_accepted_here(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = SigningKey(key_pem()), SigningKey(key_pem())
    files = records.write_files(tmp_path / "signed", "signed")
    made = records.manifest(files)
    world.registry.store(made, files, key)
    page = f"/models/pose/{made.version}"

    def badge(version: str = page) -> str:
        found = re.search(r'<h1>.*?<span class="badge (?:served|idle|retired)">([^<]*)</span></span>', world.ask(
            "GET", version).text, re.DOTALL)  # fmt: skip
        assert found is not None
        return found[1]

    assert badge(f"/models/pose/{world.old}") == "not signed"
    assert badge() == "signed, not checked"
    for raw, state in ((key, "signed"), (other, "wrong signature")):
        monkeypatch.setenv("HPE_PUBLIC_KEY", base64.b64encode(raw.public_bytes).decode())
        assert badge() == state


def test_a_registry_that_is_not_there_yet_is_empty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_REGISTRY", "s3://not-there/registry")
    answer = world.ask("GET", "/models")
    assert (answer.status_code, "Nothing is published yet" in answer.text) == (200, True)


def test_the_plugin_brings_nothing_heavy_into_a_scheduler() -> None:
    """Processes that load plugins and serve no page: counted by modules, not by time."""
    code = """
import sys
from airflow import plugins_manager
before = set(sys.modules)
import airflow_local_settings, hpe_plugin
new = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"torch", "numpy", "PIL", "onnx", "onnxruntime", "jinja2", "boto3", "botocore", "fastapi", "cv2", "scipy",
         "pandas", "cryptography", "matplotlib"}
print(sorted(new & heavy), len(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": f"{airflow_home.REPOSITORY}:{airflow_home.REPOSITORY}/plugins"},
    )
    heavy, _, count = done.stdout.strip().splitlines()[-1].rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 12, "modules"
