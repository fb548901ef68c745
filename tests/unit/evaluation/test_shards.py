"""A measurement that is made in parts is the same to the last byte, whatever the number of parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.data.mpii import load_truth
from hpe_tasks.data.splits import load_split
from hpe_tasks.errors import DatasetError, StorageError
from hpe_tasks.evaluation import evaluate, predict_shard
from hpe_tasks.evaluation.recount import recount
from hpe_tasks.evaluation.shards import Shard, StoredShard
from hpe_tasks.inference import prepare_image
from hpe_tasks.metrics.image_tables import HitTable
from hpe_tasks.metrics.pckh import HEAD_FACTOR, THRESHOLD
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.storage.columns import read_columns, write_columns
from support.dot_pictures import CATEGORY, CONFIG, describe, joints_at, write_dataset
from support.mpii_factory import write_mpii
from support.named_outputs import heatmap_network, paf_network
from support.paf_scenes import ideal_maps

COUNTS = (1, 2, 7, 64)
FEW_COUNTS = (2, 7)
SMALL = CONFIG.model_copy(update={"input_width": 48, "input_height": 64})
PAF = ModelConfig(checkpoint="unused", architecture="onnx", codec="paf", input_width=496, input_height=384)


@dataclass(frozen=True)
class Case:
    """What is measured, by what, and how."""

    dataset: Dataset
    network: Callable[[np.ndarray], dict[str, np.ndarray]]
    model: ModelConfig = SMALL
    evaluation: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The network, and a trace of all the images in the batch: what some kernels leave in the last bits."""
        trace = np.float32(1 - 1e-3 * float(np.abs(images).mean()) - 1e-3 * len(images))
        return {name: array * trace for name, array in self.network(images).items()}

    def config(self) -> EvaluationConfig:
        return EvaluationConfig(**({"batch_size": 4} | self.evaluation))


