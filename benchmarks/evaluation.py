"""Measures the bottom-up evaluation of `aimet_pose`, files to people: the plain way against this product's two paths.

    python benchmarks/evaluation.py --data FOLDER [--checkpoint FILE] [--rounds 3] [--batch-size 8] [--device cuda]
    python benchmarks/evaluation.py --data FOLDER --memory 100 2000

FOLDER holds `coco-mini/`; all photographs of its split with people in them are measured:

* plain: one image at a time, FP32 in PyTorch, maps resized to the image's size, the plain decoder of the tests;
* fp32: the product's evaluation of a checkpoint;
* int8: the product's evaluation of the file that it exports, quantized here with a few of the photographs;
* no network: the product's evaluation with a network that takes no time, which is what is left on a fast GPU.

Every path runs in processes of its own, in turns; the rate is the median of the rounds. Each runs the network on every
photograph, and then decodes the ideal maps of the people who are annotated in it in place of the network's own: without
a checkpoint the weights are random, and decoding would find nothing. Times of single stages are of one after the other,
decoding on one core; in the product's paths they run beside each other. `--memory` measures the resident memory of the
int8 path's process, before and at its peak, for so many images: the photographs over and over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evaluation_memory import MB, ResidentMemory

if TYPE_CHECKING:
    from hpe_tasks.data.image_files import Unreadable
    from hpe_tasks.inference.whole_images import PreparedImage

TESTS = str(Path(__file__).resolve().parent.parent / "tests")
PATHS = ("plain", "fp32", "int8", "no network")
CALIBRATION_IMAGES = 12


def model_config(architecture: str, checkpoint: Path) -> Any:
    from hpe_tasks.config.loading import load_config

    preset = load_config("aimet_pose_coco2014", overrides={"model.checkpoint": str(checkpoint)}).model
    return preset.model_copy(update={"architecture": architecture})


def load_images(folder: Path, split: str, count: int | None) -> Any:
    """The split's images with people; repeated under ids of their own where `count` asks for more."""
    from hpe_tasks.data.coco import load_coco

    dataset = load_coco(folder, split)
    dataset = dataset.subset(image.id for image in dataset.images if dataset.persons(image.id))
    if count is None:
        return dataset
    originals = dataset.images
    images = tuple(replace(originals[i % len(originals)], id=i + 1) for i in range(count))
    persons = {image.id: dataset.persons(originals[i % len(originals)].id) for i, image in enumerate(images)}
    return replace(dataset, images=images, persons_by_image=persons)


def prepare(folder: Path, split: str, checkpoint: Path | None, out: Path) -> Path:
    """Export the network to int8; returns the checkpoint."""
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.config.recipe import QuantizationRecipe
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.models import build_model
    from hpe_tasks.onnx_export import export_onnx
    from hpe_tasks.quantization import quantize_model

    if checkpoint is None:
        checkpoint = out / "random.safetensors"
        torch.manual_seed(0)
        save_file(build_model(model_config("aimet_pose", checkpoint)).state_dict(), checkpoint)
    config, recipe = model_config("aimet_pose", checkpoint), QuantizationRecipe(scheme="min_max")
    dataset = load_images(folder, split, None)
    few = dataset.subset(image.id for image in dataset.images[:CALIBRATION_IMAGES])
    quantized, exported = out / "quantized", out / "exported"
    quantized.mkdir()
    exported.mkdir()
    files = quantize_model(config, recipe, checkpoint, calibration_batches(few, config, 4), quantized, "cpu")
    export_onnx(config, recipe, files.model, files.encodings, exported)
    return checkpoint


class IdealMaps:
    """A network whose work is done and whose maps are then replaced by ideal ones of the same photograph."""

    def __init__(self, predict: Callable[[np.ndarray], Any] | None, dataset: Any, config: Any) -> None:
        from hpe_tasks.inference import prepare_image
        from support.paf_scenes import ideal_maps

        self._predict = predict
        self._maps = {}
        for image in {image.file_name: image for image in dataset.images}.values():
            people = np.stack([person.joints for person in dataset.persons(image.id)])
            heatmaps, pafs = ideal_maps(people, (image.width, image.height))
            shown = readable(prepare_image(dataset, config, image))
            self._maps[self._key(shown.pixels)] = np.concatenate([pafs, heatmaps]).astype(np.float32)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        maps = np.stack([self._maps[self._key(image)] for image in images])
        if self._predict is not None:
            outputs = self._predict(images)
            assert maps[:, :38].shape == outputs["pafs"].shape
        return {"pafs": maps[:, :38], "heatmaps": maps[:, 38:]}

    @staticmethod
    def _key(pixels: np.ndarray) -> bytes:
        return np.rint(256 * (pixels[:, ::41, ::37] + 0.5)).astype(np.uint8).tobytes()


def readable(image: PreparedImage | Unreadable) -> PreparedImage:
    """The image; the measured data sets hold no broken one."""
    from hpe_tasks.data.image_files import Unreadable

    if isinstance(image, Unreadable):
        raise SystemExit(str(image))
    return image


