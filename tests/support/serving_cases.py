"""A function with a small network, and the events that Lambda gives it, for the tests of serving."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hpe_tasks.contract.frozen import replace
from hpe_tasks.pose.skeletons import COCO17, Skeleton
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.verified_model import VerifiedModel, model_file
from support.paf_scenes import STANDING, ideal_maps
from support.tiny_networks import pose_onnx

STICK = Skeleton(
    name="stick",
    joints=("head", "neck", "hip", "left_foot", "right_foot"),
    limbs=(("head", "neck"), ("neck", "hip"), ("hip", "left_foot"), ("hip", "right_foot")),
)


@dataclass(frozen=True)
class Context:
    """What Lambda gives beside the event."""

    aws_request_id: str = "4bc3-request"
    function_name: str = "poses"
    function_version: str = "7"
    remaining_ms: int = 29_000

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


class OneModel:
    """A source with one model, and what `newer` is told to give or raise after it."""

    def __init__(self, model: VerifiedModel) -> None:
        self.model = model
        self.next: VerifiedModel | Exception | None = None
        self.asked = 0
        self.channel: dict[str, Any] | None = None

    def load(self) -> VerifiedModel:
        return self.model

    def newer(self, current: VerifiedModel) -> VerifiedModel | None:
        self.asked += 1
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


def tiny_model(folder: Path, *, codec: str = "heatmap", version: str = "0" * 16) -> VerifiedModel:
    """Random weights for five joints in crops of 64×32; or a network that sees two people in whole images."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{codec}-{version}.onnx"
    onnx.save(pose_onnx(shape=("n", 3, 32, 64)) if codec == "heatmap" else two_people_onnx(), file)
    data = file.read_bytes()
    model = ServedModel(
        name="tiny",
        version=version,
        codec="heatmap",
        input_name="image",
        input_layout="nchw",
        input_sizes=((64, 32),),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        outputs={"heatmaps": "heatmaps"},
        output_layout="nchw",
        skeleton=STICK,
        flip_pairs=STICK.flip_pairs,
        flip_test=False,
        model_sha256=hashlib.sha256(data).hexdigest(),
        model_size_bytes=len(data),
    )
    if codec == "paf":
        outputs = {"heatmaps": "heatmaps", "pafs": "pafs"}
        sizes = ((64, 48), (48, 64))
        model = replace(model, codec="paf", input_sizes=sizes, skeleton=COCO17, outputs=outputs)
    return VerifiedModel(model, model_file(model), file, hashlib.sha256(b"manifest").hexdigest(), "package")


def two_people_onnx() -> onnx.ModelProto:
    """A bottom-up network that sees the same two people, side by side, in whatever image."""
    people = np.stack([np.column_stack([STANDING + np.array([left, 0]), np.full(17, 2)]) for left in (20, 150)])
    heatmaps, pafs = ideal_maps(people, (300, 200))
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"]), helper.make_node("Mul", ["mean", "zero"], ["none"])]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    for name, maps in (("heatmaps", heatmaps), ("pafs", pafs)):
        constants.append(numpy_helper.from_array(maps[None].astype(np.float32), f"{name}.constant"))
        nodes.append(helper.make_node("Add", ["none", f"{name}.constant"], [name]))
    names: dict[str, list[str | int | None]] = {"image": ["n", 3, "h", "w"], "heatmaps": [None] * 4, "pafs": [None] * 4}
    image, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in names.items())
    graph = helper.make_graph(nodes, "two people", [image], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def tiny_service(folder: Path, *, codec: str = "heatmap", **variables: str) -> PoseService:
    """A function with a tiny network; `variables` are those of its environment, without HPE_."""
    environment = {f"HPE_{name}": value for name, value in variables.items()}
    return PoseService(ServingSettings.from_environment(environment, folder), OneModel(tiny_model(folder, codec=codec)))


def photo(width: int = 80, height: int = 60) -> np.ndarray:
    """A smooth picture whose four quarters differ, H×W×3."""
    y, x = np.mgrid[0:height, 0:width]
    planes = (255 * x / max(1, width - 1), 255 * y / max(1, height - 1), np.full(x.shape, 96))
    return np.stack(planes, axis=2).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def http_v2(body: bytes | str = b"", method: str = "POST", query: Any = None, **headers: str) -> dict[str, Any]:
    """An event of a function URL or an HTTP API; bytes are sent as base64. Headers: `content_type` for Content-Type."""
    return {
        "version": "2.0",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        "queryStringParameters": query,
        "requestContext": {"http": {"method": method, "path": "/"}, "requestId": "gateway"},
        "body": base64_of(body) if isinstance(body, bytes) else body,
        "isBase64Encoded": isinstance(body, bytes),
    }


def http_v1(body: bytes | str = b"", method: str = "POST", query: Any = None, **headers: str) -> dict[str, Any]:
    """An event of a REST API, with headers and query parameters in both of its ways."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return {
        "resource": "/",
        "httpMethod": method,
        "headers": named,
        "multiValueHeaders": {name: [value] for name, value in named.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": query and {name: [value] for name, value in query.items()},
        "requestContext": {"stage": "prod"},
        "body": base64_of(body) if isinstance(body, bytes) else body,
        "isBase64Encoded": isinstance(body, bytes),
    }


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xYz") -> bytes:
    """A multipart/form-data body of (name, file name, content)."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"\r\nContent-Type: image/jpeg' if filename is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def ask(service: Callable[[Any, Any], dict[str, Any]], event: Any) -> tuple[int, Any]:
    """Status and JSON of an answer, which is what Lambda can send."""
    response = service(event, Context())
    json.dumps(response)
    body = response["body"]
    return response["statusCode"], json.loads(body) if body and not response["isBase64Encoded"] else body
