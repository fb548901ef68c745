"""A picture shown to a version before and after quantization: the page, real networks and the limited processes."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hpe_airflow.model_pages import trial_folders
from onnx import load
from safetensors.torch import save_file

from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.registry.build_provenance import BuildDefinition, Builder, BuildMetadata, BuildProvenance, RunDetails
from hpe_tasks.registry.manifest import ModelManifest
from support import sample_records as records
from support.model_pages import World, airflow, world
from support.played_s3 import client, moto_client
from support.serving_cases import encoded, photo
from support.tiny_networks import mobilenet_config

__all__ = ["airflow", "client", "moto_client", "world"]

NETWORK = records.run_config().model


def published(
    world: World, folder: Path, *, checkpoint: Path | None, asked: dict[str, Any] | None, fp32: Path | None = None
) -> ModelManifest:
    """A version of the shipped network with these beside it, made by a run that was asked this."""
    files = records.write_files(folder)
    export_fp32(NETWORK, sample_checkpoint(), files["model"].with_name("fp32.onnx")).replace(files["model"])
    if checkpoint is not None:
        files["checkpoint"] = checkpoint
    if fp32 is not None:
        files["fp32"] = fp32
    finished = datetime(2026, 1, 1, tzinfo=UTC)
    build = None if asked is None else BuildProvenance(
        build_definition=BuildDefinition(external_parameters=asked, resolved_dependencies=()),
        run_details=RunDetails(
            builder=Builder(version={}),
            metadata=BuildMetadata(invocation_id="run-1", started_on=None, finished_on=finished),
        ),
    )  # fmt: skip
    made = records.manifest(files, created_at=finished).model_copy(update={"build": build})
    world.registry.store(made, files)
    return made


def asked_for(**model: Any) -> dict[str, Any]:
    config = records.run_config().model_dump(mode="json")
    return config | {"model": config["model"] | model}


def tried(world: World, manifest: ModelManifest) -> list[tuple[str, str, bool]]:
    """Of each figure on the page its form, what is told, and whether the picture is shown."""
    place = f"/models/pose/{manifest.version}"
    token = re.search('name="form_token" value="([^"]+)"', world.ask("GET", place).text)
    assert token is not None
    picture = {"picture": ("a.jpg", encoded(photo(160, 240)), "image/jpeg")}
    answer = world.ask("POST", f"{place}/try", "viewer", files=picture, data={"form_token": token[1]})
    assert answer.status_code == 200, answer.text[-2000:]
    figures = re.findall(r"<figure.*?</figure>", answer.text, re.DOTALL)
    return [
        (re.search("<b>(.*?)</b>", one)[1], re.search("<figcaption>(.*?)</figcaption>", one)[1], "<image " in one)  # type: ignore[index]
        for one in figures
    ]


def test_fp32_is_shown_first_and_made_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = published(world, tmp_path / "v", checkpoint=sample_checkpoint(), asked=asked_for())
    fp32, int8, served = tried(world, made)
    assert (fp32[0], int8[0], served[0]) == ("FP32", "int8", "int8")
    # The version's own file is float32 here: both are the same network.
    assert fp32[1] == int8[1]
    assert fp32[1].startswith("1 found, score ")
    assert fp32[2]
    assert "in FP32 and in int8" in world.ask("GET", f"/models/pose/{made.version}").text
    kept = trial_folders.before_quantization(made)
    assert sorted(one.name for one in kept.iterdir()) == ["manifest.json", "model.onnx"], "no checkpoint stays"
    assert load(kept / "model.onnx").graph.input[0].name == "image"
    monkeypatch.setattr(trial_folders, "try_reading", lambda *_, **__: pytest.fail("made a second time"))
    assert trial_folders.before_quantization(made) == kept


def test_a_float_file_that_was_published_is_shown_without_torch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a network that came as an ONNX file, whose inputs and outputs have names of its own."""
    float_file = export_fp32(NETWORK, sample_checkpoint(), tmp_path / "fp32.onnx")
    asked = asked_for(architecture="onnx", checkpoint="a.onnx")
    made = published(world, tmp_path / "v", checkpoint=None, asked=asked, fp32=float_file)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    fp32, int8, _ = tried(world, made)
    assert (fp32[0], fp32[1], fp32[2]) == ("FP32", int8[1], True)
    assert "in FP32 and in int8" in world.ask("GET", f"/models/pose/{made.version}").text
    kept = trial_folders.before_quantization(made)
    assert (kept / "model.onnx").read_bytes() == float_file.read_bytes()


@pytest.mark.long  # what does not fit is tried where checkpoints are read
def test_a_checkpoint_of_another_network_is_told_and_int8_goes_on(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file(build_model(mobilenet_config()).state_dict(), other)
    made = published(world, tmp_path / "v", checkpoint=other, asked=asked_for())
    fp32, int8, _ = tried(world, made)
    assert "does not fit the network" in fp32[1]
    assert not fp32[2]
    assert int8[1].startswith("1 found")
    assert not list((tmp_path / "cache" / "tried").glob(".*.making")), "nothing is left of the attempt"


@pytest.mark.parametrize(
    ("checkpoint", "asked", "reason"),
    [
        pytest.param(False, asked_for(), "was published without its checkpoint", id="no checkpoint"),
        pytest.param(True, None, "does not say how its network was built", id="older than provenance"),
        pytest.param(True, asked_for(architecture="pose_42"), "not one that can be built here", id="unknown network"),
        pytest.param(
            True, asked_for(architecture="onnx", checkpoint="a.onnx"), "came from an ONNX file", id="an ONNX file"
        ),
    ],
)
def test_why_there_is_no_fp32_stands_on_the_page(
    world: World, tmp_path: Path, checkpoint: bool, asked: dict[str, Any] | None, reason: str
) -> None:
    made = published(world, tmp_path / "v", checkpoint=sample_checkpoint() if checkpoint else None, asked=asked)
    assert reason in world.ask("GET", f"/models/pose/{made.version}").text
    assert reason in trial_folders.why_no_fp32(made)


def test_without_torch_the_page_says_so(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = published(world, tmp_path / "v", checkpoint=sample_checkpoint(), asked=asked_for())
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    page = world.ask("GET", f"/models/pose/{made.version}").text
    assert "FP32 is not shown: The network cannot be built here: torch not installed on this API server." in page
