from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.keys import blob_key
from hpe_tasks.contract.version import check_version
from hpe_tasks.errors import BadInputError, CheckpointError
from hpe_tasks.records.evaluation import PckhStats
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.serving.served_model import ServedModel
from support import sample_records as records


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return records.write_files(tmp_path / "files")


def test_a_manifest_survives_storage(files: dict[str, Path]) -> None:
    manifest = records.manifest(files)
    stored = manifest.to_bytes()
    assert ModelManifest.model_validate_json(stored) == manifest
    assert json.loads(stored)["schema_version"] == 1


def test_a_manifest_says_what_serving_and_audit_need(files: dict[str, Path]) -> None:
    manifest = records.manifest(files)
    model = manifest.file("model")
    assert model.blob == f"blobs/sha256/{model.sha256}"
    assert model.size_bytes == files["model"].stat().st_size
    serving = manifest.serving
    assert (serving.architecture, serving.codec) == ("pose_mobilenet", "heatmap")
    assert serving.input_sizes == ((192, 256),)
    assert serving.mean == (0.485, 0.456, 0.406)
    assert serving.input.name == "image"
    assert {kind: output.name for kind, output in serving.outputs.items()} == {"heatmaps": "heatmaps"}
    assert len(serving.joints) == 17
    assert (1, 2) in serving.flip_pairs
    assert serving.limbs[0] == (0, 1)
    assert manifest.onnx.fingerprint.num_persons == 310
    assert manifest.provenance.calibration.num_images == 3
    assert manifest.provenance.tool_versions == {"aimet_torch": "2.42.0", "onnxruntime": "1.31.0"}
    assert manifest.gate.passed


def trained_on(what: str | None) -> RunConfig:
    dataset = {"source": "sample", "calibration_split": "train", "evaluation_split": "val"}
    return RunConfig(model={"checkpoint": "sample", "trained_on": what}, dataset=dataset, seed=7)


@pytest.mark.parametrize("what", ["Dancers.", None])
def test_the_manifest_says_what_the_checkpoint_was_trained_on(files: dict[str, Path], what: str | None) -> None:
    assert records.manifest(files, config=trained_on(what)).provenance.trained_on == what


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"run": "run-2"}, id="run"),
        pytest.param({"created_by": "grace"}, id="person"),
        pytest.param({"created_at": datetime(2027, 1, 1, tzinfo=UTC)}, id="time"),
        pytest.param({"ap": 0.6004}, id="measured-again"),
        pytest.param({"config": trained_on("Dancers.")}, id="trained-on"),
    ],
)
def test_what_does_not_change_the_version(files: dict[str, Path], changes: dict[str, Any]) -> None:
    assert records.manifest(files, **changes).version == records.manifest(files).version


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"protocol": {"image_ids_digest": "0" * 64}}, id="judged-on-other-images"),
        pytest.param({"protocol": {"subset": True}}, id="judged-on-a-subset"),
        pytest.param({"limits": GateLimits(min_ap=0.4)}, id="other-limits"),
    ],
)
def test_other_terms_of_admission_are_another_version(files: dict[str, Path], changes: dict[str, Any]) -> None:
    assert records.manifest(files, **changes).version != records.manifest(files).version


def test_other_weights_and_other_input_are_other_versions(files: dict[str, Path], tmp_path: Path) -> None:
    other = records.write_files(tmp_path / "other", "two")
    normalized = records.run_config(model=ModelConfig(checkpoint="sample", mean=(0.5, 0.5, 0.5)))
    bgr = records.run_config(model=ModelConfig(checkpoint="sample", channel_order="bgr"))
    versions = {
        records.manifest(files).version,
        records.manifest(other).version,
        records.manifest(files, config=normalized).version,
        records.manifest(files, config=bgr).version,
    }
    assert len(versions) == 4


