from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hpe_tasks.data.coco import Person, load_coco
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.presets import load_config
from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.charts import bullet, dot_plot
from hpe_tasks.report.page import ReportFiles, render_report
from hpe_tasks.report.records import RunRecords, decimals_of, quantity_text, steps_of, verdict_of
from hpe_tasks.report.side_by_side import (
    PICTURE_SIZE,
    PredictedPose,
    compare_persons,
    crop_window,
    disagreement,
    person_oks,
    read_predictions,
)
from hpe_tasks.results import GateCheck
from tests.run_cases import (
    HOSTILE,
    STATES,
    broken_dataset,
    complete,
    fingerprint,
    gate_failed,
    only_config,
    report_files,
    step_failed,
    write_predictions,
)

_VOID = {"meta", "link", "img", "br", "input", "hr"}
JOINTS = np.arange(17)


class Page(HTMLParser):
    """Text, attributes and balance of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return report_files(tmp_path_factory.mktemp("report"))


def rendered(records: RunRecords, files: ReportFiles, folder: Path) -> Page:
    path = render_report(records, files, folder / "out" / "report.html")
    assert path == folder / "out" / "report.html"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 4_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("with_files", [True, False], ids=["files", "no files"])
def test_every_state_is_one_closed_safe_page(state: str, with_files: bool, files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(STATES[state](), files if with_files else ReportFiles(), tmp_path)
    assert not {tag for tag, _, _ in page.attributes} & {"script", "object", "embed", "form"}
    addresses = page.values("src") + page.values("href")
    assert all(address.startswith("data:") for address in addresses)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_published(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(complete(), files, tmp_path)
    text = page.text
    assert "Published sample-pose 3f9c2a7b41d0e856" in text
    assert "s3://hpe-models/registry/models/sample-pose/versions/3f9c2a7b41d0e856/manifest.json" in text
    assert "in place of a81b9935cc02f417" in text
    assert "312 persons in 156 images of val" in text
    assert "3.2 times smaller than FP32, 2.31 MB" in text
    assert "87.4 %" in text
    assert text.count("✓ passed") == 6  # five checks and the data set
    assert "quick look" not in text
    assert "What to try next" not in text
    assert "0.581 → 0.538 (−0.043)" in text
    assert "no data" in page.values("title")
    assert "avx512_vnni" in text
    assert "120 images with 240 persons of calibration, drawn with seed 0" in text
    assert any("31 expectations met" in value for value in page.values("srcdoc"))
    for label in ("AP50", "AP75", "AP medium", "AP large", "AR50", "AR75", "AR medium", "AR large"):
        assert label in text


def test_the_pictures_are_images_of_the_right_persons(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(complete(), files, tmp_path)
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) == 18
    for picture in pictures:
        data = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"), validate=True)
        assert Image.open(io.BytesIO(data)).size == PICTURE_SIZE
    assert page.text.count("Largest disagreement") == 3
    assert page.text.count("Drawn by seed") == 3


def test_failed_gate(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(gate_failed(), files, tmp_path)
    text = page.text
    assert "Not published: the gate failed" in text
    assert "5 of 5 checks failed" in text
    assert "Publishing : skipped" in text
    assert "−0.026" in text
    assert "What to try next" in text
    assert "--set recipe.granularity=per_channel" in text
    # The headline, two tiles, the table, the groups, the pictures.
    assert page.values("class").count("badge") == 6
    assert "s3://hpe-models/registry/models" not in text


def test_failed_step(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(step_failed(), replace(files, onnx_predictions=None), tmp_path)
    assert "Failed at export_onnx" in page.text
    assert "QuantizationError, 2026-11-02 12:00:00 UTC" in page.text
    assert "What to do: Write the model as ONNX with opset 13 or later." in page.text
    assert page.text.count("not run") == 3
    assert "0.681" in page.text
    assert HOSTILE in page.text  # as text: a script element would not be


def test_broken_dataset(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(broken_dataset(), files, tmp_path).text
    assert "Failed at validate_dataset" in text
    assert "2 of 31 expectations are not met" in text
    assert "annotation 3, annotation 9, …" in text
    assert text.count("not run") == 6


def test_only_a_configuration(tmp_path: Path) -> None:
    page = rendered(only_config(), ReportFiles(), tmp_path)
    assert "Not finished" in page.text
    assert "The next step is fetch_dataset." in page.text
    assert "model.checkpoint" in page.text
    assert page.text.count(HOSTILE) >= 2
    assert page.text.count("not run") == 9


def test_the_report_stands_without_its_pictures(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(complete(), replace(files, dataset_root=tmp_path / "gone"), tmp_path).text
    assert "No pictures." in text
    assert "gone" in text
    assert "Published" in text


def test_an_unreadable_picture_is_told(files: ReportFiles, tmp_path: Path) -> None:
    own = report_files(tmp_path / "own") if (tmp_path / "own").mkdir() is None else files
    assert own.dataset_root is not None
    for path in own.dataset_root.glob("images/val/*.jpg"):
        path.write_bytes(b"no image")
    assert "They could not be made: cannot identify image file" in rendered(complete(), own, tmp_path).text


def test_large_data_docs_are_left_out(files: ReportFiles, tmp_path: Path) -> None:
    docs = tmp_path / "docs.html"
    docs.write_text("x" * 3_000_000, encoding="utf-8")
    page = rendered(complete(), replace(files, data_docs=docs), tmp_path)
    assert not page.values("srcdoc")


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    for records in (only_config(), complete()):
        page = rendered(records, ReportFiles(), tmp_path)
    assert "Published" in page.text


# --- records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "kind", "states"),
    [
        (complete(), "published", "done " * 9),
        (gate_failed(), "gate_failed", "done " * 7 + "refused skipped"),
        (step_failed(), "failed", "done " * 5 + "failed " + "not_run " * 3),
        (broken_dataset(), "failed", "done done failed " + "not_run " * 6),
        (only_config(), "unfinished", "not_run " * 9),
        (replace(complete(), published=None), "passed", "done " * 8 + "not_run"),
        (replace(broken_dataset(), failures=()), "failed", "done done failed " + "not_run " * 6),
        (replace(complete(), failures=step_failed().failures), "failed", "done " * 5 + "failed " + "done " * 3),
    ],
    ids=[
        "published",
        "gate failed",
        "step failed",
        "broken data",
        "config",
        "not published yet",
        "no failure stored",
        "failed again",
    ],
)
def test_verdict_and_steps(records: RunRecords, kind: str, states: str) -> None:
    assert verdict_of(records).kind == kind
    assert [step.state for step in steps_of(records)] == states.split()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "in place of a81b9935cc02f417."),
        ({"previous_version": None}, "now serves it."),
        ({"previous_version": "3f9c2a7b41d0e856", "created": False}, "served it already; the same content"),
    ],
    ids=["moved", "new channel", "same again"],
)
def test_what_publishing_did_is_told(change: dict[str, object], words: str) -> None:
    records = complete()
    assert records.published is not None
    records = replace(records, published=records.published.model_copy(update=change))
    assert words in verdict_of(records).detail


def check(observed: float | None, limit: float, comparison: str = "at_least", unit: str = "AP") -> GateCheck:
    return GateCheck(
        name="x", title="x", passed=False, observed=observed, limit=limit, comparison=comparison, unit=unit, reason=""  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("observed", "limit", "unit", "text"),
    [
        (0.6684, 0.6, "AP", "0.668"),
        (0.59996, 0.6, "AP", "0.59996"),
        (0.6, 0.6, "AP", "0.600"),
        (0.874, 0.5, "share", "87.4 %"),
        (0.71234, 40.0, "MB", "0.7 MB"),
        (40.01, 40.0, "MB", "40.01 MB"),
        (None, 0.6, "AP", "–"),
    ],
)
def test_a_number_is_told_from_its_limit(observed: float | None, limit: float, unit: str, text: str) -> None:
    row = check(observed, limit, unit=unit)
    assert quantity_text(observed, unit, decimals_of(row)) == text


# --- charts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "limit_x", "observed_x", "allowed"),
    [
        (check(0.7, 0.6), 60, 70, (60, 100)),
        (check(0.01, 0.02, "at_most"), 50, 25, (0, 50)),
        (check(None, 0.02, "at_most"), 50, None, (0, 50)),
        (check(0.5, 0.0, "at_most"), 0, 86.96, (0, 0)),
    ],
    ids=["floor", "ceiling", "missing", "nothing allowed"],
)
def test_bullet(row: GateCheck, limit_x: float, observed_x: float | None, allowed: tuple[float, float]) -> None:
    drawn = bullet(row)
    assert (drawn.limit_x, drawn.observed_x, drawn.allowed) == (limit_x, observed_x, allowed)


def test_a_gain_lies_left_of_no_drop() -> None:
    drawn = bullet(check(-0.03, 0.02, "at_most"))
    assert drawn.observed_x is not None
    assert 0 < drawn.observed_x < drawn.limit_x < 100


@pytest.mark.parametrize(
    "values", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.61, 0.63), (0.999, 0.2)], ids=str
)
def test_dots_lie_on_the_axis(values: tuple[float, float]) -> None:
    plot = dot_plot({"head": values[0], "hips": None}, {"head": values[1], "hips": None})
    assert plot is not None
    head, hips = plot.rows
    assert all(x is not None and 0 <= x <= 100 for x in (head.before_x, head.after_x))
    assert (hips.change, hips.span, hips.before_x) == (None, None, None)
    positions = [tick.x for tick in plot.ticks]
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (0, 100)
    assert len(plot.ticks) <= 6


def test_no_values_no_plot() -> None:
    assert dot_plot({"head": None}, {}) is None


# --- advice -------------------------------------------------------------------------------------------------------


def test_advice_names_only_what_the_run_has_not_done() -> None:
    limits = {"gate.min_ap": 0.5, "gate.max_quantsim_gap": 1}
    some = load_config("sample", overrides=limits)
    settings = [advice.setting for advice in next_steps(complete(some, onnx_ap=0.62))]
    assert settings == ["recipe.scheme=min_max", "recipe.calibration_images=240", "recipe.activation_bw=16"]
    used = {"recipe.calibration_images": 600, "recipe.activation_bw": 16, "recipe.scheme": "min_max"}
    advice = next_steps(complete(load_config("sample", overrides=limits | used), onnx_ap=0.62))
    assert [item.setting for item in advice] == ["recipe.scheme=tf_enhanced"]
    assert next_steps(complete()) == ()


def test_advice_says_when_fp32_is_at_fault() -> None:
    config = load_config("sample", overrides={"gate.min_ap": 0.9})
    assert next_steps(complete(config))[0].text.startswith("FP32 itself reaches only 0.681")


def test_every_setting_that_advice_names_is_accepted() -> None:
    for advice in next_steps(gate_failed()):
        if advice.setting:
            key, _, value = advice.setting.partition("=")
            load_config("sample", overrides={key: yaml.safe_load(value)})


# --- pictures -----------------------------------------------------------------------------------------------------


def person(area: float = 10_000.0) -> Person:
    keypoints = np.full((17, 3), 2, dtype=np.float32)
    keypoints[:, :2] = np.arange(34).reshape(17, 2) * 3
    return Person(annotation_id=1, image_id=1, box=(0, 0, 99, 99), keypoints=keypoints, area=area, num_keypoints=17)


def test_oks_agrees_with_pycocotools() -> None:
    sigmas = np.array(fingerprint("val", 1, 1).sigmas)
    truth = person()
    random = np.random.default_rng(3)
    points = truth.keypoints[:, :2] + random.normal(0, 6, (17, 2))
    oks = person_oks(truth, PredictedPose(points.astype(np.float64), np.ones(17)), JOINTS, sigmas)
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": truth.area,
        "bbox": list(truth.box), "keypoints": truth.keypoints.ravel().tolist(),
    }  # fmt: skip
    result = {
        "image_id": 1,
        "category_id": 1,
        "score": 1.0,
        "keypoints": np.column_stack([points, np.ones(17)]).ravel().tolist(),
    }
    stats = coco_stats([annotation], [result], joints=list(range(17)), sigmas=list(sigmas))
    # With one person, AP is the share of the ten thresholds 0.50 to 0.95 that its OKS reaches.
    assert stats.ap == pytest.approx(np.mean(oks >= np.arange(0.5, 0.96, 0.05)))
    assert 0.5 < oks < 0.95


def test_oks_of_the_truth_is_one_and_needs_labels() -> None:
    truth, sigmas = person(), np.array(fingerprint("val", 1, 1).sigmas)
    exact = PredictedPose(truth.keypoints[:, :2].astype(np.float64), np.ones(17))
    assert person_oks(truth, exact, JOINTS, sigmas) == 1
    truth.keypoints[:, 2] = 0
    assert person_oks(truth, exact, JOINTS, sigmas) == 0


def test_disagreement_counts_where_fp32_is_sure() -> None:
    one = PredictedPose(np.zeros((17, 2)), np.array([0.9] * 4 + [0.1] * 13))
    other = PredictedPose(np.array([(3.0, 4.0)] * 4 + [(500.0, 500.0)] * 13), np.ones(17))
    assert disagreement(person(2500.0), one, other, JOINTS) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((10, 10, 50, 120), (640, 480)),
        ((600, 300, 40, 180), (640, 480)),
        ((0, 0, 640, 480), (640, 480)),
        ((100, 100, 300, 40), (640, 480)),
        ((5, 5, 1, 1), (640, 480)),
    ],
    ids=["tall", "corner", "whole image", "wide", "tiny"],
)
def test_crop_window_holds_the_person_in_the_shape_of_a_picture(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    left, top, width, height = crop_window(box, size)
    assert width / height == pytest.approx(PICTURE_SIZE[0] / PICTURE_SIZE[1], rel=0.05)
    assert left <= box[0]
    assert top <= box[1]
    assert left + width >= box[0] + box[2]
    assert top + height >= box[1] + box[3]
    if width <= size[0] and height <= size[1]:
        assert left >= 0
        assert top >= 0
        assert left + width <= size[0]
        assert top + height <= size[1]


def test_the_worst_come_first_and_the_others_depend_on_the_seed(files: ReportFiles, tmp_path: Path) -> None:
    assert files.dataset_root is not None
    dataset = load_coco(files.dataset_root, "val")
    before = read_predictions(write_predictions(dataset, tmp_path / "a.json", noise=0.0, seed=0))
    after = dict(before)
    moved = dataset.all_persons()[5].annotation_id
    after[moved] = PredictedPose(before[moved].keypoints + 9, before[moved].scores)
    protocol = fingerprint("val", 8, 4)
    chosen = [
        [person.annotation_id for person in compare_persons(dataset, before, after, protocol, seed=seed, count=4)]
        for seed in (0, 0, 1, 2)
    ]
    assert all(ids[0] == moved and len(set(ids)) == 4 for ids in chosen)
    assert chosen[0] == chosen[1]
    assert len({tuple(ids) for ids in chosen}) > 1


def test_persons_that_one_model_lacks_are_left_out(files: ReportFiles, tmp_path: Path) -> None:
    assert files.dataset_root is not None
    dataset = load_coco(files.dataset_root, "val")
    before = read_predictions(write_predictions(dataset, tmp_path / "a.json", noise=0.01, seed=0))
    after = {key: before[key] for key in list(before)[:2]}
    compared = compare_persons(dataset, before, after, fingerprint("val", 8, 4), seed=0)
    assert {person.annotation_id for person in compared} == set(after)
    assert compare_persons(dataset, before, {}, fingerprint("val", 8, 4), seed=0) == ()