def plainly(dataset: Any, predict: Callable[[np.ndarray], Any], seconds: dict[str, float]) -> Iterator[Any]:
    """One image after the other, as a script would do it."""
    import cv2

    from support import paf_oracle

    for image in dataset.images:
        start = time.perf_counter()
        pixels = cv2.imread(str(dataset.image_path(image)), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        assert pixels is not None
        size = (496, 384) if image.width > image.height else (384, 496)
        rgb = cv2.resize(pixels, size)[:, :, ::-1].astype(np.float32) / 256 - 0.5
        batch = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])
        read = time.perf_counter()
        outputs = predict(batch)
        ran = time.perf_counter()
        yield paf_oracle.decode(outputs["heatmaps"][0], outputs["pafs"][0], (image.width, image.height), np.float32)
        decoded = time.perf_counter()
        for stage, took in (("read", read - start), ("network", ran - read), ("decode", decoded - ran)):
            seconds[stage] = seconds.get(stage, 0) + took


def stage_seconds(dataset: Any, predict: Callable[[np.ndarray], Any], config: Any, batch_size: int) -> dict[str, float]:
    """The product's stages, one after the other."""
    from hpe_tasks.inference import decode_image, predict_maps, prepare_image
    from hpe_tasks.pose.codecs import image_codec

    seconds = {"read": 0.0, "network": 0.0, "decode": 0.0}
    for start in range(0, len(dataset.images), batch_size):
        began = time.perf_counter()
        images = dataset.images[start : start + batch_size]
        prepared = [readable(prepare_image(dataset, config, image)) for image in images]
        read = time.perf_counter()
        maps = predict_maps(prepared, predict, config)
        ran = time.perf_counter()
        for one in maps:
            decode_image(one, image_codec(config.codec))
        for stage, took in (("read", read - began), ("network", ran - read), ("decode", time.perf_counter() - ran)):
            seconds[stage] += took
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One path in this process."""
    sys.path.insert(0, TESTS)
    from hpe_tasks.inference import find_people, fp32_predictor

    exported = arguments.work / "exported" / "model.onnx"
    int8 = arguments.path == "int8"
    config = model_config("onnx" if int8 else "aimet_pose", exported if int8 else arguments.checkpoint)
    dataset = load_images(arguments.data / "coco-mini", arguments.split, arguments.count)
    network = None
    if arguments.path != "no network":
        network = fp32_predictor(config, Path(config.checkpoint), arguments.device)
        for size in ((384, 496), (496, 384)):
            network(np.zeros((1, 3, *size), np.float32))
    predict = IdealMaps(network, dataset, config)

    seconds: dict[str, float] = {}
    with ResidentMemory() as memory:
        began = time.perf_counter()
        if arguments.path == "plain":
            found = sum(len(people) for people in plainly(dataset, predict, seconds))
        else:
            found = sum(len(one.people) for one in find_people(dataset, predict, config, arguments.batch_size))
        elapsed = time.perf_counter() - began
    if arguments.path != "plain" and arguments.count is None:
        seconds = stage_seconds(dataset, predict, config, arguments.batch_size)
    images = len(dataset.images)
    return {
        "images": images,
        "people": found,
        "images_per_second": images / elapsed,
        "stage_ms": {stage: 1e3 * took / images for stage, took in seconds.items()},
        "before_mb": memory.samples[0] / MB,
        "peak_mb": max(memory.samples) / MB,
    }


def in_process(arguments: argparse.Namespace, path: str, count: int | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--path", path, "--data", str(arguments.data), "--split", arguments.split]
    command += ["--work", str(arguments.work), "--checkpoint", str(arguments.checkpoint), "--device", arguments.device]
    command += ["--batch-size", str(arguments.batch_size), *(["--count", str(count)] if count else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(arguments: argparse.Namespace) -> None:
    rounds: dict[str, list[dict[str, Any]]] = {path: [] for path in PATHS}
    for _ in range(arguments.rounds):
        for path in PATHS:
            rounds[path].append(in_process(arguments, path))
    rates = {path: statistics.median(run["images_per_second"] for run in runs) for path, runs in rounds.items()}
    first = rounds["plain"][0]
    assert all(run["people"] == first["people"] for runs in rounds.values() for run in runs)
    print(f"{first['images']} photographs, {first['people']} people found by every path\n")
    print("| path | images/s | against plain | read, ms | network, ms | decode, ms | peak memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for path, runs in rounds.items():
        stages = [statistics.median(run["stage_ms"][stage] for run in runs) for stage in ("read", "network", "decode")]
        peak = statistics.median(run["peak_mb"] for run in runs)
        times = " | ".join(f"{ms:.1f}" for ms in stages)
        print(f"| {path} | {rates[path]:.1f} | {rates[path] / rates['plain']:.1f}× | {times} | {peak:.0f} |")


def measure_memory(arguments: argparse.Namespace) -> None:
    print("| images | before, MB | peak, MB | images/s |")
    print("|---|---|---|---|")
    for count in arguments.memory:
        run = in_process(arguments, "int8", count)
        print(f"| {count} | {run['before_mb']:.0f} | {run['peak_mb']:.0f} | {run['images_per_second']:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds coco-mini/")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--checkpoint", type=Path, help="weights of aimet_pose; random ones where there is none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the FP32 network runs")
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES", help="measure memory in place of speed")
    for name, kind in (("--path", str), ("--work", Path), ("--count", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.path:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.work = Path(folder)
        arguments.checkpoint = prepare(
            arguments.data / "coco-mini", arguments.split, arguments.checkpoint, arguments.work
        )
        if arguments.memory:
            measure_memory(arguments)
        else:
            compare(arguments)


if __name__ == "__main__":
    main()
