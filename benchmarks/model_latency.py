"""Measures the exported file against the other ways to run the same network in onnxruntime on the CPU.

    python benchmarks/model_latency.py [--models pose_resnet_50 pose_mobilenet] [--threads 1 2] [--rounds 2]
        [--seconds 2] [--json FILE] [--picture FILE]

* fp32: the network with folded batch norms, as torch exports it;
* dynamic, unsigned and dynamic, signed: `quantize_dynamic` of that file with unsigned or signed 8-bit weights, which is
  the reference way;
* static: the product's file without its four-phase deconvolution (`recipe.four_phase_deconvolution=false`);
* ours: the product's file.

pose_resnet_50 at 256×256 has random weights, pose_mobilenet those of the project's sample; both are calibrated on and
fed with crops of drawn people, one at a time. Every measurement is a process of its own that imports numpy and
onnxruntime and nothing else, with threads that do not spin. FP32 is measured before and after every other file, and a
ratio is to those two: on a machine that others use as well, ratios hold better than times. Load time is that of the
session, the file being in the page cache. Peak memory is the whole process's, at its highest. Figures are medians of
the rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LABELS = {
    "fp32": "FP32",
    "dynamic_u8": "dynamic, unsigned",
    "dynamic_s8": "dynamic, signed",
    "static": "static QDQ",
    "ours": "ours",
}
MODELS = ("pose_resnet_50", "pose_mobilenet")
CALIBRATION_IMAGES = 16
MEASURED_CROPS = 4
WARM_UP = 3
LEAST_RUNS = 20
MB = 1e6

Figures = dict[str, float]


def prepare(model: str, folder: Path) -> dict[str, Path]:
    """Write the five files and `images.npy`."""
    import numpy as np
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.torch import save_file

    from hpe_tasks.config import ModelConfig
    from hpe_tasks.data.coco import load_coco
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.export import export_onnx
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.models import build_model
    from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint
    from hpe_tasks.presets import load_config
    from hpe_tasks.quantization import quantize_model

    if model == "pose_mobilenet":
        preset = load_config("sample")
        config, recipe, checkpoint = preset.model, preset.recipe, sample_checkpoint()
        network = build_model(config)
        load_checkpoint(network, checkpoint)
    else:
        preset = load_config("pose_resnet_50", overrides={"model.checkpoint": "random", "dataset.source": "none"})
        size = {"input_width": 256, "input_height": 256}
        config, recipe = ModelConfig.model_validate(preset.model.model_dump() | size), preset.recipe
        torch.manual_seed(0)
        network, checkpoint = build_model(config), folder / "random.safetensors"
        save_file(network.state_dict(), checkpoint)

    make_sample(folder / "data", SampleSpec(calibration=CALIBRATION_IMAGES), splits=["calibration"])
    batches = list(calibration_batches(load_coco(folder / "data", "calibration"), config, CALIBRATION_IMAGES))[:1]
    np.save(folder / "images.npy", batches[0][:MEASURED_CROPS])

    files = {name: folder / f"{name}.onnx" for name in LABELS}
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, config.input_height, config.input_width),),
        str(files["fp32"]),
        input_names=["image"],
        output_names=["heatmaps"],
        dynamic_axes={"image": {0: "batch"}, "heatmaps": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    for name, kind in (("dynamic_u8", QuantType.QUInt8), ("dynamic_s8", QuantType.QInt8)):
        quantize_dynamic(files["fp32"], files[name], weight_type=kind)
    for name in ("quantsim", "static", "ours"):
        (folder / name).mkdir()
    quantized = quantize_model(config, recipe, checkpoint, batches, folder / "quantsim", "cpu")
    for name, four_phase in (("static", False), ("ours", True)):
        own = recipe.model_copy(update={"four_phase_deconvolution": four_phase})
        export_onnx(config, own, quantized.model, quantized.encodings, folder / name).replace(files[name])
    return files


def measure(model: Path, images_file: Path, threads: int, seconds: float) -> dict[str, Any]:
    """One file in this process: load time, latency of each run, and the peak of the process's memory."""
    import numpy as np
    import onnxruntime

    images = np.load(images_file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_ms = 1000 * (time.perf_counter() - started)

    def run(number: int) -> float:
        at = number % len(images)
        begun = time.perf_counter()
        session.run(None, {"image": images[at : at + 1]})
        return 1000 * (time.perf_counter() - begun)

    for number in range(WARM_UP):
        run(number)
    runs: list[float] = []
    begun = time.perf_counter()
    while len(runs) < LEAST_RUNS or time.perf_counter() - begun < seconds:
        runs.append(run(len(runs)))
    return {"load_ms": load_ms, "runs_ms": runs, "peak_rss_mb": _peak_rss_mb()}


def _peak_rss_mb() -> float:
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 / MB for line in status.splitlines() if line.startswith("VmHWM"))


