"""Two or more versions or runs beside each other: figures, joints, checks of the gate, and what they were asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from hpe_tasks.catalogue.subjects import ComparedModel
from hpe_tasks.config.base import Frozen
from hpe_tasks.errors import BadInputError
from hpe_tasks.gate.accuracy import UNITS, Metric, megabytes_text, metric_of
from hpe_tasks.records.base import Record
from hpe_tasks.records.evaluation import Stats
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.report.records import milliseconds_text, quantities_of

Section = Literal["figures", "joints", "gate", "recipe", "settings", "protocol", "origin"]

_NONE = "–"


class ComparedRow(Frozen):
    """One figure or setting of each.

    Attributes:
        values: As they are shown, in the order of the columns; a dash where there is none.
        numbers: The same as numbers, for differences and plots; None for what is no number. Empty for settings.
        better: Which way is better; None where neither is.
        best: Indices of the columns with the best number; empty where they are all alike, or not to be compared.
        same: Whether all are alike.
    """

    label: str
    values: tuple[str, ...]
    numbers: tuple[float | None, ...] = ()
    better: Literal["higher", "lower"] | None = None
    best: tuple[int, ...] = ()
    same: bool


class ComparedSection(Frozen):
    """Rows that belong together; without those that are alike, where only differences were asked for."""

    name: Section
    title: str
    rows: tuple[ComparedRow, ...]
    alike: int = 0


class ModelComparison(Record):
    """Versions or runs beside each other.

    Attributes:
        columns: What they are called: versions with their models, or runs.
        notes: What a reader must know before comparing figures, such as that they were not measured alike.
        sections: In the order in which they are shown; empty ones are left out.
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]
    sections: tuple[ComparedSection, ...]


def compare(subjects: Sequence[ComparedModel], *, everything: bool = False) -> ModelComparison:
    """Put versions or runs beside each other.

    Args:
        subjects: Two or more, as `hpe_tasks.catalogue.subjects` makes them.
        everything: Keep settings that are alike, too.

    Raises:
        BadInputError: They are fewer than two, or one is named twice.
    """
    names = [subject.name for subject in subjects]
    if len(set(names)) < max(2, len(names)):
        raise BadInputError(
            f"There is nothing to compare: {', '.join(names) or 'nothing'} was named.",
            hint="Name two or more different ones.",
        )
    comparable = len({_text(subject.protocol) for subject in subjects if subject.protocol}) <= 1
    sections = (
        ComparedSection(name="figures", title="Figures", rows=tuple(_figures(subjects, comparable))),
        ComparedSection(name="joints", title="Accuracy of the int8 file by joint", rows=_joints(subjects, comparable)),
        ComparedSection(name="gate", title="Gate", rows=tuple(_checks(subjects))),
        _settings("recipe", "Recipe", [subject.recipe for subject in subjects], everything),
        _settings("settings", "Settings", [subject.settings for subject in subjects], everything),
        _settings("protocol", "How accuracy was measured", [subject.protocol for subject in subjects], everything),
        _settings("origin", "Origin", [subject.origin for subject in subjects], everything),
    )
    return ModelComparison(
        columns=tuple(names),
        notes=tuple(_notes(subjects, comparable)),
        sections=tuple(section for section in sections if section.rows or section.alike),
    )


def _notes(subjects: Sequence[ComparedModel], comparable: bool) -> Iterator[str]:
    if not comparable:
        protocols = [subject.protocol for subject in subjects if subject.protocol]
        differ = sorted({key for one in protocols for key in one if len({_text(p.get(key)) for p in protocols}) > 1})
        yield f"Accuracies are not to be compared: they were not measured alike ({', '.join(differ)})."
    processors = {subject.processor for subject in subjects if subject.processor}
    if len(processors) > 1:
        yield f"Times are not to be compared: they were measured on {' and '.join(sorted(processors))}."
    for subject in subjects:
        if subject.settings is None:
            yield f"{subject.name} does not say what it was asked: it was published before that was recorded."


def _figures(subjects: Sequence[ComparedModel], comparable: bool) -> Iterator[ComparedRow]:
    metrics = [metric_of(stats) for stats in (subject.onnx or subject.fp32 for subject in subjects) if stats]
    if metrics and all(metric == metrics[0] for metric in metrics):
        yield from _accuracies(subjects, metrics[0], comparable)
        yield _row("Persons", [s.protocol.get("num_persons") for s in subjects], "{:,.0f}".format)
    same_processor = len({subject.processor for subject in subjects if subject.processor}) <= 1
    yield _row("Size", [s.size_bytes for s in subjects], lambda size: megabytes_text(round(size)), better="lower")
    yield _row("Share of the FP32 size", [subject.size_ratio for subject in subjects], UNITS["share"].text)
    for label, numbers, text, better, fair in (
        ("Time of the int8 file", [s.int8_ms for s in subjects], milliseconds_text, "lower", same_processor),
        ("Time of FP32", [s.fp32_ms for s in subjects], milliseconds_text, None, same_processor),
        ("Times as fast as FP32", [s.speed_up for s in subjects], UNITS["times"].text, "higher", same_processor),
        ("Share of int8", [s.int8_share for s in subjects], UNITS["share"].text, "higher", True),
    ):
        yield _row(label, numbers, text, better=better, fair=fair)  # type: ignore[arg-type]


