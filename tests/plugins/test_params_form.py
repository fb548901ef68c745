from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk.exceptions import ParamValidationError
from hpe_airflow.params_form import config_from_params, form_params

from hpe_tasks.config.help import setting_schema
from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.recipes import RECIPES
from hpe_tasks.config.run import RunConfig
from hpe_tasks.datasets import KINDS
from hpe_tasks.errors import ConfigError

PARAMS = form_params()
NEEDED = ("model.checkpoint", "dataset.source")


def test_the_form_has_the_keys_of_the_command_line() -> None:
    first = ["preset", *NEEDED, "recipe"]
    others = [key for key in config_keys() if key not in NEEDED]
    assert list(form_params(without=())) == [*first, *others]
    assert list(PARAMS) == [*first, *(key for key in others if not key.startswith("training."))]
    training = [key for key in others if not key.startswith("recipe.")]
    assert list(form_params(without=("recipe",))) == [*first[:-1], *training]
    with pytest.raises(ConfigError, match=r"hold training\.epochs, which changes nothing"):
        form_params('{"training.epochs": 1}')


def test_every_field_is_described_and_all_but_the_start_have_a_section() -> None:
    assert all(param.schema["description_md"] for param in PARAMS.values())
    assert {key for key, param in PARAMS.items() if "section" not in param.schema} == {"preset", "recipe", *NEEDED}


def test_a_preset_is_chosen_from_lines_and_the_first_section_asks_for_what_presets_need() -> None:
    shown = PARAMS["preset"].schema["values_display"]
    assert list(shown) == list(PRESETS)
    assert shown["pose_resnet_50_coco2017"] == (
        "pose_resnet_50_coco2017: Simple Baselines ResNet-50 at 256x192 on COCO 2017"
    )
    assert all(len(line) < 160 for line in shown.values())
    told = PARAMS["preset"].schema["description_md"]
    assert "- Needs nothing: **sample**, " in told
    assert {*NEEDED} == {key for preset in PRESETS.values() for key in preset.needs}


def test_labels_are_words_and_the_description_begins_with_the_key() -> None:
    for key, param in form_params(without=()).items():
        words = param.schema["title"].split()
        # The form's first column is as wide as 25 letters: a longer word would be broken.
        assert words
        assert max(map(len, words)) < 20
        if key not in {"preset", "recipe"}:
            assert param.schema["description_md"].startswith(f"**{key}**: ")
    assert PARAMS["gate.max_ap_drop"].schema["title"] == "Max AP drop"
    assert PARAMS["dataset.source"].schema["title"] == "Dataset source"


def test_the_form_changes_no_number_and_bounds_are_refused() -> None:
    """Airflow's number field moves a value to the bound that it knows, and says nothing."""
    assert {"minimum", "maximum"} & PARAMS["gate.min_ap"].schema.keys() == set()
    for value in (5, -0.1, "5"):
        with pytest.raises((ParamValidationError, ConfigError), match=r"5|-0\.1"):
            config_from_params({"gate.min_ap": form_params()["gate.min_ap"].resolve(value)})


def test_an_untouched_form_is_the_sample_preset() -> None:
    untouched = {key: param.resolve() for key, param in PARAMS.items()}
    assert config_from_params(untouched) == load_config("sample")


