"""Ready-made run configurations, and how a preset, a file and single settings combine into one RunConfig."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hpe_tasks.config.base import SAMPLE, Frozen
from hpe_tasks.config.help import setting_schema
from hpe_tasks.config.recipe import RECIPES, QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.training import SCHEDULES, TrainingConfig
from hpe_tasks.config.values import typed_value
from hpe_tasks.errors import ConfigError
from hpe_tasks.gate.references import PublishedFigure, Reference
from hpe_tasks.networks import ARCHITECTURES, OWN_FILE


@dataclass(frozen=True)
class Preset:
    """A named start for a run.

    Attributes:
        description: One sentence for lists and forms.
        values: Nested settings that differ from RunConfig's defaults.
        needs: Dotted keys that the user must add.
        reference: Published figures that a run's own are shown beside.
    """

    description: str
    values: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    reference: Reference | None = None


_REPLACED = {
    "gate.metric": "Leave it out: dataset.kind says what is judged, PCKh of `mpii` and AP of all others.",
    "recipe.reduce_range": "Leave it out: recipe.saturation_free, on by default, keeps sums in range and costs less.",
}
"""Settings that users may still have in their files, and what does their work now."""


def _gate(architecture: str, **limits: Any) -> dict[str, Any]:
    """Limits of a gate, with the share of int8 work that the network reaches."""
    return {**limits, "min_int8_mac_share": ARCHITECTURES[architecture].min_int8_mac_share}


def _efficientpose(variant: str, side: int) -> Preset:
    return Preset(
        description=f"EfficientPose {variant} (one person, 16 MPII joints) as an ONNX file, on your COCO-layout data.",
        values={
            "model": {
                "architecture": OWN_FILE,
                "skeleton": "efficientpose16",
                "input_width": side,
                "input_height": side,
                # Pixel values are mapped to [-1, 1].
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
                "output_layout": "nhwc",
            },
            # Measured on both networks: with tf_enhanced their int8 heatmaps lose three to ten times more AP.
            "recipe": {"scheme": "min_max", "calibration_images": 80},
            "gate": {"min_ap": 0.2, "max_ap_drop": 0.05, "max_quantsim_gap": 0.05},
            "destination": {"name": f"efficientpose-{variant.lower().replace('_', '-')}"},
        },
        needs=("model.checkpoint", "dataset.source"),
    )


_COCO_ANNOTATIONS = "http://images.cocodataset.org/annotations/annotations_trainval{year}.zip"


def _coco(year: int) -> dict[str, Any]:
    """COCO as it is published: its annotations, and each image that is needed from its own address."""
    return {
        "source": _COCO_ANNOTATIONS.format(year=year),
        "images_by_url": True,
        "calibration_split": f"train{year}",
        "evaluation_split": f"val{year}",
        "min_persons": 5000,
    }


_AIMET_ZOO = Reference(
    name="AIMET model zoo, Pose Estimation",
    source="the model zoo's page of the network; W8A8 is AIMET QuantSim",
    metric="ap",
    rows=(
        PublishedFigure("FP32", "fp32", 0.364, 0.436),
        PublishedFigure("W8A8", "quantsim", 0.359, 0.432, recipe=RECIPES["w8a8_per_tensor"]),
    ),
    tolerance=0.005,
    joints=17,
    protocol={"split": "val2014", "num_images": 40_504, "box_source": "whole_image", "input_size": (496, 384)},
)

_SIMPLE_BASELINES_MPII = Reference(
    name="Simple Baselines on MPII",
    source="Xiao et al. (2018) and its repository, 256x256, flip test",
    metric="pckh",
    rows=(
        PublishedFigure("ResNet-50, FP32", "fp32", 88.532, 33.911, architecture="pose_resnet_50"),
        PublishedFigure("ResNet-101, FP32", "fp32", 89.131, 34.020, architecture="pose_resnet_101"),
        PublishedFigure("ResNet-152, FP32", "fp32", 89.620, 35.025, architecture="pose_resnet_152"),
    ),
    tolerance=0.1,
    joints=16,
    protocol={"split": "valid", "num_persons": 2958, "flip_test": True, "input_size": (256, 256)},
)

_DETECTED_ON_COCO: dict[str, Any] = {
    "split": "val2017",
    "num_images": 5000,
    "box_source": "detector",
    "flip_test": True,
    "input_size": (192, 256),
}

_ANNOTATED: dict[str, Any] = {"box_source": "ground_truth"}

_SIMPLE_BASELINES_COCO = Reference(
    name="Simple Baselines on COCO",
    source="Xiao et al. (2018) and its repository, 256x192, flip test, boxes of a detector with a person AP of 56.4",
    metric="ap",
    rows=(
        PublishedFigure("ResNet-50, FP32", "fp32", 0.704, 0.763, architecture="pose_resnet_50"),
        PublishedFigure("ResNet-101, FP32", "fp32", 0.714, 0.771, architecture="pose_resnet_101"),
        PublishedFigure("ResNet-152, FP32", "fp32", 0.720, 0.778, architecture="pose_resnet_152"),
    ),
    tolerance=0.003,
    joints=17,
    protocol=_DETECTED_ON_COCO,
)

_HRNET_ZOO_RECIPE = QuantizationRecipe(scheme="min_max", calibration_images=320)
"""As the AIMET model zoo quantized HRNet, but for the images: theirs were of the split that judged."""

_HRNET_COCO = Reference(
    name="HRNet on COCO",
    source="Sun et al. (2019) and its repository, 256x192, flip test, boxes of a detector with a person AP of 56.4; "
    "and the AIMET model zoo's hrnet_posenet, annotated boxes, W8A8 in AIMET QuantSim",
    metric="ap",
    rows=(
        PublishedFigure("HRNet-W32, FP32", "fp32", 0.744, 0.798, architecture="pose_hrnet_w32"),
        PublishedFigure(
            "HRNet-W32, FP32 (zoo)", "fp32", 0.765, 0.793, architecture="pose_hrnet_w32", protocol=_ANNOTATED
        ),
        PublishedFigure(
            "HRNet-W32, W8A8 (zoo)",
            "quantsim",
            0.763,
            0.792,
            architecture="pose_hrnet_w32",
            recipe=_HRNET_ZOO_RECIPE,
            protocol=_ANNOTATED,
        ),
        PublishedFigure("HRNet-W48, FP32", "fp32", 0.751, 0.804, architecture="pose_hrnet_w48"),
    ),
    tolerance=0.003,
    joints=17,
    protocol=_DETECTED_ON_COCO,
)


def _hrnet(width: int, **model: Any) -> Preset:
    architecture = f"pose_hrnet_w{width}"
    weights = "with the AIMET model zoo's weights" if model else "from a checkpoint of its repository"
    return Preset(
        description=f"HRNet-W{width} at 256x192 on COCO 2017, {weights}. Its repository's figures are of a detector's "
        "boxes: give its file as dataset.boxes to compare with them.",
        values={
            "model": {"architecture": architecture, **model},
            # Images without persons count as well: a detector finds people there.
            "dataset": {**_coco(2017), "evaluation_images": "all"},
            "recipe": _HRNET_ZOO_RECIPE.model_dump(include={"scheme", "calibration_images"}),
            "evaluation": {"flip_test": True},
            "gate": _gate(architecture, min_ap=0.7, max_size_mb=_LARGEST_MB),
            "destination": {"name": f"pose-hrnet-w{width}"},
        },
        needs=() if model else ("model.checkpoint",),
        reference=_HRNET_COCO,
    )


_LARGEST_MB = 75.0
"""ResNet-152 has 68.8 million parameters of a byte each, HRNet-W48 63.6; ResNet-50 has 34.1."""

PRESETS: dict[str, Preset] = {
    "sample": Preset(
        description="The project's own drawn people and the small network trained on them: needs no download, except "
        "that the smoke test installs onnxruntime, NumPy, Pillow and a few more for the function from the package "
        "index once; destination.smoke_test=false goes without.",
        values={
            "model": {
                "architecture": "pose_mobilenet",
                "checkpoint": SAMPLE,
                "input_width": 128,
                "input_height": 192,
                "trained_on": "Drawn figures, crops of one person at 128×192; it does not know photographs.",
            },
            "dataset": {
                "source": SAMPLE,
                "calibration_split": "calibration",
                "evaluation_split": "val",
                "min_persons": 300,
            },
            "recipe": {"cross_layer_equalization": True, "calibration_images": 120},
            "gate": _gate("pose_mobilenet", min_ap=0.6),
            "destination": {"name": "sample-pose", "smoke_test": True},
        },
    ),
    "pose_resnet_50": Preset(
        description="A Simple Baselines ResNet-50 checkpoint with 17 COCO joints, on your COCO-layout data.",
        values={
            "model": {"architecture": "pose_resnet_50"},
            "gate": _gate("pose_resnet_50"),
            "destination": {"name": "pose-resnet-50"},
        },
        needs=("model.checkpoint", "dataset.source"),
    ),
    "efficientpose_rt_lite": _efficientpose("RT_LITE", 224),
    "efficientpose_i_lite": _efficientpose("I_LITE", 256),
    "simcc_sample": Preset(
        description="The small network with a SimCC head, as RTMPose has it, on the project's own drawn people, with a "
        "checkpoint that `hpe train --schedule simcc_sample` makes.",
        values={
            "model": {"codec": "simcc", "input_width": 96, "input_height": 128},
            "dataset": {
                "source": SAMPLE,
                "calibration_split": "calibration",
                "evaluation_split": "val",
                "min_persons": 300,
            },
            "recipe": {"cross_layer_equalization": True, "calibration_images": 120},
            "gate": _gate("pose_mobilenet", min_ap=0.6),
            "destination": {"name": "sample-simcc"},
        },
        needs=("model.checkpoint",),
    ),
    "rtmpose": Preset(
        description="RTMPose, or another SimCC network, as an ONNX file with the outputs simcc_x and simcc_y: crops of "
        "192x256 with 17 COCO joints, on your COCO-layout data.",
        values={
            "model": {"architecture": "onnx", "codec": "simcc"},
            "destination": {"name": "rtmpose"},
        },
        needs=("model.checkpoint", "dataset.source"),
    ),
    "aimet_pose_sample": Preset(
        description="All people of an image at once (bottom-up), on the project's own drawn scenes, with a checkpoint "
        "that `hpe train --schedule aimet_pose_sample` makes.",
        values={
            "model": {
                "architecture": "aimet_pose",
                "input_width": 248,
                "input_height": 184,
                **ARCHITECTURES["aimet_pose"].input,
            },
            "dataset": {
                "source": SAMPLE,
                "calibration_split": "calibration",
                "evaluation_split": "val",
                "min_persons": 300,
            },
            "recipe": {"calibration_images": 80},
            "evaluation": {"batch_size": 8},
            "gate": _gate("aimet_pose", min_ap=0.4),
            "destination": {"name": "sample-aimet-pose"},
        },
        needs=("model.checkpoint",),
    ),
    "aimet_pose_coco2014": Preset(
        description="The AIMET model zoo's bottom-up pose network on COCO 2014, all images of val2014.",
        values={
            "model": {
                "architecture": "aimet_pose",
                "checkpoint": "https://github.com/quic/aimet-model-zoo/releases/download/pose_estimation_pytorch/"
                "pose_estimation_pytorch_weights.tgz",
                "input_width": 496,
                "input_height": 384,
                **ARCHITECTURES["aimet_pose"].input,
            },
            "dataset": {**_coco(2014), "evaluation_images": "all"},
            "recipe": {"calibration_images": 2000},
            "evaluation": {"batch_size": 8},
            "gate": _gate("aimet_pose", min_ap=0.34),
            "destination": {"name": "aimet-pose"},
        },
        reference=_AIMET_ZOO,
    ),
    "pose_resnet_50_mpii": Preset(
        description="Simple Baselines ResNet-50 at 256x256 on MPII, judged by PCKh. With model.architecture 101 or 152 "
        "layers, which then also need model.checkpoint.",
        values={
            "model": {
                "architecture": "pose_resnet_50",
                "checkpoint": "https://sandhu-tsai-models-s5.s3.ap-south-1.amazonaws.com/pose_resnet_50_256x256.pth.tar",
                "skeleton": "mpii16",
                "input_width": 256,
                "input_height": 256,
            },
            "dataset": {"kind": "mpii", "min_persons": 2000},
            "evaluation": {"flip_test": True},
            "gate": _gate("pose_resnet_50", min_pckh=86.0, max_size_mb=_LARGEST_MB),
            "destination": {"name": "pose-resnet-mpii"},
        },
        needs=("dataset.source",),
        reference=_SIMPLE_BASELINES_MPII,
    ),
    "pose_resnet_50_coco2017": Preset(
        description="Simple Baselines ResNet-50 at 256x192 on COCO 2017; with model.architecture 101 or 152 layers. "
        "Published figures are of a detector's boxes: give its file as dataset.boxes to compare with them.",
        values={
            "model": {"architecture": "pose_resnet_50"},
            # Images without persons count as well: a detector finds people there.
            "dataset": {**_coco(2017), "evaluation_images": "all"},
            "evaluation": {"flip_test": True},
            "gate": _gate("pose_resnet_50", min_ap=0.65, max_size_mb=_LARGEST_MB),
            "destination": {"name": "pose-resnet-coco"},
        },
        needs=("model.checkpoint",),
        reference=_SIMPLE_BASELINES_COCO,
    ),
    "pose_hrnet_w32": _hrnet(
        32,
        checkpoint="https://github.com/quic/aimet-model-zoo/releases/download/phase_2_march_artifacts/"
        "hrnet_posenet_FP32_state_dict.pth",
    ),
    "pose_hrnet_w48": _hrnet(48),
    "pose_mobilenet_coco2017": Preset(
        description="The project's small depthwise network at 256x192 on COCO 2017; no figures of it are published.",
        values={
            "dataset": _coco(2017),
            "recipe": {"cross_layer_equalization": True},
            "gate": _gate("pose_mobilenet", min_ap=0.45),
            "destination": {"name": "pose-mobilenet"},
        },
        needs=("model.checkpoint",),
    ),
}


def config_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a run may set, in the order of the configuration."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            yield from config_keys(field.annotation, f"{prefix}{name}.")
        elif name not in {"schema_version", "preset"}:
            yield f"{prefix}{name}"


_BELONGS_TO = (
    # How images come belongs to the preset's own source: the user's may hold them.
    ("dataset.source", "dataset.images_by_url"),
    ("dataset.image_archives", "dataset.images_by_url"),
    # Weights fit one network only.
    ("model.architecture", "model.checkpoint"),
    ("model.architecture", "model.trained_on"),
    ("model.checkpoint", "model.trained_on"),
)
"""Where the user sets the first key, a preset's value of the second no longer fits."""


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """Combine a preset, a configuration file and single settings; later ones win.

    Args:
        preset: A name of PRESETS. A file may name one under `preset` as well.
        file: YAML or JSON in the shape of RunConfig.
        overrides: Values by dotted key, such as `{"gate.min_ap": 0.6}`; `recipe` alone takes a name of RECIPES.

    Numbers, true and false, and lists may also come as the texts that JSON has for them.

    Raises:
        ConfigError: Names the unknown key or preset, the missing setting, or the value of a wrong type or out of
            bounds.
    """
    values: dict[str, Any] = {}
    from_file = _read(file) if file is not None else {}
    preset = preset or from_file.get("preset")
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(f"There is no preset {preset!r}.", hint=f"Choose one of: {', '.join(PRESETS)}.")
        _merge(values, PRESETS[preset].values)
        values["preset"] = preset
        _drop_what_no_longer_fits(values, from_file, overrides or {})
    _merge(values, {key: value for key, value in from_file.items() if key != "preset"})
    ordered = sorted(
        (overrides or {}).items(), key=lambda item: item[0].count(".")
    )  # `recipe` before `recipe.param_bw`
    for key, value in ordered:
        _set(values, key, value)
    return _validate(values, preset)


