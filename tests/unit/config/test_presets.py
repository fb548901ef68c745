from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config, load_training
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.published import published_figures
from hpe_tasks.networks.pose_resnet import PoseResNet


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete_once_its_needs_are_given(name: str) -> None:
    config = load_config(name, overrides=dict.fromkeys(PRESETS[name].needs, "/somewhere"))
    assert config.preset == name


def test_keys_are_settings_and_not_sections() -> None:
    keys = tuple(config_keys())
    assert "gate.min_ap" in keys
    assert not {"gate", "schema_version", "preset"} & set(keys)


def test_the_users_own_data_set_is_not_fetched_image_by_image(tmp_path: Path) -> None:
    published = load_config("aimet_pose_coco2014")
    assert published.dataset.images_by_url
    own = load_config("aimet_pose_coco2014", overrides={"dataset.source": "/data/coco"})
    assert not own.dataset.images_by_url
    assert own.dataset.evaluation_split == "val2014"
    archives = load_config("aimet_pose_coco2014", overrides={"dataset.image_archives": ["val2014.zip"]})
    assert not archives.dataset.images_by_url
    assert archives.dataset.source == published.dataset.source
    again = {"dataset.source": "http://mirror/annotations.zip", "dataset.images_by_url": True}
    assert load_config("aimet_pose_coco2014", overrides=again).dataset.images_by_url
    file = tmp_path / "run.yaml"
    file.write_text("preset: aimet_pose_coco2014\ndataset: {source: /data/coco}\n")
    assert not load_config(file=file).dataset.images_by_url


@pytest.mark.parametrize("depth", [50, 101, 152])
@pytest.mark.parametrize("preset", ["pose_resnet_50_mpii", "pose_resnet_50_coco2017"])
def test_other_depths_by_one_key(preset: str, depth: int) -> None:
    architecture = f"pose_resnet_{depth}"
    given = dict.fromkeys(("model.checkpoint", *PRESETS[preset].needs), "/somewhere")
    config = load_config(preset, overrides={**given, "model.architecture": architecture})
    parameters = sum(math.prod(shape) for shape in resnet_shapes(depth, len(config.model.joints.joints)))
    reference = PRESETS[preset].reference
    assert reference is not None
    assert config.evaluation.flip_test
    assert parameters / 1e6 < config.gate.max_size_mb  # a byte for each
    assert str(depth) not in config.destination.name
    assert [row.value for row in published_figures(reference).rows if row.architecture == architecture]


@pytest.mark.parametrize(
    "preset", [name for name in PRESETS if "resnet" in name or "mobilenet" in name or name == "sample"]
)
def test_networks_with_deconvolutions_must_run_in_int8(preset: str) -> None:
    config = load_config(preset, overrides=dict.fromkeys(("model.checkpoint", *PRESETS[preset].needs), "/somewhere"))
    assert config.model.architecture.startswith(("pose_resnet", "pose_mobilenet"))
    assert config.recipe.subpixel_deconvolution
    assert config.gate.min_int8_mac_share == 0.95


@pytest.mark.parametrize(("width", "millions"), [(32, 28.5), (48, 63.6)])
def test_hrnet_is_asked_for_what_it_is(width: int, millions: float) -> None:
    preset = PRESETS[f"pose_hrnet_w{width}"]
    config = load_config(f"pose_hrnet_w{width}", overrides=dict.fromkeys(preset.needs, "/somewhere"))
    assert config.model.input_size == (192, 256)
    assert config.evaluation.flip_test
    assert config.gate.min_int8_mac_share == 0.95
    assert millions < config.gate.max_size_mb  # a byte for each
    assert preset.reference is not None
    rows = [row for row in published_figures(preset.reference).rows if row.architecture == config.model.architecture]
    assert all(config.gate.min_ap < row.value for row in rows)
    # The recipe is the one of the published W8A8, so that the two can be compared.
    quantized = [row.recipe for row in rows if row.recipe is not None]
    assert quantized == ([config.recipe] if width == 32 else [])


def test_the_zoos_weights_are_those_of_w32_only() -> None:
    assert load_config("pose_hrnet_w32").model.checkpoint.endswith("hrnet_posenet_FP32_state_dict.pth")
    with pytest.raises(ConfigError, match=r"needs model\.checkpoint"):
        load_config("pose_hrnet_w32", overrides={"model.architecture": "pose_hrnet_w48"})


def resnet_shapes(depth: int, joints: int) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in PoseResNet(depth, joints).parameters()]


