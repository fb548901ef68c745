"""What the function must know of a model to serve it, as its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpe_tasks.skeletons import Skeleton

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class ServedModel:
    """How a network is fed and how its output is read.

    Attributes:
        codec: `heatmap`: crops of single persons; `paf`: whole images with all people in them.
        input_sizes: (W, H) in pixels; with codec `paf` that for wide images, then that for the others.
        mean: Per RGB channel: subtracted from pixel values in [0, 1].
        std: Per RGB channel: divides after the subtraction.
        outputs: Names of the outputs by what they hold: `heatmaps`, and with codec `paf` also `pafs`.
        flip_test: Whether heatmaps are averaged with those of the mirrored crop, as when accuracy was measured.
        model_sha256: Of model.onnx.
    """

    name: str
    version: str
    codec: Literal["heatmap", "paf"]
    input_name: str
    input_layout: Layout
    input_sizes: tuple[tuple[int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    outputs: dict[str, str]
    output_layout: Layout
    skeleton: Skeleton
    flip_pairs: tuple[tuple[int, int], ...]
    flip_test: bool
    model_sha256: str
    model_size_bytes: int

    @classmethod
    def from_manifest(cls, data: bytes) -> ServedModel:
        """Read a manifest's bytes; raises DigestError, naming the field, where it is not one that can be served."""
        raise NotImplementedError
