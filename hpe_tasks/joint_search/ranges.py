"""Ranges by what they do to the joints, for the activations that 8 bits harm most.

A range's estimator sees one tensor and takes all of its values for equally important. They are not: what a swish gives
for -20 it gives for -10, and a wide channel that the next layer hardly looks at costs the others their codes. Here
other ranges are tried on real files: those of other estimators, and then narrower and wider ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe, RangeScheme
from hpe_tasks.joint_search.bench import IMAGES, JointBench, Jury, first_images
from hpe_tasks.joint_search.search import damage, rank_harms
from hpe_tasks.onnx_export.float_activations import Activation
from hpe_tasks.progress import track
from hpe_tasks.quantization import QuantizedFiles, quantize_model, set_codes
from hpe_tasks.quantization.float_activations import Code, code_range, stored_codes
from hpe_tasks.records.joint_ranges import ChosenRange, JointRanges

_OTHER_SCHEMES: tuple[RangeScheme, ...] = ("percentile", "tf_enhanced", "mse")
"""Estimators whose ranges are tried, beside the recipe's own; what the extremes would give is among the wider ones."""

_CONFIRMED_ON = 2 * IMAGES

_WORTH_SEARCHING = 0.01
"""Share of all harm from which on an activation's range is searched."""

_FACTORS = (0.8, 1.25)
_MISSES = 2
"""So many steps in a row that win nothing end a search in one direction."""

_LEAST_GAIN = 1e-4

_MIDDLE = 128
"""The zero point of symmetric ranges, which stay symmetric."""

_BOTH, _LOW, _HIGH = (True, True), (True, False), (False, True)

Batches = Iterable[NDArray[np.float32]]


def choose_ranges(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    files: QuantizedFiles,
    batches: Callable[[], Batches],
    device: str,
) -> JointRanges:
    """Search the ranges of the most harmful activations, and store those that bring the joints nearer to FP32's.

    Args:
        config: The network.
        recipe: As it was quantized.
        checkpoint: Its weights in FP32, or its float ONNX file.
        files: The calibrated simulation, with every activation quantized; changed where it lies, at the end.
        batches: Gives the calibration images, each time from the beginning.
        device: For the other estimators' calibration.

    Raises:
        QuantizationError: There is no calibration image.
    """
    began = time.monotonic()
    images = first_images(batches(), _CONFIRMED_ON)
    with TemporaryDirectory(prefix="joint-ranges-", dir=files.model.parent) as folder:
        bench = JointBench(config, recipe, checkpoint, files, first_images(images, IMAGES), Path(folder))
        stored = stored_codes(files.encodings)
        others = _other_estimates(config, recipe, checkpoint, batches, Path(folder), device)
        search = _RangeSearch(bench, Jury(config, images, bench.fp32))
        harmful = search.harmful()
        found = []
        for index, harm in track(harmful, "Searching ranges by the joints", unit="activations"):
            own = _code_of(bench.activations[index], stored)
            others_of = [code for estimate in others if (code := _code_of(bench.activations[index], estimate))]
            if own is not None:
                found.append(search.best(index, harm, own, others_of))
        kept, before, after = search.confirmed(found)
    codes = {name: each.code for each in kept for name in _names(bench.activations[each.index], stored)}
    if codes:
        set_codes(config, files, codes)
    return JointRanges(
        chosen=tuple(_told(bench.activations[each.index], each) for each in kept),
        looked_at=len(harmful),
        error_before=before,
        error_after=after,
        images=sum(map(len, bench.images)),
        confirmed_on=sum(map(len, images)),
        evaluations=search.evaluations,
        seconds=time.monotonic() - began,
    )


def _other_estimates(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    batches: Callable[[], Batches],
    folder: Path,
    device: str,
) -> list[dict[str, Code]]:
    """Codes of all activations as other estimators see the same images; what becomes of the weights does not matter."""
    plain = recipe.changed(
        weight_scheme="min_max",
        rounding="nearest",
        bias_correction=False,
        saturation_free=False,
        distillation_steps=0,
        mixed_precision=False,
        joint_ranges=False,
    )
    estimates = []
    for scheme in (scheme for scheme in _OTHER_SCHEMES if scheme != recipe.scheme):
        out = folder / scheme
        out.mkdir()
        calibrated = quantize_model(config, plain.changed(scheme=scheme), checkpoint, batches(), out, device)
        estimates.append(stored_codes(calibrated.encodings))
    return estimates