def in_process(model: Path, images: Path, threads: int, seconds: float) -> Figures:
    command = [sys.executable, __file__, "--measure", str(model), str(images), str(threads), str(seconds)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    runs = sorted(found["runs_ms"])
    return {
        "load_ms": found["load_ms"],
        "median_ms": statistics.median(runs),
        "p95_ms": runs[math.ceil(0.95 * len(runs)) - 1],
        "peak_rss_mb": found["peak_rss_mb"],
    }


def compare(files: dict[str, Path], images: Path, threads: int, rounds: int, seconds: float) -> dict[str, Figures]:
    """Figures of every file at a number of threads, FP32 between the others."""
    found: dict[str, list[Figures]] = {name: [] for name in files}
    for _ in range(rounds):
        before = in_process(files["fp32"], images, threads, seconds)
        found["fp32"].append(before | {"times_fp32": 1.0})
        for name, file in files.items():
            if name == "fp32":
                continue
            own = in_process(file, images, threads, seconds)
            after = in_process(files["fp32"], images, threads, seconds)
            around = statistics.mean((before["median_ms"], after["median_ms"]))
            found[name].append(own | {"times_fp32": around / own["median_ms"]})
            found["fp32"].append(after | {"times_fp32": 1.0})
            before = after
    return {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in found.items()
    }


def sqnr_db(files: dict[str, Path], images_file: Path) -> dict[str, float | None]:
    """Signal-to-noise ratio of each file's maps to those of FP32."""
    import numpy as np
    import onnxruntime

    maps = {}
    for name, file in files.items():
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        maps[name] = session.run(None, {"image": np.load(images_file)})[0].astype(np.float64)
    signal = maps["fp32"]
    return {
        name: None if name == "fp32" else float(10 * np.log10(np.square(signal).sum() / np.square(own - signal).sum()))
        for name, own in maps.items()
    }


def targets(result: dict[str, Any]) -> Iterable[tuple[str, float, str, float]]:
    """(what, measured, comparison, wanted) of pose_resnet_50."""
    yield "size, MB", result["size_mb"]["ours"], "≤", 36.0
    for threads, figures in result["threads"].items():
        ours = figures["ours"]["times_fp32"]
        least = 3.0 if threads == "1" else 2.5
        yield f"times as fast as FP32, {threads} thread(s)", ours, "≥", least
        unsigned, signed = figures["dynamic_u8"]["times_fp32"], figures["dynamic_s8"]["times_fp32"]
        yield f"times as fast as dynamic, unsigned, {threads} thread(s)", ours / unsigned, "≥", least
        if threads == "1":
            yield f"times as fast as dynamic, signed, {threads} thread(s)", ours / signed, "≥", 10.0
        yield f"peak RSS, MB, {threads} thread(s)", figures["ours"]["peak_rss_mb"], "≤", 170.0


def show(model: str, result: dict[str, Any]) -> None:
    for threads, figures in result["threads"].items():
        print(f"\n{model}, {threads} thread(s)\n")
        print("| file | MB | load, ms | median, ms | p95, ms | times FP32 | peak RSS, MB | SQNR, dB |")
        print("|---|---|---|---|---|---|---|---|")
        for name, own in figures.items():
            sqnr = result["sqnr_db"][name]
            print(
                f"| {LABELS[name]} | {result['size_mb'][name]:.2f} | {own['load_ms']:.0f} | {own['median_ms']:.1f} "
                f"| {own['p95_ms']:.1f} | {own['times_fp32']:.2f}× | {own['peak_rss_mb']:.0f} "
                f"| {'–' if sqnr is None else f'{sqnr:.1f}'} |"
            )


def judge(result: dict[str, Any]) -> None:
    print("\n| target for pose_resnet_50 | measured | wanted | |")
    print("|---|---|---|---|")
    for what, measured, comparison, wanted in targets(result):
        met = measured <= wanted if comparison == "≤" else measured >= wanted
        print(f"| {what} | {measured:.2f} | {comparison} {wanted:g} | {'met' if met else '**missed**'} |")


def draw(results: dict[str, Any], picture: Path) -> None:
    """Latency, memory and size of every file, one row for each model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, rows = plt.subplots(len(results), 3, figsize=(12, 2.6 * len(results) + 0.6), squeeze=False)
    names = list(LABELS)
    places = range(len(names))
    for axes, (model, result) in zip(rows, results.items(), strict=True):
        threads = list(result["threads"])
        height = 0.8 / len(threads)
        shades = plt.get_cmap("Blues")([0.75 - 0.3 * number for number in range(len(threads))])
        for number, count in enumerate(threads):
            values = [result["threads"][count][name]["median_ms"] for name in names]
            offsets = [place + (number - (len(threads) - 1) / 2) * height for place in places]
            bars = axes[0].barh(
                offsets, values, height, color=shades[number], label=f"{count} thread" + ("s" if count != "1" else "")
            )
            times = [result["threads"][count][name]["times_fp32"] for name in names]
            labels = [f"{value:.1f} ms, {ratio:.1f}×" for value, ratio in zip(values, times, strict=True)]
            axes[0].bar_label(bars, labels, padding=2, fontsize=8)
        axes[0].legend(fontsize=8, frameon=False)
        peaks = [result["threads"][threads[0]][name]["peak_rss_mb"] for name in names]
        sizes = [result["size_mb"][name] for name in names]
        for axis, values, form in ((axes[1], peaks, "{:.0f}"), (axes[2], sizes, "{:.1f}")):
            bars = axis.barh(places, values, 0.6, color=["#7a8899"] * (len(names) - 1) + ["#1b7f5c"])
            axis.bar_label(bars, [form.format(value) for value in values], padding=2, fontsize=8)
        for axis, title in zip(axes, ("latency, and speed against FP32", "peak memory, MB", "file, MB"), strict=True):
            axis.set_title(f"{model}: {title}", fontsize=10, loc="left")
            axis.set_yticks(places, [LABELS[name] for name in names] if axis is axes[0] else [])
            axis.invert_yaxis()
            axis.margins(x=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time of one measurement")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--picture", type=Path, help="draw the figures there (.png or .svg)")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        model, images, threads, seconds = arguments.measure
        print(json.dumps(measure(Path(model), Path(images), int(threads), float(seconds))))
        return
    import onnxruntime

    from hpe_tasks.cpu import cpu_features

    results: dict[str, Any] = {}
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            files, images = prepare(model, Path(folder)), Path(folder) / "images.npy"
            results[model] = {
                "size_mb": {name: file.stat().st_size / MB for name, file in files.items()},
                "sqnr_db": sqnr_db(files, images),
                "threads": {
                    str(threads): compare(files, images, threads, arguments.rounds, arguments.seconds)
                    for threads in arguments.threads
                },
            }
        show(model, results[model])
        if model == "pose_resnet_50":
            judge(results[model])
    features = cpu_features()
    print(f"\nonnxruntime {onnxruntime.__version__} on a CPU with {', '.join(features)}")
    if arguments.json:
        facts = {"cpu_features": features, "onnxruntime": onnxruntime.__version__, "models": results}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
