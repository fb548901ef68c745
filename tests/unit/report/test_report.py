from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.gate.accuracy import METRICS, Metric
from hpe_tasks.gate.decision import decide
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.records.network import Distillation, LossPoint
from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.charts import bullet, dot_plot
from hpe_tasks.report.distillation_chart import loss_curve, summary_of
from hpe_tasks.report.page import ReportFiles, render_report
from hpe_tasks.report.records import RunRecords, measured_on, quantities_of, verdict_of
from hpe_tasks.report.side_by_side import (
    PICTURE_SIZE,
)
from support.run_cases import (
    HOSTILE,
    STATES,
    as_published,
    below_floor,
    bottom_up,
    broken_dataset,
    complete,
    detected,
    gate_failed,
    inconclusive,
    judged,
    mpii,
    only_config,
    step_failed,
    unfit,
)
from support.run_files import files_of_states, report_files

_VOID = {"meta", "link", "img", "br", "input", "hr"}


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


@pytest.fixture(scope="module")
def files_by_state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportFiles]:
    return files_of_states(tmp_path_factory.mktemp("states"), STATES)


def rendered(records: RunRecords, files: ReportFiles, folder: Path) -> Page:
    path = render_report(judged(records), files, folder / "out" / "report.html")
    assert path == folder / "out" / "report.html"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 4_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("with_files", [True, False], ids=["files", "no files"])
def test_every_state_is_one_closed_safe_page(
    state: str, with_files: bool, files_by_state: dict[str, ReportFiles], tmp_path: Path
) -> None:
    page = rendered(STATES[state](), files_by_state[state] if with_files else ReportFiles(), tmp_path)
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
    assert "98.6 %" in text
    assert "72.5 dB" in text
    assert "Ed25519, public key with the SHA-256" in text
    assert "3.56× as fast as FP32 with 1 thread 95 % interval 3.51× to 3.60×" in text
    assert "2.97× as fast as FP32 with 2 threads" in text
    assert "12 and 14 pairs of measurements of an input of 1×3×256×192, on AMD EPYC 9R14" in text
    assert "38.7 ms instead of 138 ms for one image, 1 thread" in text
    assert "6 of 6 people in 3 golden images, OKS at least 0.970" in text
    assert "first answer after 271 ms on Python 3.13" in text
    assert "Measured on a CPU with x86_64, avx2, avx512_vnni." in text
    assert text.count("✓ passed") == 10  # eight checks, the preflight and the data set
    assert "quick look" not in text
    assert "What to try next" not in text
    assert "0.581 → 0.567 (−0.014)" in text
    assert "no data" in page.values("title")
    assert "avx512_vnni" in text
    assert "120 images with 240 persons of calibration, drawn with seed 0" in text
    assert any("31 expectations met" in value for value in page.values("srcdoc"))
    for label in ("AP50", "AP75", "AP medium", "AP large", "AR50", "AR75", "AR medium", "AR large"):
        assert label in text


def test_changed_copies_of_calibration_images_are_told(files: ReportFiles, tmp_path: Path) -> None:
    run = complete(load_config("sample"))
    assert run.quantized is not None
    filled = replace(run, quantized=run.quantized.model_copy(update={"augmented_inputs": 160}))
    text = rendered(filled, files, tmp_path).text
    assert "120 images with 240 persons of calibration, and 160 changed copies of them, drawn with seed 0" in text


