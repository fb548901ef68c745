"""The aimet_torch backend: networks that the project builds itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.models.full_precision import as_function, full_float32
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.models.memory import Portions
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.quantization.aimet import (
    REFUSALS,
    aimet_config_file,
    checked_batches,
    config_rejected,
    import_aimet,
    vendor_warnings_muted,
)
from hpe_tasks.quantization.bias_correction import add_biases, correct_torch
from hpe_tasks.quantization.distillation import Exam, Lessons, distil
from hpe_tasks.quantization.float_activations import Code, code_range, left_float, with_codes, without
from hpe_tasks.quantization.grid_limit import GridLimit
from hpe_tasks.quantization.ranges import BY_ANALYZER, encoding_analyzer, native_scheme, set_analyzers, statistics
from hpe_tasks.quantization.rounding import looked_at, release_torch, round_torch
from hpe_tasks.quantization.torch_student import learnt_tensors
from hpe_tasks.quantization.weight_grid import Grid, Layer, LayerWeights
from hpe_tasks.records.network import Distillation
from hpe_tasks.storage.files import sha256_file, write_atomically

MODEL_FILE = "model.safetensors"
ENCODINGS_FILE = "encodings.json"

_ACTIVATIONS = {"Relu", "Clip"}
_LINEAR_OPS = {"Conv", "ConvTranspose", "Gemm", "Add"}
_STATE_SUFFIX = "._extra_state"


def quantize(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    batches: Iterable[np.ndarray],
    out: Path,
    device: str,
    lessons: Lessons | None = None,
) -> tuple[Path, Path, None, Distillation | None]:
    """Calibrate and store; arguments and errors as for `hpe_tasks.quantization.quantize_model`."""
    sim, distillation = calibrated_sim(config, recipe, checkpoint, batches, device), None
    if recipe.distillation_steps and lessons is not None:
        network = float_network(config, recipe, checkpoint)
        distillation = distil_sim(sim, network, config, recipe, lessons, device)
    return *_store(sim, out), None, distillation


def distil_sim(
    sim: Any, network: nn.Module, config: ModelConfig, recipe: QuantizationRecipe, lessons: Lessons, device: str
) -> Distillation:
    """Teach a calibrated simulation what the float network gives; see `distil`."""
    with vendor_warnings_muted():
        student, exam = sim.model.eval(), Exam(network.to(device).eval(), lessons, config, device)
        weights = list(weights_of(sim, recipe)) if recipe.keeps_sums_in_range else []
        limits = {each.name: GridLimit(each, torch.device(device)) for each in weights}
        told = distil(student, exam, learnt_tensors(student, limits), lessons, recipe, device)
        if recipe.keeps_sums_in_range:
            # Rounded as they are: their steps stay.
            _fit_weights(sim, recipe)
            told = told.model_copy(update={"loss_after": exam.grade(student)})
    return told


def calibrated_sim(
    config: ModelConfig, recipe: QuantizationRecipe, checkpoint: Path, batches: Iterable[np.ndarray], device: str
) -> Any:
    """The simulation (`aimet_torch.QuantizationSimModel`) with ranges measured on the batches."""
    images, checked = looked_at(checked_batches(batches, config))

    def calibrate(model: nn.Module) -> None:
        portions = Portions(partial(statistics, model))

        def look(images: np.ndarray) -> None:
            model(torch.from_numpy(images).to(device))

        with torch.no_grad(), full_float32():
            for batch in checked:
                portions.run(batch, look)

    with vendor_warnings_muted(), full_float32():
        prepared = float_network(config, recipe, checkpoint)
        reference = copy.deepcopy(prepared).to(device) if recipe.looks_at_outputs else None
        sim = build_sim(prepared, config, recipe, device)
        if reference is not None:
            weights = partial(weights_of, sim, recipe) if recipe.keeps_sums_in_range else None
            round_torch(sim, reference, images, recipe, weights)
        sim.compute_encodings(calibrate)
        if reference is not None:
            release_torch(sim)
        if reference is not None and recipe.bias_correction:
            correct_torch(sim, reference, images)
    uncalibrated = [name for name, quantizer in sim.named_quantizers() if not quantizer.is_initialized()]
    if uncalibrated:
        raise QuantizationError(f"Calibration left these quantizers without a range: {', '.join(uncalibrated[:5])}.")
    if recipe.keeps_sums_in_range:
        _fit_weights(sim, recipe)
    return sim


def float_network(config: ModelConfig, recipe: QuantizationRecipe, checkpoint: Path) -> nn.Module:
    """The network that is simulated, still in float: folded and equalized, every operation a module."""
    if recipe.channel_equalization:
        raise QuantizationError(
            f"recipe.channel_equalization is for ONNX files, and {config.architecture} is built by the project.",
            hint="Set recipe.cross_layer_equalization=true instead, or export the network to ONNX first.",
        )
    network = build_model(config)
    load_checkpoint(network, checkpoint)
    with vendor_warnings_muted():
        return _prepare(network, config, recipe, equalize=recipe.cross_layer_equalization)


def load_sim(config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, device: str) -> Any:
    """Rebuild the stored simulation (`aimet_torch.QuantizationSimModel`) with its calibrated ranges."""
    tensors = _read(model, encodings)
    with vendor_warnings_muted():
        # Folding only shapes the modules here; the tensors of the file replace all values, equalized ones included.
        sim = build_sim(_prepare(build_model(config), config, recipe, equalize=False), config, recipe, device)
    _turn_off(sim, left_float(encodings))
    try:
        result = sim.model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise QuantizationError(f"{model} does not fit {config.architecture}: {error}") from error
    missing = [key for key in result.missing_keys if not key.endswith(_STATE_SUFFIX)]
    if missing or result.unexpected_keys:
        raise QuantizationError(
            f"{model} was not made by this configuration and recipe: missing {missing[:3]}, "
            f"unexpected {result.unexpected_keys[:3]}.",
            hint="Run the step `quantize` again.",
        )
    return sim


def leave_float(model: Path, encodings: Path, names: Iterable[str]) -> None:
    """As `hpe_tasks.quantization.leave_float`."""
    tensors, off = _read(model, encodings), set(names)
    write_atomically(encodings, without(encodings, off))
    _write({key: tensor for key, tensor in tensors.items() if key.rpartition(".")[0] not in off}, model, encodings)


def set_codes(model: Path, encodings: Path, codes: Mapping[str, Code]) -> None:
    """As `hpe_tasks.quantization.set_codes`."""
    tensors = _read(model, encodings)
    write_atomically(encodings, with_codes(encodings, codes))
    for name, code in codes.items():
        for end, value in zip(("min", "max"), code_range(code), strict=True):
            tensors[f"{name}.{end}"].fill_(value)
    _write(tensors, model, encodings)


def _turn_off(sim: Any, names: Iterable[str]) -> None:
    modules = dict(sim.model.named_modules())
    for name in names:
        quantizers, _, index = name.rpartition(".")
        if quantizers not in modules:
            raise QuantizationError(
                f"The network has no quantizer {name!r}, which the stored simulation leaves out.",
                hint="Run the step `quantize` again.",
            )
        modules[quantizers][int(index)] = None


def predictor(
    config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, device: str
) -> Callable[[np.ndarray], Arrays]:
    """As `hpe_tasks.quantization.load_quantsim`."""
    return as_predictor(load_sim(config, recipe, model, encodings, device), config, device)


def as_predictor(sim: Any, config: ModelConfig, device: str) -> Callable[[np.ndarray], Arrays]:
    """A simulation as a function from images N×3×H×W to the arrays that the codec reads; see `load_quantsim`."""
    return as_function(sim.model.eval(), tuple(output_shapes(config)), device)


def example_input(config: ModelConfig, device: str = "cpu") -> torch.Tensor:
    """One blank image, 1×3×H×W, for tracing."""
    width, height = config.input_size
    return torch.zeros(1, 3, height, width, device=device)


def _prepare(network: nn.Module, config: ModelConfig, recipe: QuantizationRecipe, *, equalize: bool) -> nn.Module:
    """The network as it is quantized: every operation a module of its own, batch norms folded, layers equalized.

    Additions become modules and reused activations get copies; otherwise AIMET leaves them unquantized in silence.
    Equalization leaves layers around a ReLU6 as they are: only a positively homogeneous activation lets scales move.
    Replacing ReLU6 by ReLU first does not help: on a pose_mobilenet trained on the sample it took the float heatmaps to
    19 dB SQNR (AP 0.609 of 0.616), where quantization with ReLU6 kept 28 dB.
    """
    prepared: nn.Module = import_aimet("aimet_torch.model_preparer").prepare_model(network.eval().cpu())
    folded: list[tuple[nn.Module, nn.Module]] = []
    shape, example = tuple(example_input(config).shape), example_input(config)
    if recipe.fold_batch_norms or recipe.cross_layer_equalization:
        folding = import_aimet("aimet_torch.batch_norm_fold")
        # AIMET demands the shape although the example input says it.
        folded = folding.fold_all_batch_norms(prepared, shape, dummy_input=example)
    if recipe.bias_correction:
        add_biases(prepared)
    if equalize:
        cle = import_aimet("aimet_torch.cross_layer_equalization")
        cle.equalize_bn_folded_model(prepared, shape, folded, dummy_input=example)
    return prepared


def build_sim(prepared: nn.Module, config: ModelConfig, recipe: QuantizationRecipe, device: str) -> Any:
    """An uncalibrated simulation of a prepared network, with AIMET's rules adapted to onnxruntime's kernels."""
    scheme = import_aimet("aimet_torch.common.defs").QuantScheme
    quantsim = import_aimet("aimet_torch.quantsim")
    with aimet_config_file(recipe, "aimet_torch") as config_file:
        try:
            sim = quantsim.QuantizationSimModel(
                prepared.to(device),
                example_input(config, device),
                quant_scheme=scheme.from_str(native_scheme(recipe.scheme)),
                default_param_bw=recipe.param_bw,
                default_output_bw=recipe.activation_bw,
                config_file=config_file,
                in_place=True,
            )
        except REFUSALS as error:
            raise config_rejected(recipe, error) from error
    set_analyzers(sim, recipe)
    _fuse_activations(sim)
    _untie_concatenations(sim)
    if CODECS[config.codec].float_outputs:
        _leave_outputs_float(sim)
    if recipe.granularity == "per_channel" and recipe.aimet_config is None:
        _quantize_depthwise_transposes_per_channel(sim, recipe)
    return sim


def _fuse_activations(sim: Any) -> None:
    """Quantize a layer and the ReLU after it once, at the ReLU.

    AIMET does so for ordinary convolutions but not for depthwise ones, whose target hardware cannot; it ties the ranges
    of the two instead, which spends half of the codes on values that the ReLU removes. onnxruntime can.
    """
    for op in sim.connected_graph.ordered_ops:
        if op.type in _LINEAR_OPS and len(op.output_ops) == 1 and op.output_ops[0].type in _ACTIVATIONS:
            # The graph of the simulation has no public way from an operation to its quantized module.
            layer, activation = sim._get_qmodule(op), sim._get_qmodule(op.output_ops[0])
            if layer is not None and activation is not None and activation.output_quantizers[0] is not None:
                layer.output_quantizers[0] = None


def _leave_outputs_float(sim: Any) -> None:
    """Do not quantize what the network gives; its last layers run on codes all the same."""
    for op in sim.connected_graph.ordered_ops:
        layer = sim._get_qmodule(op)
        if not op.output_ops and layer is not None and getattr(layer, "output_quantizers", None):
            layer.output_quantizers[0] = None


def _untie_concatenations(sim: Any) -> None:
    """Give everything that is concatenated a range of its own.

    AIMET gives it the one range of the result. Where one part reaches below zero, the codes of a ReLU's result then no
    longer begin at zero: onnxruntime has to run it in float, with the layer before it. Its concatenation takes parts of
    different scales.
    """
    concat = import_aimet("aimet_torch.nn.modules.custom").Concat
    layers = [module for module in sim.model.modules() if hasattr(module, "output_quantizers")]
    joined = [module.output_quantizers[0] for module in layers if isinstance(module, concat)]
    for module in layers:
        if not isinstance(module, concat) and any(module.output_quantizers[0] is quantizer for quantizer in joined):
            module.output_quantizers[0] = copy.deepcopy(module.output_quantizers[0])


def _quantize_depthwise_transposes_per_channel(sim: Any, recipe: QuantizationRecipe) -> None:
    """Give each channel of a depthwise transposed convolution its scale.

    Their weight is C×1×k×k: AIMET takes the axis of ordinary transposed convolutions, which has length 1 here.
    """
    for module in sim.model.modules():
        quantizers = getattr(module, "param_quantizers", None)
        if not isinstance(module, nn.ConvTranspose2d) or not quantizers or quantizers["weight"] is None:
            continue
        if not 1 < module.groups == module.in_channels == module.out_channels:
            continue
        old, shape = quantizers["weight"], (module.in_channels, 1, 1, 1)
        kind = type(old.encoding_analyzer)
        by_recipe = recipe.weight_ranges in BY_ANALYZER
        analyzer = encoding_analyzer(recipe.weight_ranges, recipe, shape) if by_recipe else kind(shape)
        new = type(old)(shape, old.qmin, old.qmax, old.symmetric, encoding_analyzer=analyzer)
        quantizers["weight"] = new.to(module.weight.device)


def _fit_weights(sim: Any, recipe: QuantizationRecipe) -> None:
    """Put all weights on a grid on which no int8 kernel can clip: in the simulation and so in the file."""
    for each in weights_of(sim, recipe):
        each.store(each.fitted())


@torch.no_grad()
def weights_of(sim: Any, recipe: QuantizationRecipe) -> Iterator[LayerWeights]:
    """Every layer's weights that have a range of 8 bits."""
    for name, module in sim.model.named_modules():
        quantizers = getattr(module, "param_quantizers", {})
        if "weight" not in quantizers or quantizers["weight"] is None or module.weight.dim() < 2:
            continue
        quantizer = quantizers["weight"]
        low, high = quantizer.get_min(), quantizer.get_max()
        step = (high - low) / 255
        yield LayerWeights(
            name,
            module.weight.cpu().numpy().copy(),
            step.cpu().numpy(),
            torch.round(-low / step).cpu().numpy() - 128,
            _layer_of(module, recipe),
            partial(_store_weights, module),
        )


