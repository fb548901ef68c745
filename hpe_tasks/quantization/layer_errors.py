"""Where accuracy is lost: what quantization does to each layer, in QuantSim and in the exported file.

A layer is what lies between one quantized activation and the next. It is compared in four ways. By its range alone:
FP32's values in its codes. Alone: the file's layer, given FP32's values in the codes of its inputs. And within the
quantized network, QuantSim's and the file's, where errors have gathered from all layers before. Last, the file's layer
is given QuantSim's own inputs: the first whose codes are others than QuantSim's is where the two part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_runtime.layer_codes import CodedTensor, FileLayers, matched
from hpe_tasks.quantization.layer_tensors import LayerTensors, LayerValues
from hpe_tasks.records.layers import LARGEST_DB, PARTED_CODES, LayerError

_Floats = NDArray[np.floating[Any]]


@dataclass
class _Sums:
    """What has been counted of a layer so far."""

    first: LayerValues
    coded: CodedTensor | None
    signal: float = 0.0
    noise: dict[str, float] = field(default_factory=dict)
    float_low: float = math.inf
    float_high: float = -math.inf
    count: int = 0
    clipped: int = 0
    saturated: dict[str, int] = field(default_factory=dict)
    parted_codes: int = 0
    parted: int = 0

    def add_floats(self, floats: _Floats) -> None:
        self.signal += float(np.square(floats, dtype=np.float64).sum())
        self.count += floats.size
        self.float_low = min(self.float_low, float(floats.min()))
        self.float_high = max(self.float_high, float(floats.max()))
        if self.coded is not None:
            half = self.coded.scale / 2
            self.clipped += int(((floats < self.coded.low - half) | (floats > self.coded.high + half)).sum())

    def add_noise(self, kind: str, floats: _Floats, values: _Floats) -> None:
        added = float(np.square(floats.astype(np.float64) - values).sum())
        self.noise[kind] = self.noise.get(kind, 0.0) + added

    def add_saturated(self, kind: str, codes: NDArray[Any]) -> None:
        if self.coded is not None:
            low, high = self.coded.bounds
            # A range that begins or ends at zero holds what a ReLU leaves there.
            ends = [end for end in (low, high) if end != self.coded.zero_point]
            self.saturated[kind] = self.saturated.get(kind, 0) + int(np.isin(codes, ends).sum())

    def db(self, kind: str) -> float:
        noise = self.noise[kind]
        if noise <= self.signal * 10 ** (-LARGEST_DB / 10):
            return LARGEST_DB
        return -LARGEST_DB if self.signal == 0 else max(-LARGEST_DB, 10 * math.log10(self.signal / noise))

    def error(self) -> LayerError:
        coded = self.coded is not None
        return LayerError(
            name=self.first.name,
            operator=self.first.operator,
            low=self.first.low,
            high=self.first.high,
            float_low=self.float_low,
            float_high=self.float_high,
            clipped=self.clipped / self.count,
            saturated_quantsim=self.saturated.get("quantsim", 0) / self.count,
            saturated_file=self.saturated.get("file", 0) / self.count,
            range_db=self.db("range") if coded else None,
            alone_db=self.db("alone"),
            quantsim_db=self.db("quantsim"),
            file_db=self.db("file"),
            parted_codes=self.parted_codes if coded else None,
            parted_share=self.parted / self.count,
        )


def compare_layers(
    layers: LayerTensors, file: FileLayers, images: Iterable[NDArray[np.float32]]
) -> tuple[tuple[LayerError, ...], int]:
    """Compare every layer of a network with its simulation and its file.

    Args:
        layers: The network and its simulation.
        file: What was exported from it.
        images: Each 3×H×W, normalized; the more, the slower.

    Returns:
        The layers in the order of the graph, and of how many quantized activations of the file the simulation has no
        counterpart.

    Raises:
        CheckpointError: onnxruntime does not run the file's layers.
        QuantizationError: There is no image.
    """
    sums: list[_Sums] = []
    unmatched = 0
    for image in images:
        computed = file.run(image)
        seen = layers.run(image)
        if not sums:
            pairs = matched(
                [(tensor, computed[tensor.name].shape) for tensor in file.tensors],
                [(values.low, values.high, values.simulated.shape) for values in seen],
            )
            by_place = {place: name for name, place in pairs.items()}
            coded = {tensor.name: tensor for tensor in file.tensors}
            unmatched = len(coded) - len(pairs)
            kept = [place for place, values in enumerate(seen) if place in by_place or values.low is None]
            sums = [_Sums(seen[place], coded.get(by_place.get(place, ""))) for place in kept]
        _add(sums, [seen[place] for place in kept], file, image, computed)
    if not sums:
        raise QuantizationError("There is no image to compare the layers on.")
    return tuple(one.error() for one in sums), unmatched


def _add(
    sums: list[_Sums], seen: list[LayerValues], file: FileLayers, image: NDArray[np.float32], computed: dict[str, Any]
) -> None:
    of_floats, of_simulated = ({t.name: computed[t.name] for t in file.tensors} for _ in range(2))
    for one, values in zip(sums, seen, strict=True):
        if one.coded is not None:
            of_floats[one.coded.name] = one.coded.codes(values.floats)
            of_simulated[one.coded.name] = one.coded.codes(values.simulated)
    alone = file.run_given(image, of_floats)
    parted = file.run_given(image, of_simulated)
    for one, values in zip(sums, seen, strict=True):
        one.add_floats(values.floats)
        one.add_noise("quantsim", values.floats, values.simulated)
        if one.coded is None:
            one.add_noise("alone", values.floats, alone[values.name])
            one.add_noise("file", values.floats, computed[values.name])
            continue
        tensor, name = one.coded, one.coded.name
        one.add_noise("range", values.floats, tensor.values(of_floats[name]))
        one.add_noise("alone", values.floats, tensor.values(alone[name]))
        one.add_noise("file", values.floats, tensor.values(computed[name]))
        one.add_saturated("quantsim", of_simulated[name])
        one.add_saturated("file", computed[name])
        difference = np.abs(parted[name].astype(np.int64) - of_simulated[name])
        one.parted_codes = max(one.parted_codes, int(difference.max()))
        one.parted += int((difference > PARTED_CODES).sum())
