"""How fast the exported file is against FP32, told from the noise of a machine that does other things as well.

Both files are open in one process and take turns, so that whatever slows the machine down for a while slows down both.
A turn is a run that is not timed, which brings the file's weights back into the caches, and a few that are; it counts
as the fastest of these, because what disturbs a run makes it slower and never faster. Turns come in pairs, and every
other pair begins with the other file, so that a machine that slows down steadily favours neither.

The ratio is the median over the pairs, and its noise the interval between two of them that holds the true median with
95 % confidence whatever the distribution is: a number of pairs lies below the median as often as heads come up in as
many throws of a coin (docs/decisions/0013-speed-is-a-median-of-pairs.md).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.cpu import available_threads, cpu_features, processor_name
from hpe_tasks.onnx_runtime.session import single_run
from hpe_tasks.records.execution import Latency, LatencyComparison, SpeedUp

Clock = Callable[[], float]
"""Seconds, from anywhere on."""

SECONDS = 2.0
"""Time for each number of threads; files that are too slow for `LEAST_PAIRS` in it take longer."""

LEAST_PAIRS = 6
"""Fewest pairs whose smallest and largest ratio hold the true median with 95 % confidence."""

_CONFIDENCE = 0.95
_TURN_S = 0.1
_LEAST_RUNS, _MOST_RUNS = 2, 20


def compare_latency(
    config: ModelConfig,
    checkpoint: Path,
    exported: Path,
    image: NDArray[np.float32],
    *,
    threads: Sequence[int] = (),
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter,
) -> LatencyComparison:
    """Time both files on one image, as the Lambda function runs them: one at a time, with threads that do not spin.

    Args:
        config: The network.
        checkpoint: Its weights, or its float ONNX file.
        exported: The file that was made from it.
        image: As the network is shown it, 3×H×W float32, normalized. A file with a fixed batch is given copies.
        threads: Numbers of threads; by default one, and all that this process may use.
        seconds: About how long each number of threads is measured.
        clock: Tells the time.

    Raises:
        CheckpointError: The weights cannot be written as ONNX, or a file is not a model that onnxruntime runs, or it
            takes or gives something else than `config` says.
    """
    from hpe_tasks.models.fp32_onnx import export_fp32

    speed_ups = []
    with TemporaryDirectory(prefix="hpe-latency-") as folder:
        fp32 = export_fp32(config, checkpoint, Path(folder) / "fp32.onnx")
        for count in threads or sorted({1, available_threads()}):
            before, shape = single_run(fp32, config, image, threads=count)
            after, _ = single_run(exported, config, image, threads=count)
            speed_ups.append(speed_up(before, after, threads=count, seconds=seconds, clock=clock))
    return LatencyComparison(
        speed_ups=tuple(speed_ups),
        input_shape=shape,
        onnxruntime_version=onnxruntime.__version__,
        processor=processor_name(),
        cpu_features=cpu_features(),
    )


def speed_up(
    fp32: Callable[[], object],
    onnx: Callable[[], object],
    *,
    threads: int,
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter,
) -> SpeedUp:
    """Let two functions take turns, and compare what they take; see the module and `compare_latency`."""
    networks = (fp32, onnx)
    # The first run of each allocates what the later ones use.
    for network in networks:
        network()
    slower_s = max(timed(network, clock) for network in networks)
    runs = max(_LEAST_RUNS, min(_MOST_RUNS, int(_TURN_S / slower_s)))
    taken_s: tuple[list[float], list[float]] = ([], [])
    ratios: list[float] = []
    started = clock()
    while len(ratios) < LEAST_PAIRS or clock() - started < seconds:
        turn_s = [0.0, 0.0]
        for which in (0, 1) if len(ratios) % 2 == 0 else (1, 0):
            networks[which]()
            turn = [timed(networks[which], clock) for _ in range(runs)]
            taken_s[which].extend(turn)
            turn_s[which] = min(turn)
        ratios.append(turn_s[0] / turn_s[1])
    low, high = median_interval(ratios)
    return SpeedUp(
        threads=threads,
        fp32=_latency(taken_s[0]),
        onnx=_latency(taken_s[1]),
        ratio=statistics.median(ratios),
        ratio_low=low,
        ratio_high=high,
        pairs=len(ratios),
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval between two of the values that holds the median of their distribution with 95 % confidence.

    The sign test, turned around: the k-th smallest of n values lies above the median with the probability that fewer
    than k of n throws of a coin show heads. Fewer than six values have no such interval, and give all they span.
    """
    ordered, n, k = sorted(values), len(values), 1
    outside = 2 / 2**n
    while 2 * (k + 1) <= n and (outside := outside + 2 * math.comb(n, k) / 2**n) <= 1 - _CONFIDENCE:
        k += 1
    return ordered[k - 1], ordered[n - k]


def timed(network: Callable[[], object], clock: Clock) -> float:
    """Seconds that one run takes."""
    started = clock()
    network()
    return clock() - started


def _latency(taken_s: Sequence[float]) -> Latency:
    ordered = sorted(taken_s)
    return Latency(
        median_ms=1000 * statistics.median(ordered),
        p95_ms=1000 * ordered[math.ceil(0.95 * len(ordered)) - 1],
        runs=len(ordered),
    )
