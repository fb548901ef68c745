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

import onnx

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.external_data import refuse_external_data
from hpe_tasks.models.fp32_onnx import INPUT_NAME, free_axes
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.onnx_export.deconvolution import split_deconvolutions
from hpe_tasks.onnx_export.integer_kernels import (
    align_biases,
    drop_redundant_clips,
    merge_repeated_quantizers,
    sign_weights,
)

__all__ = [
    "ENCODINGS_FILE",
    "INPUT_NAME",
    "MODEL_FILE",
    "check_onnx",
    "export_onnx",
    "fit_kernels",
    "simulated_graph",
]

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
        QuantizationError: The files do not belong together, `out` is their own folder, or the result is not a valid
            self-contained ONNX file.
    """
    if out.resolve() == model.resolve().parent:
        raise QuantizationError(f"{out} holds the network that is exported.", hint="Export to another folder.")
    with TemporaryDirectory(prefix="export-", dir=out) as folder:
        exported = simulated_graph(config, recipe, model, encodings)
        fit_kernels(exported, config, recipe)
        draft = Path(folder) / MODEL_FILE
        onnx.save(exported, draft)
        check_onnx(draft)
        shutil.copyfile(encodings, out / ENCODINGS_FILE)
        draft.replace(out / MODEL_FILE)
    return out / MODEL_FILE


def simulated_graph(config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path) -> onnx.ModelProto:
    """The stored simulation as AIMET exports it: a pair of quantizers around every activation; see `export_onnx`."""
    if config.network.from_file:
        return _from_onnx(config, recipe, model, encodings)
    with TemporaryDirectory(prefix="hpe-export-") as folder:
        return _from_torch(config, recipe, model, encodings, Path(folder))


def fit_kernels(exported: onnx.ModelProto, config: ModelConfig, recipe: QuantizationRecipe) -> None:
    """Rewrite a `simulated_graph` into what onnxruntime runs in its integer kernels, without changing a code."""
    drop_redundant_clips(exported)
    merge_repeated_quantizers(exported)
    align_biases(exported)
    sign_weights(exported)
    if recipe.subpixel_deconvolution:
        split_deconvolutions(exported)
    _describe(exported, config, recipe)


def check_onnx(path: Path) -> None:
    """Raise QuantizationError unless the file is valid, complete in itself and of opset 13 or later."""
    model = onnx.load(path, load_external_data=False)
    refuse_external_data(model, path, kind=QuantizationError)
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
    wide = recipe.param_bw != 8 or recipe.activation_bw != 8
    with vendor_warnings_muted():
        import_aimet("aimet_torch.onnx").export(
            sim.model.eval(),
            (example_input(config),),
            str(file),
            input_names=[INPUT_NAME],
            output_names=list(output_shapes(config)),
            dynamic_axes=free_axes(config),
            opset_version=_WIDE_OPSET if wide else _OPSET,
            # The dynamo exporter leaves float weights in an external file.
            dynamo=False,
            prequantize_constants=True,
        )
    exported = onnx.load(file)
    _state_shapes(exported, config)
    return exported


def _state_shapes(model: onnx.ModelProto, config: ModelConfig) -> None:
    """Say of each output what the codec says of it: torch loses sight of shapes behind a quantizer."""
    wanted = output_shapes(config)
    for output in model.graph.output:
        for dim, size in zip(output.type.tensor_type.shape.dim, wanted[output.name], strict=True):
            if isinstance(size, int):
                dim.dim_value = size


def _from_onnx(config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path) -> onnx.ModelProto:
    from hpe_tasks.quantization.aimet import vendor_warnings_muted
    from hpe_tasks.quantization.onnx_backend import load_sim

    sim = load_sim(config, recipe, model, encodings, "cpu")
    with vendor_warnings_muted():
        exported: onnx.ModelProto = sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)
    return exported


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
    if config.channel_order != "rgb":
        # RGB goes without saying: files from before there was a choice keep their digest.
        facts["hpe.channel_order"] = config.channel_order
    known = {prop.key for prop in model.metadata_props}
    for key, value in facts.items():
        if key not in known:
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
