"""The quantized network, and the file that it is exported to."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.execution import KernelProof, PlacementAudit


class QuantizedModel(Record):
    """A calibrated QuantSim, in the parts that rebuild it.

    Attributes:
        model: The network that was quantized, after folding and equalization: .safetensors or .onnx.
        encodings: AIMET's quantization encodings.
        calibration_image_ids: The images that were drawn: ids of COCO, file names of MPII.
    """

    recipe: QuantizationRecipe
    model: Artifact
    encodings: Artifact
    calibration_image_ids: tuple[int | str, ...]
    calibration_persons: int
    device: str
    tool_versions: dict[str, str]


class TensorSpec(Frozen):
    """A named input or output; dimensions are numbers, or a name where they are free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class ExportedModel(Record):
    """The file that ships.

    Attributes:
        proof: None in a record of a version that proved nothing.
    """

    model: Artifact
    encodings: Artifact
    fp32_size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: PlacementAudit
    proof: KernelProof | None = None
