"""The step that tells where in the network quantization loses accuracy."""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice

from hpe_tasks.errors import QuantizationError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import step
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint, fetch_dataset
from hpe_tasks.pipeline.steps.measuring import network_settings
from hpe_tasks.pipeline.steps.quantizing import calibration_set, export_onnx, gate, quantize
from hpe_tasks.records.layers import LayerDiagnosis
from hpe_tasks.storage.workspace import Scratch

_CROPS = 8
_WHOLE_IMAGES = 2
"""Calibration images that the layers are compared on: a whole image has as many pixels as a dozen crops."""

log = logging.getLogger(__name__)


def _told(record: LayerDiagnosis) -> str:
    if not record.layers:
        return record.reason
    parted = record.first_parted
    apart = "QuantSim and file agree in all of them" if parted is None else f"QuantSim and file part at {parted.name}"
    return f"{len(record.layers)} layers, {apart}"


@step(
    LayerDiagnosis,
    "Layer diagnosis",
    needs=(fetch_dataset, fetch_checkpoint, quantize, export_onnx),
    # Nothing else may run while the speed is measured.
    follows=(gate,),
    settings=lambda c: [network_settings(c), c.evaluation.batch_size, c.seed],
    tell=_told,
    shown_as="layers",
)
def diagnose_layers(run: Run, _: Scratch) -> LayerDiagnosis:
    """Compare FP32, QuantSim and the file layer by layer, on a few calibration images."""
    from hpe_tasks.inference import calibration_batches
    from hpe_tasks.onnx_runtime.layer_codes import FileLayers
    from hpe_tasks.pose.codecs import CODECS
    from hpe_tasks.quantization.layer_errors import compare_layers
    from hpe_tasks.quantization.layer_tensors import open_layers

    config, quantized, local = run.config, run.result(quantize), run.workspace.local
    # As they were drawn for the calibration, whose first images decide the form of the graph.
    batches = partial(
        calibration_batches,
        calibration_set(run, quantized.recipe.calibration_images).images,
        config.model,
        config.evaluation.batch_size,
        augmented=quantized.augmented_inputs,
        seed=config.seed,
    )
    count = _WHOLE_IMAGES if CODECS[config.model.codec].whole_images else _CROPS
    images = list(islice((image for batch in batches() for image in batch), count))
    try:
        layers = open_layers(
            config.model,
            quantized.recipe,
            local(run.result(fetch_checkpoint).file),
            local(quantized.model),
            local(quantized.encodings),
            batches(),
        )
        file = FileLayers(local(run.result(export_onnx).model), config.model)
        errors, unmatched = compare_layers(layers, file, images)
    except QuantizationError as error:
        # What was measured stands without knowing where it was lost.
        log.warning("The layers cannot be compared: %s", error)
        return LayerDiagnosis(recipe=quantized.recipe, num_images=0, reason=str(error))
    return LayerDiagnosis(recipe=quantized.recipe, num_images=len(images), layers=errors, unmatched=unmatched)
