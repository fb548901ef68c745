"""The aimet_onnx backend: any ONNX pose network that the user describes."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.interface import named_arrays
from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.models.onnx_model import name_nodes, output_names, prepare_onnx
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.quantization.aimet import (
    REFUSALS,
    aimet_config_file,
    checked_batches,
    config_rejected,
    import_aimet,
    quantized_tensors,
    vendor_warnings_muted,
)
from hpe_tasks.quantization.bias_correction import correct_onnx, with_biases
from hpe_tasks.quantization.equalization import proved_equalization
from hpe_tasks.quantization.float_activations import Code, left_float, with_codes, without
from hpe_tasks.quantization.normal_form import proved_normal_form
from hpe_tasks.quantization.ranges import (
    calibrate,
    freeze_weight_ranges,
    native_scheme,
    release_weight_ranges,
    set_weight_ranges,
)
from hpe_tasks.quantization.rounding import looked_at, round_onnx
from hpe_tasks.quantization.weight_grid import Grid, Layer, LayerWeights
from hpe_tasks.records.network import Distillation, NormalForm
from hpe_tasks.storage.files import write_atomically

if TYPE_CHECKING:
    from hpe_tasks.quantization.distillation import Lessons

MODEL_FILE = "model.onnx"
ENCODINGS_FILE = "encodings.json"

_COMPARED_IMAGES = 4
"""Images that the graph and its normal form are compared on."""

_ACTIVATIONS = {"Relu", "Clip"}
_UNKNOWN_OP = "DepthwiseConvTranspose"
_OFF_THE_GRID = 1 + 2**-10
_LAYOUT_OPS = {"QcQuantizeOp", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
_LINEAR_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}


def quantize(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    batches: Iterable[np.ndarray],
    out: Path,
    device: str,
    lessons: Lessons | None = None,
) -> tuple[Path, Path, NormalForm | None, Distillation | None]:
    """Calibrate and store; arguments and errors as for `hpe_tasks.quantization.quantize_model`."""
    model, encodings = out / MODEL_FILE, out / ENCODINGS_FILE
    with TemporaryDirectory(prefix="quantize-", dir=out) as folder:
        draft = Path(folder) / MODEL_FILE
        sim, form = calibrated_sim(config, recipe, checkpoint, batches, draft, device)
        distillation = None
        if recipe.distillation_steps and lessons is not None:
            # onnx2torch is not imported where nothing is distilled.
            from hpe_tasks.quantization.onnx_distillation import distil_sim

            distillation = distil_sim(sim, checkpoint, draft, config, recipe, lessons, device)
        with vendor_warnings_muted():
            sim.export(folder, "sim", export_model=False, encoding_version="1.0.0")
        (Path(folder) / "sim.encodings").replace(encodings)
        draft.replace(model)
    return model, encodings, form, distillation


def calibrated_sim(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    batches: Iterable[np.ndarray],
    prepared: Path,
    device: str,
) -> tuple[Any, NormalForm | None]:
    """The simulation (`aimet_onnx.QuantizationSimModel`) with ranges measured on the batches, and its graph's form.

    `prepared` is where the float graph that it simulates is written: cleaned, folded and equalized.
    """
    images, checked = looked_at(checked_batches(batches, config))
    folded, form = float_graph(config, recipe, checkpoint, images[0], prepared)
    onnx.save(with_biases(folded) if recipe.bias_correction else folded, prepared)
    with vendor_warnings_muted():
        sim = build_sim(prepared, config, recipe, device)
        if recipe.looks_at_outputs:
            reference = onnx.load(prepared)
            set_weight_ranges(sim, recipe)
            release_weight_ranges(sim)
            weights = partial(weights_of, sim, recipe) if recipe.keeps_sums_in_range else None
            round_onnx(sim, list(_feeds(images, sim.model.model, config)), recipe, weights)
            _keep_constants(sim, prepared)
            freeze_weight_ranges(sim)
        calibrate(sim, _feeds(checked, sim.model.model, config), recipe)
        release_weight_ranges(sim)
        if recipe.bias_correction:
            correct_onnx(sim, reference, _feeds(images, sim.model.model, config))
            _keep_constants(sim, prepared)
        _avoid_ties(sim)
        if recipe.keeps_sums_in_range:
            fit_weights(sim, recipe, prepared)
    return sim, form


def float_graph(
    config: ModelConfig, recipe: QuantizationRecipe, checkpoint: Path, images: np.ndarray, prepared: Path
) -> tuple[onnx.ModelProto, NormalForm | None]:
    """The graph that is simulated, still in float: cleaned, folded and equalized.

    Args:
        config: The network.
        recipe: What is done to it.
        checkpoint: The user's file.
        images: The first calibration images, as `looked_at` gives them: what ranges of channels are measured on.
        prepared: Where the graph is written once it is cleaned.
    """
    prepare_onnx(checkpoint, prepared, config)
    with vendor_warnings_muted():
        graph, form = _simplified(onnx.load(prepared), recipe, images[:_COMPARED_IMAGES], config)
        graph = _fold_and_equalize(graph, recipe)
    if not recipe.channel_equalization:
        return graph, form
    graph, evened = proved_equalization(graph, list(_feeds([images], graph, config)))
    nodes = len(graph.graph.node)
    form = form or NormalForm(applied=False, nodes_before=nodes, nodes_after=nodes, reason="nothing is to be folded")
    return graph, form.model_copy(update={"equalization": evened})


def _simplified(
    model: onnx.ModelProto, recipe: QuantizationRecipe, images: np.ndarray, config: ModelConfig
) -> tuple[onnx.ModelProto, NormalForm | None]:
    """The graph in the form that is quantized; see `proved_normal_form`."""
    if not recipe.fold_batch_norms:
        return model, None
    simplified, form = proved_normal_form(model, _feeds([images], model, config))
    name_nodes(simplified)
    return simplified, form


def build_sim(model: Path, config: ModelConfig, recipe: QuantizationRecipe, device: str) -> Any:
    """An uncalibrated `aimet_onnx.QuantizationSimModel`, with AIMET's rules adapted to onnxruntime's kernels."""
    aimet_onnx = import_aimet("aimet_onnx")
    import onnxruntime as ort

    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    # AIMET's own scratch folder is removed in a destructor that fails while the interpreter shuts down.
    scratch = mkdtemp(prefix="hpe-quantsim-")
    with aimet_config_file(recipe, "aimet_onnx") as config_file:
        try:
            sim = aimet_onnx.QuantizationSimModel(
                onnx.load(model),
                param_type=f"int{recipe.param_bw}",
                activation_type=f"int{recipe.activation_bw}",
                quant_scheme=native_scheme(recipe.scheme),
                config_file=config_file,
                providers=providers,
                path=scratch,
            )
        except REFUSALS as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise config_rejected(recipe, error) from error
    weakref.finalize(sim, shutil.rmtree, scratch, ignore_errors=True)
    if native_scheme(recipe.weight_ranges) != native_scheme(recipe.scheme):
        scheme = import_aimet("aimet_onnx.common.defs").QuantScheme.from_str(native_scheme(recipe.weight_ranges))
        for name in sim.param_names:
            sim.qc_quantize_op_dict[name].set_quant_scheme(scheme)
    _leave_bounds_float(sim)
    _fuse_activations(sim)
    _untie_concatenations(sim)
    if CODECS[config.codec].float_outputs:
        _leave_outputs_float(sim, output_names(sim.model.model, config, model).values())
    if recipe.granularity == "per_channel" and recipe.aimet_config is None:
        _quantize_depthwise_transposes_per_channel(sim)
    return sim


def _avoid_ties(sim: Any) -> None:
    """Widen the input's step a little, so that no pixel lies half-way between two codes.

    Pixels have 256 values of their own. Normalized with a mean of 0.5 each may be a tie, which AIMET's operator rounds
    up and onnxruntime to the even code: of EfficientPose's inputs every ninth differed.
    """
    for tensor in sim.model.model.graph.input:
        quantizer = sim.qc_quantize_op_dict.get(tensor.name)
        if quantizer is None or not quantizer.enabled:
            continue
        encodings = quantizer.get_encodings()
        for encoding in encodings:
            encoding.delta *= _OFF_THE_GRID
            encoding.min *= _OFF_THE_GRID
            encoding.max *= _OFF_THE_GRID
        quantizer.load_encodings(encodings)


def fit_weights(sim: Any, recipe: QuantizationRecipe, prepared: Path) -> None:
    """Put all weights on a grid on which no int8 kernel can clip, in the simulation and in its float graph."""
    for each in weights_of(sim, recipe):
        each.store(each.fitted())
    _keep_constants(sim, prepared)


def _keep_constants(sim: Any, prepared: Path) -> None:
    """Let the simulation run on its weights and biases as they are now, and write them into its float graph."""
    sim._rebuild_session()
    float_model = onnx.load(prepared)
    now = {t.name: t for t in sim.model.model.graph.initializer}
    for tensor in float_model.graph.initializer:
        if tensor.name in now:
            tensor.CopyFrom(now[tensor.name])
    onnx.save(float_model, prepared)


def weights_of(sim: Any, recipe: QuantizationRecipe) -> Iterator[LayerWeights]:
    """Every layer's weights that have a range of 8 bits; `_keep_constants` follows what is stored."""
    for node, tensor, quantizer in _weighted_layers(sim):
        encodings = quantizer.get_encodings()
        yield LayerWeights(
            tensor.name,
            numpy_helper.to_array(tensor),
            np.array([encoding.delta for encoding in encodings]),
            np.array([-128 - encoding.offset for encoding in encodings]),
            _layer_of(node, tensor, recipe),
            partial(_store_weights, tensor, quantizer),
        )


