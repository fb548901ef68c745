"""Checks of what single parts lose: a model that is as good on average, and has lost the wrists, must not pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from typing_extensions import override

from hpe_tasks.gate.checks.accuracy import lose_less, not_comparable, observe_loss
from hpe_tasks.gate.checks.base import Advice, Evidence, Observation, Requirement, Situation
from hpe_tasks.gate.paired import worst_of
from hpe_tasks.records.comparison import PartDifference


class _WorstPart(Requirement):
    """The part of some kinds that decides: the others keep the limit more clearly, or break it less.

    Attributes:
        kinds: How the names of the parts begin.
        what: What a part is, for people.
    """

    comparison = "at_most"
    kinds: ClassVar[tuple[str, ...]]
    what: ClassVar[str]

    @override
    def subject(self, evidence: Evidence) -> str:
        part = self._worst(evidence)
        name = self.what if part is None else part.part.partition("/")[2].replace("_", " ")
        return f"{evidence.metric.name} drop of {name} from FP32 to ONNX"

    @abstractmethod
    def _asked(self, evidence: Evidence) -> float:
        """The limit of each of the parts."""

    @override
    def limit(self, evidence: Evidence) -> float | None:
        """None without such parts: no groups of joints, no person of any size, nothing compared by images."""
        return None if self._worst(evidence) is None else self._asked(evidence)

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        problem = not_comparable(evidence.metric, evidence.fp32, "fp32", evidence.onnx)
        worst, comparison = self._worst(evidence), evidence.comparison
        if problem or worst is None or comparison is None:
            return Observation(None, problem)
        return observe_loss(evidence, comparison, worst, self.subject(evidence), limit)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        return lose_less(run)

    def _worst(self, evidence: Evidence) -> PartDifference | None:
        if evidence.comparison is None:
            return None
        limit = self._asked(evidence)
        return worst_of(
            part.model_copy(update={"limit": limit})
            for part in evidence.comparison.parts
            if part.part.partition("/")[0] in self.kinds
        )


class JointDrop(_WorstPart):
    """The group of joints that lost most."""

    title = "Accuracy lost by any group of joints"
    names = ("max_joint_drop", "max_joint_pckh_drop")
    kinds = ("group",)
    what = "any group of joints"

    @override
    def name(self, evidence: Evidence) -> str:
        return self.names[evidence.metric.key == "pckh"]

    @override
    def _asked(self, evidence: Evidence) -> float:
        return evidence.accuracy.joint_drop


class SizeDrop(_WorstPart):
    """The size of persons, or the level of crowding, that lost most."""

    title = "Accuracy lost by any size of persons or level of crowding"
    names = ("max_size_drop",)
    kinds = ("size", "crowd")
    what = "any size"

    @override
    def _asked(self, evidence: Evidence) -> float:
        return evidence.accuracy.size_drop


CHECKS: tuple[Requirement, ...] = (JointDrop(), SizeDrop())
