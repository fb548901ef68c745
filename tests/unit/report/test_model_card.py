"""A published version as a model card: its figures are the manifest's, and the code in it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.report.model_card import model_card
from support import sample_records as records

BOX = (100.0, 60.0, 150.0, 200.0)


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    return records.manifest(records.write_files(tmp_path), speed=records.latency())


def parts(card: str) -> tuple[dict[str, Any], str]:
    empty, head, body = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head), body


def test_the_head_is_what_a_hub_reads(manifest: ModelManifest) -> None:
    head, _ = parts(model_card(manifest))
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("apache-2.0", "onnx", "keypoint-detection")
    assert {"onnx", "int8", "pose_mobilenet"} <= set(head["tags"])
    # As the hub's documentation of model-index asks for it.
    [model] = head["model-index"]
    [result] = model["results"]
    assert model["name"] == manifest.name
    assert result["task"]["type"] == head["pipeline_tag"]
    assert {"type", "name"} <= result["dataset"].keys()
    assert manifest.onnx.fingerprint.dataset_digest.startswith(result["dataset"]["revision"])
    told = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert told["ap"] == manifest.onnx.stats.accuracy
    assert all(isinstance(value, float) for value in told.values())


def test_every_figure_of_the_text_is_the_manifests(manifest: ModelManifest) -> None:
    _, body = parts(model_card(manifest, channels=("staging", "production")))
    assert body.startswith(f"\n# pose, version {manifest.version}\n")
    assert "| AP | 0.610 | 0.605 | 0.600 |" in body
    for check in manifest.gate.checks:
        assert f"| {check.title} | " in body
    for file in manifest.files:
        assert f"| `{file.role}` | {file.size_bytes:,} | `{file.sha256}` |" in body
    assert "3.50× as fast as FP32" in body
    assert "310 persons in 100 images of `val`, crops by annotated boxes" in body
    assert "Served by `staging`, `production` when this was written." in body
    assert manifest.provenance.checkpoint_sha256 in body


def test_what_is_not_known_is_not_claimed(manifest: ModelManifest) -> None:
    provenance = manifest.provenance.model_copy(
        update={
            "checkpoint_source": "https://ada@host.example/private/w.pth?Signature=x",
            "dataset_source": "/home/ada/people",
            "created_by": "ada <b>*x*</b> | y",
        }
    )
    older = manifest.model_copy(update={"provenance": provenance, "latency": None, "proof": None})
    head, body = parts(model_card(older))
    assert (head["license"], head["license_name"]) == ("other", "not-stated")
    assert "The manifest states none." in body
    assert "Trained on: not stated." in body
    assert "Speed was not measured." in body
    assert "ada \\<b\\>\\*x\\*\\</b\\> \\| y" in body
    for hidden in ("/home/ada", "Signature", "host.example"):
        assert hidden not in body
        assert hidden not in str(head)
    assert "`w.pth`" in body
    assert "drawn figures" not in body


def brightest(path: Path, *, layout: str) -> None:
    """A network whose maps are the first channel of its input, averaged over 4 × 4 pixels."""
    weights = np.zeros((17, 3, 1, 1), np.float32)
    weights[:, 0] = 1
    nodes = [
        helper.make_node("Conv", ["planes", "weights"], ["all"], kernel_shape=[1, 1]),
        helper.make_node("AveragePool", ["all"], ["maps"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    shape, out = [1, 3, 256, 192], [1, 17, 64, 48]
    if layout == "nhwc":
        nodes.insert(0, helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["maps"], ["heatmaps"], perm=[0, 2, 3, 1]))
        shape, out = [1, 256, 192, 3], [1, 64, 48, 17]
    else:
        nodes.insert(0, helper.make_node("Identity", ["image"], ["planes"]))
        nodes.append(helper.make_node("Identity", ["maps"], ["heatmaps"]))
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_code_of_the_card_runs_the_file(
    manifest: ModelManifest, layout: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = manifest.serving.model_copy(
        update={"input_layout": layout, "output_layout": layout, "channel_order": order}
    )
    card = model_card(manifest.model_copy(update={"serving": serving}))
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    brightest(tmp_path / "model.onnx", layout=layout)
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (400, 300))
    # The network sees one colour alone: the first channel of its order.
    pencil, seen, other = ImageDraw.Draw(picture), (255, 0, 0), (0, 0, 255)
    pencil.ellipse((148, 118, 162, 132), fill=seen if order == "rgb" else other)
    pencil.ellipse((188, 178, 202, 192), fill=other if order == "rgb" else seen)
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    found = names["find_joints"](picture, BOX)
    assert [name for name, *_ in found] == list(serving.joints)
    # A cell of the maps has about five pixels of the picture here.
    for _, x, y, score in found:
        assert (x, y) == pytest.approx((155, 125), abs=5)
        assert score > 0.5


def test_a_network_that_is_read_otherwise_has_code_up_to_its_outputs(
    manifest: ModelManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serving = manifest.serving.model_copy(update={"codec": "paf", "decoder": "greedy limbs"})
    card = model_card(manifest.model_copy(update={"serving": serving}))
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    brightest(tmp_path / "model.onnx", layout="nchw")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == "heatmaps (1, 17, 64, 48)\n"
    assert "decoder's affair (`greedy limbs`)" in card