def _store_weights(tensor: onnx.TensorProto, quantizer: Any, grid: Grid) -> None:
    tensor.CopyFrom(numpy_helper.from_array(grid.values, tensor.name))
    encodings = quantizer.get_encodings()
    for encoding, step, zero in zip(encodings, grid.scale, grid.zero_point, strict=True):
        encoding.delta = float(step)
        encoding.offset = float(-128 - zero)
        encoding.min, encoding.max = float((-128 - zero) * step), float((127 - zero) * step)
    quantizer.load_encodings(encodings)


def _weighted_layers(sim: Any) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto, Any]]:
    """Every layer with a quantized kernel or matrix, that, and its quantizer."""
    graph = sim.model.model.graph
    tensors = {t.name: t for t in graph.initializer}
    source = quantized_tensors(graph)
    for node in graph.node:
        for name in (source.get(given, given) for given in node.input if node.op_type != "QcQuantizeOp"):
            quantizer = sim.qc_quantize_op_dict.get(name)
            if name in tensors and quantizer is not None and quantizer.enabled and len(tensors[name].dims) > 1:
                yield node, tensors[name], quantizer


def _layer_of(node: onnx.NodeProto, weight: onnx.TensorProto, recipe: QuantizationRecipe) -> Layer:
    """How the kernels run through the weights of a layer."""
    attributes = attributes_of(node)
    groups, outputs = attributes.get("group", 1), weight.dims[0]
    if node.op_type == "Conv":
        return Layer("free" if 1 < groups == outputs and weight.dims[1] == 1 else "conv", 0)
    if node.op_type == "ConvTranspose":
        split = recipe.subpixel_deconvolution and list(weight.dims[2:]) == [4, 4]
        # Depthwise ones have their channels along the first axis.
        return Layer("phases", 1) if split and groups == 1 else Layer("free", 1 if groups == 1 else 0)
    if node.op_type in {"Gemm", "MatMul"} and len(weight.dims) == 2:
        return Layer("conv", 0 if attributes.get("transB", 0) else 1)
    return Layer("free", 0)