def _accuracies(subjects: Sequence[ComparedModel], metric: Metric, comparable: bool) -> Iterator[ComparedRow]:
    judged = metric.columns[0]

    def of(stats: Stats | None, field: str) -> float | None:
        return None if stats is None else getattr(stats, field, None)

    before = [of(subject.fp32, judged.field) for subject in subjects]
    yield _row(f"{metric.name}, FP32", before, metric.text, better="higher", fair=comparable)
    for column in metric.columns:
        label = metric.name if column is judged else column.label
        after = [of(subject.onnx, column.field) for subject in subjects]
        yield _row(f"{label}, int8", after, metric.text, better="higher", fair=comparable)
        if column is judged:
            pairs = zip(before, after, strict=True)
            drops = [None if a is None or b is None else a - b for a, b in pairs]
            yield _row(f"{metric.name} lost", drops, _signed(metric.text), better="lower", fair=comparable)


def _joints(subjects: Sequence[ComparedModel], comparable: bool) -> tuple[ComparedRow, ...]:
    metrics = {metric_of(subject.onnx) for subject in subjects if subject.onnx}
    if len(metrics) != 1:
        return ()
    text = metrics.pop().text
    joints = dict.fromkeys(joint for subject in subjects for joint in subject.by_joint)
    rows = (
        _row(joint, [s.by_joint.get(joint) for s in subjects], text, better="higher", fair=comparable)
        for joint in joints
    )
    return tuple(rows)


def _checks(subjects: Sequence[ComparedModel]) -> Iterator[ComparedRow]:
    by_subject = [{check.name: check for check in subject.checks} for subject in subjects]
    titles = {check.name: check.title for subject in subjects for check in subject.checks}
    for name, title in titles.items():
        checks = [checks.get(name) for checks in by_subject]
        values = tuple(_NONE if check is None else _check_text(check) for check in checks)
        numbers = tuple(None if check is None else check.observed for check in checks)
        yield ComparedRow(label=title, values=values, numbers=numbers, same=len(set(values)) == 1)


def _check_text(check: GateCheck) -> str:
    observed, limit, _ = quantities_of(check)
    state = "passed" if check.passed else "inconclusive" if check.inconclusive else "failed"
    return f"{state}: {observed} ({limit})"


def _settings(
    name: Section, title: str, values: Sequence[Mapping[str, Any] | None], everything: bool
) -> ComparedSection:
    """Settings by their dotted keys; of those that do not say any, all are unknown and none differs."""
    said = [None if one is None else dict(flat(one)) for one in values]
    keys = dict.fromkeys(key for one in said for key in one or ())
    rows = []
    for key in keys:
        shown = tuple(_NONE if one is None else _text(one.get(key)) for one in said)
        known = {_text(one.get(key)) for one in said if one is not None}
        rows.append(ComparedRow(label=key, values=shown, same=len(known) <= 1))
    return ComparedSection(
        name=name,
        title=title,
        rows=tuple(row for row in rows if everything or not row.same),
        alike=sum(row.same for row in rows),
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _row(
    label: str,
    numbers: Sequence[float | None],
    text: Callable[[float], str],
    *,
    better: Literal["higher", "lower"] | None = None,
    fair: bool = True,
) -> ComparedRow:
    values = tuple(_NONE if number is None else text(number) for number in numbers)
    return ComparedRow(
        label=label,
        values=values,
        numbers=tuple(numbers),
        better=better,
        best=tuple(_best(numbers, values, better)) if fair else (),
        same=len(set(values)) == 1,
    )


def _best(
    numbers: Sequence[float | None], values: Sequence[str], better: Literal["higher", "lower"] | None
) -> Iterable[int]:
    """Columns whose shown value is the best; of equal ones all."""
    known = [number for number in numbers if number is not None]
    if better is None or len(known) < 2 or len({v for v, n in zip(values, numbers, strict=True) if n is not None}) < 2:
        return ()
    best = numbers.index(max(known) if better == "higher" else min(known))
    return (place for place, value in enumerate(values) if value == values[best])


def _signed(text: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: ("−" if value < 0 else "+") + text(abs(value))


def _text(value: Any) -> str:
    """A setting as it is shown: strings as they are, all else as JSON."""
    if value is None:
        return _NONE
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
