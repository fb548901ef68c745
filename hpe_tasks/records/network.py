"""The quantized network, and the file that it is exported to."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.execution import KernelProof, PlacementAudit
from hpe_tasks.records.joint_ranges import JointRanges
from hpe_tasks.records.mixed_precision import MixedPrecision


class Equalization(Frozen):
    """What became of channels that share one range of activations.

    Attributes:
        applied: Whether they were evened out: only where the graph then computes the same.
        channels: Of all activations, those whose values are larger now.
        largest_difference: As of `NormalForm`.
        reason: Why it was not applied.
    """

    applied: bool
    channels: int
    largest_difference: float | None = None
    reason: str = ""


class NormalForm(Frozen):
    """What became of a user's graph before it was calibrated.

    Attributes:
        applied: Whether the simplified graph took its place: only where both compute the same.
        nodes_before: Operators of the graph as it came.
        nodes_after: Operators of the graph that was quantized.
        largest_difference: Of their outputs on calibration images, relative to the largest value of an output; None
            where they could not be compared.
        reason: Why it was not applied.
        equalization: None where the recipe does not ask for it.
    """

    applied: bool
    nodes_before: int
    nodes_after: int
    largest_difference: float | None = None
    reason: str = ""
    equalization: Equalization | None = None


class LossPoint(Frozen):
    """The loss at one moment of a distillation.

    Attributes:
        step: Steps done.
        held_out: On images that are never learnt from.
        learnt: Mean of the steps since the moment before; None at the start.
    """

    step: int
    held_out: float
    learnt: float | None = None


class Distillation(Frozen):
    """How a simulation learned to give what the float network gives.

    Attributes:
        steps: Steps that were done.
        learning_rate: The highest, as a share of each tensor's range.
        best_step: Steps after which it was best, which is how it was left; 0 where nothing was gained.
        loss_before: On held-out images, of the simulation as it was calibrated.
        loss_after: The same as it was left.
        num_learnt: Crops, or whole images, that it learned from.
        num_held_out: Those that it was measured on.
        augmented: Whether they were shifted, resized, turned and mirrored anew each time.
        labelled: Whether annotations were learnt from as well.
        seconds: How long it took.
    """

    steps: int
    learning_rate: float
    best_step: int
    loss_before: float
    loss_after: float
    num_learnt: int
    num_held_out: int
    augmented: bool
    labelled: bool
    seconds: float
    curve: tuple[LossPoint, ...]


class QuantizedModel(Record):
    """A calibrated QuantSim, in the parts that rebuild it.

    Attributes:
        model: The network that was quantized, after folding and equalization: .safetensors or .onnx.
        encodings: AIMET's quantization encodings.
        calibration_image_ids: The images that were drawn: ids of COCO, file names of MPII.
        augmented_inputs: Changed copies of their crops, or of themselves, that filled up what the recipe asks for.
        calibration_left_out: Images that were not drawn although it was their turn, each with the reason: unreadable,
            or the same as an evaluation image. Empty in records of older versions.
        normal_form: None where the project has built the network itself, where the recipe folds nothing, and in records
            of older versions.
        joint_ranges: Which ranges were chosen by the joints; None where the recipe does not ask for it.
        mixed_precision: What was left in float, and why; None where the recipe does not ask for it.
        distillation: None where the recipe asks for none.
    """

    recipe: QuantizationRecipe
    model: Artifact
    encodings: Artifact
    calibration_image_ids: tuple[int | str, ...]
    calibration_persons: int
    augmented_inputs: int = 0
    device: str
    tool_versions: dict[str, str]
    normal_form: NormalForm | None = None
    calibration_left_out: tuple[str, ...] = ()
    joint_ranges: JointRanges | None = None
    mixed_precision: MixedPrecision | None = None
    distillation: Distillation | None = None


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