def load_sim(config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, device: str) -> Any:
    """Rebuild the stored simulation with its calibrated ranges."""
    quantsim = import_aimet("aimet_onnx.quantsim")
    with vendor_warnings_muted():
        sim = build_sim(model, config, recipe, device)
        try:
            _turn_off(sim, left_float(encodings))
            quantsim.load_encodings_to_sim(sim, str(encodings), strict=True, allow_overwrite=False)
        except (*REFUSALS, OSError) as error:
            raise QuantizationError(
                f"{encodings} does not belong to {model} and this recipe: {error}",
                hint="Run the step `quantize` again.",
            ) from error
    return sim


def _turn_off(sim: Any, names: Iterable[str]) -> None:
    """Leave these activations float, and what shares a quantizer with them as it is: a concatenation with its parts."""
    off = {}
    for name in names:
        off[name] = sim.qc_quantize_op_dict[name]._copy()
        off[name].enabled = False
    if off:
        sim.set_quantizers(off)


def leave_float(encodings: Path, names: Iterable[str]) -> None:
    """As `hpe_tasks.quantization.leave_float`."""
    write_atomically(encodings, without(encodings, names))


def set_codes(encodings: Path, codes: Mapping[str, Code]) -> None:
    """As `hpe_tasks.quantization.set_codes`."""
    write_atomically(encodings, with_codes(encodings, codes))


