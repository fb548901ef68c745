"""Real networks that are described wrongly: the diagnosis names the mistake that was made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from hpe_tasks import diagnosis as package
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.mpii import load_mpii
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.diagnosis import diagnose
from hpe_tasks.diagnosis.hypotheses import AS_CONFIGURED, Mistake, input_mistakes
from hpe_tasks.diagnosis.joint_orders import JOINT_ORDERS, joint_settings, other_orders
from hpe_tasks.diagnosis.people import RAW, Fit, as_input, as_pixels, cut_persons
from hpe_tasks.diagnosis.top_down import try_crops
from hpe_tasks.diagnosis.trials import Trial, explanation
from hpe_tasks.gate.accuracy import METRICS
from hpe_tasks.inference import Predict, fp32_predictor, onnx_predictor, person_batches, prepare_image
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint
from hpe_tasks.pose.skeletons import COCO17, EFFICIENTPOSE16, MPII16
from hpe_tasks.records.diagnosis import Diagnosis
from support.bgr_network import JOINTS, pose_for_mobile
from support.efficientpose import efficientpose
from support.named_outputs import heatmap_network, paf_network
from support.paf_scenes import ideal_maps

pytestmark = pytest.mark.usefixtures("two_threads")

MODEL = load_config("sample").model
FLIPPED = tuple(
    f"right{joint[4:]}" if joint.startswith("left") else f"left{joint[5:]}" if joint.startswith("right") else joint
    for joint in COCO17.joints
)
ZEROS, ONES, HALVES, PER_255 = ((value,) * 3 for value in (0.0, 1.0, 0.5, 1 / 255))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("people")
    make_sample(folder, SampleSpec(train=1, calibration=1, val=36))
    return load_coco(folder, "val")


@pytest.fixture(scope="module")
def some_people(people: CocoDataset) -> CocoDataset:
    """Enough to tell the mistakes apart."""
    return people.subset(people.image_ids[:16])


@pytest.fixture(scope="module")
def as_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's network as an ONNX file of one person."""
    network = build_model(MODEL)
    load_checkpoint(network, sample_checkpoint())
    file = tmp_path_factory.mktemp("network") / "sample.onnx"
    with warnings.catch_warnings():
        # Both exporters of torch warn of themselves.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network, (torch.zeros(1, 3, 192, 128),), str(file), dynamo=False, opset_version=17)
    return file


@dataclass(frozen=True)
class Trained:
    """How the network of a file was trained to be fed, and the joints of its channels."""

    channel_order: str = "rgb"
    mean: tuple[float, ...] = MODEL.mean
    std: tuple[float, ...] = MODEL.std
    joints: tuple[str, ...] = COCO17.joints

    def write(self, sample: Path, file: Path) -> Path:
        """The sample's network with a first layer and a last layer that make it so: what it computes stays the same.

        A first layer of weights w and bias b that takes (x - m) / s becomes one that takes (x - m') / s' with the
        weights w·s'/s, and what the shift of the means adds, as a 1×1 convolution in front of it: padding stays right.
        """
        model = onnx.load(sample)
        own_mean, own_std = (np.array(values)[None, :, None, None] for values in (self.mean, self.std))
        mean, std = (np.array(values)[None, :, None, None] for values in (MODEL.mean, MODEL.std))
        scale, shift = own_std / std, (own_mean - mean) / std
        if self.channel_order == "bgr":
            # The numbers of this network are in its own order.
            scale, shift = own_std[:, ::-1] / std, (own_mean[:, ::-1] - mean) / std
        weights = np.zeros((3, 3, 1, 1), np.float32)
        for channel in range(3):
            taken = 2 - channel if self.channel_order == "bgr" else channel
            weights[channel, taken] = scale[0, channel]
        [image] = [value.name for value in model.graph.input]
        for node in model.graph.node:
            node.input[:] = ["as_trained" if name == image else name for name in node.input]
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(weights, "feed.w"),
                numpy_helper.from_array(shift.astype(np.float32).ravel(), "feed.b"),
            ]
        )
        model.graph.node.insert(0, onnx.helper.make_node("Conv", [image, "feed.w", "feed.b"], ["as_trained"]))
        [output] = [value.name for value in model.graph.output]
        order = np.array([COCO17.joints.index(joint) for joint in self.joints])
        for node in model.graph.node:
            node.output[:] = ["in_coco_order" if name == output else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(order, "joint_order"))
        model.graph.node.append(onnx.helper.make_node("Gather", ["in_coco_order", "joint_order"], [output], axis=1))
        onnx.checker.check_model(model)
        onnx.save(model, file)
        return file


