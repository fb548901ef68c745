"""Measures how the accuracy of the sample's int8 file depends on the number of calibration images, and draws it.

    python benchmarks/calibration_size.py [--sizes 10 25 50 100 200 500] [--seeds 3] [--val 200]
        [--alone] [--set recipe.scheme=mse] [--out FILE.png] [--json]

For each number of images and each seed, which draws other images, the preset's recipe makes a file, and onnxruntime
runs it on the same people. Beside that the same with `recipe.augment_calibration`, filled up to the largest number:
changed copies against images of their own; --alone leaves these out. FP32 is the line above. The smaller draws of a
seed are part of its larger ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.cpu import cpu_features, processor_name
from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import Predict, calibration_batches, fp32_predictor, missing_inputs, onnx_predictor
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.quantization import best_device, quantize_model
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import CocoStats, Runtime


@dataclass(frozen=True)
class Measured:
    """AP of the file that was calibrated on so many images, and on so many changed copies of their crops."""

    images: int
    copies: int
    seed: int
    ap: float


def average_precision(predict: Predict, runtime: Runtime, run: RunConfig, judged: CocoDataset, folder: Path) -> float:
    report = evaluate(
        judged,
        predict,
        run.model,
        run.evaluation,
        runtime=runtime,
        dataset_digest="0" * 64,
        seed=run.seed,
        predictions_file=folder / "predictions.json",
        artifact=lambda path: Artifact(uri=path.as_uri(), sha256="0" * 64, size_bytes=path.stat().st_size),
    )
    if not isinstance(report.stats, CocoStats) or report.stats.ap is None:
        raise SystemExit("The sample has nobody who can be measured.")
    return report.stats.ap


def measure(run: RunConfig, data: Path, images: int, seed: int, most: int | None) -> Measured:
    """Calibrate on so many images, filled up with changed copies to `most`, and judge the file."""
    judged, split = load_coco(data, run.dataset.evaluation_split), load_coco(data, run.dataset.calibration_split)
    drawn = draw_calibration(split, judged, num_images=images, seed=seed)
    copies = missing_inputs(drawn, run.model, most) if most is not None else 0
    with tempfile.TemporaryDirectory() as temporary:
        stored, exported = Path(temporary) / "stored", Path(temporary) / "exported"
        stored.mkdir()
        exported.mkdir()
        batches = calibration_batches(drawn, run.model, run.evaluation.batch_size, augmented=copies, seed=seed)
        files = quantize_model(run.model, run.recipe, sample_checkpoint(), batches, stored, best_device())
        file = export_onnx(run.model, run.recipe, files.model, files.encodings, exported)
        ap = average_precision(onnx_predictor(file, run.model), "onnxruntime", run, judged, exported)
    return Measured(images, copies, seed, ap)


def draw(rows: list[Measured], fp32: float, title: str, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.axhline(fp32, color="0.4", linestyle="--", label="FP32")
    for label, filled, colour in (
        ("images alone", False, "#1f6fb2"),
        ("filled up with changed copies", True, "#d1602d"),
    ):
        of_kind = [row for row in rows if bool(row.copies) == filled]
        if not of_kind:
            continue
        sizes = sorted({row.images for row in of_kind})
        means = [statistics.mean(row.ap for row in of_kind if row.images == size) for size in sizes]
        axes.plot(sizes, means, color=colour, marker="o", label=label)
        axes.scatter([row.images for row in of_kind], [row.ap for row in of_kind], color=colour, s=12, alpha=0.5)
    axes.set_xscale("log")
    ticks = sorted({row.images for row in rows})
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("calibration images")
    axes.set_ylabel("AP of the int8 file")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 25, 50, 100, 200, 500])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--val", type=int, default=200, help="images that judge")
    parser.add_argument("--alone", action="store_true", help="no changed copies beside the images")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, such as recipe.scheme=mse"
    )
    parser.add_argument("--out", type=Path, default=None, help="picture to draw")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings: dict[str, Any] = dict(pair.split("=", 1) for pair in options.set)
    run, most = load_config("sample", overrides=settings), max(options.sizes)
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        make_sample(data, SampleSpec(calibration=most, val=options.val), splits=["calibration", "val"])
        judged = load_coco(data, run.dataset.evaluation_split)
        network = fp32_predictor(run.model, sample_checkpoint(), best_device())
        fp32 = average_precision(network, "fp32", run, judged, Path(temporary))
        rows = [
            measure(run, data, size, seed, filled)
            for size in options.sizes
            for filled in ((None, most) if size < most and not options.alone else (None,))
            for seed in range(options.seeds)
        ]
    title = f"{run.recipe.name}, sample, {judged.num_persons} persons, {options.seeds} draws"
    if options.out is not None:
        draw(rows, fp32, title, options.out)
    if options.json:
        print(
            json.dumps(
                {"processor": processor_name(), "fp32_ap": fp32, "rows": [asdict(row) for row in rows]}, indent=1
            )
        )
        return
    print(f"{processor_name()} ({', '.join(cpu_features())}); {title}; FP32 {fp32:.4f}")
    print("| images | changed copies | AP of the file, mean | least | most |")
    print("|---|---|---|---|---|")
    for size, copies in dict.fromkeys((row.images, row.copies) for row in rows):
        aps = [row.ap for row in rows if (row.images, row.copies) == (size, copies)]
        print(f"| {size} | {copies} | {statistics.mean(aps):.4f} | {min(aps):.4f} | {max(aps):.4f} |")


if __name__ == "__main__":
    main()
