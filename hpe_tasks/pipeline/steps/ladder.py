"""The steps that look for a recipe: one for each rung of the ladder, and the choice among them.

A rung runs the steps of quantization as a part of the run, with a recipe of its own and a folder of its own. What they
make lies where the run's own steps look for it: those of the chosen recipe only point at it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.rungs import RUNGS, Rung
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError, QuantizationError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Results, Step, step
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint, fetch_dataset, validate_dataset
from hpe_tasks.pipeline.steps.measuring import check_fp32, evaluate_fp32
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.ladder import RecipeChoice, TriedRung, TriedState
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.config.recipe import QuantizationRecipe
    from hpe_tasks.records.comparison import PairedComparison

_IN_COMMON = (fetch_dataset, fetch_checkpoint, validate_dataset, evaluate_fp32, check_fp32)
"""What all rungs start from."""

_UNFIT = (QuantizationError, CheckpointError, ConfigError)
"""What speaks of the network and the recipe. Another recipe may do; whatever else fails would fail again."""

log = logging.getLogger(__name__)


def _search_off(results: Results) -> str:
    """A search is the user's choice."""
    return "recipe.search is off." if results.asked.recipe.search == "off" else ""


def _judge(run: Run) -> GateDecision:
    """Quantize, export, measure and judge by the run's recipe."""
    from hpe_tasks.pipeline.steps.quantizing import compare_accuracy, evaluate_quantized, export_onnx, gate, quantize

    quantize(run)
    export_onnx(run)
    evaluate_quantized(run)
    compare_accuracy(run)
    return gate(run)


def _judging() -> tuple[Step[Any], ...]:
    from hpe_tasks.pipeline.steps.quantizing import compare_accuracy, evaluate_quantized, export_onnx, gate, quantize

    return quantize, export_onnx, evaluate_quantized, compare_accuracy, gate


def _climb(run: Run, rung: Rung) -> TriedRung:
    """Try a rung; a recipe that the network does not take is a result."""
    from hpe_tasks.pipeline.spending import spending

    recipe = rung.recipe(run.asked.recipe)
    part = run.within(f"rungs/{rung.name}", recipe, [step.name for step in _IN_COMMON])
    log.info("Trying %s: %s", rung.name, rung.summary)
    decision, unfit = None, None
    with spending() as spent:
        try:
            decision = _judge(part)
        except (*_UNFIT, DatasetError) as error:
            # Labels are read by the rung alone that learns from them.
            if isinstance(error, DatasetError) and not recipe.distillation_labels:
                raise
            unfit = error
            log.warning("%s cannot be tried: %s", rung.name, error)
    pointers = {step.name: part.pointer(step.name) for step in _judging()}
    told = TriedRung(
        rung=rung.name,
        recipe=recipe,
        state="impossible",
        reason=str(unfit or ""),
        seconds=spent.seconds,
        peak_memory_bytes=spent.peak_memory_bytes,
        reused=tuple(name for name, pointer in pointers.items() if pointer is not None and pointer.reused),
    )
    return told if decision is None else told.model_copy(update=_measured(run, part, decision))


def _measured(run: Run, part: Run, decision: GateDecision) -> dict[str, Any]:
    quantize, export_onnx, evaluate_quantized, compare_accuracy, _ = _judging()
    mixed = part.result(quantize).mixed_precision
    exported, evaluation = part.result(export_onnx), part.result(evaluate_quantized)
    comparison: PairedComparison = part.result(compare_accuracy)
    judged: TriedState = "passed" if decision.passed else "inconclusive" if decision.inconclusive else "refused"
    return {
        "state": judged,
        "reason": decision.reason,
        "fp32": run.result(evaluate_fp32).accuracy,
        "quantsim": evaluation.quantsim.accuracy,
        "onnx": evaluation.onnx.accuracy,
        "change": comparison.part("all"),
        "image_table": evaluation.onnx.image_table,
        "latency": evaluation.latency,
        "size_bytes": exported.model.size_bytes,
        "fp32_size_bytes": exported.fp32_size_bytes,
        "int8_mac_share": exported.placement.int8_mac_share,
        "float_operators": exported.placement.float_operators,
        "float_tensors": () if mixed is None else mixed.curve[mixed.chosen].float_layers,
    }


def _settings(rung: Rung) -> Callable[[RunConfig], Any]:
    """What decides the outcome of a rung: what decides that of its steps."""

    def settings(config: RunConfig) -> list[Any]:
        tried = config.model_copy(update={"recipe": rung.recipe(config.recipe)})
        return [rung.name, *(step.settings(tried) for step in _judging())]

    return settings


def _not_asked_for(rung: Rung, asked: QuantizationRecipe) -> str:
    if asked.search_rungs is not None and rung.name not in asked.search_rungs:
        return "recipe.search_rungs leaves it out."
    return ""


def _without_labels(rung: Rung, config: RunConfig) -> str:
    """Why a rung that learns from labels cannot; empty of all others."""
    if not rung.recipe(config.recipe).distillation_labels:
        return ""
    if config.dataset.training_split is None:
        return "dataset.training_split is empty: there are no labels to learn from."
    if config.model.network.from_file:
        return "How the network in an ONNX file was taught is not known: labels would teach it something else."
    return ""


