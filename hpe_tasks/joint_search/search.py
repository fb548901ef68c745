"""The order in which activations are left in float, found by what it does to the joints.

Single activations tell little while all others are quantized: of ten that harm, one less changes next to nothing. So
each is quantized alone, with all others in float, and put in order by the harm that it does there; noises add up, so
the order holds. Then as many of the most harmful ones are left float as the joints need, and those that they turn out
not to need are taken back, one by one, each judged beside all that are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hpe_tasks.onnx_export.float_activations import Activation, with_floats
from hpe_tasks.progress import track

Evaluate = Callable[[frozenset[int]], tuple[float, float]]
"""Joint error and noise of the outputs with these activations in float."""

MOST_GROUPS = 64
"""Networks of more activations have neighbours judged together first, and one by one where together they harm."""

_WORTH_SPLITTING = 0.01
"""Share of all harm from which on a group's activations are judged one by one."""

NEGLIGIBLE = 0.003
"""A joint error that is not worth a conversion."""

_PER_NOISE = 0.05
"""What noise of the outputs counts beside the joint error, which is coarse: joints move by whole cells, or not."""

_CLOSE = 0.05
"""Share of what float could win back that a choice may leave."""

_STEPS = 1.5


def damage(joint_error: float, noise: float) -> float:
    """Both in one number, the smaller the better."""
    return joint_error + _PER_NOISE * noise


@dataclass(frozen=True)
class Harm:
    """What quantizing these activations alone does, beyond what the weights do."""

    activations: tuple[int, ...]
    joint_error: float
    noise: float
    cost: float = 1.0

    @property
    def rank(self) -> float:
        """The more, the earlier it is left in float."""
        return damage(self.joint_error, self.noise)

    @property
    def worth(self) -> float:
        """What float wins here for what it costs."""
        return max(self.rank, 0.0) / self.cost


@dataclass(frozen=True)
class Order:
    """What the search found.

    Attributes:
        harms: Of all activations, the most harmful first.
        needed: Those that the joints need in float, those first that win most for what they cost; empty where int8
            throughout is as good.
        int8_error: Joint error with none in float.
        float_error: With all.
        evaluations: How many choices were tried.
    """

    harms: tuple[Harm, ...]
    needed: tuple[Harm, ...]
    int8_error: float
    float_error: float
    evaluations: int


def find_order(activations: Sequence[Activation], evaluate: Evaluate) -> Order:
    """Rank the activations, and find those that have to stay in float; see the module."""
    search = _Search(activations, evaluate)
    int8_error, _ = search.of(())
    float_error, _ = search.of(range(len(activations)))
    harms = rank_harms(activations, search.as_it_is)
    wanted = float_error + max(_CLOSE * (int8_error - float_error), NEGLIGIBLE)
    needed = search.needed(harms, wanted) if int8_error > wanted else []
    return Order(tuple(harms), tuple(needed), int8_error, float_error, search.evaluations)


def rank_harms(activations: Sequence[Activation], evaluate: Evaluate) -> list[Harm]:
    """What each activation does alone, with all others in float, the most harmful first.

    Those whose neighbourhood does little harm are left together.
    """
    everything = frozenset(range(len(activations)))
    float_error, float_noise = evaluate(everything)
    together = math.ceil(len(activations) / MOST_GROUPS) or 1
    groups = [tuple(sorted(everything)[start : start + together]) for start in range(0, len(activations), together)]

    def judged(groups: Sequence[tuple[int, ...]], description: str) -> list[Harm]:
        found = []
        for group in track(groups, description, unit="evaluations"):
            error, noise = evaluate(everything - set(group))
            cost = sum(activations[index].cost for index in group) or 1.0
            found.append(Harm(group, error - float_error, noise - float_noise, cost))
        return found

    harms = judged(groups, "Quantizing neighbouring activations alone")
    worth = _WORTH_SPLITTING * sum(max(harm.rank, 0) for harm in harms)
    split = [harm for harm in harms if len(harm.activations) > 1 and harm.rank > worth]
    harms = [harm for harm in harms if harm not in split]
    harms += judged([(index,) for harm in split for index in harm.activations], "Quantizing single activations")
    return sorted(harms, key=lambda harm: -harm.rank)


class _Search:
    def __init__(self, activations: Sequence[Activation], evaluate: Evaluate) -> None:
        self._activations = activations
        self._evaluate = evaluate
        self._known: dict[frozenset[int], tuple[float, float]] = {}

    @property
    def evaluations(self) -> int:
        return len(self._known)

    def of(self, floats: Iterable[int]) -> tuple[float, float]:
        return self.as_it_is(with_floats(self._activations, floats))

    def as_it_is(self, chosen: frozenset[int]) -> tuple[float, float]:
        if chosen not in self._known:
            self._known[chosen] = self._evaluate(chosen)
        return self._known[chosen]

    def _error(self, harms: Iterable[Harm]) -> float:
        return self.of(index for harm in harms for index in harm.activations)[0]

    def needed(self, harms: Sequence[Harm], wanted: float) -> list[Harm]:
        """The most harmful ones, as many as bring the error down to `wanted`, less those that it does not take.

        What costs most for what it wins is the first to be quantized again, and the last on the way to all of them.
        """
        count = 1
        while count < len(harms) and self._error(harms[:count]) > wanted:
            count = max(count + 1, math.ceil(count * _STEPS))
        # Of what was judged together some may be needed and some not.
        single = [each for harm in harms[:count] for each in self._parts(harm)]
        kept = sorted(single, key=lambda harm: -harm.worth)
        for harm in track(list(reversed(kept)), "Quantizing again what need not be float", unit="activations"):
            without = [each for each in kept if each is not harm]
            if self._error(without) <= wanted:
                kept = without
        return kept

    def _parts(self, harm: Harm) -> list[Harm]:
        """The activations one by one; each with what all of them did."""
        return [
            Harm((index,), harm.joint_error, harm.noise, self._activations[index].cost or 1.0)
            for index in harm.activations
        ]
