"""A whole run of a network that has learnt something: a short training on drawn people, then every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.training import SCHEDULES
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.training.regression import train

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Pictures as they are: the fastest way to something.
_STILL = {"val_split": None, "rotation_degrees": 0.0, "scale_range": 0.0, "shift_range": 0.0}


def finished_run(
    folder: Path,
    s3: Callable[[], S3Client],
    preset: str,
    people: SampleSpec,
    training: dict[str, Any],
    **overrides: Any,
) -> Run:
    """Train the first stage of the schedule of the preset's name, then do all steps.

    Args:
        folder: Takes the drawn people, the checkpoint, the workspace and the cache.
        s3: Makes a client of the registry's server.
        preset: Of the run and of the schedule.
        people: What is drawn; the preset's data set.
        training: Settings of the stage that differ, beside those that keep pictures as they are.
        overrides: Settings of the run, with `__` for a dot.
    """
    data = folder / "data"
    make_sample(data, people)
    stage = SCHEDULES[preset][0].model_copy(update=_STILL | training)
    trained = train(stage, data, folder / "short.safetensors")
    settings = {
        "model.checkpoint": str(trained.checkpoint),
        "model.input_width": stage.input_width,
        "model.input_height": stage.input_height,
        "dataset.source": str(data),
        "dataset.min_persons": 50,
        "recipe.calibration_images": people.calibration,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    config = load_config(preset, overrides=settings)
    run = open_run(config, workspace=(folder / "workspace").as_uri(), cache=folder / "cache", name="short", s3=s3)
    run_steps(REQUANTIZE, run, REQUANTIZE.steps)
    return run