def described(file: Path, **changes: Any) -> ModelConfig:
    fields = {"architecture": "onnx", "checkpoint": str(file), "input_width": 128, "input_height": 192}
    return ModelConfig.model_validate(fields | changes)


def diagnosed(people: CocoDataset, file: Path, config: ModelConfig) -> Diagnosis:
    found = diagnose(people, onnx_predictor(file, config, threads=2), config, METRICS["ap"], batch_size=16, seed=0)
    print(f"\n{found.summary} ({found.num_persons} persons, {found.seconds:.1f} s)")
    return found


def mended(config: ModelConfig, settings: tuple[str, ...]) -> ModelConfig:
    """The configuration with a diagnosis' settings, as the command line takes them."""
    import yaml

    values = {"model": config.model_dump(exclude_defaults=True), "dataset": {"source": "unused"}}
    asked = {key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)}
    for key, value in asked.items():
        values["model"][key.removeprefix("model.")] = value
    return load_config(overrides={f"model.{k}": v for k, v in values["model"].items()} | {"dataset.source": "x"}).model


SHUFFLED = tuple(np.random.default_rng(3).permutation(COCO17.joints).tolist())

CASES = {
    "bgr": (Trained(channel_order="bgr", mean=HALVES, std=HALVES), {"mean": HALVES, "std": HALVES}, "the image is BGR"),
    "bgr, imagenet": (Trained(channel_order="bgr", mean=MODEL.mean[::-1], std=MODEL.std[::-1]), {}, "the image is BGR"),
    "rgb, not bgr": (Trained(mean=HALVES, std=HALVES), {"channel_order": "bgr", "mean": HALVES, "std": HALVES}, "RGB"),
    "0 to 255": (Trained(mean=ZEROS, std=PER_255), {}, "pixel values are 0 to 255"),
    "-1 to 1": (Trained(mean=HALVES, std=HALVES), {"mean": ZEROS, "std": ONES}, "pixel values are −1 to 1"),
    "imagenet": (Trained(), {"mean": ZEROS, "std": ONES}, "ImageNet's mean and std are used"),
    "left and right": (Trained(joints=FLIPPED), {}, "left and right joints are swapped"),
    "openpose's order": (Trained(joints=JOINT_ORDERS["openpose17"]), {}, "the joints come in the order of openpose17"),
    "some order": (Trained(joints=SHUFFLED), {}, "each channel is the joint that it fits best"),
    "bgr and 0 to 255": (
        Trained(channel_order="bgr", mean=ZEROS, std=PER_255),
        {},
        "the image is BGR and pixel values are 0 to 255",
    ),
    "caffe": (
        Trained("bgr", (103.939 / 255, 116.779 / 255, 123.68 / 255), PER_255),
        {},
        "the image is BGR and Caffe's means are taken from values of 0 to 255",
    ),
    "-1 to 1 and left and right": (
        Trained(mean=HALVES, std=HALVES, joints=FLIPPED),
        {"mean": ZEROS, "std": PER_255},
        "pixel values are −1 to 1 and left and right joints are swapped",
    ),
}


@pytest.mark.parametrize(("trained", "configured", "when"), CASES.values(), ids=CASES)
def test_a_wrong_description_is_named_and_its_settings_mend_it(
    some_people: CocoDataset,
    as_trained: Path,
    tmp_path: Path,
    trained: Trained,
    configured: dict[str, Any],
    when: str,
) -> None:
    file = trained.write(as_trained, tmp_path / "network.onnx")
    config = described(file, **configured)
    diagnosis = diagnosed(some_people, file, config)
    assert diagnosis.found is not None
    assert when in diagnosis.found.when
    assert diagnosis.found.settings
    assert " ".join(diagnosis.found.settings) in diagnosis.summary
    assert diagnosis.accuracy is not None
    assert diagnosis.found.accuracy is not None
    assert diagnosis.found.accuracy > diagnosis.accuracy + 0.05
    assert diagnosis.found.accuracy > 0.65
    right = mended(config, diagnosis.found.settings)
    predict = onnx_predictor(file, right, threads=2)
    [trial, *_] = try_crops(cut_persons(some_people, right, seed=0), AS_CONFIGURED, right, predict, 16)
    assert trial.accuracy == pytest.approx(diagnosis.found.accuracy, abs=0.01)