def _skip_rule(rung: Rung, below: tuple[Rung, ...], earlier: tuple[Step[TriedRung], ...]) -> Callable[[Results], str]:
    """Why a rung is left out: not asked for, no labels, nothing new, an earlier one passed, or the time is up."""

    def reason(results: Results) -> str:
        asked = results.asked.recipe
        if asked.search == "off":
            return _search_off(results)
        if left_out := _not_asked_for(rung, asked) or _without_labels(rung, results.asked):
            return left_out
        recipe = rung.recipe(asked)
        same = next((other for other in below if other.recipe(asked) == recipe), None)
        if same is not None:
            return f"With these settings it is the same recipe as {same.name}."
        tried = [record for step in earlier if (record := results.find(step)) is not None]
        passed = next((record for record in tried if record.passed), None)
        if asked.search == "first" and passed is not None:
            return f"{passed.rung} has passed."
        minutes = sum(record.seconds for record in tried) / 60
        if asked.search_minutes is not None and minutes >= asked.search_minutes:
            return f"The rungs before it took {minutes:.1f} minutes; recipe.search_minutes is {asked.search_minutes:g}."
        return ""

    return reason


def _step_of(rung: Rung, below: tuple[Rung, ...], earlier: tuple[Step[TriedRung], ...]) -> Step[TriedRung]:
    def body(run: Run, _: Scratch) -> TriedRung:
        return _climb(run, rung)

    body.__name__, body.__doc__ = rung.step, rung.summary
    made = step(
        TriedRung,
        f"Try {rung.name.replace('_', ' ')}",
        needs=(fetch_dataset, fetch_checkpoint, validate_dataset, evaluate_fp32),
        after=(check_fp32,),
        follows=earlier[-1:],
        settings=_settings(rung),
        before_choice=True,
        skip=_skip_rule(rung, below, earlier),
        quiet=True,
        # The speed may have been measured again, for the same inputs.
        reusable=lambda c, _: c.gate.min_speedup is None,
        tell=lambda record: record.state if record.passed else f"{record.state}: {record.reason}",
    )
    return made(body)


def rung_steps(rungs: tuple[Rung, ...]) -> tuple[Step[TriedRung], ...]:
    """The steps that try the rungs of a ladder, in its order."""
    made: tuple[Step[TriedRung], ...] = ()
    for place, rung in enumerate(rungs):
        made = (*made, _step_of(rung, rungs[:place], made))
    return made


TRY_RUNGS: tuple[Step[TriedRung], ...] = rung_steps(RUNGS)


@step(
    RecipeChoice,
    "Choice of a recipe",
    needs_unless_skipped=TRY_RUNGS,
    after=(check_fp32,),
    settings=lambda c: [c.recipe.search, c.gate.confidence, c.gate.resamples, c.seed],
    before_choice=True,
    skip=_search_off,
    quiet=True,
    tell=lambda record: f"{record.rung}: {record.reason}",
    shown_as="choice",
)
def choose_recipe(run: Run, _: Scratch) -> RecipeChoice:
    """Choose the rung of the ladder that the rest of the run takes: one that passes, or the one that came closest.

    Raises:
        QuantizationError: Not one of them could be tried.
    """
    from hpe_tasks.gate.choice import best_passing, closest

    search = run.asked.recipe.search
    tried = [record for step in TRY_RUNGS if not step.skip(run) and (record := run.find(step)) is not None]
    best = best_passing(tried, _told_apart_in(run)) if search == "best" else None
    chosen = best or next((rung for rung in tried if rung.passed), None) or closest(tried)
    if chosen is None or search == "off":
        left_out = [(step.name.removeprefix("try_"), step.skip(run)) for step in TRY_RUNGS]
        told = [(rung.rung, rung.reason) for rung in tried] or left_out
        reasons = "recipe.search is off." if search == "off" else "; ".join(f"{name}: {why}" for name, why in told)
        raise QuantizationError(f"Not one rung of the ladder could be tried. {reasons}", hint="Set recipe.search=off.")
    return RecipeChoice(
        search=search, rung=chosen.rung, recipe=chosen.recipe, passed=chosen.passed, reason=_why(tried, search)
    )


def _why(tried: list[TriedRung], search: str) -> str:
    count, passing = len(tried), sum(rung.passed for rung in tried)
    rungs = f"{count} rung{'' if count == 1 else 's'} tried"
    if not passing:
        return f"none of {rungs} passes the gate, and this one came closest."
    if search == "first":
        return f"the first of {rungs} that passes the gate."
    return f"the best of {passing} that pass the gate, of {rungs}."


def _told_apart_in(run: Run) -> Callable[[TriedRung, TriedRung], bool]:
    """Whether the figures of two rungs differ by more than chance, by the images of both drawn in pairs."""

    def told_apart(one: TriedRung, other: TriedRung) -> bool:
        from hpe_tasks.metrics.bootstrap import interval, paired_differences
        from hpe_tasks.metrics.image_tables import WHOLE, read_table

        limits = run.asked.gate
        if limits.confidence is None or one.image_table is None or other.image_table is None:
            return one.loss != other.loss
        tables = [read_table(run.workspace.local(kept).read_bytes()) for kept in (one.image_table, other.image_table)]
        drawn = paired_differences(*tables, resamples=limits.resamples, seed=run.asked.seed, parts=[WHOLE])
        ends = interval(drawn[WHOLE], limits.confidence)
        return ends is not None and not ends[0] <= 0 <= ends[1]

    return told_apart
