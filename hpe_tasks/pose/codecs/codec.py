"""What a codec is: what it shows to a network, what the network gives, and how that becomes people and back.

One object for each codec; `hpe_tasks.pose.codecs.CODECS` lists them. A codec says which arrays a network gives and of
which shape, finds them in a user's file, makes them as targets of a training, and reads people from them. Whatever runs
a network hands its outputs over by the codec's names for them.

Sizes are (W, H), arrays N×C×h×w; an array of maps, which has four dimensions, lies in a file with its channels second
(nchw) or last (nhwc), and is handed over with its channels second.

Configurations are checked by codecs, and Airflow reads those in every parse of a DAG file: modules of codecs import
NumPy inside of the methods that compute, and nothing heavier at all, because AWS Lambda ships them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.pose.skeletons import Skeleton

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from hpe_tasks.pose.codecs.arrays import Arrays
    from hpe_tasks.pose.people import People

Shape = Sequence[int | str | None]
"""Dimensions: a number, or a name or None where they are free; empty where a file states none."""

Size = tuple[int, int]

Loss = Literal["squared_error", "divergence"]

_MAPS = len("nchw")


@frozen
class FileOutputs:
    """The outputs of a file in which a codec looks for its own.

    Attributes:
        path: The file, for messages.
        shapes: Of each output by its name, in the file's order and layout.
        wanted: Of each array that the codec reads, in the file's layout.
        channels_last: Whether its maps are N×h×w×C.
        output_name: The output that the user has named, if one.
    """

    path: str
    shapes: Mapping[str, Shape]
    wanted: Mapping[str, Shape]
    channels_last: bool
    output_name: str | None

    @property
    def listed(self) -> str:
        """Names and shapes, for messages."""
        return ", ".join(f"{name} ({shape_text(shape)})" for name, shape in self.shapes.items())


class Codec(ABC):
    """How people are encoded in what a network gives.

    Attributes:
        name: As `model.codec` and manifests have it.
        decoder: How people are read from the outputs, in words: part of the protocol of a metric.
        skeleton: The joints that it gives, where these are not the network's choice.
        whole_images: Whether the network is shown whole images with all people in them, and not crops of persons.
        takes_flip_test: Whether outputs can be averaged with those of the mirrored input.
        float_outputs: Whether outputs are left in float after int8 layers: where neighbours differ by less than a code,
            the first of several equal ones would be the largest.
        loss: What a training makes small: the squared error of the outputs, or the divergence of their distributions.
        settings_hint: What to do where a file's outputs have other shapes.
        sizes_wanted: Which input sizes a manifest must name, in words.
    """

    name: ClassVar[str]
    decoder: ClassVar[str]
    skeleton: ClassVar[Skeleton | None] = None
    whole_images: ClassVar[bool]
    takes_flip_test: ClassVar[bool] = False
    float_outputs: ClassVar[bool] = False
    loss: ClassVar[Loss] = "squared_error"
    settings_hint: ClassVar[str]
    sizes_wanted: ClassVar[str]

    @abstractmethod
    def outputs(self, joints: int, input_size: Size) -> dict[str, Shape]:
        """The arrays that a network gives for N inputs, in their order, and their shapes, maps as N×C×h×w.

        Args:
            joints: Number of joints.
            input_size: (W, H) of the network's input.
        """

    def fault(self, shapes: Mapping[str, Shape], input_size: Size) -> str | None:
        """What is wrong with outputs of which each has the shape that was asked for; None where they fit together.

        Args:
            shapes: By the codec's names, with the channels of maps second; empty where none is stated.
            input_size: (W, H) of the network's input.
        """
        return None

    @abstractmethod
    def find(self, file: FileOutputs) -> dict[str, str]:
        """The output of a file for each of `outputs`; raises CheckpointError where it is missing or not clear."""

    @abstractmethod
    def input_size_for(self, input_size: Size, image_size: Size) -> Size:
        """(W, H) of the input that an image of this (W, H) is shown in, where `input_size` is the configured one."""

    @property
    def gives_maps(self) -> bool:
        """Whether the outputs are maps, which have a layout and any size."""
        return all(len(shape) == _MAPS for shape in self.outputs(1, (1, 1)).values())

    def input_sizes(self, input_size: Size) -> tuple[Size, ...]:
        """Every (W, H) of the input that images are shown in, that of wide images first."""
        wide, high = self.input_size_for(input_size, (2, 1)), self.input_size_for(input_size, (1, 2))
        return (wide,) if wide == high else (wide, high)


class CropCodec(Codec):
    """A codec of networks that are shown the crop of one person."""

    whole_images = False
    sizes_wanted = "one (width, height)"

    def input_size_for(self, input_size: Size, image_size: Size) -> Size:
        """All crops have one size."""
        return input_size

    @abstractmethod
    def encode(
        self, points: ArrayLike, visible: ArrayLike, input_size: Size, sigma: float | None
    ) -> tuple[Arrays, Arrays]:
        """The outputs that a network should give for persons.

        Args:
            points: N×K×2, (x, y) in pixels of the input.
            visible: N×K; joints with 0 are not labelled.
            input_size: (W, H) of the input.
            sigma: Standard deviation of a target, in cells of the output; None for what the codec takes.

        Returns:
            Targets, and by the same names weights N×K: 1 for a joint to be learnt, else 0.
        """

    @abstractmethod
    def decode(
        self, outputs: Mapping[str, NDArray[np.float32]], centers: ArrayLike, scales: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read the joints of each person.

        Args:
            outputs: What the network gave for N crops.
            centers: N×2, of the crops in image pixels.
            scales: N×2, of the crops in units of 200 pixels.

        Returns:
            Joints N×K×2 float32, (x, y) in image pixels, and scores N×K float32; a joint whose score is not above 0
            was not found.
        """

    @abstractmethod
    def flip_back(self, outputs: Mapping[str, NDArray[np.float32]], flip_pairs: Iterable[tuple[int, int]]) -> Arrays:
        """Turn the outputs for mirrored crops into those for the crops themselves."""

    @abstractmethod
    def best_cells(self, outputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.int64]:
        """The cell of the output in which each joint is surest, N×K, counted along the rows of the output."""

    @abstractmethod
    def cells_across(self, outputs: Mapping[str, NDArray[np.float32]]) -> int:
        """How many cells of the output lie side by side in a crop's width."""

    def averaged(
        self,
        outputs: Mapping[str, NDArray[np.float32]],
        mirrored: Mapping[str, NDArray[np.float32]],
        flip_pairs: Iterable[tuple[int, int]],
    ) -> Arrays:
        """The mean of the outputs for crops and of those for the mirrored crops."""
        import numpy as np

        back = self.flip_back(mirrored, flip_pairs)
        return {name: (array + back[name]) * np.float32(0.5) for name, array in outputs.items()}


