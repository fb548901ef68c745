"""What a training has come to: as a headline, in rows, and as a picture of the difference to the live version's."""

from __future__ import annotations

from hpe_tasks.config.retraining import RetrainingConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.gate.accuracy import Metric
from hpe_tasks.records.retraining import CheckpointComparison, RegisteredCheckpoint
from hpe_tasks.report.commands import Launcher, command_with
from hpe_tasks.report.interval_chart import IntervalPlot, interval_plot

_TITLES = {
    "first": "A new checkpoint, the first for its channel",
    "better": "A better checkpoint than the live version's",
    "equal": "Kept, and not better than the live version's checkpoint",
    "worse": "Kept, and worse than the live version's checkpoint",
}


def retrained_title(registered: RegisteredCheckpoint) -> str:
    """A registered checkpoint's outcome, as a headline."""
    return _TITLES[registered.outcome]


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    return f"{reason[:1].upper()}{reason[1:]}."


def quantizing_command(config: RunConfig, registered: RegisteredCheckpoint, launcher: Launcher) -> str:
    """The shell command for a run that quantizes a registered checkpoint, asked as the training was."""
    settings = (f"model.checkpoint={registered.checkpoint}", f"model.checkpoint_sha256={registered.sha256}")
    return command_with(config.model_copy(update={"training": RetrainingConfig()}), settings, launcher)


def checkpoint_plot(compared: CheckpointComparison | None, metric: Metric) -> IntervalPlot | None:
    """What the new checkpoint gains and loses against the live version's; None where they were not compared."""
    if compared is None or compared.paired is None:
        return None
    paired = compared.paired
    caption = f"The new checkpoint and the live version's on the same {paired.num_images:,} images"
    if paired.confidence is not None:
        caption += (
            f": {100 * paired.confidence:g} % intervals of what the new one gains or loses, paired bootstrap over the "
            f"images, {paired.resamples:,} resamples"
        )
    return interval_plot(paired, metric, caption=f"{caption}.")
