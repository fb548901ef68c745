"""MPII's evaluation on pictures in which every joint is a dot of its own colour: a small network finds them exactly."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.data.mpii import MpiiDataset, load_mpii
from hpe_tasks.data.mpii.mat import MpiiMat, write_mpii_mat
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import mpii_batches, onnx_predictor
from hpe_tasks.metrics.image_tables import read_table
from hpe_tasks.pose.skeletons import EFFICIENTPOSE16, MPII16
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport
from support.efficientpose import efficientpose
from support.named_outputs import heatmap_network

WIDTH, HEIGHT = 480, 360
# RGB; each has a full channel, so that none is another one fading to black.
COLOURS = [c for c in itertools.product((0.0, 0.5, 1.0), repeat=3) if max(c) == 1.0][:16]
SIZE = 256
CONFIG = ModelConfig(
    checkpoint="unused",
    architecture="onnx",
    skeleton="mpii16",
    input_width=SIZE,
    input_height=SIZE,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)
COLUMNS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def colour_network(images: np.ndarray, joints: Sequence[str] = MPII16.joints) -> np.ndarray:
    """Heatmaps of the input's size: how near a pixel's colour is to that of the joint."""
    maps = np.zeros((len(images), len(joints), *images.shape[2:]), dtype=np.float32)
    for channel, joint in enumerate(joints):
        colour = np.array(COLOURS[MPII16.joints.index(joint)]).reshape(1, 3, 1, 1)
        near = np.clip(1 - np.abs(images - colour).max(axis=1) / 0.2, 0, 1).astype(np.float32)
        maps[:, channel] = [cv2.GaussianBlur(one, (0, 0), 3) for one in near]
    return maps


def joints_at(x: float, y: float) -> np.ndarray:
    """16 joints, counted from 0, on a grid of 135×150 pixels whose top left corner is (x, y)."""
    return np.array([(x + 45 * (joint % 4), y + 50 * (joint // 4)) for joint in range(16)], dtype=np.float64)


Image = Sequence[np.ndarray]


MakeDataset = Callable[..., MpiiDataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a split `valid`: for each image a list of persons, each 16×2 joints counted from 0."""

    def make(*images: Image, visible: np.ndarray | None = None, order: Sequence[int] | None = None) -> MpiiDataset:
        (tmp_path / "images").mkdir()
        (tmp_path / "annot").mkdir()
        rows, joints = [], []
        for number, persons in enumerate(images):
            picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
            for person in persons:
                for (x, y), colour in zip(person, COLOURS, strict=True):
                    cv2.circle(picture, (int(x), int(y)), 8, [int(255 * c) for c in colour[::-1]], -1)
                # The inverse of the crop's rules: a crop around the joints, counted from 1.
                center = (person.min(axis=0) + person.max(axis=0)) / 2 + 1
                rows.append({"image": f"{number}.png", "center": [center[0], center[1] - 15 * 1.0], "scale": 1.0})
                joints.append(person + 1)
            cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), picture)
        labelled = np.ones((len(rows), 16), dtype=bool) if visible is None else visible
        for row, person, flags in zip(rows, joints, labelled, strict=True):
            row |= {"joints": person.tolist(), "joints_vis": flags.astype(int).tolist()}
        chosen = list(range(len(rows)) if order is None else order)
        (tmp_path / "annot" / "valid.json").write_text(json.dumps([rows[i] for i in chosen]))
        truth = np.stack(joints)[chosen]
        # Heads around upper_neck and head_top; 0.6 of the diagonal, 20, is the head's size.
        middle = truth[:, 8:10].mean(axis=1)
        half = np.array([10, 40 / 3])
        heads = np.stack([middle - half, middle + half], axis=1)
        write_mpii_mat(tmp_path / "annot" / "gt_valid.mat", MpiiMat(truth, labelled[chosen], heads))
        return load_mpii(tmp_path, "valid")

    return make