@pytest.mark.parametrize(
    ("key", "schema"),
    [
        pytest.param("preset", {"type": "string", "enum": list(PRESETS)}, id="presets"),
        pytest.param("recipe", {"type": ["string", "null"], "enum": [None, *RECIPES]}, id="recipes"),
        pytest.param("gate.min_ap", {"type": ["number", "null"]}, id="number"),
        pytest.param("evaluation.num_images", {"type": ["integer", "null"]}, id="optional number"),
        pytest.param("recipe.param_bw", {"type": ["integer", "null"], "enum": [None, 4, 8, 16]}, id="choice"),
        pytest.param("recipe.fold_batch_norms", {"enum": [None, "true", "false"]}, id="yes or no or as in the preset"),
        pytest.param("model.mean", {"type": ["array", "null"], "minItems": 3, "maxItems": 3}, id="three numbers"),
        pytest.param("model.joint_names", {"items": {"type": "string"}}, id="lines of text"),
        pytest.param("dataset.sha256", {"pattern": "^[0-9a-f]{64}$"}, id="pattern"),
        pytest.param("dataset.kind", {"type": ["string", "null"], "enum": [None, *KINDS]}, id="kind of data"),
        pytest.param("model.limbs", {"items": {"pattern": "^[^:]+:[^:]+$", "type": "string"}}, id="lines of pairs"),
        pytest.param("dataset.image_archives", {"items": {"type": "string"}, "minItems": 1}, id="lines of addresses"),
        pytest.param("dataset.valid_images", {"type": ["string", "null"], "minLength": 1}, id="optional text"),
        pytest.param("dataset.images_by_url", {"enum": [None, "true", "false"]}, id="yes or no"),
        pytest.param("destination.channel", {"section": "Destination"}, id="section"),
    ],
)
def test_a_field_knows_what_it_may_hold(key: str, schema: dict[str, Any]) -> None:
    assert schema.items() <= PARAMS[key].schema.items()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("gate.min_ap", 1.5, id="above its bound"),
        pytest.param("gate.min_ap", "much", id="no number"),
        pytest.param("preset", "unknown", id="unknown preset"),
        pytest.param("recipe.scheme", "magic", id="unknown choice"),
        pytest.param("destination.name", "Not A Slug", id="not the pattern"),
        pytest.param("destination.registry", "http://host/bucket", id="not an S3 address"),
        pytest.param("model.std", [0.2, 0.2], id="too few numbers"),
        pytest.param("dataset.source", "", id="empty text"),
        pytest.param("recipe.calibration_images", 0, id="no images"),
        pytest.param("gate.max_size_mb", 0, id="an open bound"),
        pytest.param("evaluation.max_failed_images", 1, id="a bound that is open above"),
        pytest.param("recipe.calibration_images", "many", id="text that is not a number"),
        pytest.param("recipe.calibration_images", "0.5", id="text of a fraction"),
        pytest.param("recipe.fold_batch_norms", 1, id="number for true or false"),
        pytest.param("recipe.fold_batch_norms", "maybe", id="neither true nor false"),
        pytest.param("gate.min_ap", True, id="true for a number"),
        pytest.param("recipe.param_bw", "5", id="text of a number that is not a choice"),
        pytest.param("model.mean", "0.5", id="text that is not a list"),
        pytest.param("model.mean", [0.5, "x", 0.5], id="text among numbers"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(key: str, value: Any) -> None:
    with pytest.raises(ParamValidationError):
        form_params()[key].resolve(value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"gate.min_ap": 0.7}, ("gate", "min_ap", 0.7), id="number"),
        pytest.param({"recipe.fold_batch_norms": "false"}, ("recipe", "fold_batch_norms", False), id="no"),
        pytest.param({"recipe": "w8a8_per_tensor"}, ("recipe", "granularity", "per_tensor"), id="named recipe"),
        pytest.param({"model.mean": [0.5, 0.5, 0.5]}, ("model", "mean", (0.5, 0.5, 0.5)), id="three numbers"),
        pytest.param({"gate.min_ap": None}, ("gate", "min_ap", 0.6), id="empty is as in the preset"),
        pytest.param({"recipe.fold_batch_norms": False}, ("recipe", "fold_batch_norms", False), id="JSON's false"),
        pytest.param({"gate.min_ap": "0.7"}, ("gate", "min_ap", 0.7), id="text of a number"),
        pytest.param({"recipe.param_bw": "16"}, ("recipe", "param_bw", 16), id="text of a choice"),
        pytest.param({"model.mean": "[1, 1, 1]"}, ("model", "mean", (1.0, 1.0, 1.0)), id="text of a list"),
        pytest.param({"model.mean": ["1", "1", "1"]}, ("model", "mean", (1.0, 1.0, 1.0)), id="list of texts"),
    ],
)
def test_what_is_filled_in_changes_the_preset(given: dict[str, Any], expected: tuple[str, str, Any]) -> None:
    section, name, value = expected
    for key, entered in given.items():
        form_params()[key].resolve(entered)
    read = getattr(getattr(config_from_params(given), section), name)
    assert (read, type(read)) == (value, type(value))


