"""How far an int8 file's maps are from those of its own graph in float arithmetic, on photographs.

    python benchmarks/self_agreement.py MODEL.onnx FOLDER_OF_IMAGES [--images 12]

Both compute the same codes with the same scales: once by onnxruntime's integer kernels, once layer by layer in float,
with all optimizations off. In each layer they differ only where a sum lies on the border of two codes. What is left of
that at the end says how much the network amplifies single codes: 40 dB and more is a network whose simulation tells
the accuracy of the file to a thousandth; at 15 dB the two are separate draws of the same rounding noise, and a
difference of their AP on few persons means nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort


def session(model: Path, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    """One thread, one level of optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """Signal-to-noise ratio of `got`, whose signal is `wanted`; infinite where both are equal."""
    noise = float(np.square(wanted - got).mean())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(wanted).mean() / noise))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--images", dest="count", type=int, default=12, help="how many are shown")
    arguments = parser.parse_args()
    integer = session(arguments.model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    exact = session(arguments.model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    network_input = integer.get_inputs()[0]
    last = network_input.shape[-1] == 3
    height, width = network_input.shape[1:3] if last else network_input.shape[2:4]
    found = []
    for file in sorted(arguments.images.glob("*.jpg"))[: arguments.count]:
        photograph = cv2.imread(str(file))
        if photograph is None:
            raise SystemExit(f"{file} cannot be decoded.")
        image = cv2.resize(photograph[..., ::-1], (width, height)).astype(np.float32) / 127.5 - 1
        shown = (image if last else image.transpose(2, 0, 1))[None]
        maps = (each.run(None, {network_input.name: shown})[-1] for each in (exact, integer))
        found.append(sqnr_db(*maps))
    if not found:
        raise SystemExit(f"{arguments.images} holds no .jpg.")
    print(f"{np.median(found):.1f} dB ({min(found):.1f} to {max(found):.1f} dB), {len(found)} images")


if __name__ == "__main__":
    main()