def predictor(
    config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, device: str
) -> Callable[[np.ndarray], Arrays]:
    """As `hpe_tasks.quantization.load_quantsim`."""
    return as_predictor(load_sim(config, recipe, model, encodings, device), config, model)


def as_predictor(sim: Any, config: ModelConfig, model: Path) -> Callable[[np.ndarray], Arrays]:
    """A simulation of `model` as a function from images N×3×H×W to the arrays of its codec; see `load_quantsim`."""
    names = output_names(sim.model.model, config, model)

    def predict(images: np.ndarray) -> Arrays:
        parts = [
            named_arrays(sim.session.run(list(names.values()), feed), names, config, model)
            for feed in _feeds([images], sim.model.model, config)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    return predict


def _feeds(
    batches: Iterable[np.ndarray], model: onnx.ModelProto, config: ModelConfig
) -> Iterator[dict[str, np.ndarray]]:
    """Batches as the graph takes them: its layout, and one image at a time where its batch is fixed."""
    tensor = model.graph.input[0]
    fixed = tensor.type.tensor_type.shape.dim[0].dim_value == 1
    for batch in batches:
        images = batch if config.input_layout == "nchw" else batch.transpose(0, 2, 3, 1)
        pieces = np.split(images, len(images)) if fixed else [images]
        for piece in pieces:
            yield {tensor.name: np.ascontiguousarray(piece)}


def _fold_and_equalize(model: onnx.ModelProto, recipe: QuantizationRecipe) -> onnx.ModelProto:
    # Exporters store equal tensors once, but each layer's bias is quantized in a scale of its own.
    import_aimet("aimet_onnx.utils").duplicate_shared_initializers(model.graph)
    if recipe.cross_layer_equalization:
        # Folds batch norms first and turns ReLU6 between convolutions into ReLU.
        with _hidden_depthwise_transposes(model):
            import_aimet("aimet_onnx.cross_layer_equalization").equalize_model(model)
    elif recipe.fold_batch_norms:
        import_aimet("aimet_onnx.batch_norm_fold").fold_all_batch_norms_to_weight(model)
    return model


@contextmanager
def _hidden_depthwise_transposes(model: onnx.ModelProto) -> Iterator[None]:
    """Let AIMET take depthwise transposed convolutions for operators that it does not know, and leave them as they are.

    It equalizes them as if they were dense, and writes a weight of C×C×k×k where the graph says C×1×k×k.
    """
    hidden = [
        node for node in model.graph.node if node.op_type == "ConvTranspose" and attributes_of(node).get("group", 1) > 1
    ]
    for node in hidden:
        node.op_type = _UNKNOWN_OP
    try:
        yield
    finally:
        for node in model.graph.node:
            if node.op_type == _UNKNOWN_OP:
                node.op_type = "ConvTranspose"


def _leave_bounds_float(sim: Any) -> None:
    """Do not quantize the bounds of Clip, which AIMET takes for activations."""
    graph = sim.model.model.graph
    source = quantized_tensors(graph)
    for node in graph.node:
        if node.op_type == "Clip":
            for name in node.input[1:]:
                quantizer = sim.qc_quantize_op_dict.get(source.get(name, name))
                if quantizer is not None:
                    quantizer.enabled = False


def _fuse_activations(sim: Any) -> None:
    """Quantize a layer and the ReLU or Clip after it once, behind the activation: see the torch backend."""
    graph = sim.model.model.graph
    outputs = {o.name for o in graph.output}
    quantizers = sim.qc_quantize_op_dict
    consumers: dict[str, list[onnx.NodeProto]] = {}
    # A quantizer node stands between each producer and its consumers.
    source = quantized_tensors(graph)
    for node in graph.node:
        if node.op_type != "QcQuantizeOp":
            for name in node.input:
                consumers.setdefault(source.get(name, name), []).append(node)
    untied = {}
    for node in graph.node:
        if node.op_type not in _LINEAR_OPS or node.output[0] in outputs:
            continue
        after = consumers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type not in _ACTIVATIONS or after[0].input[0] == "":
            continue
        own, activation = quantizers.get(node.output[0]), quantizers.get(after[0].output[0])
        if own is None or activation is None or not activation.enabled:
            continue
        if own is activation:
            # Behind a depthwise layer AIMET lets a ReLU share the layer's quantizer.
            own = untied[node.output[0]] = own._copy()
        own.enabled = False
    if untied:
        sim.set_quantizers(untied)


def _untie_concatenations(sim: Any) -> None:
    """Give what is concatenated and the result ranges of their own: see the torch backend.

    Where a part is a concatenation itself, AIMET ties the result to the other part alone: its range then clips all that
    is larger, which was two thirds of the values in a pose machine that hands its maps from stage to stage.
    """
    graph, quantizers = sim.model.model.graph, sim.qc_quantize_op_dict
    source = quantized_tensors(graph)
    untied = {}
    for node in graph.node:
        own = quantizers.get(node.output[0]) if node.op_type == "Concat" else None
        if own is not None and any(own is quantizers.get(source.get(name, name)) for name in node.input):
            untied[node.output[0]] = own._copy()
    if untied:
        sim.set_quantizers(untied)


def _leave_outputs_float(sim: Any, names: Iterable[str]) -> None:
    """Do not quantize what the network gives, nor what it only lays out anew: see the torch backend."""
    graph = sim.model.model.graph
    producer = {name: node for node in graph.node for name in node.output}
    for output in names:
        tensor: str | None = output
        while tensor is not None:
            quantizer = sim.qc_quantize_op_dict.get(tensor)
            if quantizer is not None:
                quantizer.enabled = False
            node = producer.get(tensor)
            tensor = node.input[0] if node is not None and node.op_type in _LAYOUT_OPS else None


def _quantize_depthwise_transposes_per_channel(sim: Any) -> None:
    """Give each channel of a depthwise transposed convolution its scale: see the torch backend."""
    tensors = {t.name: t for t in sim.model.model.graph.initializer}
    source = quantized_tensors(sim.model.model.graph)
    for node in sim.model.model.graph.node:
        if node.op_type != "ConvTranspose":
            continue
        name = source.get(node.input[1], node.input[1])
        quantizer, weight = sim.qc_quantize_op_dict.get(name), tensors.get(name)
        if quantizer is None or weight is None:
            continue
        group = attributes_of(node).get("group", 1)
        if 1 < group == weight.dims[0] and weight.dims[1] == 1:
            quantizer.tensor_quantizer_params.channel_axis = 0
            quantizer.enable_per_channel_quantization()
