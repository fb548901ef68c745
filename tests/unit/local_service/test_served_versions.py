"""What the local page is told of the version that answers, and of its golden images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.errors import AccessError, BadInputError, DigestError
from hpe_tasks.local_service.comparison import compare, read_people
from hpe_tasks.local_service.versions import FolderFiles, RegistryFiles, Versions
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.records.evaluation import ScoreSpread
from hpe_tasks.records.execution import FamilyProof
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ManifestFile, ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.golden import similarity
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.serving.verified_model import VerifiedModel, model_file
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records

JOINTS = COCO17.joints
PICTURE = b"\xff\xd8\xff a picture"

Joints = Sequence[tuple[float, float, float] | None]


def standing(x: float, *, score: float = 0.9, known: int = 17) -> tuple[tuple[float, float, float] | None, ...]:
    return tuple((x + 10 * (i % 4), 50.0 + 20 * (i // 4), score) if i < known else None for i in range(17))


def person(x: float, *, box: bool = True, **joints: Any) -> GoldenPerson:
    return GoldenPerson(box=(0.0, 0.0, 200.0, 200.0) if box else None, joints=standing(x, **joints))


def golden(*people: GoldenPerson) -> GoldenImage:
    return GoldenImage(file="golden-1", width=200, height=200, people=people)


def answer(*people: Joints) -> bytes:
    """The `people` of an answer."""
    return json.dumps(
        [
            {
                "score": 0.5,
                "box": [0, 0, 1, 1],
                "joints": [
                    {"name": n, "x": j[0], "y": j[1], "score": j[2]} for n, j in zip(JOINTS, joints, strict=True) if j
                ],
            }
            for joints in people
        ]
    ).encode()


@pytest.fixture
def manifest(tmp_path: Path) -> ModelManifest:
    made: ModelManifest = records.manifest(records.write_files(tmp_path / "files"))
    return made


def with_golden(manifest: ModelManifest, *people: GoldenPerson) -> ModelManifest:
    """The manifest with one golden image, the file PICTURE."""
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    file = ManifestFile(role="golden-1", blob=blob_key(sha256), sha256=sha256, size_bytes=len(PICTURE))
    return manifest.model_copy(update={"files": (*manifest.files, file), "golden": (golden(*people),)})


def write_folder(folder: Path, manifest: ModelManifest) -> VerifiedModel:
    """A folder with this manifest, and the model as the function would have verified it."""
    folder.mkdir(exist_ok=True)
    data = manifest.to_bytes()
    (folder / "manifest.json").write_bytes(data)
    served = ServedModel.from_manifest(data)
    return VerifiedModel(served, model_file(served), folder / "model.onnx", hashlib.sha256(data).hexdigest(), "package")


def versions_of(folder: Path, manifest: ModelManifest) -> Versions:
    model = write_folder(folder, manifest)
    return Versions(lambda: model, FolderFiles(folder), origin="a folder", threshold=0.3)


# --- comparison ---


@pytest.mark.parametrize("boxes", [True, False], ids=["boxes", "whole image"])
def test_the_same_people_are_the_same(boxes: bool) -> None:
    image = golden(person(20, box=boxes), person(120, box=boxes))
    found = read_people(answer(standing(20), standing(120)), JOINTS)
    result = compare(image, found, JOINTS)
    assert result.same
    assert (result.min_oks, result.mean_px, result.max_px, result.clear, result.more) == (1.0, 0.0, 0.0, 2, 0)
    assert [one.found for one in result.people] == [0, 1]


def test_distances_are_those_of_each_joint_in_pixels() -> None:
    moved = list(standing(20))
    moved[0] = (23.0, 54.0, 0.9)
    result = compare(golden(person(20)), read_people(answer(moved), JOINTS), JOINTS)
    (one,) = result.people
    assert one.distances_px["nose"] == 5.0
    assert one.distances_px["left_eye"] == 0.0
    assert (result.max_px, result.mean_px) == (5.0, round(5 / 17, 2))
    found = GoldenPerson(box=None, joints=tuple(moved))
    assert one.oks == pytest.approx(similarity(person(20), found, JOINTS), abs=1e-4)


@pytest.mark.parametrize(
    ("people", "found", "same", "more"),
    [
        ([person(20)], [standing(80)], False, 0),
        ([person(20)], [], False, 0),
        ([person(20)], [standing(20), standing(120)], False, 1),
        ([person(20), person(120)], [standing(120), standing(20)], False, 0),
        ([person(20, box=False), person(120, box=False)], [standing(120), standing(20)], True, 0),
        ([person(20, box=False)], [standing(20), standing(120)], False, 1),
        ([person(20, box=False)], [standing(20), standing(120, known=3)], True, 1),
        ([person(20, box=False), person(120, box=False, known=3)], [standing(20)], True, 0),
        ([person(20, box=False), person(120, box=False, known=3)], [standing(20), standing(160)], True, 0),
        ([], [], True, 0),
    ],
    ids=[
        "elsewhere", "nobody", "one more", "boxes keep their order", "people come in any order", "one more, clear",
        "one more, of three joints", "one of three joints gone", "one of three joints elsewhere", "nobody was there",
    ],
)  # fmt: skip
def test_other_people_are_not_the_same(people: list[GoldenPerson], found: list[Joints], same: bool, more: int) -> None:
    result = compare(golden(*people), read_people(answer(*found), JOINTS), JOINTS)
    assert (result.same, result.more) == (same, more)


def test_a_joint_that_was_hardly_seen_is_shown_and_not_judged() -> None:
    expected = list(standing(20))
    expected[3] = (100.0, 100.0, 0.1)
    image = golden(GoldenPerson(box=(0.0, 0.0, 200.0, 200.0), joints=tuple(expected)))
    result = compare(image, read_people(answer(standing(20)), JOINTS), JOINTS)
    (one,) = result.people
    assert JOINTS[3] not in one.confident
    assert one.distances_px[JOINTS[3]] > 50
    assert (result.same, result.max_px) == (True, 0.0)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'[{"joints": [{"name": "nose"}]}]', b"\xff"])
def test_what_is_no_list_of_people_is_refused(data: bytes) -> None:
    with pytest.raises(BadInputError, match="list of people"):
        read_people(data, JOINTS)


# --- description ---


def test_a_version_says_what_it_was_trained_and_measured_on(manifest: ModelManifest, tmp_path: Path) -> None:
    trained = manifest.provenance.model_copy(update={"trained_on": "Drawn figures."})
    spread = ScoreSpread(persons=310, low=0.41, median=0.72)
    measured = manifest.onnx.model_copy(update={"person_scores": spread})
    described = versions_of(
        tmp_path / "m", manifest.model_copy(update={"provenance": trained, "onnx": measured})
    ).describe()
    assert described["version"] == manifest.version
    assert described["trained_on"] == "Drawn figures."
    assert described["accuracy"]["figures"] == {"fp32": "0.610", "quantsim": "0.605", "onnx": "0.600"}
    assert (described["accuracy"]["persons"], described["accuracy"]["split"]) == (310, "val")
    assert described["accuracy"]["dataset"] == "the project's own drawn people"
    assert described["processor"] == ["x86_64", "avx2", "avx512_vnni"]
    assert described["scores"] == {"low": 0.41, "median": 0.72, "persons": 310, "from": "evaluation"}
    assert (described["origin"], described["threshold"]) == ("a folder", 0.3)
    assert described["channel"] is None
    assert "destination.smoke_test" in described["no_golden"]
    json.dumps(described, allow_nan=False)


@pytest.mark.parametrize(
    ("x86_64", "arm64", "said"),
    [
        (0, 0, "from its weights, that no int8 kernel clips a sum on x86-64 or arm64"),
        (0, 2, "from its weights, that no int8 kernel clips a sum on x86-64"),
        (1, 2, "nothing is proved of its int8 kernels"),
    ],
)
def test_where_the_file_is_proved_to_compute_the_same_is_told(
    manifest: ModelManifest, tmp_path: Path, x86_64: int, arm64: int, said: str
) -> None:
    families = {"x86_64": FamilyProof(unproved_layers=x86_64), "arm64": FamilyProof(unproved_layers=arm64)}
    assert manifest.proof is not None
    proof = manifest.proof.model_copy(update=families)
    versions = versions_of(tmp_path / "m", manifest.model_copy(update={"proof": proof}))
    assert versions.describe()["proof"] == said


def test_pckh_is_told_in_percent(tmp_path: Path) -> None:
    made = records.manifest(records.write_files(tmp_path / "files"), metric="pckh", ap=81.25)
    accuracy = versions_of(tmp_path / "m", made).describe()["accuracy"]
    assert (accuracy["metric"], accuracy["figures"]["onnx"]) == ("PCKh", "81.2")


def test_an_older_manifest_is_described_all_the_same(manifest: ModelManifest, tmp_path: Path) -> None:
    older = ModelManifest.model_validate_json(records.as_published_before_kernels(manifest))
    described = versions_of(tmp_path / "m", older).describe()
    assert (described["trained_on"], described["scores"], described["processor"]) == (None, None, [])
    assert described["proof"] == ""


@pytest.mark.parametrize(("codec", "low"), [("heatmap", 0.6), ("paf", None)])
def test_without_scores_of_the_evaluation_the_golden_images_say_what_is_low(
    manifest: ModelManifest, tmp_path: Path, codec: str, low: float | None
) -> None:
    serving = manifest.serving.model_copy(update={"codec": codec})
    people = (person(20, score=0.8), person(120, score=0.6), person(60, score=0.3, known=3))
    image = with_golden(manifest, *people).model_copy(update={"serving": serving})
    versions = Versions(lambda: write_folder(tmp_path / "m", manifest), FolderFiles(tmp_path), origin="", threshold=0.2)
    versions._known[write_folder(tmp_path / "m", manifest).manifest_sha256] = image
    scores = versions.describe()["scores"]
    assert (scores and scores["low"]) == (low and pytest.approx(low, abs=1e-3))


def test_a_manifest_that_cannot_be_read_is_named(manifest: ModelManifest, tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", manifest)
    (tmp_path / "m" / "manifest.json").write_bytes(b"{}")
    versions = Versions(lambda: model, FolderFiles(tmp_path / "m"), origin="", threshold=0.2)
    with pytest.raises(DigestError, match=r"manifest\.json has changed"):
        versions.describe()
    (tmp_path / "m" / "manifest.json").unlink()
    with pytest.raises(AccessError, match="cannot be read"):
        versions.describe()
    record = json.loads(manifest.to_bytes()) | {"unknown": 1}
    (tmp_path / "m" / "manifest.json").write_text(json.dumps(record))
    digest = hashlib.sha256((tmp_path / "m" / "manifest.json").read_bytes()).hexdigest()
    other = VerifiedModel(model.model, model.network, model.file, digest, "package")
    with pytest.raises(DigestError, match=r"cannot be read.*publish the model again"):
        Versions(lambda: other, FolderFiles(tmp_path / "m"), origin="", threshold=0.2).describe()


def test_when_the_channel_moves_the_other_version_is_described(manifest: ModelManifest, tmp_path: Path) -> None:
    before = with_golden(manifest, person(20))
    after = records.manifest(records.write_files(tmp_path / "other", "two"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "golden-1").write_bytes(PICTURE)
    served = [write_folder(tmp_path / "m", before)]
    versions = Versions(lambda: served[0], FolderFiles(tmp_path / "m"), origin="", threshold=0.2)
    assert versions.describe()["version"] == before.version
    served[0] = write_folder(tmp_path / "m", after)
    assert versions.describe()["version"] == after.version
    # A page that was loaded before still shows what it offered.
    assert versions.golden(before.version, "golden-1") == PICTURE


# --- golden images ---


@pytest.mark.parametrize("name", ["golden-1", "golden-1.jpg"])
def test_a_folder_that_holds_them_offers_its_golden_images(manifest: ModelManifest, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "m"
    versions = versions_of(folder, with_golden(manifest, person(20)))
    without = versions.describe()
    assert without["golden"] == []
    assert "put golden-1" in without["no_golden"]
    with pytest.raises(AccessError, match="holds no golden-1"):
        versions.golden(manifest.version, "golden-1")
    (folder / name).write_bytes(PICTURE)
    (image,) = versions.describe()["golden"]
    assert (image["role"], image["people"][0]["joints"][0]["name"]) == ("golden-1", "nose")
    assert versions.golden(manifest.version, "golden-1") == PICTURE
    compared = versions.compare(manifest.version, "golden-1", answer(standing(20)))
    assert (compared["same"], compared["min_oks"]) == (True, 1.0)
    (folder / name).write_bytes(b"another picture")
    assert versions.describe()["golden"] == []


@pytest.mark.parametrize(
    ("version", "role"), [("0" * 16, "golden-1"), (None, "golden-2"), (None, "model")], ids=["version", "role", "file"]
)
def test_only_golden_images_of_described_versions_are_given(
    manifest: ModelManifest, tmp_path: Path, version: str | None, role: str
) -> None:
    versions = versions_of(tmp_path / "m", with_golden(manifest, person(20)))
    (tmp_path / "m" / "golden-1").write_bytes(PICTURE)
    versions.describe()
    with pytest.raises(AccessError, match="no golden image"):
        versions.golden(version or manifest.version, role)
    with pytest.raises(AccessError, match="no golden image"):
        versions.compare(version or manifest.version, role, b"[]")


def test_a_registry_gives_the_files_of_the_version_that_answers(manifest: ModelManifest, tmp_path: Path) -> None:
    files = records.write_files(tmp_path / "files") | {"golden-1": tmp_path / "picture.jpg"}
    files["golden-1"].write_bytes(PICTURE)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t")
        client.create_bucket(Bucket="models")
        registry = ModelRegistry(client, S3Location("models", "registry"))
        made = with_golden(manifest, person(20))
        stored = registry.store(made, files)
        served = ServedModel.from_manifest(made.to_bytes())
        network = model_file(served)
        model = VerifiedModel(served, network, Path("model.onnx"), stored.manifest.sha256, "s3://models")
        versions = Versions(lambda: model, RegistryFiles(registry), origin="a registry", threshold=0.2)
        assert [image["role"] for image in versions.describe()["golden"]] == ["golden-1"]
        assert versions.golden(made.version, "golden-1") == PICTURE
        client.put_object(Bucket="models", Key=f"registry/{made.file('golden-1').blob}", Body=b"another")
        with pytest.raises(DigestError, match="corrupt"):
            versions.golden(made.version, "golden-1")
        other = VerifiedModel(served, network, Path("model.onnx"), "0" * 64, "s3://models")
        with pytest.raises(DigestError, match="SHA-256"):
            Versions(lambda: other, RegistryFiles(registry), origin="", threshold=0.2).describe()


def test_what_is_refused_of_the_channel_is_told(manifest: ModelManifest, tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", manifest)
    channel = {"name": "staging", "counter": 9, "refused": {"reason": "The channel's pointer is refused: old."}}
    files = FolderFiles(tmp_path / "m")
    told = Versions(lambda: model, files, origin="", threshold=0.2, channel=lambda: channel).describe()["channel"]
    assert told == channel
