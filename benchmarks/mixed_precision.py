"""What mixed precision wins back, and what it costs: AP of FP32, of int8 throughout, and of what stays partly in float.

    python benchmarks/mixed_precision.py --preset NAME [--set KEY=VALUE ...] [--max-slowdown 2] [--curve]

Quantizes as the configuration says, which leaves everything in int8, and then with `recipe.mixed_precision`. Times are
ratios of files that take turns in one process; figures of accuracy are those of the configuration's evaluation split.
With --curve every point of the curve is exported and its AP measured as well.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.cpu import processor_name
from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import load_coco
from hpe_tasks.evaluation import evaluate
from hpe_tasks.inference import Predict, calibration_batches, fp32_predictor, onnx_predictor
from hpe_tasks.joint_search.precision import Budget, choose_precision
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.quantization import QuantizedFiles, leave_float, load_quantsim, quantize_model
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.mixed_precision import MixedPrecision, PrecisionPoint
from hpe_tasks.storage.files import sha256_file


def ap_of(predict: Predict, config: RunConfig, folder: Path) -> float:
    """AP on the evaluation split."""
    report = evaluate(
        load_coco(Path(config.dataset.source), config.dataset.evaluation_split),
        predict,
        config.model,
        config.evaluation,
        runtime="onnxruntime",
        dataset_digest="0" * 64,
        seed=config.seed,
        predictions_file=folder / "predictions.json",
        artifact=lambda file: Artifact(uri=file.as_uri(), sha256=sha256_file(file), size_bytes=file.stat().st_size),
    )
    if report.accuracy is None:
        raise SystemExit("Nobody in the evaluation split can be judged.")
    return report.accuracy


def file_ap(config: RunConfig, files: QuantizedFiles, folder: Path) -> float:
    """AP of the file that a stored simulation is exported to."""
    out = folder / "exported"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    file = export_onnx(config.model, config.recipe, files.model, files.encodings, out)
    return ap_of(onnx_predictor(file, config.model), config, folder)


def quantsim_ap(config: RunConfig, files: QuantizedFiles, folder: Path) -> float:
    """AP of a stored simulation."""
    return ap_of(load_quantsim(config.model, config.recipe, files.model, files.encodings, "cpu"), config, folder)


def copied(files: QuantizedFiles, folder: Path) -> QuantizedFiles:
    """The stored simulation in another folder, where it may be changed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model, encodings = (Path(shutil.copy(file, folder / file.name)) for file in (files.model, files.encodings))
    return QuantizedFiles(model, encodings)


def told(name: str, point: PrecisionPoint, file: float, quantsim: float | None) -> None:
    """Print one line of the table."""
    simulated = f"{quantsim:.3f}" if quantsim is not None else "     "
    print(
        f"{name:>22}  {simulated:>8}  {file:8.3f}  {point.joint_error:11.3f}  {100 * point.int8_mac_share:7.1f} %  "
        f"{point.slowdown:8.2f}  {point.of_fp32:8.2f}",
        flush=True,
    )


def main() -> None:
    """Measure one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--max-slowdown", type=float, default=2.0)
    parser.add_argument("--curve", action="store_true", help="measure every point's AP")
    arguments = parser.parse_args()
    config = load_config(arguments.preset, overrides=dict(each.split("=", 1) for each in arguments.set))
    recipe = config.recipe.model_copy(update={"mixed_precision": True, "max_slowdown": arguments.max_slowdown})
    data = Path(config.dataset.source)
    drawn = draw_calibration(
        load_coco(data, config.dataset.calibration_split),
        load_coco(data, config.dataset.evaluation_split),
        num_images=recipe.calibration_images,
        seed=config.seed,
    )

    def images() -> Iterator[np.ndarray]:
        return calibration_batches(drawn, config.model, config.evaluation.batch_size)

    with TemporaryDirectory(prefix="mixed-precision-") as temporary:
        folder = Path(temporary)
        checkpoint = Path(config.model.checkpoint)
        (folder / "int8").mkdir()
        files = quantize_model(config.model, recipe, checkpoint, images(), folder / "int8", "cpu")
        mixed = copied(files, folder / "mixed")
        record: MixedPrecision = choose_precision(
            config.model, recipe, checkpoint, mixed, images(), Budget(arguments.max_slowdown)
        )
        print(f"{processor_name()}; {record.evaluations} choices in {record.seconds:.0f} s")
        print(f"FP32: AP {ap_of(fp32_predictor(config.model, checkpoint, 'cpu'), config, folder):.3f}")
        print(f"{'':>22}  {'QuantSim':>8}  {'file':>8}  joint error  int8 MACs  /int8 ms  /FP32 ms")
        told("int8 throughout", record.curve[0], file_ap(config, files, folder), quantsim_ap(config, files, folder))
        if arguments.curve:
            for point in record.curve[1:]:
                part = copied(files, folder / "point")
                leave_float(config.model, part, point.left_float)
                told(f"{point.float_tensors} in float", point, file_ap(config, part, folder), None)
        taken = record.curve[record.chosen]
        told(
            f"chosen, {taken.float_tensors} in float",
            taken,
            file_ap(config, mixed, folder),
            quantsim_ap(config, mixed, folder),
        )
        everything = copied(files, folder / "everything")
        leave_float(config.model, everything, [name for each in record.effects for name in each.tensors])
        print(f"every activation in float: AP of the file {file_ap(config, everything, folder):.3f}")
        print("left in float: " + ", ".join(taken.float_layers))


if __name__ == "__main__":
    main()
