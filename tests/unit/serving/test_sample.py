"""The trained sample network behind the function's entry point: a package folder in, joints near the annotated out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpe_tasks.config.loading import load_config
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, sample_checkpoint
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source
from support import sample_records as records
from support.serving_cases import Context, base64_of, http_v2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("data")
    make_sample(folder, SampleSpec(train=1, calibration=1, val=6), splits=["val"])
    return load_coco(folder, "val")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package folder with the sample network, and a manifest that describes it."""
    folder = tmp_path_factory.mktemp("package")
    config = load_config("sample")
    network = build_model(config.model)
    load_checkpoint(network, sample_checkpoint())
    (folder / "model").mkdir()
    files = {"model": folder / "model" / "model.onnx", "encodings": folder / "encodings.json"}
    files["encodings"].write_bytes(b"{}")
    width, height = config.model.input_size
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, height, width),),
        files["model"],
        input_names=["image"],
        output_names=["heatmaps"],
        dynamic_axes={"image": {0: "batch"}, "heatmaps": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    manifest = records.manifest(files, config=config)
    (folder / "model" / "manifest.json").write_text(manifest.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def service(package: Path) -> PoseService:
    settings = ServingSettings.from_environment({}, package)
    return PoseService(settings, open_source(settings))


def test_people_of_the_sample_are_found(service: PoseService, pictures: CocoDataset) -> None:
    errors = []
    for image in pictures.images:
        persons = pictures.persons(image.id)
        body = {"image": base64_of(pictures.image_path(image).read_bytes()), "boxes": [p.box for p in persons]}
        response = service(http_v2(json.dumps(body), content_type="application/json"), Context())
        assert response["statusCode"] == 200
        document = json.loads(response["body"])
        assert len(document["people"]) == len(persons)
        for person, found in zip(persons, document["people"], strict=True):
            assert found["box"] == pytest.approx(person.box, abs=0.01)
            for joint in found["joints"]:
                x, y, visible = person.joints[COCO17.joints.index(joint["name"])]
                if visible == 2:
                    errors.append(np.hypot(joint["x"] - x, joint["y"] - y) / np.sqrt(person.area))
    assert len(errors) > 50
    assert np.median(errors) < 0.05


# What a fresh interpreter does with the events that it is given, and what it has imported then.
_RUN = """
import json, sys
from hpe_tasks.serving.handler import handler
events = json.load(sys.stdin)
responses = [handler(event, None) for event in events]
print(json.dumps({"responses": responses, "modules": sorted(sys.modules)}))
"""


def entry_point(environment: dict[str, str], events: list[Any], code: str = _RUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(events),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_entry_point_answers_and_logs_json_alone(package: Path, pictures: CocoDataset) -> None:
    photo = pictures.image_path(pictures.images[0]).read_bytes()
    corrupt_exif = photo[:2] + b"\xff\xe1\x00\x12Exif\x00\x00II*\x00\xff\xff\xff\xff" + photo[2:]
    events = [http_v2(photo, accept="image/jpeg"), {"image": base64_of(corrupt_exif), "draw": False}, {}]
    done = entry_point({"HPE_MODEL_DIR": str(package / "model")}, events)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *lines, last = (json.loads(line) for line in done.stdout.splitlines())
    assert [line["message"] for line in lines] == ["model loaded"] + ["invocation"] * 3
    assert [line["cold_start"] for line in lines[1:]] == [True, False, False]
    assert [response["statusCode"] for response in last["responses"]] == [200, 200, 422]
    assert base64.b64decode(last["responses"][0]["body"]).startswith(b"\xff\xd8\xff")
    loaded = {module.partition(".")[0] for module in last["modules"]}
    assert loaded >= {"numpy", "onnxruntime", "PIL"}
    assert not loaded & {"boto3", "botocore", "cv2", "onnx", "pydantic", "scipy", "torch", "yaml"}


# Lambda's runtime has this module, which keeps what it is to call when it has restored a snapshot.
_RESTORE = """
import json, sys, types
callbacks = []
sys.modules["snapshot_restore_py"] = types.SimpleNamespace(register_after_restore=callbacks.append)
from hpe_tasks.serving.handler import handler
(restored,) = callbacks
restored()
handler({}, None)
"""


def test_the_first_invocation_after_a_snapshot_is_no_cold_start(package: Path) -> None:
    done = entry_point({"HPE_MODEL_DIR": str(package / "model")}, [], _RESTORE)
    assert done.returncode == 0, done.stderr
    *_, invocation = (json.loads(line) for line in done.stdout.splitlines())
    assert (invocation["message"], invocation["cold_start"]) == ("invocation", False)
    assert "load_ms" not in invocation


def test_whatever_keeps_the_function_from_starting_is_one_line_of_json(package: Path) -> None:
    broken = "import PIL.Image, onnxruntime; del onnxruntime.InferenceSession; import hpe_tasks.serving.handler"
    done = entry_point({"HPE_MODEL_DIR": str(package / "model")}, [], broken)
    assert done.returncode != 0
    (line,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (line["level"], line["message"]) == ("ERROR", "The function refuses to start.")
    assert line["error"] == "AttributeError"
    assert "InferenceSession" in line["reason"]


@pytest.mark.parametrize(
    ("environment", "error", "named"),
    [
        pytest.param({"HPE_MODEL_DIR": "/nowhere"}, "AccessError", "/nowhere", id="no model"),
        pytest.param({"HPE_THREADS": "many"}, "ConfigError", "HPE_THREADS", id="setting"),
        pytest.param({"HPE_PUBLIC_KEY": base64_of(bytes(32))}, "DigestError", "sign", id="not signed"),
    ],
)
def test_a_function_that_cannot_be_trusted_does_not_start(
    package: Path, environment: dict[str, str], error: str, named: str
) -> None:
    done = entry_point({"HPE_MODEL_DIR": str(package / "model"), **environment}, [])
    assert done.returncode != 0
    (line,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (line["level"], line["error"]) == ("ERROR", error)
    assert line["message"] == "The function refuses to start."
    assert named in line["reason"]