@torch.no_grad()
def _store_weights(module: Any, grid: Grid) -> None:
    quantizer = module.param_quantizers["weight"]
    low = quantizer.get_min()
    module.weight.copy_(torch.from_numpy(grid.values))
    scale, zero = (torch.from_numpy(values).reshape(low.shape).to(low) for values in (grid.scale, grid.zero_point))
    quantizer.set_range((-128 - zero) * scale, (127 - zero) * scale)


def _layer_of(module: Any, recipe: QuantizationRecipe) -> Layer:
    """How the kernels run through the module's weights."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    groups = getattr(module, "groups", 1)
    if groups > 1 and module.in_channels == groups == module.out_channels:
        return Layer("free", 0)
    if not transposed:
        return Layer("conv", 0)
    split = recipe.subpixel_deconvolution and (module.kernel_size, module.stride, module.padding) == (
        (4, 4),
        (2, 2),
        (1, 1),
    )
    return Layer("phases" if split and groups == 1 else "free", 1)


def _store(sim: Any, out: Path) -> tuple[Path, Path]:
    """Write weights, ranges and encodings.

    AIMET's JSON rounds ranges on the way back in, so the calibrated tensors themselves lie beside the weights; the JSON
    is what other tools read. The digest ties the two files together.
    """
    with vendor_warnings_muted():
        activations, parameters = sim.get_activation_param_encodings()
    version = import_aimet("aimet_torch").__version__
    content = {
        "producer": {"package": "aimet-torch", "version": version},
        "version": "0.6.1",
        "activation_encodings": activations,
        "param_encodings": parameters,
    }
    encodings, model = out / ENCODINGS_FILE, out / MODEL_FILE
    write_atomically(encodings, json.dumps(content, indent=1, sort_keys=True).encode())
    state = {key: value for key, value in sim.model.state_dict().items() if isinstance(value, torch.Tensor)}
    # Tied quantizers share memory, which the format refuses.
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    _write(tensors, model, encodings)
    return model, encodings


def _write(tensors: dict[str, torch.Tensor], model: Path, encodings: Path) -> None:
    partial = model.with_suffix(".part")
    save_file(tensors, partial, metadata={"encodings_sha256": sha256_file(encodings)})
    partial.replace(model)


def _read(model: Path, encodings: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(model, framework="pt") as file:
            promised = (file.metadata() or {}).get("encodings_sha256")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"{model} cannot be read: {error}", hint="Run the step `quantize` again.") from error
    if promised != sha256_file(encodings):
        raise QuantizationError(f"{encodings} does not belong to {model}.", hint="Run the step `quantize` again.")
    return tensors