def test_the_speed_is_drawn_on_one_scale(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(complete(), files, tmp_path)
    assert {"bar-fp32", "bar-int8"} <= set(page.values("class"))
    # 141.2 ms, the 95th percentile of FP32 with one thread, is the whole width.
    assert {"97.59%", "27.42%", "50.85%", "17.14%"} <= set(page.values("width"))
    assert {"100.0%", "37.04%", "54.75%", "18.63%"} <= set(page.values("x2"))
    without = rendered(complete(latency=None), files, tmp_path)
    assert "speed" in page.values("id")
    assert "speed" not in without.values("id")
    assert "Speed" not in without.text


def test_the_pictures_are_images_of_the_right_persons(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(complete(), files, tmp_path)
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) == 18
    for picture in pictures:
        data = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"), validate=True)
        assert Image.open(io.BytesIO(data)).size == PICTURE_SIZE
    assert page.text.count("Largest disagreement") == 3
    assert page.text.count("Drawn by seed") == 3


def test_pckh(files_by_state: dict[str, ReportFiles], tmp_path: Path) -> None:
    page = rendered(mpii(), files_by_state["mpii"], tmp_path)
    text = page.text
    assert "PCKh of the ONNX file 80.3 5 persons in 4 images of valid" in text
    assert "PCKh lost to quantization 3.0 FP32 83.3, allowed loss 1.0, 5 persons" in text
    assert "Mean all joints but pelvis and thorax 83.3 81.8 80.3" in text
    assert "Shoulder left and right 100.0 100.0 100.0" in text
    assert "Mean@0.1 as published 31.3 29.8 28.3" in text
    assert "Mean at exactly 0.1 28.3 26.8 25.3" in text
    assert "Mean@0.1 is computed at the threshold 0.11" in text
    assert "Persons 5 5 5" in text
    assert "91.3 → 88.3 (−3.0)" in text
    assert "PCKh of each joint" in text
    assert "right ankle 81.3 78.3 −3.0" in text
    assert "input from annotated centres and scales; input size 256×256; flip test on" in text
    assert "Sigma" not in text
    assert "OKS" not in text
    assert "Simple Baselines on MPII" in text
    assert "88.532 83.300 – Not comparable: 5 of 2,958 persons" in text
    assert "percentage of joints within half a head's size" in text
    assert len([1 for tag, name, _ in page.attributes if tag == "img" and name == "src"]) == 18
    assert text.count("heads off") == 12
    assert "of the size of the head in the mean" in text


def test_bottom_up(files_by_state: dict[str, ReportFiles], tmp_path: Path) -> None:
    page = rendered(bottom_up(), files_by_state["bottom_up"], tmp_path)
    text = page.text
    assert "1 of 156 images could not be measured" in text
    assert "Images that could not be measured Their persons count as missed. images/val/0003.jpg is cut off" in text
    assert "FP32, QuantSim, ONNX int8" in text
    assert "input from whole images; input size 496×384 for images wider than high, 384×496 for the others" in text
    assert "Not comparable: val instead of val2014; 156 of 40,504 images" in text
    # Two images with everybody, then six persons.
    assert len([1 for tag, name, _ in page.attributes if tag == "img" and name == "src"]) == 24
    assert "Most people found Image 1, 0001.jpg" in text
    assert "truth 2 persons FP32 2 persons int8 3 persons" in text
    assert text.count("not found") == 2
    assert "Found by FP32 only Image 2, 0002.jpg, annotation 20" in text
    assert "Found by int8 only Image 1, 0001.jpg, annotation 11" in text


def test_figures_within_and_outside_the_tolerance(tmp_path: Path) -> None:
    text = rendered(as_published(), ReportFiles(), tmp_path).text
    assert "FP32 AR 0.436, ours 0.413 0.364 0.363 −0.001 ✓ within the tolerance of 0.005" in text
    assert "W8A8 AR 0.432, ours 0.398 0.359 0.348 −0.011 ≠ outside the tolerance of 0.005" in text


def test_a_detector_s_boxes_and_warnings(files: ReportFiles, tmp_path: Path) -> None:
    records = detected()
    text = rendered(records, files, tmp_path).text
    assert "input from a detector's boxes; input size 192×256; flip test on" in text
    assert records.onnx is not None
    assert f"detector's boxes {records.onnx.fingerprint.boxes_digest}" in text
    assert "31 expectations, all met. Warnings Calibration images are copies of evaluation images." in text
    assert HOSTILE in text


def test_what_was_lost_is_drawn_with_its_interval(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(complete(), files, tmp_path).text
    assert "What quantization cost, and how sure that is" in text
    assert "95 % intervals of what the exported file gains or loses against FP32" in text
    assert "over 156 images, 10,000 resamples" in text
    assert "AP −0.013 −0.017 to −0.009" in text
    assert "wrists −0.014 −0.020 to −0.008" in text
    assert "too few images" not in text


def test_without_a_comparison_no_interval_is_drawn(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(replace(complete(), comparison=None), files, tmp_path).text
    assert "What quantization cost" not in text


LEARNT = Distillation(
    steps=400,
    learning_rate=5e-4,
    best_step=300,
    loss_before=0.02,
    loss_after=0.005,
    num_learnt=77,
    num_held_out=21,
    augmented=True,
    labelled=False,
    seconds=90.0,
    curve=tuple(
        LossPoint(step=step, held_out=loss)
        for step, loss in ((0, 0.02), (100, 0.012), (200, 0.008), (300, 0.005), (400, 0.006))
    ),
)


def test_what_was_learnt_is_drawn(files: ReportFiles, tmp_path: Path) -> None:
    records = complete()
    assert records.quantized is not None
    learnt = replace(records, quantized=records.quantized.model_copy(update={"distillation": LEARNT}))
    text = rendered(learnt, files, tmp_path).text
    assert (
        "400 steps in 90 s, on 77 examples, moved and mirrored at random, from the float network, without labels."
        in text
    )
    assert "On 21 held-out examples the loss fell by 75 %; the state after step 300 was kept." in text
    assert "0.02 → 0.005" in text
    assert "What the quantized network learned" not in rendered(records, files, tmp_path).text


def test_a_loss_curve_ends_at_what_was_kept() -> None:
    curve = loss_curve(LEARNT)
    assert curve is not None
    across, down = curve.best
    assert across == 75.0
    assert down == pytest.approx(100 * (1 - 0.25 / 1.08), abs=0.01)
    assert curve.points.split()[0] == f"0.0,{curve.start_y}"
    nothing = LEARNT.model_copy(update={"best_step": 0, "loss_after": 0.02})
    assert "it stays as it was calibrated" in summary_of(nothing)
    assert loss_curve(None) is None


def test_an_inconclusive_gate(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(inconclusive(), files, tmp_path).text
    assert "Not published: the gate is inconclusive" in text
    assert "60 images are too few to tell whether too much accuracy was lost; about 400 would tell." in text
    assert "? inconclusive" in text
    assert "✕ failed" not in text
    assert "? too few images" in text
    assert "Give the evaluation split more images: about 150 would tell" in text
    assert "Publishing : skipped" in text


def test_failed_gate(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(gate_failed(), files, tmp_path)
    text = page.text
    assert "Not published: the gate failed" in text
    assert "8 of 8 checks failed" in text
    assert "saturate on x86-64 without VNNI, see recipe.saturation_free; this processor is x86_64, avx2" in text
    assert "on x86-64 Conv up: 3 of 64 channels can clip" in text
    assert "--set recipe.saturation_free=true" in text
    assert "--set destination.processors=x86_64_vnni" in text
    assert "Publishing : skipped" in text
    assert "Promotion : skipped" in text
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
    assert page.text.count("not run") == 7
    assert "0.681" in page.text
    assert HOSTILE in page.text  # as text: a script element would not be


def test_below_the_floor(files: ReportFiles, tmp_path: Path) -> None:
    page = rendered(below_floor(), replace(files, onnx_predictions=None), tmp_path)
    text = page.text
    assert "Stopped before quantization: FP32 is below the gate's floor" in text
    assert "FP32 AP 0.021 is below 0.600 (gate.min_ap), on 312 persons in 156 images of val." in text
    assert "AP 0.02 as configured; 0.61 when the image is BGR: set model.channel_order=bgr." in text
    assert "What to do: Nothing was quantized. Start again with --set model.channel_order=bgr." in text
    assert "the image is BGR 0.612 model.channel_order=bgr" in text
    assert f"joints lie {HOSTILE} off 0.020 no setting" in text  # as text: a script element would not be
    assert "57 persons in 32 images of val" in text
    assert any(title.startswith("model.joint_names=[nose,right_eye") for title in page.values("title"))


def test_broken_dataset(files: ReportFiles, tmp_path: Path) -> None:
    text = rendered(broken_dataset(), files, tmp_path).text
    assert "Failed at validate_dataset" in text
    assert "2 of 31 expectations are not met" in text
    assert "annotation 3, annotation 9, …" in text
    assert text.count("not run") == 11


def test_what_the_preflight_found(tmp_path: Path) -> None:
    page = rendered(unfit(), ReportFiles(), tmp_path)
    assert "Failed at preflight" in page.text
    assert "2 of 4 checks: see the top of this page." in page.text
    for check in unfit().preflight.failed:
        # At the top, and among all checks.
        assert page.text.count(check.found) == 2
        assert page.text.count(check.advice) == 2
    assert page.text.count("not run") == 14
    passed = rendered(complete(), ReportFiles(), tmp_path).text
    assert "2 checks, 1 to look at." in passed
    assert "1.1 GB free, about 0.9 GB needed" in passed


def test_runs_without_a_preflight_are_shown_as_before(tmp_path: Path) -> None:
    text = rendered(replace(complete(), preflight=None), ReportFiles(), tmp_path).text
    assert "Published sample-pose" in text
    assert "checks, " not in text


def test_only_a_configuration(tmp_path: Path) -> None:
    page = rendered(only_config(), ReportFiles(), tmp_path)
    assert "Not finished" in page.text
    assert "The next step is preflight." in page.text
    assert "model.checkpoint" in page.text
    assert page.text.count(HOSTILE) >= 2
    assert page.text.count("not run") == 15


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
    text = rendered(complete(), own, tmp_path).text
    assert re.search(r"They could not be made: The image \S+\.jpg is not an image, or is cut off\.", text)


def test_large_data_docs_are_left_out(files: ReportFiles, tmp_path: Path) -> None:
    docs = tmp_path / "docs.html"
    docs.write_text("x" * 3_000_000, encoding="utf-8")
    page = rendered(complete(), replace(files, data_docs=docs), tmp_path)
    assert not page.values("srcdoc")


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    for records in (only_config(), complete()):
        page = rendered(records, ReportFiles(), tmp_path)
    assert "Published" in page.text


def test_measurements_on_different_cpus_are_told_apart() -> None:
    records = complete()
    assert records.fp32 is not None
    other = records.fp32.model_copy(update={"cpu_features": ("aarch64", "i8mm")})
    assert measured_on(replace(records, fp32=other)) == (
        "FP32 measured on a CPU with aarch64, i8mm. "
        "QuantSim and ONNX int8 measured on a CPU with x86_64, avx2, avx512_vnni."
    )
    assert measured_on(only_config()) == ""
    unnamed = records.fp32.model_copy(update={"cpu_features": ()})
    assert measured_on(replace(records, fp32=unnamed)).startswith("FP32 measured on an unknown CPU. QuantSim and")


# --- records ------------------------------------------------------------------------------------------------------


def _untested() -> RunRecords:
    return complete(load_config("sample", overrides={"destination.smoke_test": False}))


@pytest.mark.parametrize(
    ("records", "kind", "states"),
    [
        (complete(), "published", "done " * 15),
        (gate_failed(), "gate_failed", "done " * 10 + "refused" + " skipped" * 3 + " done"),
        (inconclusive(), "inconclusive", "done " * 10 + "refused" + " skipped" * 3 + " done"),
        (below_floor(), "gate_failed", "done " * 5 + "refused " + "not_run " * 9),
        (step_failed(), "failed", "done " * 7 + "failed " + "not_run " * 7),
        (broken_dataset(), "failed", "done done done failed " + "not_run " * 11),
        (only_config(), "unfinished", "not_run " * 15),
        (unfit(), "failed", "failed " + "not_run " * 14),
        (replace(complete(), preflight=None), "published", "skipped " + "done " * 14),
        (
            replace(complete(), published=None, smoke_test=None, promoted=None),
            "passed",
            "done " * 11 + "not_run " * 3 + "done",
        ),
        (replace(complete(), smoke_test=None, promoted=None), "passed", "done " * 12 + "not_run " * 2 + "done"),
        (_untested(), "published", "done " * 12 + "skipped done done"),
        (replace(broken_dataset(), failures=()), "failed", "done done done failed " + "not_run " * 11),
        (replace(complete(), failures=step_failed().failures), "failed", "done " * 7 + "failed " + "done " * 7),
    ],
    ids=[
        "published",
        "gate failed",
        "inconclusive",
        "below the floor",
        "step failed",
        "broken data",
        "config",
        "preflight failed",
        "without a preflight",
        "not published yet",
        "published, not served yet",
        "without a smoke test",
        "no failure stored",
        "failed again",
    ],
)
def test_verdict_and_steps(records: RunRecords, kind: str, states: str) -> None:
    records = judged(records)
    assert verdict_of(records).kind == kind
    assert [step.state for step in records.steps] == states.split()


@pytest.mark.parametrize(
    ("records", "states", "kind", "words"),
    [
        pytest.param(only_config(), "done done", "done", "Done: Every step is done. This p", id="nothing to judge"),
        pytest.param(
            only_config(), "done skipped", "done", "done but fetch_checkpoint, which was skipped", id="skipped"
        ),
        pytest.param(only_config(), "done skipped skipped", "done", "which were skipped", id="two skipped"),
        pytest.param(only_config(), "done refused not_run", "refused", "Refused by fetch_checkpoint", id="refused"),
        pytest.param(
            only_config(), "done not_run", "unfinished", "The next step is fetch_checkpoint.", id="unfinished"
        ),
        pytest.param(only_config(), "", "unfinished", "Not finished: ", id="no steps"),
        pytest.param(
            replace(complete(), published=None, smoke_test=None, promoted=None),
            "done done",
            "passed",
            "Passed the gate: Every step is done.",
            id="judged and not published",
        ),
    ],
)
def test_verdicts_of_other_pipelines(records: RunRecords, states: str, kind: str, words: str) -> None:
    outcomes = [
        step.model_copy(update={"state": state}) for step, state in zip(records.steps, states.split(), strict=False)
    ]
    verdict = verdict_of(replace(records, steps=tuple(outcomes)))
    assert verdict.kind == kind
    assert (verdict.good, verdict.bad) == (kind in ("done", "passed"), kind == "refused")
    assert words in f"{verdict.title}: {verdict.detail}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "in place of a81b9935cc02f417."),
        ({"previous_version": None}, "now serves it."),
        ({"previous_version": "3f9c2a7b41d0e856"}, "served it already; the same content"),
    ],
    ids=["moved", "new channel", "same again"],
)
def test_what_promotion_did_is_told(change: dict[str, object], words: str) -> None:
    records = complete()
    assert records.published is not None
    assert records.promoted is not None
    records = replace(
        records,
        published=records.published.model_copy(update={"created": "same content" not in words}),
        promoted=records.promoted.model_copy(update=change),
    )
    assert words in verdict_of(records).detail


def check(observed: float | None, limit: float, comparison: str = "at_least", unit: str = "AP") -> GateCheck:
    return GateCheck(
        name="x", title="x", passed=False, observed=observed, limit=limit, comparison=comparison, unit=unit, reason=""
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
        (84.21, 86.0, "PCKh", "84.2"),
        (85.98, 86.0, "PCKh", "85.98"),
        (16.61, 40.0, "dB", "16.6 dB"),
        (3.556, 2.0, "times", "3.56×"),
    ],
)
def test_a_number_is_told_from_its_limit(observed: float | None, limit: float, unit: str, text: str) -> None:
    assert quantities_of(check(observed, limit, unit=unit))[0] == text


@pytest.mark.parametrize(
    ("a", "b", "unit", "texts"),
    [
        # Both round to 0.600 with the three decimals that their difference of 0.0008 would need.
        (0.6004, 0.5996, "AP", ("0.6004", "≥ 0.5996", "+0.0008")),
        (0.59953, 0.59947, "AP", ("0.59953", "≥ 0.59947", "+0.00006")),
        (84.24, 84.26, "PCKh", ("84.24", "≥ 84.26", "−0.02")),
    ],
)
def test_a_margin_is_told_from_none(a: float, b: float, unit: str, texts: tuple[str, str, str]) -> None:
    assert quantities_of(check(a, b, unit=unit)) == texts


# --- charts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "limit_x", "observed_x", "allowed"),
    [
        (check(0.7, 0.6), 60, 70, (60, 100)),
        (check(0.01, 0.02, "at_most"), 50, 25, (0, 50)),
        (check(None, 0.02, "at_most"), 50, None, (0, 50)),
        (check(0.5, 0.0, "at_most"), 0, 86.96, (0, 0)),
        (check(84.0, 86.0, unit="PCKh"), 86, 84, (86, 100)),
        (check(0.5, 1.0, "at_most", unit="PCKh"), 50, 25, (0, 50)),
    ],
    ids=["floor", "ceiling", "missing", "nothing allowed", "PCKh", "drop of PCKh"],
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
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_dots_lie_on_the_axis(values: tuple[float, float], metric: Metric) -> None:
    before, after = (value * metric.maximum for value in values)
    plot = dot_plot({"head": before, "hips": None}, {"head": after, "hips": None}, metric)
    assert plot is not None
    head, hips = plot.rows
    assert all(x is not None and 0 <= x <= 100 for x in (head.before_x, head.after_x))
    assert (hips.change, hips.span, hips.before_x) == (None, None, None)
    positions = [tick.x for tick in plot.ticks]
    assert positions == sorted(set(positions))
    assert (positions[0], positions[-1]) == (0, 100)
    assert len(plot.ticks) <= 6
    assert len({tick.label for tick in plot.ticks}) == len(plot.ticks)
    assert all(0 <= float(tick.label) <= metric.maximum for tick in plot.ticks)


def test_no_values_no_plot() -> None:
    assert dot_plot({"head": None}, {}, METRICS["ap"]) is None


# --- advice -------------------------------------------------------------------------------------------------------


def test_advice_names_only_what_the_run_has_not_done() -> None:
    limits = {"gate.min_ap": 0.5, "gate.max_quantsim_gap": 1}
    some = load_config("sample", overrides=limits)
    settings = [advice.setting for advice in next_steps(complete(some, onnx_ap=0.62))]
    assert settings == [
        "recipe.search=first",
        "recipe.scheme=min_max",
        "recipe.weight_scheme=min_max",
        "recipe.calibration_images=240",
        "recipe.activation_bw=16",
    ]
    used = {
        "recipe.calibration_images": 600,
        "recipe.activation_bw": 16,
        "recipe.scheme": "min_max",
        "recipe.weight_scheme": "tf_enhanced",
    }
    advice = next_steps(complete(load_config("sample", overrides=limits | used), onnx_ap=0.62))
    assert [item.setting for item in advice] == ["recipe.search=first", "recipe.scheme=tf_enhanced"]
    # What the rungs of the ladder do has been tried.
    searched = load_config("sample", overrides=limits | {"recipe": "auto", "recipe.search_minutes": 5})
    advice = next_steps(replace(complete(some, onnx_ap=0.62), asked=searched))
    assert [item.setting for item in advice] == [
        "recipe.search_minutes=null",
        "recipe.calibration_images=240",
        "recipe.activation_bw=16",
    ]
    assert next_steps(complete()) == ()


def test_advice_says_when_fp32_is_at_fault() -> None:
    config = load_config("sample", overrides={"gate.min_ap": 0.9})
    assert next_steps(complete(config))[0].text.startswith("FP32 itself reaches only 0.681")


@pytest.mark.parametrize(
    ("limit", "share", "texts", "setting"),
    [
        pytest.param(
            4.0, 1.0, ["This is AMD EPYC 9R14 (x86_64, avx2, avx512_vnni)"], "gate.min_speedup=3.51", id="too slow"
        ),
        pytest.param(
            4.0, 0.986, ["Look at the operators", "This is AMD EPYC"], "gate.min_speedup=3.51", id="partly float"
        ),
        pytest.param(
            3.55, 1.0, ["Run the same again", "This is AMD EPYC"], "gate.min_speedup=3.51", id="too noisy to tell"
        ),
    ],
)
def test_advice_on_speed(limit: float, share: float, texts: list[str], setting: str) -> None:
    advice = next_steps(complete(load_config("sample", overrides={"gate.min_speedup": limit}), int8_share=share))
    assert len(advice) == len(texts)
    assert all(item.text.startswith(text) for item, text in zip(advice, texts, strict=True))
    assert advice[-1].setting == setting
    key, _, value = setting.partition("=")
    assert complete(load_config("sample", overrides={key: float(value)})).decision.passed


def test_advice_on_a_speed_that_was_not_measured() -> None:
    config = load_config("sample", overrides={"gate.min_speedup": 2.0})
    (only,) = next_steps(complete(config, latency=None))
    assert "it was not measured" in only.text


def judged_anew(run: RunRecords, config: RunConfig) -> RunRecords:
    """The run as it would have ended with other settings."""
    assert run.fp32 is not None
    assert run.quantized_evaluation is not None
    assert run.exported is not None
    metric = config.dataset.gate_metric
    decision = decide(config.gate, run.fp32, run.quantized_evaluation, run.exported, metric=metric)
    return replace(run, config=config, decision=decision)


def test_advice_on_pckh_is_in_percent() -> None:
    run = judged_anew(mpii(), load_config("pose_resnet_50_mpii", overrides={"dataset.source": "/data/mpii"}))
    first, *others = next_steps(run)
    assert first.text.startswith("FP32 itself reaches only 83.3: no recipe can lift int8 above 86.0")
    assert first.setting == "gate.min_pckh=80"
    assert any("5 leave PCKh uncertain by several percentage points" in advice.text for advice in others)


def test_advice_names_unreadable_images() -> None:
    run = judged_anew(bottom_up(), load_config("aimet_pose_coco2014", overrides={"gate.min_ap": 0.4}))
    assert any("1 of 156 images could not be measured" in advice.text for advice in next_steps(run))


@pytest.mark.parametrize(("records", "preset"), [(gate_failed(), "sample"), (mpii(), "pose_resnet_50_mpii")])
def test_every_setting_that_advice_names_is_accepted(records: RunRecords, preset: str) -> None:
    for advice in next_steps(records):
        if advice.setting:
            key, _, value = advice.setting.partition("=")
            load_config(preset, overrides={"dataset.source": "sample_data", key: yaml.safe_load(value)})