class ImageCodec(Codec):
    """A codec of networks that are shown whole images, with all people in them.

    Images that are wider than high are shown in the configured size, the others with its sides swapped.
    """

    whole_images = True
    sizes_wanted = "(width, height), and for high images the two swapped"

    def input_size_for(self, input_size: Size, image_size: Size) -> Size:
        """Turned unless the image is wider than high."""
        width, height = input_size
        return (width, height) if image_size[0] > image_size[1] else (height, width)

    @abstractmethod
    def encode(self, points: ArrayLike, visible: ArrayLike, input_size: Size, sigma: float | None) -> Arrays:
        """The outputs that a network should give for one image, without the first axis.

        Args:
            points: N×K×2 of all people, (x, y) in pixels of the input.
            visible: N×K; joints with 0 are not labelled.
            input_size: (W, H) of the input.
            sigma: Standard deviation of a joint's target, in cells of the output; None for what the codec takes.
        """

    @abstractmethod
    def decode(self, outputs: Mapping[str, NDArray[np.float32]], image_size: Size) -> People:
        """Read the people of one image of (W, H) from its outputs, which come without the first axis.

        Raises:
            ValueError: The outputs have other shapes, or hold values that are not finite.
            CheckpointError: They cannot be those of a trained network.
        """


def laid_out(shape: Shape, *, channels_last: bool) -> tuple[int | str | None, ...]:
    """A shape as a file has it: that of maps with the channels last, where they are."""
    if not channels_last or len(shape) != _MAPS:
        return tuple(shape)
    count, channels, *sides = shape
    return (count, *sides, channels)


def channels_second(array: NDArray[np.float32], *, channels_last: bool) -> NDArray[np.float32]:
    """An array as the codec takes it, whatever the file's layout: a view."""
    return array.transpose(0, 3, 1, 2) if channels_last and array.ndim == _MAPS else array


def fits(shape: Shape, wanted: Shape) -> bool:
    """Whether a stated shape is the wanted one: of as many dimensions, and the same where both have numbers."""
    return len(shape) == len(wanted) and all(
        has == want for has, want in zip(shape, wanted, strict=True) if isinstance(has, int) and isinstance(want, int)
    )


def shape_text(shape: Shape) -> str:
    """Dimensions as they are shown in messages, such as `N×3×256×192`."""
    return "×".join("?" if size is None else str(size) for size in shape)
