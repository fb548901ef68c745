"""Configurations to begin with: from a preset, a file, an ONNX file of your own, or another configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpe_tasks.api.places import places
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import given_keys, load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.networks import OWN_FILE

_SAMPLE_SPLITS = {"dataset.calibration_split": "calibration", "dataset.evaluation_split": "val"}


def load_preset(name: str, settings: Mapping[str, Any] | None = None) -> RunConfig:
    """A ready-made configuration, with settings of your own.

    Args:
        name: Such as `sample`; `hpe presets` lists them.
        settings: Values by dotted key, such as `{"recipe.scheme": "min_max"}`; the keys of `hpe run --set`.

    Raises:
        ConfigError: Names the unknown preset or key, the setting that is missing, or the value out of bounds.
    """
    return load_config(name, overrides=settings)


def load_file(file: str | Path, settings: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration that a YAML or JSON file holds, as `hpe run --config` takes it.

    Args:
        file: In the shape of `hpe presets --show NAME`; it may name a preset to start from.
        settings: Values by dotted key, which win over the file's.

    Raises:
        ConfigError: The file cannot be read, or names what `load_preset` would refuse.
    """
    return load_config(file=Path(file), overrides=settings)


def from_onnx(
    file: str | Path,
    dataset: str | Path = SAMPLE,
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    cache: str | Path | None = None,
) -> RunConfig:
    """A configuration for a network of your own, as an ONNX file.

    Input size and layouts are read from the file. What a file does not say is as RTMPose and Simple Baselines have it
    (17 COCO joints, RGB, ImageNet's mean and standard deviation, heatmaps) unless `settings` say otherwise: see
    `model.skeleton`, `model.joint_names`, `model.channel_order`, `model.mean`, `model.std` and `model.codec`.

    Args:
        file: A path, or an s3:// or http(s):// address.
        dataset: A folder or archive in COCO's layout or its address; or `sample`, the people that the project draws.
        settings: Values by dotted key.
        preset: Gives the other settings, such as `efficientpose_rt_lite`.
        cache: Folder for what is downloaded; by default HPE_CACHE.

    Raises:
        ConfigError: A setting is unknown, out of bounds, or contradicts the file.
        CheckpointError: onnxruntime does not run the file, or leaves open what is not set either; names the setting.
    """
    from hpe_tasks.pipeline.standalone import read_model
    from hpe_tasks.storage.s3 import make_client

    named = {"model.architecture": OWN_FILE, "model.checkpoint": str(file), "dataset.source": str(dataset)}
    if twice := sorted(named.keys() & (settings or {}).keys()):
        raise ConfigError(f"{twice[0]} is among the settings.", hint="The file and the data set are arguments.")
    drawn = _SAMPLE_SPLITS if str(dataset) == SAMPLE else {}
    given = {**drawn, **(settings or {})}
    config = load_config(preset, overrides={**given, **named})
    asked, usual = given_keys(preset, None, given)
    _, model = read_model(config, places(cache=cache).cache, make_client, asked=asked, usual=usual)
    return config.model_copy(update={"model": model})


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of some settings, checked as those of a preset are.

    Raises:
        ConfigError: Names the unknown key, or the value out of bounds.
    """
    stored = {key: value for key, value in _values(config).items() if value is not None}
    if "recipe" in settings:
        # A named recipe takes the place of the whole section but the number of images, as it does for a preset.
        kept = "recipe.calibration_images"
        stored = {key: value for key, value in stored.items() if key == kept or not key.startswith("recipe.")}
    changed = load_config(overrides={**stored, **settings})
    return changed.model_copy(update={"preset": config.preset})


def _values(config: RunConfig) -> dict[str, Any]:
    values = {}
    for key in config_keys():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = value
    return values
