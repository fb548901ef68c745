"""Measures the exported file against the other ways to run the same network in onnxruntime on the CPU.

On a machine of each kind, then once with what they wrote:

    python benchmarks/model_latency.py --json FILE [--models pose_resnet_50 pose_hrnet_w32 pose_mobilenet]
        [--threads 1 2] [--rounds 3] [--seconds 2] [--runs 20] [--processor NAME] [--files FOLDER]
    python benchmarks/model_latency.py --merge FILE FILE [--picture FILE] [--docs docs/benchmarks.md]

* fp32: the network with folded batch norms, as torch exports it;
* dynamic, unsigned and dynamic, signed: `quantize_dynamic` of that file with unsigned or signed 8-bit weights, which is
  the reference way;
* onnxruntime static, reduce_range: `quantize_static` of that file to QDQ, weights per channel and in 7 bits, which is
  how onnxruntime's documentation keeps sums from saturating on processors without VNNI;
* static: the product's file without sub-pixel decomposition (`recipe.subpixel_deconvolution=false`);
* ours: the product's file, by the preset's recipe.

pose_resnet_50 at 256×256 and HRNet at 256×192 have random weights, pose_mobilenet those of the project's sample; all
are calibrated on and fed with crops of drawn people, one at a time. Every measurement is a process of its own that
imports numpy and onnxruntime and nothing else, with threads that do not spin. FP32 is measured before and after every
other file, and a ratio is to those two, the fastest run of each process: on a machine that others use as well, what
disturbs a run makes it slower, so that ratios hold better than times. Load time is that of the session, the file being
in the page cache. Peak memory is the whole process's, at its highest. Figures are medians of the rounds; of the ratios,
the lowest and the highest round stand beside. With `--files` the networks are kept in a folder and found there the next
time: processors then run the very same files.

A processor with VNNI stands for one without, at its own speed, by `python tools/as_processor.py avx2 -- python
benchmarks/model_latency.py …`: the tables then say so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import latency_tables as tables
from marked_docs import write_docs

MODELS = ("pose_resnet_50", "pose_hrnet_w32", "pose_hrnet_w48", "pose_mobilenet")
USUAL = ("pose_resnet_50", "pose_hrnet_w32", "pose_mobilenet")
SIZES = {"pose_resnet_50": {"input_width": 256, "input_height": 256}}
"""Inputs that are not those of the network's preset."""
CALIBRATION_IMAGES = 16
MEASURED_CROPS = 4
WARM_UP = 3
MB = 1e6

Figures = dict[str, float]


def prepared(model: str, folder: Path) -> dict[str, Path]:
    """The files, made where they are not there yet; `images.npy`, the last to be written, stands beside them."""
    files = {name: folder / f"{name}.onnx" for name in tables.LABELS}
    if not (folder / "images.npy").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            images = prepare(model, files, Path(work))
            images.replace(folder / images.name)
    return files


def prepare(model: str, files: dict[str, Path], folder: Path) -> Path:
    """Write the files; returns `images.npy` in `folder`."""
    import numpy as np
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.torch import save_file

    from hpe_tasks.config.loading import load_config
    from hpe_tasks.config.model import ModelConfig
    from hpe_tasks.data.coco import load_coco
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.models import build_model
    from hpe_tasks.models.checkpoint import sample_checkpoint
    from hpe_tasks.models.fp32_onnx import export_fp32
    from hpe_tasks.onnx_export import export_onnx
    from hpe_tasks.quantization import quantize_model

    if model == "pose_mobilenet":
        preset = load_config("sample")
        config, recipe, checkpoint = preset.model, preset.recipe, sample_checkpoint()
    else:
        preset = load_config(model, overrides={"model.checkpoint": "random", "dataset.source": "none"})
        sized = preset.model.model_dump() | SIZES.get(model, {})
        config, recipe = ModelConfig.model_validate(sized), preset.recipe
        torch.manual_seed(0)
        checkpoint = folder / "random.safetensors"
        save_file(build_model(config).state_dict(), checkpoint)

    make_sample(folder / "data", SampleSpec(calibration=CALIBRATION_IMAGES), splits=["calibration"])
    batches = list(calibration_batches(load_coco(folder / "data", "calibration"), config, CALIBRATION_IMAGES))[:1]
    export_fp32(config, checkpoint, files["fp32"])
    for name, kind in (("dynamic_u8", QuantType.QUInt8), ("dynamic_s8", QuantType.QInt8)):
        quantize_dynamic(files["fp32"], files[name], weight_type=kind)
    quantize_as_documented(files["fp32"], files["static_ort"], batches[0], folder / "prepared.onnx")
    for name in ("quantsim", "static", "ours"):
        (folder / name).mkdir()
    quantized = quantize_model(config, recipe, checkpoint, batches, folder / "quantsim", "cpu")
    for name, subpixel in (("static", False), ("ours", True)):
        own = recipe.model_copy(update={"subpixel_deconvolution": subpixel})
        export_onnx(config, own, quantized.model, quantized.encodings, folder / name).replace(files[name])
    np.save(folder / "images.npy", batches[0][:MEASURED_CROPS])
    return folder / "images.npy"


