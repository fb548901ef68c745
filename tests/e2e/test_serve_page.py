"""`make serve` on a fresh checkout in a real browser: the sample is published by the DAG, then served."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import FilePayload, Locator, Page, Position, expect

from hpe_tasks.data.sample import SampleSpec, draw_picture
from hpe_tasks.local.object_store import ObjectStore, Server
from hpe_tasks.pose.skeletons import COCO17
from support import airflow_home
from support.airflow_server import prepare_home
from support.serve_browser import OpenPage, Service, browser, open_page

__all__ = ["browser", "open_page"]

# The first test waits for a run of the whole DAG. The page itself is in test_serve_package_page.py, too.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

_PICTURE = SampleSpec(width=640, height=480)
_PUBLISHED_S = 900


@pytest.fixture(scope="module")
def store(object_store_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ObjectStore(tmp_path_factory.mktemp("store"), object_store_python) as server:
        yield server


@pytest.fixture(scope="module")
def environment(store: Server, repository: Path) -> Iterator[dict[str, str]]:
    """What `make` sets, in a new Airflow home whose registry is empty."""
    home = prepare_home()
    (home / "plugins").symlink_to(repository / "plugins")
    kept = ("HPE_LAMBDA_PYTHON", "HPE_REQUIRE_TOOLS")
    inherited = {
        name: value for name, value in os.environ.items() if name in kept or not name.startswith(("HPE_", "AIRFLOW"))
    }
    (home / "tmp").mkdir()
    places = {"TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "2", "COLUMNS": "200"}
    # Settings of scheduled runs are no matter of this one.
    scheduled = {"HPE_REQUANTIZE_PARAMS": '{"recipe.calibration_images": 24}'}
    yield {**inherited, **airflow_home.environment(home), **store.environment, **places, **scheduled}
    shutil.rmtree(home)


def hpe(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpe_tasks", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def service(
    environment: dict[str, str], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    service = Service(environment, log, [repository / "tools" / "serve.py", "--own-store"], _PUBLISHED_S)
    yield service
    assert service.stop() == 0, service.said
    assert service.said.endswith("Stopped.\n")


def picture(index: int, suffix: str = ".jpg") -> tuple[FilePayload, list[dict[str, Any]]]:
    """A picture of the sample as an upload, and the people in it."""
    drawn = draw_picture(_PICTURE, "val", index)
    content = cv2.imencode(suffix, drawn.image)[1].tobytes()
    kind = {".jpg": "image/jpeg", ".png": "image/png"}[suffix]
    return {"name": f"people{suffix}", "mimeType": kind, "buffer": content}, list(drawn.persons)


def drag(page: Page, box: list[float]) -> None:
    """Draw a box, given in pixels of the picture, with the mouse."""
    area = page.locator("#overlay").bounding_box()
    assert area is not None
    scale = area["width"] / _PICTURE.width
    corners = [(area["x"] + x * scale, area["y"] + y * scale) for x, y in (box[:2], np.add(box[:2], box[2:]))]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=5)
    page.mouse.up()


def shown_pixels(page: Page) -> np.ndarray:
    """The picture that came back, H×W×3 in blue, green, red."""
    source = page.locator("#image").get_attribute("src") or ""
    assert source.startswith("data:image/jpeg;base64,")
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_the_model_is_named_before_anything_is_uploaded(open_page: OpenPage, environment: dict[str, str]) -> None:
    page = open_page()
    version = json.loads(hpe(environment, "channel", "show", "sample-pose", "--json").stdout)["version"]
    expect(page.locator("#model")).to_have_text(f"sample-pose {version}")
    expect(page.locator("#drop")).to_contain_text("up to 4.5 MB")
    expect(page.locator("#result")).to_be_hidden()


def test_an_uploaded_picture_comes_back_with_its_skeleton(open_page: OpenPage) -> None:
    page = open_page()
    upload, _ = picture(11)
    page.set_input_files("#file", upload)
    expect(page.locator("#people-title")).to_have_text("1 person")
    expect(page.locator(".person").first.locator("tbody tr")).to_have_count(17)
    expect(page.locator(".person").first).to_contain_text("left shoulder")
    expect(page.locator("#times dt")).to_have_count(5)
    expect(page.locator("#total")).to_have_text(re.compile(r"^[\d.]+ ms$"))
    expect(page.locator("#error")).to_be_hidden()
    sent = cv2.imdecode(np.frombuffer(upload["buffer"], np.uint8), cv2.IMREAD_COLOR)
    changed = np.abs(shown_pixels(page).astype(int) - sent).max(axis=2) > 80
    assert changed.mean() > 0.001, "no skeleton is drawn"


def test_a_box_around_each_person_finds_them_one_by_one(open_page: OpenPage) -> None:
    page = open_page()
    upload, persons = picture(19)
    page.set_input_files("#file", upload)
    expect(page.locator("#people-title")).to_have_text("1 person")
    for number, person in enumerate(persons[:2], start=1):
        drag(page, person["bbox"])
        expect(page.locator("#overlay .box")).to_have_count(number)
        expect(page.locator("#people-title")).to_have_text("1 person" if number == 1 else f"{number} people")
        expect(page.locator("#hint")).to_contain_text("click into one to remove it")
    for person, card in zip(persons[:2], page.locator(".person").all(), strict=True):
        assert mean_distance(person, joints_of(card)) < 0.15 * person["bbox"][3]
    page.locator("#overlay").click(position=centre_of(page, persons[0]["bbox"]))
    expect(page.locator("#people-title")).to_have_text("1 person")
    page.get_by_role("button", name="Whole picture").click()
    expect(page.locator("#hint")).to_contain_text("The whole picture was taken as one person")
    expect(page.locator("#overlay .box")).to_have_count(0)


def joints_of(card: Locator) -> dict[str, tuple[float, float]]:
    rows = card.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.textContent))")
    return {name.replace(" ", "_"): (float(x), float(y)) for name, x, y, _ in rows}


def mean_distance(person: dict[str, Any], found: dict[str, tuple[float, float]]) -> float:
    """Pixels between the joints that are drawn in the picture and those that were found."""
    points = np.reshape(person["keypoints"], (17, 3))
    return float(
        np.mean(
            [
                np.hypot(*(np.array(found[name]) - xy))
                for name, (*xy, seen) in zip(COCO17.joints, points, strict=True)
                if seen
            ]
        )
    )


def centre_of(page: Page, box: list[float]) -> Position:
    area = page.locator("#overlay").bounding_box()
    assert area is not None
    scale = area["width"] / _PICTURE.width
    return {"x": (box[0] + box[2] / 2) * scale, "y": (box[1] + box[3] / 2) * scale}


def test_the_picture_can_be_seen_without_skeletons(open_page: OpenPage) -> None:
    page = open_page()
    page.set_input_files("#file", picture(11, ".png")[0])
    expect(page.locator("#people-title")).to_have_text("1 person")
    page.get_by_role("button", name="Without skeletons").click()
    expect(page.locator("#image")).to_have_attribute("src", re.compile("^blob:"))
    page.get_by_role("button", name="Without skeletons").click()
    expect(page.locator("#image")).to_have_attribute("src", re.compile("^data:image/jpeg"))


def test_a_joint_in_the_list_is_shown_in_the_picture(open_page: OpenPage) -> None:
    page = open_page()
    page.set_input_files("#file", picture(11)[0])
    row = page.locator(".person tbody tr").first
    row.hover()
    name, x, y, _ = row.locator("td").all_text_contents()
    shown = page.locator("#overlay circle.shown")
    expect(shown).to_have_count(1)
    assert abs(float(shown.get_attribute("cx") or "nan") - float(x)) < 1, name
    assert abs(float(shown.get_attribute("cy") or "nan") - float(y)) < 1, name


@pytest.mark.parametrize(
    ("upload", "status", "says"),
    [
        ({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}, 415, "not an image of a kind"),
        ({"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8 no picture"}, 415, "image"),
        ({"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""}, 422, "no image"),
        ({"name": "large.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8" + bytes(4_600_000)}, 413, "4.5 MB"),
        ({"name": "huge.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8" + bytes(20_000_000)}, 413, "6 MB"),
    ],
    ids=["text", "broken", "empty", "large", "huge"],
)
def test_what_is_wrong_with_a_file_is_shown(open_page: OpenPage, upload: FilePayload, status: int, says: str) -> None:
    page = open_page()
    page.set_input_files("#file", upload)
    expect(page.locator("#error")).to_be_visible()
    expect(page.locator("#error b")).to_have_text(f"Error {status}")
    expect(page.locator("#error")).to_contain_text(says)
    expect(page.locator("#result")).to_be_hidden()
    page.set_input_files("#file", picture(11)[0])
    expect(page.locator("#people-title")).to_have_text("1 person")
    expect(page.locator("#error")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(open_page: OpenPage, scheme: str) -> None:
    page = open_page(width=360, scheme=scheme, touch=True)
    for picture_shown in (
        lambda: page.set_input_files("#file", picture(11)[0]),
        page.locator(".thumbnail").first.click,
    ):
        picture_shown()
        expect(page.locator("#people-title")).to_have_text("1 person")
        expect(page.locator("#stage")).not_to_have_class(re.compile("busy"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # A finger scrolls the page, until it is told to mark people.
    mark = page.get_by_role("button", name="Mark a person")
    expect(mark).to_be_visible()
    mark.click()
    expect(mark).to_have_attribute("aria-pressed", "true")
    background, ink = page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; }"
    )
    assert (sum(rgb(background)) < sum(rgb(ink))) == (scheme == "dark")


def rgb(colour: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", colour)[:3]]


def test_the_function_answers_programs_as_well(service: Service) -> None:
    upload, _ = picture(11)
    headers = {"Content-Type": "image/jpeg", "Accept": "image/jpeg"}
    request = urllib.request.Request(f"{service.url}pose", upload["buffer"], headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR).shape == (480, 640, 3)


def test_a_fresh_checkout_publishes_the_sample_before_it_serves_it(service: Service) -> None:
    told = service.said
    steps = ["holds no model yet", "fetch_dataset", "gate", "promote", "Published sample-pose", "Drop pictures at"]
    places = [told.index(step) for step in steps]
    assert places == sorted(places), told
    assert "Traceback" not in told


def test_what_was_published_is_served_at_once(
    service: Service, environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    again = Service(environment, tmp_path / "log", [repository / "tools" / "serve.py", "--own-store"], 120)
    assert again.stop() == 0
    assert "no model yet" not in again.said


@pytest.mark.parametrize("asked", [["--name", "another-pose"], ["--channel", "production"]], ids=["model", "channel"])
def test_what_is_not_there_is_not_made_up(
    service: Service, environment: dict[str, str], repository: Path, asked: list[str]
) -> None:
    command: list[str | Path] = [sys.executable, repository / "tools" / "serve.py", "--own-store", *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert asked[1] in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def published(environment: dict[str, str], service: Service) -> Any:
    """The page's description of the version, whose figures other tests compare with their sources."""
    with urllib.request.urlopen(f"{service.url}model", timeout=30) as answer:
        return json.load(answer)