def shifted_pictures(joints: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A network whose heatmaps are the picture, for each joint shifted by another width."""

    def network(images: np.ndarray) -> np.ndarray:
        rows = np.abs(images).mean(axis=1)[:, ::4, ::4]
        return np.stack([np.roll(rows, joint, axis=2) for joint in range(joints)], axis=1)

    return heatmap_network(network)


def crops(root: Path, **evaluation: Any) -> Case:
    """Six images with three, one, four, none, two and five persons: most batches hold persons of several."""
    places = [(20, 20), (130, 60), (240, 30), (340, 90), (60, 100)]
    people = [[joints_at(*place) for place in places[:number]] for number in (3, 1, 4, 0, 2, 5)]
    return Case(write_dataset(root, *people), shifted_pictures(17), evaluation=evaluation)


def detected(root: Path) -> Case:
    """Overlapping detections, of which OKS-NMS keeps some."""
    case = crops(root)
    rows = [
        {"image_id": image, "category_id": CATEGORY, "bbox": [x + dx, y, w, h], "score": score}
        for image in (1, 3, 6)
        for person in case.dataset.persons(image)  # type: ignore[attr-defined]
        for x, y, w, h in [person.box]
        for dx, score in ((0, 0.9), (5, 0.8), (9, 0.95))
    ]
    file = root / "boxes.json"
    file.write_text(json.dumps(rows))
    return replace(case, arguments={"boxes": file})


def broken(root: Path, **evaluation: Any) -> Case:
    """Two images cannot be read; the persons of one are in two batches."""
    case = crops(root, max_failed_images=0.5, **evaluation)
    for name in ("1.png", "3.png"):
        (root / "images" / "val" / name).unlink()
    return case


def whole_images(root: Path) -> Case:
    """A network that knows every image by its pixels, and finds the people in it; in one of them it finds nobody."""
    people = [[joints_at(40, 40)], [], [joints_at(300, 90), joints_at(60, 60)], [joints_at(200, 50)], [joints_at(9, 9)]]
    dataset = write_dataset(root, *people)
    for number in range(1, 6):
        file = str(root / "images" / "val" / f"{number}.png")
        cv2.imwrite(file, np.full_like(cv2.imread(file), 30 * number))
    maps = {}
    for image in dataset.images:
        persons = [person.joints for person in dataset.persons(image.id)]
        pictured = ideal_maps(np.stack(persons) if persons else np.zeros((0, 17, 3)), (image.width, image.height))
        prepared = prepare_image(dataset, PAF, image)
        maps[prepared.pixels.tobytes()] = np.concatenate(pictured[::-1])
    network = paf_network(lambda images: np.stack([maps[image.tobytes()] for image in images]))
    return Case(dataset, network, PAF, {"batch_size": 2}, {"images": "all"})


def mpii(root: Path) -> Case:
    write_mpii(root)
    model = SMALL.model_copy(update={"skeleton": "mpii16"})
    return Case(load_split("mpii", root, "valid"), shifted_pictures(16), model, {"batch_size": 1})


def crowdpose(root: Path) -> Case:
    """Drawn people of the sample, in CrowdPose's layout."""
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.datasets import CROWDPOSE

    make_sample(root, SampleSpec(train=1, calibration=1, val=5), splits=["val"], kind=CROWDPOSE)
    model = SMALL.model_copy(update={"skeleton": "crowdpose14"})
    return Case(load_split("crowdpose", root, "val"), shifted_pictures(14), model, {"batch_size": 3})


CASES: dict[str, Callable[[Path], Case]] = {
    "annotated boxes": crops,
    "flip test": lambda root: crops(root, flip_test=True),
    "a subset": lambda root: crops(root, num_images=3),
    "detected boxes": detected,
    "failed images": broken,
    "whole images": whole_images,
    "MPII": mpii,
    "CrowdPose": crowdpose,
}


def measured(case: Case, folder: Path, count: int | None) -> tuple[EvaluationReport, dict[str, bytes]]:
    """The report, without what tells the time and the place; and all files."""
    folder.mkdir()
    shards = None if count is None else [made(case, folder.parent, Shard(n, count)) for n in range(count)]

    def refused(images: np.ndarray) -> dict[str, np.ndarray]:
        raise AssertionError("the network is asked again")

    report = evaluated(case, case.predict if shards is None else refused, folder, shards)
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    return report.model_copy(update={"images_per_second": 0.0}), files


def evaluated(
    case: Case, predict: Callable[[np.ndarray], dict[str, np.ndarray]], folder: Path, shards: list[StoredShard] | None
) -> EvaluationReport:
    return evaluate(
        case.dataset,
        predict,
        case.model,
        case.config(),
        runtime="fp32",
        dataset_digest="d" * 64,
        seed=0,
        predictions_file=folder / "predictions.json",
        artifact=lambda file: describe(file).model_copy(update={"uri": file.name}),
        shards=shards,
        **case.arguments,
    )


def made(case: Case, folder: Path, shard: Shard) -> StoredShard:
    file = folder / f"{shard.number} of {shard.count}.parquet"
    record = predict_shard(
        case.dataset,
        case.predict,
        case.model,
        case.config(),
        runtime="fp32",
        seed=0,
        shard=shard,
        file=file,
        artifact=describe,
        **case.arguments,
    )
    return StoredShard(record, file)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_what_is_stored_comes_to_the_same_when_it_is_counted_again(
    tmp_path: Path, make: Callable[[Path], Case]
) -> None:
    case = make(tmp_path / "data")
    report, files = measured(case, tmp_path / "whole", None)
    rows = json.loads(files["predictions.json"])
    asked = {"images": case.arguments.get("images", "with_persons"), "runtime": "fp32", "seed": 0}
    found = recount(case.dataset, rows, case.model, case.config(), **asked)
    protocol = report.fingerprint
    assert (found.image_ids_digest, found.num_persons) == (protocol.image_ids_digest, protocol.num_persons)
    assert found.joint_map == protocol.joint_map
    table = files["image_table.npz"]
    assert [one.to_bytes() for one in found.tables] == [table, table]
    assert found.stats == (None if make is mpii else report.stats)
    changed = json.loads(files["predictions.json"])
    for row in changed:
        row["keypoints"] = [value + 40 * (number % 3 < 2) for number, value in enumerate(row["keypoints"])]
    other, _ = recount(case.dataset, changed, case.model, case.config(), **asked).tables
    assert other.to_bytes() != table


def test_a_hit_that_the_stored_digits_leave_open_may_be_either(tmp_path: Path) -> None:
    case = mpii(tmp_path)
    truth = load_truth(case.dataset)  # type: ignore[arg-type]
    heads = HEAD_FACTOR * np.linalg.norm(np.diff(truth.head_boxes, axis=1), axis=2)

    def tables(further_px: float) -> list[int]:
        """How many hits there are, fewest and most, where every joint is so far beyond the threshold."""
        joints = truth.joints - 1 + np.array([1.0, 0.0]) * (THRESHOLD * heads + further_px)[:, :, None]
        triples = np.concatenate([joints, np.ones((*joints.shape[:2], 1))], axis=2)
        rows = [
            {"image": person.image, "person": person.index, "keypoints": triples[number].ravel().tolist()}
            for number, person in enumerate(case.dataset.persons)  # type: ignore[attr-defined]
        ]
        counted = recount(case.dataset, rows, case.model, case.config(), runtime="fp32", seed=0).tables
        return [int(one.hits.sum()) for one in counted if isinstance(one, HitTable)]

    labelled = int((truth.visible > 0).sum())
    assert labelled > 10
    assert (tables(-0.002), tables(0.0), tables(0.002)) == ([labelled, labelled], [0, labelled], [0, 0])


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_any_number_of_parts_comes_to_the_same_bytes(tmp_path: Path, make: Callable[[Path], Case]) -> None:
    case = make(tmp_path / "data")
    whole, files = measured(case, tmp_path / "whole", None)
    assert any(stem.startswith("predictions") for stem in files)
    assert len(json.loads(files["predictions.json"])) > 2
    for count in COUNTS if make is crops else FEW_COUNTS:
        report, same = measured(case, tmp_path / str(count), count)
        assert report == whole
        assert same == files


def test_a_part_reads_its_own_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = crops(tmp_path)
    read: list[bytes] = []
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: read.append(b"") or original(*given))
    counts = []
    for number in range(4):
        read.clear()
        stored = made(case, tmp_path, Shard(number, 4))
        counts.append((stored.record.inputs, len(read)))
    # Images hold 3, 1, 4, 2 and 5 persons; batches of four cut the fourth and the last.
    assert counts == [(4, 2), (4, 1), (4, 2), (3, 1)]