def test_another_network_does_not_get_the_checkpoint_of_the_preset() -> None:
    given = {"dataset.source": "/data/mpii", "model.architecture": "pose_resnet_101"}
    with pytest.raises(ConfigError, match=r"needs model\.checkpoint"):
        load_config("pose_resnet_50_mpii", overrides=given)
    same = {**given, "model.architecture": "pose_resnet_50"}
    assert load_config("pose_resnet_50_mpii", overrides=same).model.checkpoint.endswith(
        "pose_resnet_50_256x256.pth.tar"
    )


def test_what_a_checkpoint_was_trained_on_is_said_of_that_checkpoint_only() -> None:
    assert "photographs" in (load_config("sample").model.trained_on or "")
    assert load_config("sample", overrides={"model.checkpoint": "mine.safetensors"}).model.trained_on is None
    own = {"model.checkpoint": "mine.safetensors", "model.trained_on": "Dancers."}
    assert load_config("sample", overrides=own).model.trained_on == "Dancers."


def test_trainings_by_name_or_by_settings() -> None:
    assert load_training({}) == load_training({}, "sample")
    assert load_training({}, "aimet_pose_sample")[0].architecture == "aimet_pose"
    assert load_training({"epochs": 3})[0].epochs == 3
    with pytest.raises(ConfigError, match=r"no schedule 'smaple'.*aimet_pose_sample"):
        load_training({}, "smaple")
    changed = load_training({"epochs": 3, "initial_weights": "mine.pth"}, "sample")
    assert [(stage.epochs, stage.initial_weights) for stage in changed] == [(3, "mine.pth"), (3, None)]
    assert changed[1].input_width == load_training({}, "sample")[1].input_width


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        pytest.param("aimet_pose_sample", {"model.codec": "heatmap"}, "codec must be 'paf' for aimet_pose", id="codec"),
        pytest.param("sample", {"model.codec": "paf"}, "codec must be 'heatmap' or 'simcc' for pose_mobile", id="paf"),
        pytest.param("sample", {"model.codec": "simcc"}, "set architecture to pose_mobilenet and codec", id="simcc"),
        pytest.param("aimet_pose_sample", {"model.input_width": 100}, "multiples of 8 for aimet_pose", id="stride"),
        pytest.param("aimet_pose_sample", {"model.skeleton": "mpii16"}, "leave skeleton", id="skeleton"),
        pytest.param("aimet_pose_sample", {"model.output_name": "x"}, "leave output_name out", id="output"),
        pytest.param(
            "aimet_pose_sample", {"evaluation.flip_test": True}, "flip_test is not for codec 'paf'", id="flip"
        ),
        pytest.param("aimet_pose_coco2014", {"dataset.boxes": "b.json"}, "no dataset.boxes", id="boxes"),
        pytest.param("sample", {"model.caffe_style": True}, "caffe_style is for pose_resnet_50", id="caffe"),
        pytest.param("sample", {"gate.metric": "ap"}, "any more. Leave it out: dataset.kind says", id="metric"),
        pytest.param("sample", {"dataset.images_by_url": True}, "brings its own images", id="sample by url"),
        pytest.param("sample", {"dataset.valid_images": "x"}, "valid_images is for kind 'mpii'", id="valid images"),
        pytest.param("sample", {"dataset.kind": "mpii"}, "for kind 'coco'", id="sample mpii"),
        pytest.param(
            "aimet_pose_coco2014",
            {"dataset.image_archives": ["a.zip"], "dataset.images_by_url": True},
            "exclude one another",
            id="url and archives",
        ),
    ],
)
def test_settings_that_do_not_go_together(preset: str, overrides: dict[str, object], says: str) -> None:
    given = dict.fromkeys(PRESETS[preset].needs, "/somewhere")
    with pytest.raises(ConfigError, match=says):
        load_config(preset, overrides={**given, **overrides})


def test_mpii_has_splits_of_its_own() -> None:
    config = load_config("pose_resnet_50_mpii", overrides={"dataset.source": "/data/mpii"})
    assert (config.dataset.calibration_split, config.dataset.evaluation_split) == ("train", "valid")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param({"gate.min_ap": 0.7}, {"gate.min_ap": 0.7}, id="leaf"),
        pytest.param({"recipe": "w8a8_per_tensor"}, {"recipe.granularity": "per_tensor"}, id="named recipe"),
        pytest.param(
            {"recipe.activation_bw": 16, "recipe": "w8a8_per_tensor"},
            {"recipe.activation_bw": 16, "recipe.granularity": "per_tensor"},
            id="a key of the recipe wins over the named recipe, in any order",
        ),
        pytest.param(
            {"recipe": "w8a8_per_tensor"}, {"recipe.cross_layer_equalization": False}, id="a named recipe is whole"
        ),
    ],
)
def test_overrides(overrides: dict[str, object], expected: dict[str, object]) -> None:
    config = load_config("sample", overrides=overrides)
    for key, value in expected.items():
        section, leaf = key.split(".")
        assert getattr(getattr(config, section), leaf) == value


