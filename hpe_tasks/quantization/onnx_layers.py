"""Layers of a user's graph, in float and in AIMET's simulation: what each gives, as further outputs of both graphs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.models.onnx_graph import give
from hpe_tasks.quantization.aimet import checked_batches, vendor_warnings_muted
from hpe_tasks.quantization.layer_tensors import LayerValues
from hpe_tasks.quantization.onnx_backend import float_graph, load_sim
from hpe_tasks.quantization.rounding import looked_at


class _Place(NamedTuple):
    """A quantized activation: its layer, its tensor before and after its quantizer, and that."""

    name: str
    operator: str
    before: str
    after: str
    quantizer: Any


class OnnxLayers:
    """See `hpe_tasks.quantization.layer_tensors.open_layers`."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: QuantizationRecipe,
        checkpoint: Path,
        model: Path,
        encodings: Path,
        batches: Iterable[NDArray[np.float32]],
    ) -> None:
        self._nhwc = config.input_layout == "nhwc"
        images, _ = looked_at(checked_batches(batches, config))
        with TemporaryDirectory(prefix="hpe-layers-") as folder:
            graph, _ = float_graph(config, recipe, checkpoint, images[0], Path(folder) / "float.onnx")
        sim = load_sim(config, recipe, model, encodings, "cpu")
        self._outputs = [output.name for output in graph.graph.output]
        simulated_outputs = [output.name for output in sim.model.model.graph.output]
        producers = {name: node for node in graph.graph.node for name in node.output}
        computed = {*producers, *(tensor.name for tensor in graph.graph.input)}
        self._places: list[_Place] = []
        for node in sim.model.model.graph.node:
            quantizer = sim.qc_quantize_op_dict.get(node.input[0]) if node.op_type == "QcQuantizeOp" else None
            if quantizer is None or not quantizer.enabled or node.input[0] not in computed:
                continue
            producer = producers.get(node.input[0])
            titles = ("input", "input") if producer is None else (producer.name or node.input[0], producer.op_type)
            self._places.append(_Place(*titles, node.input[0], node.output[0], quantizer))
        self._floats = [*(place.before for place in self._places), *self._outputs]
        self._simulated = [*(place.after for place in self._places), *simulated_outputs]
        give(graph.graph, self._floats)
        give(sim.model.model.graph, self._simulated)
        with vendor_warnings_muted():
            sim._rebuild_session()
        self._sim, self._graph = sim, inference_session(graph.SerializeToString())

    def run(self, image: NDArray[np.float32]) -> list[LayerValues]:
        """See `LayerTensors`."""
        shown = image.transpose(1, 2, 0) if self._nhwc else image
        feeds = {self._graph.get_inputs()[0].name: np.ascontiguousarray(shown[None])}
        floats = self._graph.run(self._floats, feeds)
        simulated = self._sim.session.run(self._simulated, feeds)
        values = []
        for place, before, after in zip(self._places, floats, simulated, strict=False):
            encodings = place.quantizer.get_encodings()
            if len(encodings) == 1:
                low = encodings[0].delta * encodings[0].offset
                high = low + encodings[0].delta * (2**place.quantizer.bitwidth - 1)
                values.append(LayerValues(place.name, place.operator, low, high, before, after))
        rest = len(self._places)
        outputs = zip(self._outputs, floats[rest:], simulated[rest:], strict=True)
        return [*values, *(LayerValues(name, "output", None, None, *both) for name, *both in outputs)]
