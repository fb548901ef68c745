"""From a calibrated simulation to the file that ships: one ONNX file with int8 weights, and its encodings beside it.

The torch backend names the input `image` (batch×3×H×W float32, normalized) and the output `heatmaps`
(batch×J×H/4×W/4 float32); the batch is free. With codec `paf` the outputs are `pafs` (batch×38×H/8×W/8) and `heatmaps`
(batch×19×H/8×W/8), and height and width are free as well. The onnx backend keeps the names and dimensions of the user's
file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hpe_tasks.config import ModelConfig, QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.network_interface import OUTPUT_NAMES

INPUT_NAME = "image"
MODEL_FILE = "model.onnx"
ENCODINGS_FILE = "encodings.json"

# QuantizeLinear knows 4- and 16-bit integers from opset 21 on. 8 bits stay at 17, which older runtimes read as well.
_OPSET = 17
_WIDE_OPSET = 21


def export_onnx(config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, out: Path) -> Path:
    """Write `out/model.onnx` and `out/encodings.json`; returns the former.

    Weights are stored as signed integers with DequantizeLinear, activations pass QuantizeLinear/DequantizeLinear pairs
    with unsigned 8-bit codes: the form that onnxruntime fuses into its fastest integer kernels.

    Args:
        config: The network that was quantized.
        recipe: The recipe that it was quantized with.
        model: `QuantizedFiles.model`.
        encodings: `QuantizedFiles.encodings`.
        out: Existing folder.

    Raises:
        QuantizationError: The files do not belong together, `out` is their own folder, or the result is no valid
            self-contained ONNX file.
    """
    if out.resolve() == model.resolve().parent:
        raise QuantizationError(f"{out} holds the network that is exported.", hint="Export to another folder.")
    with TemporaryDirectory(prefix="export-", dir=out) as folder:
        if config.architecture == "onnx":
            exported = _from_onnx(recipe, model, encodings)
        else:
            exported = _from_torch(config, recipe, model, encodings, Path(folder))
        _drop_redundant_clips(exported)
        _merge_repeated_quantizers(exported)
        _align_biases(exported)
        _sign_weights(exported)
        _describe(exported, config, recipe)
        draft = Path(folder) / MODEL_FILE
        onnx.save(exported, draft)
        check_onnx(draft)
        shutil.copyfile(encodings, out / ENCODINGS_FILE)
        draft.replace(out / MODEL_FILE)
    return out / MODEL_FILE


def check_onnx(path: Path) -> None:
    """Raise QuantizationError unless the file is valid, complete in itself and of opset 13 or later."""
    model = onnx.load(path, load_external_data=False)
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise QuantizationError(f"{path.name} keeps {len(external)} tensors in other files, such as {external[0]!r}.")
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < 13:
        raise QuantizationError(f"{path.name} has opset {opset}; int8 weights per channel need 13.")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise QuantizationError(f"{path.name} is not valid ONNX: {error}") from error


def _from_torch(
    config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, folder: Path
) -> onnx.ModelProto:
    from hpe_tasks.quantization.aimet import import_aimet, vendor_warnings_muted
    from hpe_tasks.quantization.torch_backend import example_input, load_sim

    sim = load_sim(config, recipe, model, encodings, "cpu")
    file = folder / "torch.onnx"
    outputs = OUTPUT_NAMES[config.codec]
    free_input, free_output = {0: "batch"}, {0: "batch"}
    if config.codec == "paf":
        free_input |= {2: "height", 3: "width"}
        free_output |= {2: "map_height", 3: "map_width"}
    wide = recipe.param_bw != 8 or recipe.activation_bw != 8
    with vendor_warnings_muted():
        import_aimet("aimet_torch.onnx").export(
            sim.model.eval(),
            (example_input(config),),
            str(file),
            input_names=[INPUT_NAME],
            output_names=list(outputs),
            dynamic_axes={INPUT_NAME: free_input, **dict.fromkeys(outputs, free_output)},
            opset_version=_WIDE_OPSET if wide else _OPSET,
            # The dynamo exporter leaves float weights in an external file.
            dynamo=False,
            prequantize_constants=True,
        )
    return onnx.load(file)


def _from_onnx(recipe: QuantizationRecipe, model: Path, encodings: Path) -> onnx.ModelProto:
    from hpe_tasks.quantization.aimet import vendor_warnings_muted
    from hpe_tasks.quantization.onnx_backend import load_sim

    sim = load_sim(recipe, model, encodings, "cpu")
    with vendor_warnings_muted():
        exported: onnx.ModelProto = sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)
    return exported


def _drop_redundant_clips(model: onnx.ModelProto) -> None:
    """Remove every Clip whose result only feeds a QuantizeLinear that saturates at least as tightly.

    onnxruntime removes a ReLU there by itself, but keeps a ReLU6 whose upper bound differs from the largest code by
    rounding, and then runs it in float between two conversions.
    """
    graph = model.graph
    constants = _constants(graph)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    removed = []
    for node in graph.node:
        if node.op_type != "Clip" or node.output[0] in outputs:
            continue
        quantizers = consumers.get(node.output[0], [])
        if quantizers and all(_saturates_within(q, node, constants) for q in quantizers):
            for quantizer in quantizers:
                quantizer.input[0] = node.input[0]
            removed.append(node)
    for node in removed:
        graph.node.remove(node)


def _saturates_within(quantizer: onnx.NodeProto, clip: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether quantizing gives the same codes with and without the Clip: both bounds map to the extreme codes."""
    if quantizer.op_type != "QuantizeLinear" or len(quantizer.input) < 3:
        return False
    bounds = [clip.input[i] if len(clip.input) > i else "" for i in (1, 2)]
    if any(name not in constants for name in (*quantizer.input[1:3], *(b for b in bounds if b))):
        return False
    scale, zero = (constants[name] for name in quantizer.input[1:3])
    if scale.size != 1 or not np.issubdtype(zero.dtype, np.integer):
        return False
    codes = np.iinfo(zero.dtype)
    for name, extreme in zip(bounds, (codes.min, codes.max), strict=True):
        if not name:
            continue
        bound = constants[name].astype(np.float32)
        code = np.rint(bound / scale) + int(zero)
        if (extreme == codes.min and code > extreme) or (extreme == codes.max and code < extreme):
            return False
    return True


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers and Constant nodes, and of scalars that AIMET stored as integers, by name."""
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and all(name in values for name in node.input) and len(node.input) == 3:
            code, scale, zero = (values[name] for name in node.input)
            if code.size == 1:
                values[node.output[0]] = (code.astype(np.float32) - zero.astype(np.float32)) * scale
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    values[node.output[0]] = numpy_helper.to_array(attribute.t)
    return values


def _merge_repeated_quantizers(model: onnx.ModelProto) -> None:
    """Join quantize-dequantize pairs that follow one another with the same scale and zero point.

    AIMET gives the layer before a Clip the encoding of the Clip, so that dropping the Clip leaves two equal pairs.
    """
    graph = model.graph
    constants = _constants(graph)
    producer = {name: node for node in graph.node for name in node.output}
    outputs = {o.name for o in graph.output}

    def code(node: onnx.NodeProto) -> tuple[object, ...] | None:
        if len(node.input) < 3 or any(name not in constants for name in node.input[1:3]):
            return None
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        return scale.tobytes(), zero.tobytes(), str(zero.dtype)

    for second in [n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] not in outputs]:
        quantize = producer.get(second.input[0])
        first = producer.get(quantize.input[0]) if quantize is not None else None
        if quantize is None or first is None:
            continue
        if (quantize.op_type, first.op_type) != ("QuantizeLinear", "DequantizeLinear"):
            continue
        if code(first) is not None and code(first) == code(quantize) == code(second):
            _replace_input(graph, second.output[0], first.output[0])
    _remove_unused(graph)


def _align_biases(model: onnx.ModelProto) -> None:
    """Store every integer bias in the scale input × weight, the only one that integer kernels can add.

    AIMET loses sight of the input's scale behind a MaxPool and takes another; onnxruntime then runs the layer in float.
    """
    graph = model.graph
    constants = _constants(graph)
    producer = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in {"Conv", "ConvTranspose", "Gemm"} and len(node.input) > 2]
    for node in layers:
        pairs = [producer.get(name) for name in node.input[:3]]
        if any(pair is None or pair.op_type != "DequantizeLinear" for pair in pairs):
            continue
        scales = [constants[pair.input[1]] for pair in pairs if pair is not None]
        old = pairs[2]
        if old is None or old.input[0] not in constants or constants[old.input[0]].dtype != np.int32:
            continue
        wanted = (scales[0] * scales[1]).astype(np.float32)
        if wanted.shape == scales[2].shape and np.allclose(wanted, scales[2], rtol=1e-4, atol=0):
            continue
        codes = np.rint(constants[old.input[0]].astype(np.float64) * scales[2] / wanted)
        if np.abs(codes).max(initial=0) > np.iinfo(np.int32).max:
            continue
        parts = {"q": codes.astype(np.int32), "scale": wanted, "zero_point": np.zeros(wanted.shape, np.int32)}
        prefix = f"{node.output[0]}_bias"
        graph.initializer.extend(numpy_helper.from_array(value, f"{prefix}_{part}") for part, value in parts.items())
        axis: dict[str, Any] = {"axis": 0} if wanted.ndim else {}
        names = [f"{prefix}_{part}" for part in parts]
        added = helper.make_node("DequantizeLinear", names, [f"{prefix}_qdq"], name=f"{prefix}_dq", **axis)
        graph.node.insert(list(graph.node).index(node), added)
        node.input[2] = added.output[0]
    _remove_unused(graph)


def _sign_weights(model: onnx.ModelProto) -> None:
    """Store unsigned 8-bit weights as signed ones: 128 less, and 128 less for their zero point.

    The values stay the same. onnxruntime's kernel for signed weights is the one that uses VNNI instructions: measured
    on `aimet_pose`, 105 ms instead of 213 ms of CPU time for an image.
    """
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "DequantizeLinear" and len(n.input) == 3]:
        code, zero = tensors.get(node.input[0]), tensors.get(node.input[2])
        if code is None or zero is None or code.data_type != onnx.TensorProto.UINT8:
            continue
        for tensor, index in ((code, 0), (zero, 2)):
            signed = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
            node.input[index] = f"{node.output[0]}_signed_{index}"
            graph.initializer.append(numpy_helper.from_array(signed, node.input[index]))
    _remove_unused(graph)


def _replace_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers whose results nobody takes."""
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        idle = [node for node in graph.node if not any(name in used for name in node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _describe(model: onnx.ModelProto, config: ModelConfig, recipe: QuantizationRecipe) -> None:
    """Say in the file itself how images must be presented to it and how its output reads."""
    width, height = config.input_size
    facts: dict[str, Any] = {
        "hpe.architecture": config.architecture,
        "hpe.input_size": [width, height],
        "hpe.mean": config.mean,
        "hpe.std": config.std,
        "hpe.joints": config.joints.joints,
        "hpe.codec": config.codec,
        "hpe.recipe": recipe.model_dump(mode="json"),
    }
    known = {prop.key for prop in model.metadata_props}
    for key, value in facts.items():
        if key not in known:
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
