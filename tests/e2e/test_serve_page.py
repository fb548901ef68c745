"""`hpe serve` with the sample model, published by the pipeline, in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, Position, expect, sync_playwright

from hpe_tasks.data.sample import SampleSpec, draw_picture
from hpe_tasks.object_store import ObjectStore, Server
from hpe_tasks.skeletons import COCO17
from tests.conftest import missing

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_PICTURE = SampleSpec(width=640, height=480)
# Enough for a model that sees people; how well it sees them is measured elsewhere.
_FEW_IMAGES = ("recipe.calibration_images=24", "recipe.scheme=min_max", "evaluation.num_images=24")
_START_S = 120


@pytest.fixture(scope="module")
def store(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    named = os.environ.get("HPE_OBJECT_STORE_PYTHON")
    python = Path(named) if named else repository / ".venv-object-store" / "bin" / "python"
    if not python.is_file():
        missing(f"{python} does not exist: run `make setup`")
    with ObjectStore(tmp_path_factory.mktemp("store"), python) as server:
        yield server


@pytest.fixture(scope="module")
def environment(store: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("serve")
    places = {"HPE_WORKSPACE": str(folder / "workspace"), "HPE_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HPE_")}
    return {**inherited, **store.environment, **places, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def hpe(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpe_tasks", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


class Service:
    """A running `hpe serve`; what it says goes into a file, because a full pipe would stop it."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "hpe_tasks", "serve"], env=environment, stdout=output, stderr=output
            )
        self.url = self._wait_for_address()

    @property
    def said(self) -> str:
        return self._log.read_text()

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", self.said):
                return found[0]
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"no address: {self.said}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def service(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = [f"--set={setting}" for setting in (*_FEW_IMAGES, "gate.min_ap=0.4", "destination.smoke_test=false")]
    gaps = [f"--set=gate.{name}=1" for name in ("max_ap_drop", "max_quantsim_gap")]
    published = hpe(environment, "run", "--preset", "sample", *settings, *gaps)
    assert published.returncode == 0, published.stdout + published.stderr
    service = Service(environment, tmp_path_factory.mktemp("log") / "serve.log")
    yield service
    assert service.stop() == 0, service.said
    assert service.said.endswith("Stopped.\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        missing("no Chromium is installed")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable, args=sandbox)
        expect.set_options(timeout=30_000)
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[OpenPage]:
    """Opens the page; nothing may ask another address, and nothing unexpected may appear on the console."""
    contexts = []
    elsewhere: list[str] = []
    messages: list[str] = []

    def opened(*, width: int = 1200, scheme: str = "light", touch: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=touch,
            is_mobile=touch,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("console", lambda message: messages.append(message.text))
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url) if not request.url.startswith((service.url, "data:", "blob:")) else None
            ),
        )
        page.goto(service.url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not elsewhere
    # The browser itself notes answers with an error status.
    assert [message for message in messages if "the server responded with a status of 4" not in message] == []


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
        ({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}, 415, "no image of a kind"),
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
    page.set_input_files("#file", picture(11)[0])
    expect(page.locator("#people-title")).to_have_text("1 person")
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


def test_before_anything_is_published_the_error_says_what_to_run(environment: dict[str, str]) -> None:
    done = hpe(environment, "serve", "another-pose")
    assert done.returncode == 2
    assert "another-pose" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr
