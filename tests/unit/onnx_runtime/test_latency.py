from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import binom
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.cpu import available_threads, cpu_features, processor_name
from hpe_tasks.errors import CheckpointError
from hpe_tasks.evaluation.latency import LEAST_PAIRS, compare_latency, median_interval, speed_up
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.networks import ARCHITECTURES, NetworkArchitecture
from hpe_tasks.onnx_runtime.session import onnx_predictor, single_run
from hpe_tasks.records.execution import LatencyComparison, SpeedUp
from support import tiny_networks as tiny
from support.named_outputs import joined


def turn_of(factors: np.ndarray, run: int) -> float:
    """How much slower the run is; the first four are not measured."""
    return float(factors[run - 4]) if run >= 4 else 1.0


class Machine:
    """A machine whose time passes only while networks run, and that slows them down as it is told.

    `slower` gives the factor of each run, counted from 0; those who run are noted in `ran`.
    """

    def __init__(self, slower: Callable[[int], float] = lambda _: 1.0) -> None:
        self.now_s, self.slower, self.ran = 100.0, slower, ""

    def clock(self) -> float:
        return self.now_s

    def network(self, name: str, takes_ms: float) -> Callable[[], None]:
        def run() -> None:
            self.now_s += takes_ms / 1000 * self.slower(len(self.ran))
            self.ran += name

        return run

    def compare(self, fp32_ms: float, onnx_ms: float, seconds: float = 2.0) -> SpeedUp:
        networks = self.network("F", fp32_ms), self.network("o", onnx_ms)
        return speed_up(*networks, threads=1, seconds=seconds, clock=self.clock)


@pytest.mark.parametrize(
    ("fp32_ms", "onnx_ms", "runs", "pairs"),
    [
        # A turn is one run that is not timed, and as many as 0.1 s hold, 2 to 20.
        pytest.param(8.0, 4.0, 12, 13, id="some-milliseconds"),
        pytest.param(0.5, 0.25, 20, 127, id="tiny: at most 20 runs in a turn"),
        pytest.param(4.0, 8.0, 12, 13, id="int8-slower"),
        pytest.param(500.0, 100.0, 2, LEAST_PAIRS, id="slow: more time than was given, but six pairs"),
    ],
)
def test_files_take_turns_and_the_ratio_is_exact_on_a_quiet_machine(
    fp32_ms: float, onnx_ms: float, runs: int, pairs: int
) -> None:
    machine = Machine()
    found = machine.compare(fp32_ms, onnx_ms)
    assert found.ratio == pytest.approx(fp32_ms / onnx_ms)
    assert (found.ratio_low, found.ratio_high) == pytest.approx((found.ratio, found.ratio))
    assert found.noise == pytest.approx(0)
    assert (found.fp32.median_ms, found.onnx.median_ms) == pytest.approx((fp32_ms, onnx_ms))
    assert (found.pairs, found.fp32.runs, found.onnx.runs) == (pairs, pairs * runs, pairs * runs)
    # First both once and once more, to see how long they take; then F o, o F, F o, …
    turns = itertools.islice(itertools.cycle("FooF"), 2 * pairs)
    assert machine.ran == "FoFo" + "".join(turn * (runs + 1) for turn in turns)


@pytest.mark.parametrize(
    ("slower", "noise"),
    [
        pytest.param(lambda run: 3.0 if (run // 44) % 3 == 0 else 1.0, 0.0, id="slow for whole pairs"),
        pytest.param(lambda run: 1 + run / 1000, 0.06, id="slower and slower"),
        pytest.param(lambda run: 8.0 if run % 5 == 0 else 1.0, 0.0, id="one run in five disturbed"),
        pytest.param(lambda run: 50.0 if run == 300 else 1.0, 0.0, id="stopped once"),
    ],
)
def test_what_slows_the_machine_down_does_not_change_the_ratio(slower: Callable[[int], float], noise: float) -> None:
    found = Machine(slower).compare(4.0, 2.0)
    assert found.ratio == pytest.approx(2.0, rel=0.03)
    assert found.ratio_low <= 2.0 + 1e-9
    assert found.ratio_high >= 2.0 - 1e-9
    assert found.noise <= noise + 1e-9


def test_the_95th_percentile_and_the_median_are_of_single_runs() -> None:
    # Every tenth run of either takes ten times as long: the turn's fastest does not, a percentile tells it.
    found = Machine(lambda run: 10.0 if run % 10 == 0 else 1.0).compare(4.0, 2.0)
    assert found.onnx.median_ms == pytest.approx(2.0)
    assert found.onnx.p95_ms == pytest.approx(20.0)
    assert found.fp32.p95_ms == pytest.approx(40.0)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """On a machine whose every turn is disturbed by itself, which is as noisy as it gets."""
    rng, held, widths = np.random.default_rng(0), 0, []
    for _ in range(200):
        # Turns of two runs: the third of them begins another turn.
        factors = np.exp(rng.normal(0, 0.2, 1000)).repeat(3)
        found = Machine(partial(turn_of, factors)).compare(80.0, 40.0, 4.0)
        held += found.ratio_low <= 2.0 <= found.ratio_high
        widths.append(found.noise)
    assert held >= 185
    assert 0.1 < np.mean(widths) < 0.6


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 12, 20, 100, 1001])
def test_the_interval_of_a_median_is_that_of_the_sign_test(count: int) -> None:
    values = np.random.default_rng(count).permutation(count) + 1.0
    smallest = max([k for k in range(1, count // 2 + 1) if 2 * binom.cdf(k - 1, count, 0.5) <= 0.05], default=1)
    assert median_interval(values.tolist()) == (smallest, count + 1 - smallest)


def test_six_pairs_are_the_fewest_with_such_an_interval() -> None:
    assert 2 * binom.cdf(0, LEAST_PAIRS, 0.5) <= 0.05 < 2 * binom.cdf(0, LEAST_PAIRS - 1, 0.5)


def quick(*arguments: Any, **options: Any) -> LatencyComparison:
    return compare_latency(*arguments, **{"threads": (1,), "seconds": 0.0, **options})


def optimized_operators(path: Path) -> set[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(path.with_suffix(".optimized.onnx")).graph.node}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(tiny.mobilenet_config(), id="crops"),
        pytest.param(tiny.aimet_config(), id="whole images"),
    ],
)
def test_a_network_of_the_project_is_compared_as_a_float_onnx_file(config: ModelConfig, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", config)
    exported = export_fp32(config, checkpoint, tmp_path / "fp32.onnx")
    # No batch norm is left in what onnxruntime runs: a slow FP32 would flatter the file.
    assert "BatchNormalization" not in optimized_operators(exported)
    images = tiny.smooth_images(1, config)
    network = build_model(config)
    load_checkpoint(network, checkpoint)
    with torch.inference_mode():
        maps = network(torch.from_numpy(images))
    expected = (maps if isinstance(maps, torch.Tensor) else torch.cat(maps, dim=1)).numpy()
    np.testing.assert_allclose(joined(onnx_predictor(exported, config, threads=1)(images)), expected, atol=2e-3)

    found = quick(config, checkpoint, exported, images[0])
    assert found.input_shape == (1, 3, config.input_height, config.input_width)
    assert (found.processor, found.cpu_features) == (processor_name(), cpu_features())
    (only,) = found.speed_ups
    assert (only.threads, only.pairs) == (1, LEAST_PAIRS)
    # The same file twice: as fast as itself, whatever else this machine does.
    assert only.ratio_low <= 2
    assert only.ratio_high >= 0.5
    assert 0 < only.fp32.median_ms <= only.fp32.p95_ms
    assert LatencyComparison.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("batch", [None, 1, 2], ids=["free-batch", "batch-1", "batch-2"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
def test_an_onnx_checkpoint_is_compared_as_it_came(nhwc: bool, batch: int | None, tmp_path: Path) -> None:
    layout = "nhwc" if nhwc else "nchw"
    config = tiny.onnx_config(input_layout=layout, output_layout=layout)
    shape = (batch or "n", 32, 64, 3) if nhwc else (batch or "n", 3, 32, 64)
    path = tiny.write_onnx(tmp_path / "model.onnx", shape=shape, nhwc=nhwc)
    image = tiny.smooth_images(1, config)[0]
    found = quick(config, path, path, image, threads=(1, 2))
    assert [one.threads for one in found.speed_ups] == [1, 2]
    assert found.one_thread == found.speed_ups[0]
    assert found.input_shape == (batch or 1, *shape[1:])

    # What is timed is the network's whole work.
    run, _ = single_run(path, config, image, threads=1)
    outputs: Any = run()
    (maps,) = outputs
    planes = np.asarray(maps).transpose(0, 3, 1, 2) if nhwc else np.asarray(maps)
    expected = onnx_predictor(path, config, threads=1)(image[None])["heatmaps"][0]
    for plane in planes:
        np.testing.assert_array_equal(plane, expected)


def test_without_a_choice_one_thread_and_all_are_measured(tmp_path: Path) -> None:
    config = tiny.onnx_config()
    path = tiny.write_onnx(tmp_path / "model.onnx")
    found = quick(config, path, path, tiny.smooth_images(1, config)[0], threads=())
    assert [one.threads for one in found.speed_ups] == sorted({1, len(os.sched_getaffinity(0)), available_threads()})


def reshaping_onnx(path: Path) -> Path:
    """A network that says it takes any batch, but has the batch of its export written inside."""
    model = tiny.pose_onnx(shape=(2, 3, 32, 64))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 8, 16, 32], np.int64), "inner"))
    nodes = list(model.graph.node)
    model.graph.node.insert(1, onnx.helper.make_node("Reshape", [nodes[0].output[0], "inner"], ["reshaped"]))
    model.graph.node[2].input[0] = "reshaped"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("write", "says"),
    [
        pytest.param(
            lambda path: tiny.write_onnx(path, shape=(1, 3, 64, 64)), "image.*is.*1×3×64×64", id="other-input-size"
        ),
        pytest.param(lambda path: tiny.write_onnx(path, shape=(1, 32, 64, 3), nhwc=True), "32×64×3", id="other-layout"),
        pytest.param(lambda path: tiny.write_onnx(path, outputs=2), "several outputs", id="outputs-not-told-apart"),
        pytest.param(lambda path: path, "does not exist", id="no-file"),
        pytest.param(lambda path: path.write_bytes(b"no model") and path, "not a model", id="no-model"),
        pytest.param(reshaping_onnx, "fails on an input of 1×3×32×64", id="fails-when-it-runs"),
    ],
)
@pytest.mark.parametrize("broken", ["fp32", "exported"])
def test_a_file_that_cannot_be_compared_is_named(
    write: Callable[[Path], Path], says: str, broken: str, tmp_path: Path
) -> None:
    config = tiny.onnx_config()
    paths = {"good": tiny.write_onnx(tmp_path / "good.onnx"), "broken": write(tmp_path / "broken.onnx")}
    fp32, exported = ("broken", "good") if broken == "fp32" else ("good", "broken")
    with pytest.raises(CheckpointError, match=says) as caught:
        quick(config, paths[fp32], paths[exported], tiny.smooth_images(1, config)[0])
    assert "broken.onnx" in caught.value.message
    assert caught.value.hint


class Eigenvalues(nn.Module):
    """Something that ONNX has no operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x @ x.transpose(2, 3)).real * self.weight


def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(ARCHITECTURES["pose_mobilenet"], build=lambda _: Eigenvalues())
    monkeypatch.setitem(cast("dict[str, NetworkArchitecture]", ARCHITECTURES), "pose_mobilenet", changed)
    config = tiny.mobilenet_config()
    checkpoint = tmp_path / "weights.safetensors"
    save_file(Eigenvalues().state_dict(), checkpoint)
    image = np.zeros((3, 64, 64), np.float32)
    with pytest.raises(CheckpointError, match=r"pose_mobilenet cannot be written as a float32 ONNX file.*eigvals") as e:
        quick(config, checkpoint, tmp_path / "exported.onnx", image)
    assert e.value.hint


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", tiny.mobilenet_config(width_multiplier=0.25))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        quick(tiny.mobilenet_config(), checkpoint, tmp_path / "exported.onnx", np.zeros((3, 64, 64), np.float32))