def given_keys(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[frozenset[str], frozenset[str]]:
    """The dotted keys that a user has given, by file or one by one, and those that the preset gives.

    The arguments are those of `load_config`, which has accepted them.
    """
    from_file = _read(file) if file is not None else {}
    chosen = PRESETS.get(str(preset or from_file.get("preset")))
    return frozenset([*(overrides or {}), *_dotted(from_file)]), frozenset(_dotted(chosen.values) if chosen else ())


def _dotted(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _dotted(value))
        else:
            yield key


def _drop_what_no_longer_fits(
    preset: dict[str, Any], from_file: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    for changed, left_behind in _BELONGS_TO:
        section, leaf = changed.split(".")
        usual = preset.get(section, {}).get(leaf)
        if overrides.get(changed, from_file.get(section, {}).get(leaf, usual)) != usual:
            section, leaf = left_behind.split(".")
            preset.get(section, {}).pop(leaf, None)


def load_training(values: Mapping[str, Any], schedule: str | None = None) -> tuple[TrainingConfig, ...]:
    """The stages of a training: those of a named schedule, by default the sample checkpoint's, or one of settings.

    Raises:
        ConfigError: Names the unknown schedule or setting or the value out of bounds; or both were given.
    """
    if values and schedule is not None:
        raise ConfigError("A training follows a schedule or settings, not both.", hint="Leave --schedule or --set out.")
    if not values:
        name = schedule or "sample"
        if name not in SCHEDULES:
            raise ConfigError(f"There is no schedule {name!r}.", hint=f"Choose one of: {', '.join(SCHEDULES)}.")
        return SCHEDULES[name]
    try:
        return (TrainingConfig.model_validate(dict(values)),)
    except ValidationError as error:
        problems = [_problem(item, tuple(TrainingConfig.model_fields)) for item in error.errors(include_url=False)]
        raise ConfigError("The training's settings are not valid: " + "; ".join(problems) + ".") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {file} is neither YAML nor JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"The configuration file {file} does not hold settings.", hint="See `hpe presets --show NAME`."
        )
    for key, hint in _REPLACED.items():
        section, _, leaf = key.partition(".")
        values = loaded.get(section)
        if isinstance(values, Mapping) and leaf in values:
            raise ConfigError(f"There is no setting {key!r} any more, which is in {file}.", hint=hint)
    for name in sorted({key.partition(".")[0] for key in config_keys() if "." in key}):
        value = loaded.get(name, {})
        if not isinstance(value, Mapping) and not (name == "recipe" and isinstance(value, str)):
            first = next(key for key in config_keys() if key.startswith(f"{name}."))
            raise ConfigError(
                f"{name} in {file} holds settings, not {value!r}.",
                hint=f"Write them below it, such as `{name}: {{{first.partition('.')[2]}: …}}`.",
            )
    return loaded


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key == "recipe" and isinstance(value, str):
            into[key] = _recipe(value)
        elif isinstance(value, Mapping) and isinstance(into.setdefault(key, {}), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    known = tuple(config_keys())
    if key == "recipe":
        # A named recipe decides how to quantize; how many images to calibrate on stays as it was.
        kept = {k: v for k, v in values.get("recipe", {}).items() if k == "calibration_images"}
        values["recipe"] = {**_recipe(value), **kept}
        return
    if any(name.startswith(f"{key}.") for name in known):
        inside = [name for name in known if name.startswith(f"{key}.")]
        raise ConfigError(f"{key!r} is a section.", hint=f"Set one of its keys: {', '.join(inside)}.")
    if key in _REPLACED:
        raise ConfigError(f"There is no setting {key!r} any more.", hint=_REPLACED[key])
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`hpe presets --keys` lists the keys."
        raise ConfigError(f"There is no setting {key!r}.", hint=hint)
    *sections, leaf = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[leaf] = value


def _recipe(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in RECIPES:
        raise ConfigError(f"There is no recipe {name!r}.", hint=f"Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name].model_dump(exclude={"calibration_images"})


def _validate(values: dict[str, Any], preset: str | None) -> RunConfig:
    missing = [key for key in ("model.checkpoint", "dataset.source") if not _given(values, key)]
    if missing:
        asked = " ".join(f"--set {key}=…" for key in missing)
        start = f"The preset {preset!r} needs" if preset else "A run needs"
        raise ConfigError(
            f"{start} {' and '.join(missing)}.", hint=f"Add {asked}, or the same keys in the form or file."
        )
    _read_types(values)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_problem(item, tuple(config_keys())) for item in error.errors(include_url=False)]
        raise ConfigError("The configuration is not valid: " + "; ".join(problems) + ".") from error


def _read_types(values: dict[str, Any]) -> None:
    """Give each value the type of its setting, in place; raises ConfigError that names all that cannot have it."""
    problems = []
    for key in config_keys():
        section, _, leaf = key.rpartition(".")
        place = values.get(section, {}) if section else values
        if leaf in place:
            try:
                place[leaf] = typed_value(place[leaf], setting_schema(key))
            except ValueError as error:
                problems.append(f"{key} {error}")
    if problems:
        raise ConfigError(
            "The configuration is not valid: " + "; ".join(problems) + ".",
            hint="`hpe presets --keys` says what each setting takes.",
        )


def _given(values: Mapping[str, Any], key: str) -> bool:
    section, leaf = key.split(".")
    return bool(values.get(section, {}).get(leaf))


def _problem(item: Any, known: tuple[str, ...]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, known, n=1)
        return f"there is no setting {where!r}" + (f" (did you mean {near[0]}?)" if near else "")
    given = "" if isinstance(item["input"], (dict, BaseModel)) else f" (given: {item['input']!r})"
    return f"{where + ': ' if where else ''}{text}{given}"
