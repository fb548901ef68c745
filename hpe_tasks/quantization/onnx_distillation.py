"""A simulation of aimet_onnx learns in torch, and takes back what it has learnt."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization.aimet import vendor_warnings_muted
from hpe_tasks.quantization.distillation import Exam, Lessons, Network, distil
from hpe_tasks.quantization.grid_limit import GridLimit
from hpe_tasks.quantization.onnx_as_torch import OnnxAsTorch, prove_equal
from hpe_tasks.quantization.onnx_backend import as_predictor, fit_weights, float_graph, weights_of
from hpe_tasks.quantization.onnx_student import learnt_tensors, quantizers_of, state_of, write_back
from hpe_tasks.records.network import Distillation

log = logging.getLogger(__name__)

_COMPARED_IMAGES = 4
"""Held-out images that the graph in torch and the graph in onnxruntime are compared on."""


def distil_sim(
    sim: Any,
    checkpoint: Path,
    prepared: Path,
    config: ModelConfig,
    recipe: QuantizationRecipe,
    lessons: Lessons,
    device: str,
) -> Distillation:
    """Teach a calibrated simulation what the float network gives, in torch, and write back what it has learnt.

    What is told is measured on the simulation itself. Where it has gained nothing, it stays as it was.

    Args:
        sim: The simulation.
        checkpoint: The user's file.
        prepared: The float graph that is simulated; it takes what is learnt as well.
        config: The network.
        recipe: How it was calibrated, and how it learns.
        lessons: What it learns from.
        device: "cpu" or "cuda".

    Raises:
        QuantizationError: The network cannot run in torch, or computes something else there; or it diverges.
    """
    limits = {}
    if recipe.keeps_sums_in_range:
        limits = {each.name: GridLimit(each, torch.device(device)) for each in weights_of(sim, recipe)}
    some = next(lessons.held_out())[:_COMPARED_IMAGES]
    with vendor_warnings_muted(), TemporaryDirectory(prefix="teacher-", dir=prepared.parent) as folder:
        float_file = Path(folder) / prepared.name
        onnx.save(float_graph(config, recipe, checkpoint, some, float_file)[0], float_file)
        teacher, student = (OnnxAsTorch(onnx.load(file), config) for file in (float_file, prepared))
        prove_equal(teacher, some, onnx_predictor(float_file, config)(some))
        exam, simulated = Exam(teacher.to(device), lessons, config, device), _as_network(sim, config, prepared, device)
        student.to(device).quantizers = quantizers_of(sim, device)
        start, before = state_of(student), exam.grade(simulated)
        told = distil(student, exam, learnt_tensors(student, limits), lessons, recipe, device)
        write_back(sim, prepared, state_of(student))
        student.cpu().quantizers = {}
        prove_equal(student, some, onnx_predictor(prepared, config)(some))
        if recipe.keeps_sums_in_range:
            # Rounded as they are: their steps stay.
            fit_weights(sim, recipe, prepared)
        after = exam.grade(simulated)
        if told.best_step and not after < before:
            log.warning("What was learnt in torch is no gain in the simulation, which stays as it was calibrated.")
            write_back(sim, prepared, start)
            told = told.model_copy(update={"best_step": 0})
    return told.model_copy(update={"loss_before": before, "loss_after": after if told.best_step else before})


def _as_network(sim: Any, config: ModelConfig, model: Path, device: str) -> Network:
    """A simulation as a function of torch's tensors."""
    predict = as_predictor(sim, config, model)
    return lambda images: [torch.from_numpy(array).to(device) for array in predict(images.cpu().numpy()).values()]