def test_the_sentence(people: CocoDataset, as_trained: Path, tmp_path: Path) -> None:
    file = Trained(channel_order="bgr", mean=ZEROS, std=PER_255).write(as_trained, tmp_path / "network.onnx")
    diagnosis = diagnosed(people, file, described(file, mean=ZEROS, std=PER_255))
    assert diagnosis.found is not None
    assert diagnosis.found.settings == ("model.channel_order=bgr",)
    assert diagnosis.accuracy is not None
    assert diagnosis.summary == (
        f"AP {diagnosis.accuracy:.2f} as configured; {diagnosis.found.accuracy:.2f} when the image is BGR: "
        "set model.channel_order=bgr"
    )
    assert diagnosis.num_images == 32
    ranks = [tried.accuracy for tried in diagnosis.tried]
    assert ranks == sorted(ranks, reverse=True)
    assert diagnosis.tried[0] == diagnosis.found


def test_a_checkpoint_of_torch(some_people: CocoDataset) -> None:
    config = MODEL.model_copy(update={"channel_order": "bgr", "mean": HALVES, "std": PER_255})
    predict = fp32_predictor(config, sample_checkpoint(), "cpu")
    diagnosis = diagnose(some_people, predict, config, METRICS["ap"], batch_size=16, seed=0)
    assert diagnosis.found is not None
    assert diagnosis.found.when == "the image is RGB and ImageNet's mean and std are used"


@pytest.mark.parametrize("name", ["random weights", "noise", "nothing", "the middle"])
def test_a_network_that_learned_nothing_has_no_usual_mistake(some_people: CocoDataset, name: str) -> None:
    diagnosis = diagnose(some_people, _useless(name), MODEL, METRICS["ap"], batch_size=16, seed=0)
    assert diagnosis.found is None
    assert "no usual mistake explains it" in diagnosis.summary


def _useless(name: str) -> Predict:
    if name == "random weights":
        from hpe_tasks.models.full_precision import as_function

        torch.manual_seed(0)
        return as_function(build_model(MODEL), ["heatmaps"], "cpu")
    rng = np.random.default_rng(0)

    def maps(images: np.ndarray) -> np.ndarray:
        shape = (len(images), 17, 48, 32)
        given = rng.random(shape, np.float32) if name == "noise" else np.zeros(shape, np.float32)
        if name == "the middle":
            given[:, :, 24, 16] = 1
        return given

    return heatmap_network(maps)


def test_a_network_whose_maps_are_not_finite(some_people: CocoDataset) -> None:
    """Some hypotheses may overflow; here all do but one."""
    predict = fp32_predictor(MODEL, sample_checkpoint(), "cpu")

    def brittle(images: np.ndarray) -> np.ndarray:
        # Values of 0 to 255 lie far outside of what this one takes.
        if np.abs(images).max() < 4:
            return predict(images)["heatmaps"]
        return np.full((len(images), 17, 48, 32), np.nan, np.float32)

    config = MODEL.model_copy(update={"mean": ZEROS, "std": PER_255})
    diagnosis = diagnose(some_people, heatmap_network(brittle), config, METRICS["ap"], batch_size=16, seed=0)
    assert diagnosis.accuracy is None
    assert diagnosis.found is not None
    assert diagnosis.found.when == "ImageNet's mean and std are used"
    assert diagnosis.summary.startswith("AP – as configured; 0.")
    assert None in [tried.accuracy for tried in diagnosis.tried]


def test_joints_that_lie_half_a_cell_aside_have_no_setting(some_people: CocoDataset) -> None:
    predict = fp32_predictor(MODEL, sample_checkpoint(), "cpu")

    def aside(images: np.ndarray) -> np.ndarray:
        """Maps of twice the size, moved by one of their cells: half a cell of the network's own."""
        maps = predict(images)["heatmaps"].repeat(2, axis=2).repeat(2, axis=3)
        return np.roll(maps, (-2, -2), axis=(2, 3))

    diagnosis = diagnose(some_people, heatmap_network(aside), MODEL, METRICS["ap"], batch_size=16, seed=0)
    assert diagnosis.found is not None
    assert diagnosis.found.when == "joints lie half a cell of the output further to the right and down"
    assert "no setting moves joints" in diagnosis.summary