def measure(
    dataset: MpiiDataset,
    network: Callable[[np.ndarray], np.ndarray] = colour_network,
    config: ModelConfig = CONFIG,
    *,
    batch_size: int = 2,
    **evaluation: object,
) -> tuple[EvaluationReport, list[dict]]:
    file = dataset.root / "out" / "predictions.json"
    report = evaluate(
        dataset,
        heatmap_network(network),
        config,
        EvaluationConfig(batch_size=batch_size, **evaluation),
        runtime="fp32",
        dataset_digest="d" * 64,
        seed=3,
        predictions_file=file,
        artifact=lambda path: Artifact(
            uri=path.as_uri(),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
        ),
    )
    return report, json.loads(file.read_text())


ONE, TWO = joints_at(20, 30), joints_at(290, 150)


def test_a_network_that_finds_every_joint_has_100_percent(make_dataset: MakeDataset) -> None:
    report, rows = measure(make_dataset([ONE, TWO], [TWO]))
    assert {report.stats.model_dump()[column] for column in (*COLUMNS, "mean", "mean_at_01")} == {100.0}
    assert report.stats.num_joints == 42
    assert report.stats.mean == 100.0
    assert report.images_per_second > 0
    assert report.cpu_features == cpu_features()
    assert [(row["image"], row["person"]) for row in rows] == [("0.png", 0), ("0.png", 1), ("1.png", 2)]
    for row, truth in zip(rows, [ONE, TWO, TWO], strict=True):
        found = np.array(row["keypoints"]).reshape(16, 3)
        # A crop of 250 pixels on 256: below a pixel, counted from 0 as the image's.
        assert np.abs(found[:, :2] - truth).max() < 1
        assert np.abs((found[:, :2] - truth).mean()) < 0.3
        assert (found[:, 2] > 0.5).all()
    assert report.predictions.size_bytes == len(json.dumps(rows))


def test_the_fingerprint_says_how_the_number_was_made(make_dataset: MakeDataset) -> None:
    fingerprint = measure(make_dataset([ONE, TWO], [TWO]))[0].fingerprint
    assert fingerprint.model_dump(exclude={"joint_map"}) == {
        "dataset_digest": "d" * 64,
        "split": "valid",
        "image_ids_digest": hashlib.sha256(b"0.png\n1.png").hexdigest(),
        "num_images": 2,
        "num_persons": 3,
        "subset": False,
        "box_source": "annotated_center_scale",
        "boxes_digest": None,
        "flip_test": False,
        "decoder": "heatmap argmax with a quarter-pixel shift; head size: 0.6 of the head box's diagonal",
        "input_size": (SIZE, SIZE),
        "sigmas": (),
        "metric": "mpii_pckh",
    }
    assert fingerprint.joint_map == tuple((joint, i, i) for i, joint in enumerate(MPII16.joints))


def test_persons_of_an_image_need_not_stand_together_in_the_file(make_dataset: MakeDataset) -> None:
    report, rows = measure(make_dataset([ONE, TWO], [TWO], order=[1, 2, 0]))
    assert report.stats.mean == 100.0
    assert [(row["image"], row["person"]) for row in rows] == [("0.png", 0), ("1.png", 1), ("0.png", 2)]
    first_x = [row["keypoints"][0] for row in rows]
    assert first_x == pytest.approx([TWO[0, 0], TWO[0, 0], ONE[0, 0]], abs=1)


def test_a_model_with_another_order_of_joints_is_matched_by_name(make_dataset: MakeDataset) -> None:
    config = CONFIG.model_copy(update={"skeleton": "efficientpose16"})
    report, _ = measure(make_dataset([ONE]), lambda images: colour_network(images, EFFICIENTPOSE16.joints), config)
    assert report.stats.mean == 100.0
    assert report.fingerprint.joint_map[0] == ("right_ankle", 12, 0)


