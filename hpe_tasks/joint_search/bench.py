"""Where choices are tried: real files, run in onnxruntime on calibration images, and judged by what joints do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.joints import JointError
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.onnx_export import fit_kernels, simulated_graph
from hpe_tasks.onnx_export.float_activations import activations_of, leave_float, with_codes
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import QuantizedFiles
from hpe_tasks.quantization.float_activations import Code, stored_codes

IMAGES = 24
"""Calibration crops, or whole images, that joints are compared on."""


def check_widths(recipe: QuantizationRecipe) -> None:
    """Raise QuantizationError unless weights and activations have 8 bits, with which onnxruntime computes."""
    if (recipe.param_bw, recipe.activation_bw) == (8, 8):
        return
    asked = "recipe.mixed_precision" if recipe.mixed_precision else "recipe.joint_ranges"
    does = "chooses between 8 bits and float" if recipe.mixed_precision else "chooses the ranges of 8-bit codes"
    raise QuantizationError(
        f"{asked} {does}; with {recipe.param_bw}-bit weights and {recipe.activation_bw}-bit activations onnxruntime "
        "runs everything in float.",
        hint=f"Set recipe.param_bw and recipe.activation_bw to 8, or {asked} to false.",
    )


class JointBench:
    """A calibrated simulation's graph, with other codes or none for some of its activations, and what joints do then.

    Args:
        config: The network.
        recipe: As it was quantized.
        checkpoint: Its weights in FP32, or its float ONNX file.
        files: The calibrated simulation, with every activation quantized.
        images: Calibration images, in batches of one size each.
        folder: For files that are tried.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: QuantizationRecipe,
        checkpoint: Path,
        files: QuantizedFiles,
        images: list[NDArray[np.float32]],
        folder: Path,
    ) -> None:
        self.config = config
        self.images = images
        self.fp32 = export_fp32(config, checkpoint, folder / "fp32.onnx")
        self._recipe = recipe
        self._folder = folder
        self._graph = simulated_graph(config, recipe, files.model, files.encodings)
        self.activations = activations_of(self._graph, stored_codes(files.encodings))
        is_onnx = files.model.suffix == ".onnx"
        self._biases = {t.name: t for t in onnx.load(files.model).graph.initializer} if is_onnx else {}
        self._jury = Jury(config, images, self.fp32)

    def write(self, floats: Iterable[int], name: str = "tried.onnx", codes: Mapping[int, Code] | None = None) -> Path:
        """The file with these activations in float, and others with these codes, as `export_onnx` would write it."""
        coded = {tensor: code for index, code in (codes or {}).items() for tensor in self.activations[index].tensors}
        graph = with_codes(self._graph, coded) if coded else self._graph
        tensors = [tensor for index in sorted(floats) for tensor in self.activations[index].tensors]
        graph = leave_float(graph, tensors, self._biases)
        fit_kernels(graph, self.config, self._recipe)
        path = self._folder / name
        onnx.save(graph, path)
        return path

    def evaluate(self, floats: frozenset[int], codes: Mapping[int, Code] | None = None) -> tuple[float, float]:
        """Joint error and noise of a choice."""
        return self.judge(self.write(floats, codes=codes))

    def judge(self, path: Path) -> tuple[float, float]:
        """Joint error and noise of a written file."""
        return self._jury.judge(path)


class Jury:
    """What FP32 makes of some images, and how far from it the joints of a file are."""

    def __init__(self, config: ModelConfig, images: list[NDArray[np.float32]], fp32: Path) -> None:
        self._config, self._images = config, images
        self._joints = JointError(config, images, self._outputs(fp32))

    def judge(self, path: Path) -> tuple[float, float]:
        """Joint error and noise; see `JointError`."""
        return self._joints.of(self._outputs(path))

    def _outputs(self, path: Path) -> list[dict[str, NDArray[np.float32]]]:
        predict = onnx_predictor(path, self._config)
        return [predict(batch) for batch in self._images]


def first_images(batches: Iterable[NDArray[np.float32]], count: int) -> list[NDArray[np.float32]]:
    """Batches of the first images; raises QuantizationError where there is none."""
    taken: list[NDArray[np.float32]] = []
    for batch in batches:
        left = count - sum(map(len, taken))
        if left <= 0:
            break
        taken.append(batch[:left])
    if not taken:
        raise QuantizationError("There is no calibration image to choose by.")
    return taken
