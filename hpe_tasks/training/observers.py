"""Who is told of a training: always its log and the files of its curves, and a tracking server where one is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpe_tasks.training.activation_ranges import ActivationRanges
from hpe_tasks.training.curve_file import CURVES, PAGE, CurveFile
from hpe_tasks.training.observing import Observer
from hpe_tasks.training.pace_log import PaceLog
from hpe_tasks.training.tensorboard_files import TensorBoardFiles
from hpe_tasks.training.tracking import EXPERIMENT, TrackedRuns

TENSORBOARD = "tensorboard"


def observers_for(folder: Path, environment: Mapping[str, str], *, go_on: bool = True) -> tuple[Observer, ...]:
    """The observers of a training whose curves go to a folder.

    Args:
        folder: Takes `curves.jsonl`, `curves.html` and the folder `tensorboard`.
        environment: With MLFLOW_TRACKING_URI the training is told to that server, in the experiment that
            MLFLOW_EXPERIMENT_NAME names.
        go_on: Whether a killed training may go on, and its curves with it; otherwise they begin anew.
    """
    told: list[Observer] = [PaceLog(), CurveFile(folder, go_on=go_on), TensorBoardFiles(folder / TENSORBOARD)]
    if server := environment.get("MLFLOW_TRACKING_URI"):
        experiment = environment.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        told.append(
            # After the file of curves, which it sends when it is complete.
            TrackedRuns(server, folder, experiment=experiment, artifacts=(folder / PAGE, folder / CURVES))
        )
    return (ActivationRanges(told),)