def test_joints_that_the_model_lacks_are_not_compared(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    joints = tuple(joint for joint in MPII16.joints if joint not in ("head_top", "left_wrist", "right_wrist"))
    config = CONFIG.model_copy(update={"joint_names": joints})
    report, rows = measure(make_dataset([ONE]), lambda images: colour_network(images, joints), config)
    assert (report.stats.head, report.stats.wrist, report.stats.mean) == (None, None, 100.0)
    assert report.stats.num_joints == 11
    assert len(report.fingerprint.joint_map) == 13
    assert rows[0]["keypoints"][27:30] == [0.0, 0.0, 0.0]
    assert "head_top, right_wrist, left_wrist" in caplog.text


def test_joints_that_are_wrong_show_in_their_columns(make_dataset: MakeDataset) -> None:
    def blind_for_the_left_knee(images: np.ndarray) -> np.ndarray:
        maps = colour_network(images)
        maps[:, MPII16.joints.index("left_knee")] = 0
        return maps

    report = measure(make_dataset([ONE], [TWO]), blind_for_the_left_knee)[0]
    assert report.stats.knee == 50.0
    assert report.stats.mean == pytest.approx(100 * 26 / 28)
    assert list(report.by_group) == list(COLUMNS)
    assert report.by_group["knee"] == 50.0
    assert list(report.by_joint) == list(MPII16.joints)
    assert {joint for joint, share in report.by_joint.items() if share != 100.0} == {"left_knee"}
    assert report.by_joint["left_knee"] == 0.0
    assert report.image_table is not None
    table = read_table(Path(report.image_table.uri.removeprefix("file://")).read_bytes())
    groups = {f"group/{group}": share for group, share in report.by_group.items()}
    joints = {f"joint/{joint}": share for joint, share in report.by_joint.items()}
    assert table.whole() == pytest.approx({"all": report.stats.mean, **groups, **joints})
    assert (len(table.images), report.available_images) == (2, 2)


@pytest.mark.parametrize("shift", [-1, 1])
def test_predictions_meet_the_truth_in_the_same_pixels(make_dataset: MakeDataset, shift: int) -> None:
    """A tenth of a head is 2 pixels, a shift by one in x and y 1.4: right, unless a second pixel adds to it."""

    def shifted(images: np.ndarray) -> np.ndarray:
        return np.roll(colour_network(images), (shift, shift), axis=(2, 3))

    stats = measure(make_dataset([ONE], [TWO]), shifted)[0].stats
    assert stats.mean == 100.0
    assert stats.mean_at_exactly_01 == 100.0


def test_the_flip_test_swaps_left_and_right(make_dataset: MakeDataset) -> None:
    """A network that calls every dot by its colour, also in the mirror, finds its left joints on both sides."""
    report, rows = measure(make_dataset([ONE], [TWO]), flip_test=True)
    assert report.fingerprint.flip_test
    by_joint = dict(zip(MPII16.joints, np.array(rows[0]["keypoints"]).reshape(16, 3), strict=True))
    # Of the two maps only one has the joint, so that the mean is half; the middle joints agree.
    assert by_joint["pelvis"][2] > 0.9
    assert 0.3 < by_joint["left_knee"][2] < 0.6


def test_persons_of_a_failed_image_are_wrong_wherever_they_are(make_dataset: MakeDataset) -> None:
    """Half of this person's joints lie within half a head of (0, 0), which no failure may take for a find."""
    near_the_corner = joints_at(2, 3) * 0.1
    dataset = make_dataset([ONE], [near_the_corner])
    (dataset.root / "images" / "1.png").unlink()
    report, rows = measure(dataset, max_failed_images=0.5)
    assert report.stats.mean == 50.0
    assert report.by_group == dict.fromkeys(COLUMNS, 50.0)
    assert [row["person"] for row in rows] == [0]
    assert [(failed.name, failed.reason) for failed in report.failed_images] == [("images/1.png", "is missing")]
    assert report.fingerprint.num_persons == 2


def test_who_has_no_compared_joint_is_not_measured(make_dataset: MakeDataset) -> None:
    visible = np.ones((2, 16), dtype=bool)
    visible[0] = False
    report, rows = measure(make_dataset([ONE], [TWO], visible=visible))
    assert (report.fingerprint.num_images, report.fingerprint.num_persons) == (1, 1)
    assert [row["person"] for row in rows] == [1]
    assert report.stats.mean == 100.0


def test_a_subset_is_drawn_by_seed_and_marked(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[[ONE]] * 6)
    first, rows = measure(dataset, num_images=2)
    again, same_rows = measure(dataset, num_images=2, batch_size=1)
    assert first.fingerprint == again.fingerprint
    assert rows == same_rows
    assert first.fingerprint.subset
    assert (first.fingerprint.num_images, len(rows)) == (2, 2)
    assert not measure(dataset, num_images=6)[0].fingerprint.subset


def test_calibration_sees_the_same_crops(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([ONE, TWO], [TWO])
    seen: list[np.ndarray] = []
    measure(dataset, lambda images: (seen.append(images), colour_network(images))[1])
    batches = list(mpii_batches(dataset, CONFIG, 2))
    assert [len(batch.persons) for batch in batches] == [2, 1]
    assert all(np.array_equal(a, b.images) for a, b in zip(seen, batches, strict=True))


def nobody_labelled(make: MakeDataset) -> MpiiDataset:
    return make([ONE], visible=np.zeros((1, 16), dtype=bool))


def without_image(make: MakeDataset) -> MpiiDataset:
    dataset = make([ONE], [TWO])
    (dataset.root / "images" / "1.png").unlink()
    return dataset


def with_empty_image(make: MakeDataset) -> MpiiDataset:
    dataset = make([ONE])
    (dataset.root / "images" / "0.png").write_bytes(b"")
    return dataset


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(nobody_labelled, "No person in .*valid.json has a labelled joint", id="nobody"),
        pytest.param(
            without_image, r"Of the 2 images .* 1 cannot be measured.*images/1\.png is missing", id="missing-image"
        ),
        pytest.param(with_empty_image, r"0\.png is an empty file", id="broken-image"),
    ],
)
def test_a_data_set_that_cannot_be_measured_is_refused(
    make_dataset: MakeDataset, make: Callable[[MakeDataset], MpiiDataset], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        measure(make(make_dataset))


def test_no_common_joint_is_a_config_error(make_dataset: MakeDataset) -> None:
    config = CONFIG.model_copy(update={"joint_names": ("nose", "tail")})
    with pytest.raises(ConfigError, match=r"nose, tail.*predicts no joint of MPII"):
        measure(make_dataset([ONE]), config=config)


def test_heatmaps_of_another_number_of_joints_are_refused(make_dataset: MakeDataset) -> None:
    with pytest.raises(CheckpointError, match="16 joints"):
        measure(make_dataset([ONE]), lambda images: colour_network(images)[:, :15])


@pytest.mark.parametrize(
    ("name", "size", "right"),
    [
        pytest.param("EfficientPoseRT_LITE_224.onnx", 224, 57, id="RT_LITE"),
        pytest.param("EfficientPoseI_LITE_256.onnx", 256, 59, id="I_LITE"),
    ],
)
def test_real_networks_on_five_real_persons(test_data: Path, tmp_path: Path, name: str, size: int, right: int) -> None:
    """Of 66 labelled joints; one joint is 1.5 percent, so these figures watch for changes and compare no models."""
    path, config = efficientpose(test_data, name, size)
    dataset = load_mpii(test_data / "mpii-mini", "valid")
    report = evaluate(
        dataset,
        onnx_predictor(path, config, threads=1),
        config,
        EvaluationConfig(),
        runtime="fp32",
        dataset_digest="d" * 64,
        seed=0,
        predictions_file=tmp_path / "predictions.json",
        artifact=lambda file: Artifact(uri=file.as_uri(), sha256="0" * 64, size_bytes=file.stat().st_size),
    )
    assert report.fingerprint.num_persons == 5
    assert report.stats.num_joints == 66
    assert report.stats.mean == pytest.approx(100 * right / 66)
    assert report.stats.head == 100.0