def test_a_named_recipe_keeps_the_number_of_calibration_images() -> None:
    plain = load_config("efficientpose_i_lite", overrides={"model.checkpoint": "a", "dataset.source": "b"})
    named = load_config(
        "efficientpose_i_lite",
        overrides={"model.checkpoint": "a", "dataset.source": "b", "recipe": "w8a8_per_tensor"},
    )
    assert named.recipe.calibration_images == plain.recipe.calibration_images == 80


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: sample\ngate: {min_ap: 0.4, max_size_mb: 5}\n")
    config = load_config(file=file, overrides={"gate.min_ap": 0.3})
    assert (config.preset, config.gate.min_ap, config.gate.max_size_mb) == ("sample", 0.3, 5)


def test_a_stored_configuration_can_be_read_back_as_a_file(tmp_path: Path) -> None:
    config = load_config("sample")
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert load_config(file=file) == config


@pytest.mark.parametrize(
    ("preset", "overrides", "says"),
    [
        pytest.param("smaple", {}, "no preset 'smaple'.*Choose one of: sample", id="unknown preset"),
        pytest.param("sample", {"gate.min_app": 1}, "'gate.min_app'.*Did you mean gate.min_ap", id="unknown key"),
        pytest.param("sample", {"nonsense": 1}, "no setting 'nonsense'", id="far from any key"),
        pytest.param("sample", {"gate.min_ap": 3}, r"gate.min_ap: .*less than or equal to 1 \(given: 3\)", id="bound"),
        pytest.param("sample", {"recipe": "int3"}, "no recipe 'int3'.*w8a8_per_channel", id="unknown recipe"),
        pytest.param("sample", {"recipe.scheme": "max"}, "recipe.scheme", id="unknown scheme"),
        pytest.param("sample", {"dataset.calibration_split": "val"}, "both 'val'", id="calibration is evaluation"),
        pytest.param("sample", {"model.input_width": 100}, "multiples of 32", id="input size"),
        pytest.param(
            "sample", {"model.std": [1, 0, 1]}, r"model.std: .*above 0.*\(given: \[1, 0, 1\]\)", id="zero std"
        ),
        pytest.param("sample", {"model.std": [0.2, -0.2, 0.2]}, "model.std: ", id="negative std"),
        pytest.param(
            "sample", {"model.std": [58.395, 57.12, 57.375]}, "model.std: .* divided by 255", id="std of 0-255"
        ),
        pytest.param("sample", {"model.std": [1.02, 1, 1]}, "model.std: ", id="std above what a pixel spans"),
        pytest.param("sample", {"model.mean": [123.675, 116.28, 103.53]}, "model.mean: .* by 255", id="mean of 0-255"),
        pytest.param("sample", {"model.mean": [-0.1, 0, 0]}, "model.mean: ", id="negative mean"),
        pytest.param("sample", {"model.mean": [float("nan"), 0, 0]}, "model.mean", id="mean that is not a number"),
        pytest.param("sample", {"model.channel_order": "grb"}, "model.channel_order: .*'rgb' or 'bgr'", id="channels"),
        pytest.param("sample", {"model.architecture": "pose_resnet_18"}, "needs model.checkpoint", id="other network"),
        pytest.param(
            "sample",
            {"model.architecture": "pose_resnet_18", "model.checkpoint": "sample"},
            "holds a pose_mobilenet",
            id="sample",
        ),
        pytest.param("sample", {"destination.registry": "bucket"}, "destination.registry", id="registry address"),
        pytest.param("sample", {"destination.channel": "a/b"}, "destination.channel", id="channel name"),
        pytest.param("sample", {"model.checkpoint_sha256": "abc"}, "model.checkpoint_sha256", id="digest"),
        pytest.param("pose_resnet_50", {}, "needs model.checkpoint and dataset.source", id="needs"),
        pytest.param(None, {}, "A run needs model.checkpoint", id="nothing"),
    ],
)
def test_wrong_settings_are_named(preset: str | None, overrides: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(preset, overrides=overrides)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("preset: [", "neither YAML nor JSON"),
        ("- a\n- b\n", "does not hold settings"),
        ("preset: sample\nmodle: {}\n", "no setting 'modle'"),
        ("preset: sample\nmodel: {chekpoint: x}\n", "did you mean model.checkpoint"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(file=file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read: No such file"):
        load_config(file=tmp_path / "absent.yaml")


def test_recipe_names_say_what_they_do() -> None:
    config: RunConfig = load_config("sample", overrides={"recipe.activation_bw": 16})
    assert config.recipe.name == "w8a16_per_channel_cle"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "w8a8_per_channel"),
        ({"scheme": "min_max"}, "w8a8_per_channel_min_max"),
        ({"scheme": "percentile"}, "w8a8_per_channel_percentile"),
        ({"weight_scheme": "mse"}, "w8a8_per_channel_mse_weights"),
        ({"weight_scheme": "tf_enhanced"}, "w8a8_per_channel"),
        ({"rounding": "seq_mse"}, "w8a8_per_channel_seq_mse"),
        ({"rounding": "adaround", "bias_correction": True}, "w8a8_per_channel_adaround_bias_corrected"),
        ({"augment_calibration": True}, "w8a8_per_channel_augmented"),
        ({"fold_batch_norms": False, "saturation_free": False}, "w8a8_per_channel_not_folded_full_range"),
        ({"granularity": "per_tensor", "param_bw": 4, "saturation_free": False}, "w4a8_per_tensor"),
    ],
)
def test_a_recipes_name_tells_every_technique(settings: dict[str, Any], name: str) -> None:
    assert QuantizationRecipe(**settings).name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: sample\ndataset: sample\n", "dataset in .* holds settings, not 'sample'"),
        ("preset: sample\nmodel: null\n", "model in .* holds settings, not None"),
        ("preset: [sample]\n", "no preset"),
        ("preset: sample\ngate: 3\n", "gate in .* holds settings, not 3"),
    ],
)
def test_sections_hold_settings(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(file=file, overrides={"gate.min_ap": 0.5})


def test_a_section_is_no_setting() -> None:
    with pytest.raises(ConfigError, match=r"'model' is a section.*model\.checkpoint"):
        load_config("sample", overrides={"model": "sample"})
    with pytest.raises(ConfigError, match="no recipe"):
        load_config("sample", overrides={"recipe": [1]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "gate: {metric: pckh}", "'gate.metric' any more, which is in .*run.yaml. Leave it out", id="metric"
        ),
        pytest.param("recipe: {reduce_range: true}", "'recipe.reduce_range' any more, which is in", id="reduce_range"),
    ],
)
def test_a_file_with_a_setting_that_is_gone_is_told_what_does_its_work(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"preset: sample\n{text}\n")
    with pytest.raises(ConfigError, match=says):
        load_config(file=file)