def _names(activation: Activation, stored: Mapping[str, Code]) -> tuple[str, ...]:
    """All encodings that belong to an activation: its own, and those of what only moves its values."""
    return tuple(dict.fromkeys([*activation.encodings, *(name for name in activation.tensors if name in stored)]))


def _code_of(activation: Activation, codes: Mapping[str, Code]) -> Code | None:
    return next((codes[name] for name in activation.encodings if name in codes), None)


@dataclass(frozen=True)
class _BestRange:
    """The best code of an activation, as if it alone were quantized."""

    index: int
    own: Code
    code: Code
    harm_before: float
    harm: float


class _RangeSearch:
    def __init__(self, bench: JointBench, jury: Jury) -> None:
        self.evaluations = 0
        self._bench, self._jury = bench, jury
        self._everything = frozenset(range(len(bench.activations)))
        self._float = damage(*self._judged(self._everything))

    def harmful(self) -> list[tuple[int, float]]:
        """Activations that are worth a search, the most harmful first, and what each does in its own range.

        An image's range is that of its pixels.
        """
        harms = rank_harms(self._bench.activations, self._judged)
        worth = _WORTH_SEARCHING * sum(max(harm.rank, 0.0) for harm in harms)
        single = [
            (harm.activations[0], harm.rank) for harm in harms if len(harm.activations) == 1 and harm.rank > worth
        ]
        return [each for each in single if self._bench.activations[each[0]].operator != "Input"]

    def best(self, index: int, own_harm: float, own: Code, others: Sequence[Code]) -> _BestRange:
        """The best of the estimates, then as much narrower or wider as helps: on both sides, and on one."""
        known: dict[Code, float] = {own: own_harm}

        def harm(code: Code) -> float:
            if code not in known:
                known[code] = damage(*self._judged(self._everything - {index}, {index: code})) - self._float
            return known[code]

        best = min((own, *others), key=harm)
        for sides in (_BOTH,) if own[1] == _MIDDLE else (_BOTH, _LOW, _HIGH):
            for factor in _FACTORS:
                reached = _walk(best, sides, factor, harm)
                if reached != best:
                    best = reached
                    break
        return _BestRange(index, own, best, harm(own), harm(best))

    def confirmed(self, found: Iterable[_BestRange]) -> tuple[list[_BestRange], float, float]:
        """Those that help where all activations are quantized, each beside the ones before it; the joint errors."""
        kept: list[_BestRange] = []
        first, noise = self._confirm({})
        error, least = first, damage(first, noise)
        for each in found:
            if each.code == each.own:
                continue
            tried, noise = self._confirm({one.index: one.code for one in (*kept, each)})
            if damage(tried, noise) < least - _LEAST_GAIN:
                kept.append(each)
                error, least = tried, damage(tried, noise)
        return kept, first, error

    def _judged(self, floats: frozenset[int], codes: Mapping[int, Code] | None = None) -> tuple[float, float]:
        self.evaluations += 1
        return self._bench.evaluate(floats, codes)

    def _confirm(self, codes: Mapping[int, Code]) -> tuple[float, float]:
        self.evaluations += 1
        return self._jury.judge(self._bench.write((), codes=codes))


def _walk(start: Code, sides: tuple[bool, bool], factor: float, harm: Callable[[Code], float]) -> Code:
    """As far in one direction as it helps, over a step that does not."""
    best, here, misses = start, start, 0
    while misses < _MISSES:
        further = _scaled(here, sides, factor)
        if further == here:
            break
        here = further
        if harm(here) < harm(best) - _LEAST_GAIN:
            best, misses = here, 0
        else:
            misses += 1
    return best


def _scaled(code: Code, sides: tuple[bool, bool], factor: float) -> Code:
    """The code of a range whose ends are moved; it holds 0, and has a width."""
    low, high = (end * factor if moved else end for end, moved in zip(code_range(code), sides, strict=True))
    scale = float(np.float32((high - low) / 255))
    return (scale, int(np.clip(round(-low / scale), 0, 255))) if scale > 0 else code


def _told(activation: Activation, found: _BestRange) -> ChosenRange:
    return ChosenRange(
        tensors=activation.encodings,
        operator=activation.operator,
        layer=activation.layer,
        before=code_range(found.own),
        after=code_range(found.code),
        harm_before=found.harm_before,
        harm_after=found.harm,
    )