def test_the_page_says_what_to_expect(open_page: OpenPage, environment: dict[str, str], service: Service) -> None:
    page = open_page()
    said = published(environment, service)
    expect(page.locator("#trained")).to_contain_text("does not know photographs")
    expect(page.locator("#measured")).to_contain_text("people in 160 images")
    expect(page.locator("#measured")).to_contain_text("one person in each box")
    assert page.locator("#figures dd").all_text_contents() == list(said["accuracy"]["figures"].values())
    assert 0.6 < float(said["accuracy"]["figures"]["onnx"]) < 1
    expect(page.locator("#facts")).to_be_hidden()
    page.get_by_text("All that is known of this version").click()
    for fact in (said["version"], "channel staging", "pose_mobilenet, input 128×192", "activations 8 bits", "x86_64"):
        expect(page.locator("#facts")).to_contain_text(fact)


def test_a_golden_image_shows_that_what_is_served_is_what_was_measured(
    open_page: OpenPage, environment: dict[str, str], service: Service
) -> None:
    page = open_page()
    said = published(environment, service)
    thumbnails = page.locator(".thumbnail")
    expect(thumbnails).to_have_count(len(said["golden"]))
    for thumbnail, golden in zip(thumbnails.all(), said["golden"], strict=True):
        thumbnail.click()
        expect(page.locator("#compared-title")).to_have_text("The same as when it was measured")
        expect(thumbnail).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#overlay .box")).to_have_count(len(golden["people"]))
        sure = [joint for one in golden["people"] for joint in one["joints"] if joint["score"] >= 0.2]
        expect(page.locator("#overlay .measured")).to_have_count(len(sure))
        oks = re.search(r"OKS (?:at least )?([\d.]+)", page.locator("#compared-text").text_content() or "")
        assert oks is not None
        assert float(oks[1]) >= 0.9
        expect(page.locator(".person").first.locator("th").last).to_have_text("Off by")
        off = page.locator(".person").first.locator("tbody tr td:last-child").all_text_contents()
        assert len(off) == 17
        expect(page.locator("#advice")).to_be_hidden()
    page.get_by_role("button", name="Whole picture").click()
    expect(page.locator("#compared")).to_be_hidden()
    expect(page.locator(".thumbnail[aria-pressed=true]")).to_have_count(0)
    expect(page.locator("#overlay .measured")).to_have_count(0)


