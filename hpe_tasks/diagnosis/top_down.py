"""The usual mistakes of a network that is shown crops: what it is fed with, and which channel is which joint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.diagnosis.hypotheses import AS_CONFIGURED, Mistake
from hpe_tasks.diagnosis.joint_orders import joint_settings, other_orders
from hpe_tasks.diagnosis.people import Floats, LabelledPersons, as_input
from hpe_tasks.diagnosis.trials import Trial
from hpe_tasks.inference import Predict
from hpe_tasks.pose.codecs import crop_codec
from hpe_tasks.pose.crops import PIXEL_STD

_HALF_CELLS = (
    (0.5, "to the right and down"),
    (-0.5, "to the left and up"),
)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the C channels of a network show of N persons.

    Attributes:
        points: N×C×2, in image pixels.
        scores: N×C.
        cells: N: width of a cell of the output, in image pixels.
    """

    points: Floats
    scores: NDArray[np.float32]
    cells: Floats


def try_crops(
    persons: LabelledPersons, mistake: Mistake, fed: ModelConfig, predict: Predict, batch_size: int
) -> list[Trial]:
    """Show the crops in one way, and read the maps in every way.

    Args:
        persons: The crops.
        mistake: What is wrong in the configured way to show them.
        fed: The model without that mistake.
        predict: The network.
        batch_size: Crops in a forward pass.
    """
    seen = _look(persons, fed, predict, batch_size)
    if seen is None:
        return [Trial(mistake, None)]
    trials = []
    for misread, channels in _readings(persons, seen, fed):
        trials.append(Trial(mistake & misread, persons.fit(seen.points, seen.scores, channels)))
        if mistake.cost and misread.cost:
            # Three things wrong at once are none of the usual mistakes.
            continue
        for shift, where in _HALF_CELLS:
            moved = seen.points + shift * seen.cells[:, None, None]
            aside = Mistake(f"joints lie half a cell of the output further {where}", (), 2)
            trials.append(Trial(mistake & misread & aside, persons.fit(moved, seen.scores, channels)))
    return trials


def _look(persons: LabelledPersons, fed: ModelConfig, predict: Predict, batch_size: int) -> _Seen | None:
    """What the network shows; None where its outputs are not finite."""
    codec, parts = crop_codec(fed.codec), []
    for start in range(0, len(persons), batch_size):
        part = slice(start, start + batch_size)
        outputs = predict(as_input(persons.crops[part], fed))
        if not all(np.isfinite(array).all() for array in outputs.values()):
            return None
        joints, scores = codec.decode(outputs, persons.centers[part], persons.scales[part])
        parts.append((joints, scores, persons.scales[part, 0] * PIXEL_STD / codec.cells_across(outputs)))
    points, found, cells = zip(*parts, strict=True)
    return _Seen(np.concatenate(points).astype(np.float64), np.concatenate(found), np.concatenate(cells))


def _readings(persons: LabelledPersons, seen: _Seen, model: ModelConfig) -> Iterator[tuple[Mistake, Mapping[str, int]]]:
    """Ways to tell which channel is which joint, the configured one first; those that compare no joint are left out."""
    own = model.joints.joints
    yield AS_CONFIGURED, _channels(own)
    swapped = list(own)
    for left, right in model.joints.flip_pairs:
        swapped[left], swapped[right] = own[right], own[left]
    told = [own, tuple(swapped)]
    if told[0] != told[1]:
        yield Mistake("left and right joints are swapped", joint_settings(swapped, model), 2), _channels(swapped)
    for name, joints, settings in other_orders(model):
        told.append(joints)
        if set(joints) & set(persons.joints):
            yield Mistake(f"the joints come in the order of {name}", settings, 2), _channels(joints)
    assigned = _assigned(persons, seen, own)
    if assigned not in told:
        settings = joint_settings(assigned, model)
        yield Mistake("each channel is the joint that it fits best", settings, 4), _channels(assigned)


def _channels(joints: tuple[str, ...] | list[str]) -> dict[str, int]:
    return {joint: channel for channel, joint in enumerate(joints)}


def _assigned(persons: LabelledPersons, seen: _Seen, own: tuple[str, ...]) -> tuple[str, ...]:
    """The order of the same joints in which the channels come closest to the labels.

    Channels and joints are matched so that the sum of their mean closeness is largest (Kuhn, "The Hungarian method for
    the assignment problem", 1955). What the data set does not label stays in its order in the channels that are left.
    """
    from scipy.optimize import linear_sum_assignment

    compared = [i for i, joint in enumerate(persons.joints) if joint in own and persons.labelled[:, i].any()]
    closeness = np.nanmean(persons.closeness(seen.points)[:, :, compared], axis=0)
    channels, columns = linear_sum_assignment(closeness, maximize=True)
    names = {int(channel): persons.joints[compared[column]] for channel, column in zip(channels, columns, strict=True)}
    rest = iter([joint for joint in own if joint not in names.values()])
    return tuple(names[channel] if channel in names else next(rest) for channel in range(len(own)))
