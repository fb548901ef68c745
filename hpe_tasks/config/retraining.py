"""What a retraining is asked beside the network and the data: light enough for `hpe --help`.

How to train is said in the settings of `TrainingConfig`, whichever those are. What a run says anyway, as the network,
the splits and the seed, is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, create_model

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.training import SCHEDULES, TrainingConfig

_SAID_BY_THE_RUN = {
    *("architecture", "skeleton", "codec", "input_width", "input_height", "width_multiplier"),
    *("initial_weights", "train_split", "val_split", "seed"),
}

if TYPE_CHECKING:
    ScheduleName = str
else:
    # The choices of forms and of --help.
    ScheduleName = Literal[tuple(SCHEDULES)]


class _Retraining(Frozen):
    """What becomes of which weights, and when the result counts as better."""

    start: Literal["checkpoint", "live", "random"] = Field(
        default="checkpoint",
        description="What a retraining starts from: `checkpoint`, the weights that model.checkpoint names; `live`, the "
        "checkpoint that the version came from which destination.channel serves, or model.checkpoint as long as it "
        "serves none; or `random` weights.",
    )
    schedule: ScheduleName | None = Field(
        default=None,
        description="A built-in schedule, whose last stage must be of the network that `model` describes. The settings "
        "below that are given count for each of its stages. Without a schedule, weights are fine-tuned with care, the "
        "head first; random ones are trained in one stage.",
    )
    min_gain: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="By how much AP a checkpoint must be better than the one that the live version came from: the "
        "whole interval of the difference, of gate.confidence, must lie above it.",
    )

    def given(self) -> dict[str, Any]:
        """The settings of the training itself that are set, by their names in TrainingConfig."""
        values = (
            (name, getattr(self, name)) for name in type(self).model_fields if name in TrainingConfig.model_fields
        )
        return {name: value for name, value in values if value is not None}


def _settings() -> Iterator[tuple[str, Any]]:
    """The settings of a training that a run does not say anyway, each with None for "as in the schedule"."""
    for name, field in TrainingConfig.model_fields.items():
        if name in _SAID_BY_THE_RUN:
            continue
        limited: Any = _without_none(field.annotation)
        for limit in field.metadata:
            limited = Annotated[limited, limit]
        usual = f", or {_text(field.default)}" if field.default not in (None, ()) else ""
        said = f"{field.description} Where nothing is set, as in the schedule or a fine-tuning{usual}."
        yield name, (limited | None, Field(default=None, description=said))


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return reduce(or_, (kind for kind in get_args(annotation) if kind is not type(None)))


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


if TYPE_CHECKING:
    RetrainingConfig = _Retraining
else:
    # A setting that trainings get is one of retrainings, too.
    RetrainingConfig = create_model(
        "RetrainingConfig", __base__=_Retraining, __module__=__name__, __doc__=_Retraining.__doc__, **dict(_settings())
    )
