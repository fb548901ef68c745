"""Faults of the data set: evaluation images among those of the calibration, and files that are missing or cut off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hpe_tasks.errors import DatasetError, HpeError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.records.network import QuantizedModel
from hpe_tasks.selftest.bench import Bench
from hpe_tasks.selftest.fault import Ruling

_CALIBRATION, _EVALUATION = "calibration", "val"
_KEPT_IMAGES = 3
_NEW_ID = 900_001


def calibration_leak(bench: Bench) -> Ruling:
    """An evaluation image is listed, under its name and id, in the calibration split as well."""
    root = bench.altered_data("leak")
    _add_image(root, _content(root, _EVALUATION)["images"][0])
    return _not_valid(bench, root, "splits_disjoint")


def truncated_data(bench: Bench) -> Ruling:
    """The last images are missing and the one before is cut off, as after a download that broke."""
    root = bench.altered_data("truncated")
    *_, cut, first, second = _content(root, _EVALUATION)["images"]
    for image in (first, second):
        _file(root, _EVALUATION, image).unlink()
    file = _file(root, _EVALUATION, cut)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return _not_valid(bench, root, "images_exist", "images_decode")


def too_few_persons(bench: Bench) -> Ruling:
    """The evaluation split has lost most of its images, and its records with them."""
    root = bench.altered_data("few")
    _keep_images(root, _EVALUATION, [image["id"] for image in _content(root, _EVALUATION)["images"][:5]])
    return _not_valid(bench, root, "enough_persons")


def copied_leak(bench: Bench) -> Ruling:
    """A file of an evaluation image lies in the calibration split under another name and id."""
    return _left_out(_leaky(bench), _NEW_ID, "the same image as")


def near_duplicate_leak(bench: Bench) -> Ruling:
    """An evaluation image, made smaller and larger again and saved anew, is in the calibration split."""
    return _left_out(_leaky(bench), _NEW_ID + 1, "looks like")


def keep_images(root: Path, ids: list[int]) -> None:
    """Take all other images out of the evaluation split."""
    _keep_images(root, _EVALUATION, ids)


def _leaky(bench: Bench) -> QuantizedModel:
    """A network that was calibrated on a split with a copy and a near-duplicate of evaluation images."""

    def quantized() -> QuantizedModel:
        root = bench.altered_data("near-duplicates")
        _keep_images(
            root, _CALIBRATION, [image["id"] for image in _content(root, _CALIBRATION)["images"][:_KEPT_IMAGES]]
        )
        copied, resaved = _content(root, _EVALUATION)["images"][:2]
        _add_image(root, copied, _NEW_ID)
        file = _add_image(root, resaved, _NEW_ID + 1)
        pixels = np.asarray(cv2.imread(str(file)))
        small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        again = cv2.resize(small, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(file), again, [cv2.IMWRITE_JPEG_QUALITY, 60])
        run = bench.new_run("near-duplicates", {"dataset.source": str(root)})
        steps.fetch_dataset(run)
        bench.leave_healthy(run, steps.fetch_checkpoint)
        steps.validate_dataset(run)
        bench.leave_healthy(run, steps.evaluate_fp32, steps.check_fp32)
        return steps.quantize(run)

    return bench.shared("leaky", quantized)


def _left_out(quantized: QuantizedModel, image: int, says: str) -> Ruling:
    if image in quantized.calibration_image_ids:
        return Ruling(False, f"The network was calibrated on it, among {len(quantized.calibration_image_ids)} images.")
    named = [text for text in quantized.calibration_left_out if text.startswith(_name(image)) and says in text]
    if not named:
        return Ruling(False, f"It was not drawn, but the record does not say why: {quantized.calibration_left_out}")
    return Ruling(True, f"Left out: {named[0]}")


def _not_valid(bench: Bench, root: Path, *checks: str) -> Ruling:
    """Whether the validation stops a run on this data set, and each of these checks says why."""
    run = bench.new_run("invalid", {"dataset.source": str(root)})
    steps.fetch_dataset(run)
    try:
        steps.validate_dataset(run)
    except HpeError as error:
        if not isinstance(error, DatasetError):
            return Ruling(False, f"Another guard stopped it: {error.message}")
        missed = set(checks) - _problems(run)
        return Ruling(not missed, error.message if not missed else f"Not noticed: {', '.join(sorted(missed))}")
    return Ruling(False, "The data set is valid, the validation says.")


def _problems(run: Run) -> set[str]:
    record = run.recorded(steps.validate_dataset)
    return set() if record is None else {problem.check for problem in record.problems}


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"person_keypoints_{split}.json"


def _content(root: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_annotations(root, split).read_bytes())
    return content


def _file(root: Path, split: str, image: dict[str, Any]) -> Path:
    return root / "images" / split / str(image["file_name"])


def _name(image: int) -> str:
    return f"{image:012d}.jpg"


def _keep_images(root: Path, split: str, ids: list[int]) -> None:
    content = _content(root, split)
    kept = set(ids)
    for image in content["images"]:
        if image["id"] not in kept:
            _file(root, split, image).unlink()
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    _annotations(root, split).write_text(json.dumps(content))


def _add_image(root: Path, image: dict[str, Any], new_id: int | None = None) -> Path:
    """Add an evaluation image with its people to the calibration split, as it is or under another name and id."""
    judged, content = _content(root, _EVALUATION), _content(root, _CALIBRATION)
    known_as = image if new_id is None else {**image, "id": new_id, "file_name": _name(new_id)}
    people = [row for row in judged["annotations"] if row["image_id"] == image["id"]]
    content["images"].append(known_as)
    content["annotations"] += [
        {**row, "image_id": known_as["id"], "id": known_as["id"] * 100 + number} for number, row in enumerate(people)
    ]
    _annotations(root, _CALIBRATION).write_text(json.dumps(content))
    file = _file(root, _CALIBRATION, known_as)
    shutil.copyfile(_file(root, _EVALUATION, image), file)
    return file