def test_a_photograph_is_told_to_be_unlike_what_the_model_knows(open_page: OpenPage, test_data: Path) -> None:
    page = open_page()
    photograph = sorted((test_data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[3]
    page.set_input_files("#file", photograph)
    advice = page.locator("#advice")
    expect(advice).to_contain_text("is low: do not trust these joints")
    expect(advice).to_contain_text(re.compile(r"Of the \d+ people .* 95 in 100 scored more than 0\.\d\d"))
    expect(advice).to_contain_text("took the whole picture for one: draw a box")
    expect(advice).to_contain_text("It was trained on: Drawn figures, crops of one person at 128×192")
    expect(page.locator(".person .note")).to_contain_text("low score")
    expect(page.locator("#compared")).to_be_hidden()
    page.locator(".thumbnail").first.click()
    expect(page.locator("#compared")).to_be_visible()
    expect(advice).to_be_hidden()


def test_a_box_can_be_given_without_a_mouse(open_page: OpenPage) -> None:
    page = open_page()
    upload, persons = picture(19)
    page.set_input_files("#file", upload)
    expect(page.locator("#people-title")).to_have_text("1 person")
    page.get_by_text("Give a box in numbers").click()
    for name, value in zip(("x", "y", "width", "height"), persons[0]["bbox"], strict=True):
        page.get_by_label(name, exact=True).fill(str(value))
    page.keyboard.press("Enter")
    expect(page.locator("#overlay .box")).to_have_count(1)
    expect(page.locator("#hint")).to_contain_text("click into one to remove it")
    assert mean_distance(persons[0], joints_of(page.locator(".person").first)) < 0.15 * persons[0]["bbox"][3]


def test_a_finger_draws_a_box_once_it_was_told_to(open_page: OpenPage) -> None:
    page = open_page(width=360, touch=True)
    page.set_input_files("#file", picture(11)[0])
    expect(page.locator("#people-title")).to_have_text("1 person")
    overlay = page.locator("#overlay")
    for expected in (0, 1):
        # The first finger, and the click on the button, scroll the page.
        overlay.evaluate("element => element.scrollIntoView({block: 'center', behavior: 'instant'})")
        area = overlay.bounding_box()
        assert area is not None
        touch = page.context.new_cdp_session(page)
        for kind, share in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
            points = (
                []
                if share is None
                else [{"x": area["x"] + share * area["width"], "y": area["y"] + share * area["height"]}]
            )
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        expect(page.locator("#overlay .box")).to_have_count(expected)
        page.get_by_role("button", name="Mark a person").click()


def test_hpe_serve_itself_publishes_nothing(environment: dict[str, str]) -> None:
    done = hpe(environment, "serve", "another-pose")
    assert done.returncode == 2
    assert "another-pose" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr
