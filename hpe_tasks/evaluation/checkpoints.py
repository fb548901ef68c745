"""Whether a new checkpoint is better than the one that the live version came from: the same persons, resampled."""

from __future__ import annotations

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.errors import MissingInputError
from hpe_tasks.evaluation.paired import Question, differences
from hpe_tasks.gate.accuracy import TOLERANCE, Metric, metric_named
from hpe_tasks.metrics.image_tables import WHOLE, ImageTable
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.records.evaluation import OF_THE_NETWORK, EvaluationReport, ProtocolFingerprint
from hpe_tasks.records.retraining import Comparison

_WITH_INTERVAL = ("all", "size", "group")
"""Kinds of parts that get an interval; single joints are too many."""


def differing_protocols(parent: ProtocolFingerprint, checkpoint: ProtocolFingerprint) -> tuple[str, ...]:
    """In what the two networks have ways of their own.

    Raises:
        MissingInputError: They were not measured on the same persons, or not in the same way.
    """
    if unlike := parent.unlike(checkpoint):
        raise MissingInputError(
            "The checkpoint and the one that the live version came from were not measured alike: "
            f"{', '.join(unlike)} differ.",
            hint="Run evaluate_parent and evaluate_checkpoint again; two networks that find different joints cannot be "
            "compared: name another destination.channel.",
        )
    return tuple(name for name in OF_THE_NETWORK if getattr(parent, name) != getattr(checkpoint, name))


def compare_checkpoints(tables: tuple[ImageTable, ImageTable], limits: GateLimits, *, seed: int) -> PairedComparison:
    """How far the new checkpoint's figures lie from those of the live version's.

    Args:
        tables: The live version's checkpoint, and the new one's.
        limits: Say the confidence and the resamples.
        seed: Of the resamples.
    """
    question = Question(
        limit_of=lambda part: 0.0 if part.partition("/")[0] in _WITH_INTERVAL else None,
        confidence=limits.confidence,
        resamples=limits.resamples,
        max_looks=1,
        seed=seed,
    )
    error = None if limits.confidence is None else (1 - limits.confidence) / 2
    images = len(tables[0].images)
    # Nothing is asked of a part: it only tells where the difference comes from.
    parts = (part.model_copy(update={"limit": None}) for part in differences(tables, question, error))
    return PairedComparison(
        num_images=images,
        available_images=images,
        confidence=limits.confidence,
        resamples=limits.resamples,
        parts=tuple(parts),
    )


def judge(
    paired: PairedComparison, report: EvaluationReport, live_version: str, *, min_gain: float, min_persons: int
) -> tuple[Comparison, str]:
    """What the new checkpoint is beside the live version's, and why, in a sentence without its end.

    Args:
        paired: Their figures.
        report: Of the new checkpoint.
        live_version: The version that is served.
        min_gain: What the whole interval must lie above.
        min_persons: Fewest persons that tell anything.
    """
    metric, whole = metric_named(report.fingerprint.metric), paired.part(WHOLE)
    persons = report.fingerprint.num_persons
    if whole is None or whole.drop is None:
        return "equal", f"no person could be measured that would tell it from version {live_version}"
    outcome = _outcome(whole, min_gain)
    told = _told(whole, metric, paired, live_version, persons)
    if outcome == "better" and persons < min_persons:
        return "equal", f"{told}; fewer than {min_persons:,} persons tell nothing (dataset.min_persons)"
    if outcome != "equal":
        return outcome, told
    needed = "zero" if min_gain == 0 else f"training.min_gain={min_gain:g}"
    return outcome, f"{told}; to count as better it would have to lie above {needed}"


def _outcome(whole: PartDifference, min_gain: float) -> Comparison:
    gain = -(whole.drop or 0.0)
    low, high = (gain, gain) if whole.low is None or whole.high is None else (whole.low, whole.high)
    if low > min_gain + TOLERANCE:
        return "better"
    return "worse" if high < -TOLERANCE else "equal"


def _told(whole: PartDifference, metric: Metric, paired: PairedComparison, live_version: str, persons: int) -> str:
    gain = -(whole.drop or 0.0)
    text = (
        f"{metric.name} {metric.text(whole.after)} on {persons:,} persons, against {metric.text(whole.before)} of the "
        f"checkpoint that version {live_version} came from: {_signed(gain, metric)}"
    )
    if whole.low is None or whole.high is None or paired.confidence is None:
        return text
    return (
        f"{text}, {100 * paired.confidence:g} % interval {_signed(whole.low, metric)} to {_signed(whole.high, metric)}"
    )


def _signed(value: float, metric: Metric) -> str:
    text = metric.text(abs(value))
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"
