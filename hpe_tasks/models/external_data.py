"""Weights that an ONNX file keeps in other files, wherever it names them: no file that is brought here may do so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from hpe_tasks.errors import CheckpointError, HpeError
from hpe_tasks.models.loops import refuse_unbounded_loops


class ExternalTensor(NamedTuple):
    """A tensor by its name, and the file that its values are to be read from."""

    name: str
    location: str


def read_complete(path: Path) -> onnx.ModelProto:
    """Read an ONNX file that is complete in itself, and whose loops end; nothing else is opened.

    Raises:
        CheckpointError: The file cannot be read, is not ONNX, names other files, or has a loop that may run for ever.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (DecodeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a model in ONNX's format: {str(error).removesuffix('.')}.",
            hint="Export the model again, or fetch it again.",
        ) from error
    refuse_external_data(model, path)
    refuse_unbounded_loops(model, path)
    return model


def refuse_external_data(model: onnx.ModelProto, path: Path, *, kind: type[HpeError] = CheckpointError) -> None:
    """Raise an error of this kind where any tensor of a model has its values in another file.

    onnxruntime would read them from the model's folder, or from the working directory.
    """
    external = list(external_tensors(model))
    if external:
        raise kind(
            f"{path} keeps {len(external)} of its tensors in other files, such as {external[0].name!r} in "
            f"{external[0].location!r}.",
            hint="Save it as one file: onnx.save(onnx.load('model.onnx'), 'single.onnx').",
        )


def external_tensors(message: Message) -> Iterator[ExternalTensor]:
    """Every tensor in a message whose values are in another file, however deep it lies.

    The walk follows all fields of ONNX's own description: graphs, attributes, functions, sparse tensors, training
    information, and what a later version of ONNX adds.
    """
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            location = next((entry.value for entry in message.external_data if entry.key == "location"), "")
            yield ExternalTensor(message.name, location)
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in [value] if isinstance(value, Message) else value:
                yield from external_tensors(each)
