"""How onnxruntime executes the exported file: where, how exactly and how fast."""

from __future__ import annotations

from pydantic import Field

from hpe_tasks.config.base import Frozen


class PlacementAudit(Frozen):
    """Where onnxruntime runs the network's arithmetic, read back from its optimized graph.

    Attributes:
        int8_mac_share: Share of the multiply-accumulates of convolutions and matrix products that run in int8.
        float_operators: Operators that stayed float and do arithmetic, as "OpType name (MACs)"; most MACs first.
        cpu_features: int8 features of the CPU that the graph was optimized on.
    """

    int8_mac_share: float = Field(ge=0, le=1)
    int8_macs: int
    total_macs: int
    float_operators: tuple[str, ...]
    onnxruntime_version: str
    cpu_features: tuple[str, ...]


class FamilyProof(Frozen):
    """Whether the int8 kernels of a family of processors can clip a sum of a file's products, whatever the image.

    Attributes:
        unproved_layers: Layers that can clip, or whose kernels are not known.
        unproved: The first of them, with the reason.
        smallest_margin: Least distance of any sum from what its kernel's integers hold, in products of codes; negative
            where it can be left; None without a layer that was examined.
        tightest_layer: The layer of that sum.
    """

    unproved_layers: int = Field(ge=0)
    unproved: tuple[str, ...] = ()
    smallest_margin: int | None = None
    tightest_layer: str | None = None

    @property
    def proved(self) -> bool:
        """Whether nothing can clip."""
        return self.unproved_layers == 0


class KernelProof(Frozen):
    """What follows from the codes of a file for onnxruntime's int8 kernels.

    Attributes:
        model_sha256: The file that was examined.
        layers: Layers that run in int8.
        channels: Their output channels.
        x86_64: Kernels for x86-64, from SSE4.1 to AMX.
        arm64: Kernels for arm64, with and without dot products.
    """

    model_sha256: str
    layers: int
    channels: int
    x86_64: FamilyProof
    arm64: FamilyProof

    @property
    def families(self) -> dict[str, FamilyProof]:
        """The proofs by what a person calls the processors."""
        return {"x86-64": self.x86_64, "arm64": self.arm64}


class KernelAgreement(Frozen):
    """What onnxruntime's int8 kernels make of the exported file on this CPU, against the same file unoptimized.

    Unoptimized, every quantized operator runs in float between its conversions, so nothing can saturate. On a CPU
    without VNNI instructions the optimized graph's sums can. Each layer is given the same input in both.

    Attributes:
        sqnr_db: Lowest signal-to-noise ratio of an optimized layer's result; None where all are equal.
        layer: The result that it belongs to.
        max_difference: Largest difference of a quantized value, in steps.
        num_images: Images, or crops of persons, that were compared.
        cpu_features: int8 features of the CPU.
    """

    sqnr_db: float | None
    layer: str | None
    max_difference: float
    num_images: int = Field(ge=1)
    cpu_features: tuple[str, ...]


class Latency(Frozen):
    """How long one file takes for one batch in onnxruntime.

    Attributes:
        runs: How many were timed.
    """

    median_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0)
    runs: int = Field(ge=1)


class SpeedUp(Frozen):
    """How many times as fast as FP32 the exported file is with a number of threads; see `hpe_tasks.evaluation.latency`.

    Attributes:
        ratio: Median over pairs of measurements that were made one after the other.
        ratio_low: Lower end of the interval that holds the true median with 95 % confidence: the noise.
        ratio_high: Its upper end.
        pairs: How many there were.
    """

    threads: int = Field(ge=1)
    fp32: Latency
    onnx: Latency
    ratio: float = Field(gt=0)
    ratio_low: float = Field(gt=0)
    ratio_high: float = Field(gt=0)
    pairs: int = Field(ge=1)

    @property
    def noise(self) -> float:
        """How far the interval reaches from the ratio to its farther end, as a share of the ratio."""
        return max(self.ratio_high - self.ratio, self.ratio - self.ratio_low) / self.ratio


class LatencyComparison(Frozen):
    """The exported file's speed against FP32 in the same onnxruntime on the machine at hand.

    Attributes:
        speed_ups: With one thread, then with all that the machine has; one entry where that is the same.
        input_shape: Of what each run was given.
        processor: Name of the CPU.
        cpu_features: Its int8 features.
    """

    speed_ups: tuple[SpeedUp, ...] = Field(min_length=1)
    input_shape: tuple[int, ...]
    onnxruntime_version: str
    processor: str
    cpu_features: tuple[str, ...]

    @property
    def one_thread(self) -> SpeedUp:
        """With the fewest threads: what the gate judges."""
        return min(self.speed_ups, key=lambda one: one.threads)