def test_the_version_does_not_depend_on_the_place_of_the_files(files: dict[str, Path], tmp_path: Path) -> None:
    copy = records.write_files(tmp_path / "elsewhere")
    assert records.manifest(copy).version == records.manifest(files).version


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("version",), "0" * 16, "the content says", id="version"),
        pytest.param(("serving", "mean"), [0.5, 0.5, 0.5], "the content says", id="serving"),
        pytest.param(("files", 1, "sha256"), "0" * 64, "its digest says", id="digest-of-file"),
        pytest.param(("files", 1, "blob"), blob_key("0" * 64), "its digest says", id="key-of-file"),
        pytest.param(("files", 1, "role"), "encodings", "each role once", id="role-twice"),
        pytest.param(("gate", "checks", 0, "limit"), 0.1, "the content says", id="limit"),
        pytest.param(("extra",), 1, "Extra inputs", id="unknown-key"),
        pytest.param(("schema_version",), 2, "Input should be 1", id="schema"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused(
    files: dict[str, Path], path: tuple[Any, ...], value: Any, message: str
) -> None:
    stored = json.loads(records.manifest(files).to_bytes())
    place = stored
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        ModelManifest.model_validate_json(json.dumps(stored))


def test_an_unknown_role_names_the_known_ones(files: dict[str, Path]) -> None:
    with pytest.raises(BadInputError, match=r"has no file 'report'.*encodings, model"):
        records.manifest(files).file("report")


def test_an_output_that_the_file_lacks_is_refused(files: dict[str, Path]) -> None:
    config = records.run_config(model=ModelConfig(checkpoint="m.onnx", architecture="onnx", output_name="scores"))
    with pytest.raises(CheckpointError, match=r"model.onnx has no output 'scores'; it has: heatmaps"):
        records.manifest(files, config=config)


_PAF_OUTPUTS = (
    TensorSpec(name="stage_1", dtype="float32", shape=("batch", 38, "h", "w")),
    TensorSpec(name="heat", dtype="float32", shape=("batch", 19, "h", "w")),
    TensorSpec(name="fields", dtype="float32", shape=("batch", 38, "h", "w")),
)


def test_a_bottom_up_manifest_names_both_outputs_and_both_orientations(files: dict[str, Path]) -> None:
    model = ModelConfig(
        checkpoint="pe_weights.pth", architecture="aimet_pose", codec="paf", input_width=496, input_height=384
    )
    protocol = {"box_source": "whole_image", "decoder": "paf", "input_size": (496, 384)}
    manifest = records.manifest(files, config=records.run_config(model=model), protocol=protocol, outputs=_PAF_OUTPUTS)
    serving = manifest.serving
    assert serving.codec == "paf"
    assert serving.input_sizes == ((496, 384), (384, 496))
    # Of several stages the last is read.
    assert {kind: output.name for kind, output in serving.outputs.items()} == {"pafs": "fields", "heatmaps": "heat"}
    assert serving.decoder == "paf"
    assert serving.joints[0] == "nose"
    assert ModelManifest.model_validate_json(manifest.to_bytes()) == manifest


def test_a_bottom_up_file_that_lacks_an_output_is_refused(files: dict[str, Path]) -> None:
    model = ModelConfig(checkpoint="m.onnx", architecture="onnx", codec="paf", input_width=496, input_height=384)
    with pytest.raises(CheckpointError, match="no output 'pafs' and none with 38 channels"):
        records.manifest(files, config=records.run_config(model=model))


def test_a_manifest_of_mpii_holds_pckh_and_calibration_by_file_name(files: dict[str, Path]) -> None:
    config = records.run_config(dataset={"kind": "mpii", "source": "/data/mpii"}, gate=GateLimits(min_pckh=80))
    manifest = records.manifest(
        files, config=config, ap=84.2, limits=config.gate, metric="pckh", calibration=("b.jpg", "a.jpg")
    )
    assert isinstance(manifest.onnx.stats, PckhStats)
    assert manifest.onnx.stats.mean == 84.2
    assert manifest.onnx.by_joint == {"left_wrist": 0.4}
    assert manifest.gate.passed
    assert manifest.provenance.calibration.num_images == 2
    assert ModelManifest.model_validate_json(manifest.to_bytes()) == manifest
    other = records.manifest(
        files, config=config, ap=84.2, limits=config.gate, metric="pckh", calibration=("a.jpg", "b.jpg")
    )
    assert other.provenance.calibration.image_ids_digest != manifest.provenance.calibration.image_ids_digest
    assert other.version == manifest.version


def test_other_files_are_published_beside_the_model(files: dict[str, Path], tmp_path: Path) -> None:
    predictions = tmp_path / "predictions.json"
    predictions.write_text("[]")
    manifest = records.manifest(files | {"predictions": predictions})
    assert [file.role for file in manifest.files] == ["encodings", "model", "predictions"]
    assert manifest.version == records.manifest(files).version


def test_the_speed_is_kept_and_changes_the_version_only_where_it_is_judged(files: dict[str, Path]) -> None:
    without, measured = records.manifest(files), records.manifest(files, speed=records.latency())
    assert (without.latency, measured.latency) == (None, records.latency())
    assert measured.version == without.version
    assert ModelManifest.model_validate_json(measured.to_bytes()) == measured
    judged = records.manifest(files, speed=records.latency(), limits=GateLimits(min_speedup=2.0))
    assert judged.gate.passed
    assert judged.version != measured.version


def test_a_manifest_of_the_version_before_is_read(files: dict[str, Path]) -> None:
    manifest = ModelManifest.model_validate_json(records.as_published_before_kernels(records.manifest(files)))
    assert (manifest.kernels, manifest.golden, manifest.onnx.cpu_features) == (None, (), ())
    assert manifest.latency is None
    assert not manifest.recipe.subpixel_deconvolution
    assert records.manifest(files).recipe.subpixel_deconvolution
    # Read and written once more it says the same.
    assert ModelManifest.model_validate_json(manifest.to_bytes()) == manifest


def test_a_manifest_that_an_earlier_release_published_keeps_its_version() -> None:
    """Byte for byte as it was published: written by that release, not by a helper of today's."""
    stored = (Path(__file__).parent / "manifests" / "pose_mobilenet_before_saturation_free.json").read_bytes()
    manifest = ModelManifest.model_validate_json(stored)
    assert manifest.version == "328f68a9a7ea0141"
    # By its earlier name, four_phase_deconvolution.
    assert manifest.recipe.subpixel_deconvolution
    model = next(file for file in manifest.files if file.role == "model")
    check_version(stored, manifest.version, model.sha256)
    served = ServedModel.from_manifest(stored)
    assert (served.codec, served.input_sizes, served.processors) == ("heatmap", ((128, 192),), "any")
    assert served.graphs == ()


@pytest.mark.parametrize("reduced", [True, False])
def test_a_manifest_of_the_time_of_reduce_range_stays_readable(tmp_path: Path, reduced: bool) -> None:
    """Seven bits could not saturate either; without, nothing kept sums in range."""
    stored = json.loads(records.manifest(records.write_files(tmp_path)).to_bytes())
    del stored["recipe"]["saturation_free"]
    stored["recipe"]["reduce_range"] = reduced
    assert ModelManifest.model_validate_json(json.dumps(stored)).recipe.saturation_free == reduced


def test_a_proof_of_another_file_is_refused(tmp_path: Path) -> None:
    stored = json.loads(records.manifest(records.write_files(tmp_path)).to_bytes())
    stored["proof"]["model_sha256"] = "9" * 64
    with pytest.raises(ValidationError, match="proof is of a file with the SHA-256 9999"):
        ModelManifest.model_validate_json(json.dumps(stored))