def quantize_as_documented(fp32: Path, out: Path, images: Iterable[Any], preprocessed: Path) -> None:
    """onnxruntime's own static quantization to QDQ, for processors without VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {"image": image[None]}

    # Resize hides from its shape inference that the batch stays what it was.
    quant_pre_process(fp32, preprocessed, auto_merge=True)
    quantize_static(
        preprocessed,
        out,
        Images(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


def measure(model: Path, images_file: Path, threads: int, seconds: float, least_runs: int) -> dict[str, Any]:
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
    while len(runs) < least_runs or time.perf_counter() - begun < seconds:
        runs.append(run(len(runs)))
    return {"load_ms": load_ms, "runs_ms": runs, "peak_rss_mb": _peak_rss_mb()}


def _peak_rss_mb() -> float:
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 / MB for line in status.splitlines() if line.startswith("VmHWM"))


def in_process(model: Path, images: Path, threads: int, asked: argparse.Namespace) -> Figures:
    wanted = (model, images, threads, asked.seconds, asked.runs)
    command = [sys.executable, __file__, "--measure", *map(str, wanted)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    runs = sorted(found["runs_ms"])
    return {
        "load_ms": found["load_ms"],
        "fastest_ms": runs[0],
        "median_ms": statistics.median(runs),
        "p95_ms": runs[math.ceil(0.95 * len(runs)) - 1],
        "peak_rss_mb": found["peak_rss_mb"],
    }


def compare(files: dict[str, Path], images: Path, threads: int, asked: argparse.Namespace) -> dict[str, Figures]:
    """Figures of every file at a number of threads, FP32 between the others."""
    found: dict[str, list[Figures]] = {name: [] for name in files}
    for _ in range(asked.rounds):
        before = in_process(files["fp32"], images, threads, asked)
        found["fp32"].append(before | {"times_fp32": 1.0})
        for name, file in files.items():
            if name == "fp32":
                continue
            own = in_process(file, images, threads, asked)
            after = in_process(files["fp32"], images, threads, asked)
            around = statistics.mean((before["fastest_ms"], after["fastest_ms"]))
            found[name].append(own | {"times_fp32": around / own["fastest_ms"]})
            found["fp32"].append(after | {"times_fp32": 1.0})
            before = after
    return {name: _median(measured) for name, measured in found.items()}


def _median(measured: Sequence[Figures]) -> Figures:
    times = [one["times_fp32"] for one in measured]
    medians = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    return medians | {"times_low": min(times), "times_high": max(times)}


def sqnr_db(files: dict[str, Path], images_file: Path) -> dict[str, float | None]:
    """Signal-to-noise ratio of each file's maps to those of FP32, by the kernels of this processor."""
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


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every file of every network on this processor."""
    import onnxruntime

    from hpe_tasks.contract.cpu import cpu_features, processor_name

    results: dict[str, Any] = {}
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.files or Path(temporary)) / model
            files, images = prepared(model, folder), folder / "images.npy"
            results[model] = {
                "size_mb": {name: file.stat().st_size / MB for name, file in files.items()},
                "sqnr_db": sqnr_db(files, images),
                "threads": {str(threads): compare(files, images, threads, arguments) for threads in arguments.threads},
            }
    return {
        "processor": arguments.processor or processor_name(),
        "cpu_features": list(cpu_features()),
        "as_processor": os.environ.get("AS_PROCESSOR"),
        "onnxruntime": onnxruntime.__version__,
        "models": results,
    }


def merged(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What several machines have written; they must have measured the same."""
    found = [json.loads(file.read_text()) for file in files]
    asked = [{model: sorted(result["threads"]) for model, result in one["models"].items()} for one in found]
    for file, one in zip(files, asked, strict=True):
        if one != asked[0]:
            raise SystemExit(f"{file} measured {one}, {files[0]} {asked[0]}: measure the same on each machine.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=USUAL)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time of one measurement")
    parser.add_argument("--runs", type=int, default=20, help="fewest runs of one measurement")
    parser.add_argument("--processor", help="name of the processor, where it does not say it itself")
    parser.add_argument("--files", type=Path, help="keep the networks in this folder, and find them there")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--merge", type=Path, nargs="+", help="measure nothing: show what these files hold")
    parser.add_argument("--picture", type=Path, help="draw the figures there (.png or .svg)")
    parser.add_argument("--docs", type=Path, help="write the tables into this Markdown file, between its marks")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        model, images, threads, seconds, runs = arguments.measure
        print(json.dumps(measure(Path(model), Path(images), int(threads), float(seconds), int(runs))))
        return
    found = merged(arguments.merge) if arguments.merge else [measure_all(arguments)]
    print(tables.text(found))
    if arguments.json and not arguments.merge:
        arguments.json.write_text(json.dumps(found[0], indent=2) + "\n")
    if arguments.picture:
        tables.draw(found, arguments.picture)
    if arguments.docs:
        write_docs(arguments.docs, "model_latency.py", tables.text(found))


if __name__ == "__main__":
    main()