def test_a_slow_network_is_tried_on_fewer_persons(people: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_BUDGET_S", 0.0)
    predict = fp32_predictor(MODEL, sample_checkpoint(), "cpu")
    shown = []

    def counting(images: np.ndarray) -> dict[str, np.ndarray]:
        shown.append(len(images))
        return predict(images)

    config = MODEL.model_copy(update={"mean": ZEROS, "std": PER_255})
    diagnosis = diagnose(people, counting, config, METRICS["ap"], batch_size=64, seed=0)
    assert diagnosis.num_persons == 12
    assert diagnosis.num_images < 12
    assert set(shown[1:]) == {12}
    assert diagnosis.found is not None


# Photographs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(test_data: Path) -> CocoDataset:
    return load_coco(test_data / "coco-mini", "val2017")


def test_a_real_network_that_takes_bgr_from_0_to_255(test_data: Path, photographs: CocoDataset) -> None:
    """Given values in [0, 1] it finds nobody."""
    file, config = pose_for_mobile(test_data, channel_order="rgb", std=ONES)
    diagnosis = diagnosed(photographs, file, config)
    assert diagnosis.accuracy == pytest.approx(0, abs=0.01)
    assert diagnosis.found is not None
    assert "pixel values are 0 to 255" in diagnosis.found.when
    ranked = [tried.when for tried in diagnosis.tried]
    assert ranked.index("pixel values are 0 to 255") < ranked.index("the image is BGR")


def test_a_real_network_with_its_joints_in_another_order(test_data: Path, photographs: CocoDataset) -> None:
    file, config = pose_for_mobile(test_data, joint_names=JOINT_ORDERS["lsp14"])
    diagnosis = diagnosed(photographs, file, config)
    assert diagnosis.found is not None
    assert diagnosis.found.settings == (f"model.joint_names=[{','.join(JOINTS)}]",)


def test_a_real_network_described_as_another_skeleton(test_data: Path, photographs: CocoDataset) -> None:
    file, config = efficientpose(test_data, "EfficientPoseRT_LITE_224.onnx", 224)
    diagnosis = diagnosed(photographs, file, config.model_copy(update={"skeleton": "mpii16"}))
    assert diagnosis.found is not None
    assert diagnosis.found.settings == ("model.skeleton=efficientpose16",)


def test_mpii_is_diagnosed_in_pckh(test_data: Path) -> None:
    """Five persons are enough for what changes everything."""
    file, config = efficientpose(test_data, "EfficientPoseRT_LITE_224.onnx", 224)
    wrong = config.model_copy(update={"skeleton": "mpii16"})
    diagnosis = diagnose(
        load_mpii(test_data / "mpii-mini", "valid"),
        onnx_predictor(file, wrong, threads=2),
        wrong,
        METRICS["pckh"],
        batch_size=8,
        seed=0,
    )
    assert diagnosis.found is not None
    assert diagnosis.found.settings == ("model.skeleton=efficientpose16",)
    assert diagnosis.found.accuracy == pytest.approx(100 * 57 / 66)
    assert diagnosis.summary.startswith("PCKh ")
    assert "; 86 when the joints come in the order of efficientpose16" in diagnosis.summary


# Bottom-up -----------------------------------------------------------------------------------------------------------

_BOTTOM_UP = ModelConfig(
    checkpoint="unused",
    architecture="onnx",
    codec="paf",
    input_width=248,
    input_height=184,
    mean=(128 / 255,) * 3,
    std=(256 / 255,) * 3,
)


def _ideal(dataset: CocoDataset, trained: ModelConfig) -> Predict:
    """A network that gives the ideal maps of the images that it knows by every byte, and no people in others."""
    known = {}
    for image in dataset.images:
        people = np.array([p.joints for p in dataset.persons(image.id)]).reshape(-1, 17, 3)
        prepared = prepare_image(dataset, trained, image)
        heatmaps, pafs = ideal_maps(people, (image.width, image.height))
        known[prepared.pixels.tobytes()] = np.concatenate([pafs, heatmaps])

    def predict(images: np.ndarray) -> np.ndarray:
        nobody = np.zeros_like(next(iter(known.values())))
        return np.stack([known.get(image.tobytes(), nobody) for image in images])

    return paf_network(predict)


@pytest.mark.parametrize(
    ("trained", "when"),
    [
        pytest.param({"channel_order": "bgr"}, "the image is BGR", id="bgr"),
        pytest.param({"mean": ZEROS, "std": PER_255}, "pixel values are 0 to 255", id="0 to 255"),
        pytest.param(
            {"channel_order": "bgr", "mean": HALVES, "std": HALVES},
            "the image is BGR and pixel values are −1 to 1",
            id="both",
        ),
    ],
)
def test_bottom_up_networks_are_fed_in_every_usual_way(people: CocoDataset, trained: dict[str, Any], when: str) -> None:
    few = people.subset(people.image_ids[:8])
    predict = _ideal(few, _BOTTOM_UP.model_copy(update=trained))
    diagnosis = diagnose(few, predict, _BOTTOM_UP, METRICS["ap"], batch_size=4, seed=0)
    assert diagnosis.accuracy == 0
    assert diagnosis.found is not None
    assert diagnosis.found.when == when
    assert (diagnosis.num_images, diagnosis.num_persons) == (8, few.num_persons)


def test_nobody_is_found_bottom_up_by_a_network_that_learned_nothing(people: CocoDataset) -> None:
    few = people.subset(people.image_ids[:4])
    rng = np.random.default_rng(0)

    def noise(images: np.ndarray) -> np.ndarray:
        return rng.random((len(images), 57, 23, 31), np.float32)

    diagnosis = diagnose(few, paf_network(noise), _BOTTOM_UP, METRICS["ap"], batch_size=4, seed=0)
    assert diagnosis.found is None


# Parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"channel_order": "bgr"}, {"mean": HALVES, "std": PER_255}])
def test_the_network_is_fed_as_in_the_evaluation(people: CocoDataset, changes: dict[str, Any]) -> None:
    config = MODEL.model_copy(update=changes)
    raw = next(iter(person_batches(people, config.model_copy(update=RAW), 8)))
    expected = next(iter(person_batches(people, config, 8)))
    np.testing.assert_array_equal(as_input(as_pixels(raw.images), config), expected.images)


def test_the_same_seed_draws_the_same_persons(people: CocoDataset) -> None:
    first, again, other = (cut_persons(people, MODEL, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.crops, again.crops)
    assert first.files != other.files


def test_every_way_to_feed_a_network_is_another() -> None:
    seen = set()
    for number, (mistake, fed) in enumerate(input_mistakes(MODEL)):
        assert (mistake == AS_CONFIGURED) == (number == 0)
        assert bool(mistake.settings) == (number > 0)
        seen.add((fed.channel_order, fed.mean, fed.std))
        ModelConfig.model_validate(fed.model_dump())  # within the limits of mean and std
    assert len(seen) == number + 1


@pytest.mark.parametrize("name", JOINT_ORDERS)
def test_known_orders_name_each_joint_once(name: str) -> None:
    joints = JOINT_ORDERS[name]
    assert len(set(joints)) == len(joints)
    assert len(joints) == int(name[-2:])


def test_settings_of_joint_orders() -> None:
    custom = described(Path("x.onnx"), joint_names=list(MPII16.joints))
    assert joint_settings(EFFICIENTPOSE16.joints, custom) == (
        "model.skeleton=efficientpose16",
        "model.joint_names=null",
    )
    assert [name for name, *_ in other_orders(custom)] == ["efficientpose16"]


def _trial(accuracy: float, closeness: float, cost: int, spread: float = 0.05) -> Trial:
    rng = np.random.default_rng(cost)
    return Trial(Mistake("x", (), cost), Fit(accuracy, closeness + rng.normal(0, spread, 40)))


@pytest.mark.parametrize(
    ("others", "cost"),
    [
        pytest.param([(0.6, 0.7, 2), (0.61, 0.701, 4)], 2, id="as good and simpler"),
        pytest.param([(0.3, 0.4, 2), (0.6, 0.7, 4)], 4, id="better, though less simple"),
        pytest.param([(0.06, 0.111, 2)], None, id="hardly better"),
        pytest.param([(0.02, 0.3, 2)], None, id="closer, but not in the figure"),
        pytest.param([(0.3, 0.11, 2, 1.0)], None, id="luck of some persons"),
        pytest.param([], None, id="nothing tried"),
    ],
)
def test_the_simplest_explanation_is_taken(others: list[tuple], cost: int | None) -> None:
    configured = replace(_trial(0.05, 0.1, 0), mistake=AS_CONFIGURED)
    found = explanation([configured, *(_trial(*other) for other in others)], 1.0)
    assert (None if found is None else found.mistake.cost) == cost
