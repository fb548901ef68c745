"""What the function must know of a model to serve it, as its manifest says."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NoReturn, TypeVar

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.names import SHA256, SLUG, VERSION
from hpe_tasks.contract.stored_graph import ROLE_PREFIX
from hpe_tasks.errors import DigestError
from hpe_tasks.pose.codecs import CODECS, Codec
from hpe_tasks.pose.skeletons import Skeleton

Layout = Literal["nchw", "nhwc"]
Processors = Literal["any", "x86_64", "arm64", "x86_64_vnni"]
ChannelOrder = Literal["rgb", "bgr"]

_SCHEMA_VERSION = 1
_LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
_PROCESSORS: tuple[Processors, ...] = ("any", "x86_64", "arm64", "x86_64_vnni")
_CHANNEL_ORDERS: tuple[ChannelOrder, ...] = ("rgb", "bgr")
_SHOWN = 60
# Far beyond any network: what is not below it is neither a size nor a normalization, but a broken manifest.
_LARGEST = 1e6

ChoiceT = TypeVar("ChoiceT", bound=str)


@frozen
class ServedModel:
    """How a network is fed and how its output is read.

    Attributes:
        codec: One of `CODECS`: what the network is shown, and how its outputs are read.
        input_sizes: (W, H) in pixels: one for crops; for whole images that for wide ones, then that for the others.
        mean: Per channel of the input: subtracted from pixel values in [0, 1].
        std: Per channel of the input: divides after the subtraction.
        outputs: Names of the outputs by the codec's names for them.
        flip_test: Whether outputs are averaged with those of the mirrored crop, as when accuracy was measured.
        model_sha256: Of model.onnx.
        processors: Where it may be served; manifests that say nothing of it are older than the question.
        channel_order: Order of the colour channels of the input, and so of `mean` and `std`.
        graphs: Role, SHA-256 and size in bytes of each graph that is stored beside it: see `stored_graph`.
    """

    name: str
    version: str
    codec: str
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
    processors: Processors = "any"
    channel_order: ChannelOrder = "rgb"
    graphs: tuple[tuple[str, str, int], ...] = ()

    @classmethod
    def from_manifest(cls, data: bytes) -> ServedModel:
        """Read a manifest's bytes; raises DigestError, naming the field, where it is not one that can be served.

        The function ships without pydantic, so what it uses is checked here. Fields that it does not use are not read.
        """
        manifest = _parse(data)
        if manifest.integer("schema_version") != _SCHEMA_VERSION:
            manifest.refuse("schema_version", f"{_SCHEMA_VERSION}, the only one that this function knows")
        serving = manifest.fields("serving")
        name = serving.choice("codec", tuple(CODECS))
        codec = CODECS[name]
        skeleton = _skeleton(serving, codec)
        flip_test = manifest.fields("onnx").fields("fingerprint").flag("flip_test")
        if flip_test and not codec.takes_flip_test:
            manifest.fields("onnx").fields("fingerprint").refuse("flip_test", f"false with codec {name!r}")
        outputs = serving.fields("outputs")
        sizes = _input_sizes(serving, codec)
        kinds = codec.outputs(len(skeleton.joints), sizes[0])
        model = _model_file(manifest)
        return cls(
            name=manifest.text("name", SLUG),
            version=manifest.text("version", VERSION),
            codec=name,
            input_name=serving.fields("input").text("name"),
            input_layout=serving.choice("input_layout", _LAYOUTS),
            input_sizes=sizes,
            mean=_three(serving, "mean"),
            std=_positive(serving, _three(serving, "std")),
            outputs={kind: outputs.fields(kind).text("name") for kind in kinds},
            output_layout=serving.choice("output_layout", _LAYOUTS),
            skeleton=skeleton,
            flip_pairs=_pairs_of_joints(serving, "flip_pairs", len(skeleton.joints)),
            flip_test=flip_test,
            processors=serving.choice("processors", _PROCESSORS) if serving.has("processors") else "any",
            model_sha256=model.text("sha256", SHA256),
            model_size_bytes=model.integer("size_bytes", smallest=1),
            channel_order=serving.choice("channel_order", _CHANNEL_ORDERS),
            graphs=_graphs(manifest),
        )


class _Fields:
    """An object of the manifest, whose fields are of the wanted kind or refused.

    Args:
        record: The object.
        path: Its dotted place in the manifest, with a dot at the end; empty for the manifest itself.
    """

    def __init__(self, record: dict[str, Any], path: str = "") -> None:
        self._record = record
        self._path = path

    def refuse(self, name: str, wanted: str) -> NoReturn:
        if name not in self._record:
            fault = f"The manifest has no {self._path}{name}"
        else:
            shown = repr(self._record[name])
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
            fault = f"The manifest's {self._path}{name} is {shown}"
        raise DigestError(f"{fault}; it must be {wanted}.", hint="Publish the model again, or serve another version.")

    def has(self, name: str) -> bool:
        return name in self._record

    def fields(self, name: str) -> _Fields:
        value = self._record.get(name)
        if not isinstance(value, dict):
            self.refuse(name, "an object")
        return _Fields(value, f"{self._path}{name}.")

    def items(self, name: str) -> list[Any]:
        value = self._record.get(name)
        if not isinstance(value, list):
            self.refuse(name, "a list")
        return value

    def text(self, name: str, pattern: str = r".+") -> str:
        value = self._record.get(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
            self.refuse(name, "text" if pattern == r".+" else f"text of the form {pattern}")
        return value

    def choice(self, name: str, known: tuple[ChoiceT, ...]) -> ChoiceT:
        value = self._record.get(name)
        for option in known:
            if value == option:
                return option
        self.refuse(name, " or ".join(map(repr, known)))

    def integer(self, name: str, *, smallest: int = 0) -> int:
        value = self._record.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            self.refuse(name, f"a whole number of at least {smallest}")
        return value

    def flag(self, name: str) -> bool:
        value = self._record.get(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value


def _parse(data: bytes) -> _Fields:
    try:
        content = json.loads(data)
    # A few thousand brackets exceed the parser's depth.
    except (ValueError, RecursionError) as error:
        raise DigestError(
            f"The manifest is not JSON: {error}.", hint="Publish the model again, or serve another version."
        ) from error
    if not isinstance(content, dict):
        raise DigestError(
            f"The manifest is a JSON {type(content).__name__}; it must be an object.",
            hint="Check that the file is the manifest of a published version.",
        )
    return _Fields(content)


def _model_file(manifest: _Fields) -> _Fields:
    models = [f for f in manifest.items("files") if isinstance(f, dict) and f.get("role") == "model"]
    if len(models) != 1:
        manifest.refuse("files", "a list with one file of the role 'model'")
    return _Fields(models[0], "files[role=model].")


def _graphs(manifest: _Fields) -> tuple[tuple[str, str, int], ...]:
    graphs = []
    for file in manifest.items("files"):
        role = file.get("role") if isinstance(file, dict) else None
        if isinstance(role, str) and role.startswith(ROLE_PREFIX):
            fields = _Fields(file, f"files[role={role}].")
            graphs.append((role, fields.text("sha256", SHA256), fields.integer("size_bytes", smallest=1)))
    return tuple(graphs)


def _input_sizes(serving: _Fields, codec: Codec) -> tuple[tuple[int, int], ...]:
    sizes = []
    for size in serving.items("input_sizes"):
        if not (_numbers(size, 2) and all(isinstance(side, int) and side > 0 for side in size)):
            serving.refuse("input_sizes", codec.sizes_wanted)
        sizes.append((size[0], size[1]))
    if not sizes or tuple(sizes) != codec.input_sizes(sizes[0]):
        serving.refuse("input_sizes", codec.sizes_wanted)
    return tuple(sizes)


def _three(serving: _Fields, name: str) -> tuple[float, float, float]:
    values = serving.items(name)
    if not _numbers(values, 3):
        serving.refuse(name, "three numbers, one for each channel")
    first, second, third = map(float, values)
    return first, second, third


def _positive(serving: _Fields, std: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(std) <= 0:
        serving.refuse("std", "three positive numbers")
    return std


def _skeleton(serving: _Fields, codec: Codec) -> Skeleton:
    joints = serving.items("joints")
    if not joints or not all(isinstance(joint, str) and joint for joint in joints) or len(set(joints)) < len(joints):
        serving.refuse("joints", "the names of the joints, each once")
    if codec.skeleton is not None and tuple(joints) != codec.skeleton.joints:
        serving.refuse("joints", f"the {len(codec.skeleton.joints)} of {codec.skeleton.name} with codec {codec.name!r}")
    limbs = _pairs_of_joints(serving, "limbs", len(joints))
    return Skeleton(
        name=serving.text("skeleton"),
        joints=tuple(joints),
        limbs=tuple((joints[first], joints[second]) for first, second in limbs),
    )


def _pairs_of_joints(serving: _Fields, name: str, joints: int) -> tuple[tuple[int, int], ...]:
    pairs = serving.items(name)
    for pair in pairs:
        if not (_numbers(pair, 2) and all(isinstance(joint, int) and 0 <= joint < joints for joint in pair)):
            serving.refuse(name, f"pairs of numbers of joints, from 0 to {joints - 1}")
    return tuple((first, second) for first, second in pairs)


def _numbers(value: Any, count: int) -> bool:
    """Whether a value is a list of `count` finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _LARGEST for v in value)
    )