@pytest.mark.parametrize("make", [broken, whole_images], ids=["crops", "whole images"])
def test_an_image_that_fails_moves_nobody_into_another_batch(tmp_path: Path, make: Callable[[Path], Case]) -> None:
    case = make(tmp_path)
    shown: list[int] = []
    network = case.predict

    def counted(images: np.ndarray) -> dict[str, np.ndarray]:
        shown.append(len(images))
        return network(images)

    if make is whole_images:
        (tmp_path / "images" / "val" / "3.png").unlink()
        case = replace(case, evaluation={"batch_size": 2, "max_failed_images": 0.5})
    object.__setattr__(case, "predict", counted)
    measured(case, tmp_path / "out", None)
    assert shown == ([2, 1, 1] if make is whole_images else [1, 4, 3])


def test_more_failures_than_all_may_have_end_a_part_and_those_of_all_parts_the_whole(tmp_path: Path) -> None:
    case = broken(tmp_path / "data")
    strict = replace(case, evaluation={"max_failed_images": 0.0})
    with pytest.raises(DatasetError, match=r"Of the 5 images .* 1 cannot be measured, where 0 may fail: .*1\.png"):
        made(strict, tmp_path, Shard(0, 2))
    # One in each of two parts, where one may fail.
    one_may = replace(case, evaluation={"max_failed_images": 0.2})
    with pytest.raises(DatasetError, match=r"2 cannot be measured, where 1 may fail: .*1\.png is missing; .*3\.png"):
        measured(one_may, tmp_path / "out", 4)


def test_parts_that_are_not_those_of_one_whole_are_refused(tmp_path: Path) -> None:
    case = crops(tmp_path / "data")
    parts = [made(case, tmp_path, Shard(number, 3)) for number in range(3)]
    (tmp_path / "other").mkdir()
    other = made(replace(case, evaluation={"num_images": 2}), tmp_path / "other", Shard(1, 3))

    for wrong in (parts[:2], [parts[0], parts[0], parts[2]], [parts[0], other, parts[2]]):
        with pytest.raises(StorageError, match="they are not its parts"):
            evaluated(case, case.predict, tmp_path, wrong)
    report = evaluated(case, case.predict, tmp_path, parts)
    assert report.images_per_second == pytest.approx(5 / sum(part.record.seconds for part in parts))


def test_what_differs_between_processors_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = crops(tmp_path / "data")
    parts = [made(case, tmp_path, Shard(number, 2)) for number in range(2)]
    features = (("avx2", "avx512_vnni"), ("avx2",))
    parts = [
        replace(part, record=part.record.model_copy(update={"cpu_features": of}))
        for part, of in zip(parts, features, strict=True)
    ]
    report = evaluated(case, case.predict, tmp_path, parts)
    assert report.cpu_features == ("avx2",)
    assert "different processors" in caplog.text


def test_columns_keep_every_bit_and_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts: list[dict[str, np.ndarray]] = [
        {
            "number": rng.integers(-(2**62), 2**62, rows),
            "points": (rng.standard_normal((rows, 5, 2)) * 1e-30).astype(np.float32),
            "odd": np.where(rng.random((rows, 3)) < 0.5, np.nan, -0.0),
            "seen": rng.random((rows, 4)) < 0.5,
        }
        for rows in (3, 0, 900, 200, 5)
    ]
    file = tmp_path / "rows.parquet"
    assert write_columns(file, parts) == 1108
    read = list(read_columns(file))
    assert [len(part["number"]) for part in read] == [1103, 5]
    for name in parts[0]:
        expected, found = (np.concatenate([part[name] for part in group]) for group in (parts, read))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("content", [b"", b"PAR1 is not all", None], ids=["empty", "other", "cut off"])
def test_a_file_that_holds_no_rows_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "rows.parquet"
    write_columns(file, [{"number": np.arange(9)}])
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    with pytest.raises(StorageError, match=r"rows\.parquet holds no rows"):
        list(read_columns(file))
