"""Presets are files: what they hold, and what is said of one that is not as it should be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hpe_tasks.config import presets
from hpe_tasks.config.loading import given_keys, load_config
from hpe_tasks.config.presets import PRESETS, read_preset
from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.published import published_figures, published_names

SETTINGS = {
    "sample": "4713f0c8f0ca",
    "aimet_pose_coco2014": "3a6c29c58aba",
    "aimet_pose_sample": "27b639f42714",
    "efficientpose_i_lite": "35eb3232ef92",
    "efficientpose_rt_lite": "f8cfd8e024f8",
    "pose_hrnet_w32": "9a7163341b6c",
    "pose_hrnet_w48": "6748f1ab6029",
    "pose_mobilenet_coco2017": "adf940b9feb5",
    "pose_resnet_50": "5d8a1096ee51",
    "pose_resnet_50_coco2017": "a66d80696d7a",
    "pose_resnet_50_mpii": "c450e2b3af5d",
    "rtmpose": "9f387b6dbbaf",
    "simcc_sample": "6f9f991474d2",
}
"""Digest of what each preset sets, as it was before presets were files: who changes one does so on purpose."""


@pytest.mark.parametrize("name", SETTINGS)
def test_presets_ask_for_what_they_always_asked_for(name: str) -> None:
    config = load_config(name, overrides=dict.fromkeys(PRESETS[name].needs, "/somewhere"))
    asked = json.dumps(config.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    assert hashlib.sha256(asked.encode()).hexdigest()[:12] == SETTINGS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_the_settings_of_a_preset_are_a_file_that_a_run_takes(name: str, tmp_path: Path) -> None:
    preset = PRESETS[name]
    copied = tmp_path / "mine.yaml"
    copied.write_text(f"preset: {name}\n{preset.text}")
    needs = dict.fromkeys(preset.needs, "/somewhere")
    assert load_config(file=copied, overrides=needs) == load_config(name, overrides=needs)


@pytest.mark.parametrize("name", PRESETS)
def test_a_copy_of_a_preset_asks_for_the_same(name: str, tmp_path: Path) -> None:
    shipped = Path(presets.__file__).parent / f"{name}.yaml"
    copied = Path(shutil.copy(shipped, tmp_path / "mine.yaml"))
    needs = dict.fromkeys(PRESETS[name].needs, "/somewhere")
    asked = load_config(file=copied, overrides=needs)
    assert asked.preset != name
    assert asked.model_copy(update={"preset": name}) == load_config(name, overrides=needs)
    # Its settings are the user's own now.
    assert given_keys(file=copied) == (given_keys(name)[1], frozenset())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("model: {checkpoint: a.pth}\n---\ndataset: {source: sample}\n", id="settings in two"),
        pytest.param("description: A network.\n---\nseed: 1\n---\nseed: 2\n", id="three"),
        pytest.param("seed: 1\n---\n", id="nothing behind them"),
        pytest.param("description: A network.\nseed: 1\n---\nseed: 2\n", id="a setting in the description"),
    ],
)
def test_no_part_of_a_file_is_passed_over(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml has [23] parts") as error:
        load_config("sample", file)
    assert "all settings in one part" in error.value.hint


def test_the_sample_stands_first_and_the_others_in_order() -> None:
    first, *others = PRESETS
    assert (first, others) == ("sample", sorted(others))


def test_every_reference_is_there_and_all_published_figures_are_used() -> None:
    named = {preset.reference for preset in PRESETS.values() if preset.reference is not None}
    assert named == set(published_names())
    assert published_figures("hrnet_coco").protocol["input_size"] == (192, 256)


ABOUT = "description: A network.\nneeds: [model.checkpoint]\n"
RUN = "model: {architecture: pose_resnet_50}\ndataset: {source: sample}\n"


@pytest.mark.parametrize(
    ("about", "settings", "says"),
    [
        pytest.param(ABOUT, RUN + "gate: {min_app: 0.5}\n", r"'gate\.min_app'.*Did you mean gate\.min_ap\?", id="key"),
        pytest.param(ABOUT, "modle: {architecture: onnx}\n" + RUN, r"'modle\.architecture'", id="section"),
        pytest.param(ABOUT.replace("check", "chek"), RUN, r"'model\.chekpoint'.*model\.checkpoint", id="unknown need"),
        pytest.param("description: A network.\n", RUN, r"neither sets nor needs model\.checkpoint", id="missing need"),
        pytest.param(ABOUT, "model: {checkpoint: w.pth}\n" + RUN[RUN.index("dataset") :], "both sets", id="both"),
        pytest.param("needs: [model.checkpoint]\n", RUN, "not valid: description: Field required", id="description"),
        pytest.param(ABOUT + "referense: coco\n", RUN, r"'referense' \(did you mean reference\?\)", id="field"),
        pytest.param(ABOUT + "reference: [coco]\n", RUN, "not valid: reference: ", id="reference"),
        pytest.param("description: [\n", RUN, "is not YAML", id="no yaml"),
        pytest.param(ABOUT, "- model\n", "in place of settings", id="list"),
    ],
)
def test_a_preset_that_is_not_right_is_named(tmp_path: Path, about: str, settings: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"{about}---\n{settings}")
    with pytest.raises(ConfigError, match=says) as error:
        read_preset(file)
    assert str(file) in str(error.value)


def test_a_preset_has_two_parts(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(ABOUT)
    with pytest.raises(ConfigError, match=r"mine\.yaml has no line `---`"):
        read_preset(file)


def test_a_named_recipe_may_stand_in_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"{ABOUT}---\n{RUN}recipe: w8a8_per_tensor\n")
    assert read_preset(file).values["recipe"] == "w8a8_per_tensor"
