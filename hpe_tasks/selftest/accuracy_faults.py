"""Faults of accuracy that an average, a small sample or another protocol may hide."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from hpe_tasks.data.splits import load_split
from hpe_tasks.metrics.image_tables import WHOLE, ImageTable, read_table
from hpe_tasks.pipeline import steps
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.selftest.bench import Bench, checkpoint_of
from hpe_tasks.selftest.checkpoint_faults import OUTPUT_LAYER, Tensors, changed_checkpoint
from hpe_tasks.selftest.data_faults import keep_images
from hpe_tasks.selftest.fault import Ruling, check_refused
from hpe_tasks.selftest.measured_file import described, judged, measured, measured_fp32
from hpe_tasks.selftest.onnx_edits import Rows, change_output_layer

_DEAD = "left_knee"
_WRISTS = {"left_wrist": "left_elbow", "right_wrist": "right_elbow"}
_WRIST_SHARE = 0.4
_BLUNT_SHARE = 0.33
_NOISE = 1.8
_LUCKY_IMAGES = 8
_DRAWS = 2000


def dead_joint(bench: Bench) -> Ruling:
    """A channel of the exported file is zero everywhere."""

    def kill(rows: Rows) -> Rows:
        rows[_channels(bench, [_DEAD])] = 0
        return rows

    return check_refused(judged(bench, "dead-joint", _changed(bench, kill)), "max_joint_drop")


def worse_wrists(bench: Bench) -> Ruling:
    """The file is better than its checkpoint on average, but for the wrists, which it draws to the elbows."""

    def draw_to_elbows(rows: Rows) -> Rows:
        wrists, elbows = _channels(bench, _WRISTS), _channels(bench, _WRISTS.values())
        rows[wrists] = (1 - _WRIST_SHARE) * rows[wrists] + _WRIST_SHARE * rows[elbows]
        return rows

    def disturb(tensors: Tensors) -> None:
        weight = tensors[f"{OUTPUT_LAYER}.weight"]
        noise = np.random.default_rng(0).normal(scale=_NOISE * weight.std(), size=weight.shape)
        noise[_channels(bench, _WRISTS)] = 0
        tensors[f"{OUTPUT_LAYER}.weight"] = (weight + noise).astype(weight.dtype)

    run = bench.planted_run("wrists", steps.check_fp32)
    fp32 = measured_fp32(bench, run, changed_checkpoint(bench, disturb))
    decision = judged(bench, "wrists", _changed(bench, draw_to_elbows), fp32=fp32)
    ruling = check_refused(decision, "max_joint_drop")
    whole = next(check for check in decision.checks if check.name == "max_ap_drop")
    if ruling.refused and not whole.passed:
        return Ruling(False, f"This is another fault than was to be planted, it is worse on average: {whole.reason}")
    return ruling


def lucky_sample(bench: Bench) -> Ruling:
    """A file that loses too much is judged on a few images on which it happens to lose little."""
    file = _blunted(bench)
    root = bench.altered_data("lucky")
    keep_images(root, _lucky_images(bench, file))
    settings = {"dataset.source": str(root), "dataset.min_persons": 1}
    run = bench.new_run("lucky", settings)
    steps.fetch_dataset(run)
    bench.leave_healthy(run, steps.fetch_checkpoint)
    steps.validate_dataset(run)
    fp32 = steps.evaluate_fp32(run)
    bench.leave_healthy(run, steps.check_fp32, steps.quantize)
    exported = described(bench, file)
    bench.leave(run, steps.export_onnx, exported)
    healthy, report = bench.healthy.result(steps.evaluate_quantized), measured(bench, run, file)
    if fp32.fingerprint != report.fingerprint:
        raise RuntimeError("FP32 and the file were measured on different images")
    changed = {"onnx": report, "model_sha256": exported.model.sha256}
    bench.leave(run, steps.evaluate_quantized, healthy.model_copy(update=changed))
    steps.compare_accuracy(run)
    return check_refused(steps.gate(run), "max_ap_drop", inconclusive=True)


def other_protocol(bench: Bench) -> Ruling:
    """FP32 was measured with the flip test, the file without."""
    mirrored = bench.planted_run("mirrored", steps.check_fp32, settings={"evaluation.flip_test": True})
    fp32 = measured_fp32(bench, mirrored, checkpoint_of(bench))
    run = bench.planted_run("protocol", steps.gate, instead={steps.evaluate_fp32: fp32})
    ruling = check_refused(steps.gate(run), "max_ap_drop")
    if ruling.refused and "cannot be compared" not in ruling.message:
        return Ruling(False, f"It was compared: {ruling.message}")
    return ruling


def _channels(bench: Bench, joints: Iterable[str]) -> list[int]:
    names = bench.config.model.joints.joints
    return [names.index(joint) for joint in joints]


def _changed(bench: Bench, change: Callable[[Rows], Rows]) -> Path:
    out = bench.new_folder("changed") / "model.onnx"
    return change_output_layer(bench.exported_file(), change, out)


def _blunted(bench: Bench) -> Path:
    """A file whose channels all show a little of the next one."""

    def blunt(rows: Rows) -> Rows:
        return (1 - _BLUNT_SHARE) * rows + _BLUNT_SHARE * np.roll(rows, 1, axis=0)

    return _changed(bench, blunt)


def _lucky_images(bench: Bench, file: Path) -> list[int]:
    """A draw of a few images on which the file keeps the limit that it breaks on all of them."""
    run = bench.planted_run("unlucky", steps.compare_accuracy)
    before, after = _table(bench, run.result(steps.evaluate_fp32)), _table(bench, measured(bench, run, file))
    ids = load_split(run.config.dataset.kind, bench.data, run.config.dataset.evaluation_split).image_ids
    limit, whole = run.config.gate.max_ap_drop, before.whole()[WHOLE] - after.whole()[WHOLE]
    if whole <= limit:
        raise RuntimeError(f"the file loses {whole:.3f} on all images, which {limit} allows")
    draws = [random.Random(seed).sample(list(ids), _LUCKY_IMAGES) for seed in range(_DRAWS)]
    lost = _figures(before, draws) - _figures(after, draws)
    lucky = np.flatnonzero((lost > 0) & (lost < limit / 2))
    if not len(lucky):
        raise RuntimeError(f"in {_DRAWS} draws of {_LUCKY_IMAGES} images none was lucky")
    return draws[int(lucky[0])]


def _table(bench: Bench, report: EvaluationReport) -> ImageTable:
    if report.image_table is None:
        raise RuntimeError("the measurement has kept no table of its images")
    return read_table(bench.healthy.workspace.local(report.image_table).read_bytes())


def _figures(table: ImageTable, draws: Sequence[Sequence[int]]) -> np.ndarray:
    """The judged figure over each draw of images."""
    known = table.images.tolist()
    counts = np.array([[int(image in draw) for image in known] for draw in draws], dtype=np.int32)
    return np.asarray(table.figures(counts, [WHOLE])[WHOLE])