@pytest.mark.parametrize(("kind", "metric"), [("coco", "ap"), ("mpii", "pckh")])
def test_the_data_set_says_what_is_judged_and_older_runs_that_repeat_it_stay_readable(kind: str, metric: str) -> None:
    source = {"dataset.kind": kind, "dataset.source": "/data"}
    config = load_config("pose_resnet_50", overrides={**source, "model.checkpoint": "/c.pth"})
    assert config.dataset.gate_metric == metric
    stored = config.model_dump(mode="json")
    stored["gate"]["metric"] = metric
    assert RunConfig.model_validate(stored) == config


def test_reduce_range_is_read_where_it_was_off_and_refused_otherwise() -> None:
    assert QuantizationRecipe.model_validate({"reduce_range": False}) == QuantizationRecipe()
    with pytest.raises(
        ConfigError, match=r"no setting 'recipe\.reduce_range' any more\. Leave it out: recipe\.saturation_free"
    ):
        load_config("sample", overrides={"recipe.reduce_range": True})


def test_a_renamed_setting_is_read_where_it_is_stored_and_pointed_to_otherwise(tmp_path: Path) -> None:
    stored = load_config("sample", overrides={"recipe.subpixel_deconvolution": False}).model_dump(mode="json")
    now = RunConfig.model_validate(stored)
    stored["recipe"]["four_phase_deconvolution"] = stored["recipe"].pop("subpixel_deconvolution")
    assert RunConfig.model_validate(stored) == now
    says = r"no setting 'recipe\.four_phase_deconvolution' any more.*Write recipe\.subpixel_deconvolution"
    with pytest.raises(ConfigError, match=says):
        load_config("sample", overrides={"recipe.four_phase_deconvolution": False})
    file = tmp_path / "run.yaml"
    file.write_text("preset: sample\nrecipe: {four_phase_deconvolution: false}\n")
    with pytest.raises(ConfigError, match=r"which is in .*run\.yaml\. Write recipe\.subpixel_deconvolution"):
        load_config(file=file)