def test_every_setting_that_is_no_text_takes_its_value_and_the_text_of_it() -> None:
    for key in config_keys():
        field = setting_schema(key)
        whole = min(max(64, field.get("minimum", 64)), field.get("maximum", 64))
        number = max(0.5, field.get("minimum", 0.5), field.get("exclusiveMinimum", 0) + 0.5)
        numbers = {"integer": (whole, f"{whole}"), "number": (number, f"{number}")}
        examples = {"boolean": (True, "true"), "array": None, **numbers}
        if field["type"] == "string":
            continue
        of_numbers = field.get("items", {}).get("type") == "integer"
        item = 0.5 if "prefixItems" in field else whole if of_numbers else "left:right"
        listed = [item] * field.get("minItems", 1)
        choice = field.get("enum", (None,))[0]
        pair = (choice, str(choice)) if choice else examples[field["type"]] or (listed, json.dumps(listed))
        for value in pair:
            assert form_params(without=())[key].resolve(value) == value


@pytest.mark.parametrize(
    ("entered", "held"),
    [
        pytest.param({"recipe.fold_batch_norms": False}, "false", id="false, as the choice has it"),
        pytest.param({"recipe.fold_batch_norms": "true"}, "true", id="text"),
        pytest.param({"gate.min_ap": "0.7"}, 0.7, id="number"),
        pytest.param({"model.mean": "[1, 1, 1]"}, [1, 1, 1], id="list"),
        pytest.param({"recipe": "w8a8_per_tensor"}, "w8a8_per_tensor", id="named recipe"),
    ],
)
def test_defaults_stand_in_their_fields_as_the_form_has_them(entered: dict[str, Any], held: Any) -> None:
    (key,) = entered
    assert form_params(json.dumps(entered))[key].resolve() == held


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"gate.min_app": 0.5}, "gate.min_app", id="unknown key"),
        pytest.param({"preset": "pose_resnet_50"}, "model.checkpoint", id="what the preset needs"),
        pytest.param({"dataset.calibration_split": "val"}, "dataset.calibration_split", id="splits that are one"),
    ],
)
def test_values_that_do_not_go_together_are_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config_from_params(given)


def test_defaults_fill_the_form() -> None:
    params = form_params(json.dumps({"gate.min_ap": 0.7}))
    assert params["gate.min_ap"].resolve() == 0.7
    assert params["gate.max_ap_drop"].resolve() is None


@pytest.mark.parametrize("defaults", ["{", "[1]", '{"gate.min_app": 1}', '{"gate.min_ap": 2}', '{"seed": "x"}'])
def test_wrong_defaults_are_refused(defaults: str) -> None:
    with pytest.raises(ConfigError):
        form_params(defaults)


def test_every_value_of_a_configuration_can_be_entered() -> None:
    config = load_config("sample", overrides={"model.joint_names": ["a", "b"], "evaluation.num_images": 3})
    dumped = json.loads(config.model_dump_json())
    given = {}
    for key, param in form_params().items():
        value: Any = dumped
        for name in key.split("."):
            value = value[name]
        if key in {"recipe", "preset"} or value is None:
            continue
        given[key] = param.resolve(str(value).lower() if isinstance(value, bool) else value)
    assert config_from_params(given) == RunConfig.model_validate(dumped)
