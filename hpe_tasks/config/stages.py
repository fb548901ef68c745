"""The stages of a retraining, as a run's configuration asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpe_tasks.config.fine_tuning import fine_tuning_stages
from hpe_tasks.config.keys import problems_text
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.training import SCHEDULES, TrainingConfig
from hpe_tasks.errors import ConfigError

ONLY_THE_FILE = frozenset({"checkpoint", "checkpoint_sha256", "trained_on"})
"""Settings of `model` that say nothing of what the network computes."""

_TRAINED_KIND = "coco"

_NETWORK = ("architecture", "skeleton", "codec", "input_width", "input_height", "width_multiplier")


def training_split(config: RunConfig) -> str:
    """The split that a retraining learns from."""
    return config.dataset.training_split or config.dataset.calibration_split


def retraining_stages(config: RunConfig, weights: Path | None) -> tuple[TrainingConfig, ...]:
    """What is trained, stage by stage.

    While it learns, a training is measured on the evaluation split, and leaves out images that look like one of it.

    Args:
        config: The run's.
        weights: What the first stage starts from, and the others in place of what the one before will have made; None
            for random weights.

    Raises:
        ConfigError: The network or the data set is not one that the project trains, or the last stage is of another
            network than the run's.
    """
    _refuse_untrainable(config)
    training, model = config.training, config.model
    said = {
        "seed": config.seed,
        "train_split": training_split(config),
        "val_split": config.dataset.evaluation_split,
    }
    _refuse_early_stop(training.given())
    if training.schedule is not None:
        plans = [stage.model_dump() | training.given() for stage in SCHEDULES[training.schedule]]
    else:
        network = {name: getattr(model, name) for name in _NETWORK}
        plans = [network | training.given()] if weights is None else _fine_tuning(network, training.given(), weights)
    stages = tuple(_stage(plan | said, weights) for plan in plans)
    _refuse_another_network(stages[-1], model)
    return stages


def _fine_tuning(network: dict[str, Any], given: dict[str, Any], weights: Path) -> list[dict[str, Any]]:
    """The stages of a fine-tuning, to their ends: no epoch is chosen by the images that judge the checkpoint."""
    asked = given | {"early_stop": None}
    return [stage.model_dump() for stage in fine_tuning_stages({**network, "initial_weights": str(weights)}, asked)]


def _refuse_early_stop(given: dict[str, Any]) -> None:
    if given.get("early_stop") is not None:
        raise ConfigError(
            "training.early_stop would choose the epoch by the evaluation split, on which the checkpoint is then "
            "compared with the live version's.",
            hint="Set training.epochs, or use `hpe train --set early_stop=…` with a val_split of its own.",
        )


def _refuse_untrainable(config: RunConfig) -> None:
    dataset = config.dataset
    if config.model.network.from_file:
        raise ConfigError(
            f"model.architecture={config.model.architecture} is a network in a file of its own, which is not trained "
            "here.",
            hint="Train it where it comes from, and quantize the result.",
        )
    if dataset.kind != _TRAINED_KIND:
        raise ConfigError(
            f"A retraining learns from data sets of kind {_TRAINED_KIND!r}, not {dataset.kind!r}.",
            hint="Bring the data set into COCO's layout, or train elsewhere.",
        )
    if dataset.images_by_url:
        raise ConfigError(
            "With dataset.images_by_url only the images that are drawn for calibration are fetched.",
            hint="Give a data set that holds its images.",
        )


def _stage(values: dict[str, Any], weights: Path | None) -> TrainingConfig:
    # Of random weights all layers start at random.
    start = {"initial_weights": None, "new_head": False} if weights is None else {"initial_weights": str(weights)}
    try:
        return TrainingConfig.model_validate(values | start)
    except ValidationError as error:
        problems = problems_text(error, TrainingConfig.model_fields)
        raise ConfigError(f"The settings of the training are not valid: {problems}.") from None


def _refuse_another_network(stage: TrainingConfig, model: ModelConfig) -> None:
    trained = stage.model_config_for("unused")
    other = [
        f"model.{name} is {getattr(model, name)!r}, the training's {getattr(trained, name)!r}"
        for name in type(model).model_fields
        if name not in ONLY_THE_FILE and getattr(model, name) != getattr(trained, name)
    ]
    if other:
        raise ConfigError(
            f"The training would not make the network that the run describes: {'; '.join(other)}.",
            hint="Let `model` describe a network as the project trains it, or choose another training.schedule.",
        )
