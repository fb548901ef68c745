"""What reads files of unknown origin, each with real files to begin with and with changes that know their format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from support.fuzzing.json_values import changed_json
from support.fuzzing.mat_files import changed_mat
from support.fuzzing.onnx_models import changed_onnx

if TYPE_CHECKING:
    from hpe_tasks.datasets import DatasetKind

TARGETS = ("annotations", "pointer", "channel", "manifest", "mat", "onnx")
_MODEL, _CHANNEL = "pose", "staging"


@dataclass(frozen=True)
class Seed:
    """A kind of file that a target reads.

    Attributes:
        read: Reads its bytes as the product does. Whatever it raises but an HpeError was not foreseen.
        cases: Changed files.
        real: The file that they are made of, which must be accepted.
        apart: What has read the file before, in a process with limits of its own; None where nothing does.
    """

    name: str
    read: Callable[[bytes], object]
    cases: st.SearchStrategy[bytes]
    real: bytes
    apart: Callable[[bytes], object] | None = None


@contextmanager
def open_target(name: str, folder: Path) -> Iterator[list[Seed]]:
    """What a target reads, with all that it needs in a folder."""
    match name:
        case "annotations":
            yield _annotations(folder)
        case "mat":
            yield _mat(folder)
        case "onnx":
            yield _onnx(folder)
        case _:
            with _registry(folder) as seeds:
                yield seeds[name]


def _annotations(folder: Path) -> list[Seed]:
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.datasets import COCO, CROWDPOSE, CUSTOM

    spec, splits = SampleSpec(train=1, calibration=2, val=2, width=160, height=120), ["calibration", "val"]
    seeds = []
    for kind in (COCO, CROWDPOSE, CUSTOM):
        root = folder / kind.name
        make_sample(root, spec, splits=splits, kind=kind)
        seeds.append(_coco_seed(kind, root))
    custom = folder / "custom"
    sigmas = custom / "annotations" / "sigmas.json"
    joints = json.loads(CUSTOM.layout.annotation_path(custom, "val").read_bytes())["categories"][0]["keypoints"]
    real = json.dumps(dict.fromkeys(joints, 0.05)).encode()

    def read_sigmas(data: bytes) -> None:
        sigmas.write_bytes(data)
        try:
            _use_coco(CUSTOM, custom)
        finally:
            sigmas.unlink()

    return [*seeds, Seed("sigmas.json", read_sigmas, changed_json(json.loads(real)), real), _mpii_seed(folder)]


def _coco_seed(kind: DatasetKind, root: Path) -> Seed:
    path = kind.layout.annotation_path(root, "val")
    real = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            _use_coco(kind, root)
        finally:
            path.write_bytes(real)

    return Seed(f"{kind.name} annotations", read, changed_json(json.loads(real)), real)


def _use_coco(kind: DatasetKind, root: Path) -> None:
    """Look for problems, as the validation does, and then load what the later steps use."""
    from hpe_tasks.data.coco import load_coco
    from hpe_tasks.data.validation.inspection import inspect

    inspect(root, kind, calibration="calibration", evaluation="val")
    dataset = load_coco(root, "val", kind)
    dataset.annotated_boxes()
    dataset.strata()
    _ = (dataset.subjects(), dataset.skeleton.limb_indices(), dataset.sigmas, dataset.groups)


def _mpii_seed(folder: Path) -> Seed:
    from hpe_tasks.data.mpii import load_mpii
    from hpe_tasks.data.mpii.inspection import inspect_mpii
    from hpe_tasks.data.mpii.truth import load_truth
    from support.mpii_factory import write_mpii

    root = write_mpii(folder / "mpii")
    path = root / "annot" / "valid.json"
    real = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        inspect_mpii(root, calibration="train", evaluation="valid")
        dataset = load_mpii(root, "valid")
        load_truth(dataset)
        dataset.annotated_boxes()
        dataset.strata()
        dataset.subjects()

    return Seed("mpii annotations", read, changed_json(json.loads(real)), real)


def _mat(folder: Path) -> list[Seed]:
    from hpe_tasks.data.fetch.taken_in import try_matlab_file
    from hpe_tasks.data.mpii.mat import load_mpii_mat
    from hpe_tasks.data.mpii.original import convert_original
    from support import mpii_original
    from support.mpii_factory import write_mpii

    truth = (write_mpii(folder / "mpii") / "annot" / "gt_valid.mat").read_bytes()
    images = [*mpii_original.TRAINING, mpii_original.image("c.jpg", mpii_original.person(3.0), video=3)]
    original = mpii_original.write(folder / "original.mat", images).read_bytes()
    case = folder / "case.mat"

    def apart(data: bytes) -> None:
        case.write_bytes(data)
        try_matlab_file(case, folder / "cache")

    def read_truth(data: bytes) -> None:
        case.write_bytes(data)
        load_mpii_mat(case)

    def read_original(data: bytes) -> None:
        case.write_bytes(data)
        convert_original(case, folder / "converted")

    return [
        Seed("gt_valid.mat", read_truth, changed_mat(truth), truth, apart),
        Seed("original mpii .mat", read_original, changed_mat(original), original, apart),
    ]


def _onnx(folder: Path) -> list[Seed]:
    from hpe_tasks.data.fetch.taken_in import check_checkpoint
    from hpe_tasks.models.onnx_model import describe_onnx, prepare_onnx
    from support import tiny_networks

    config = tiny_networks.onnx_config()
    case = folder / "case.onnx"

    def apart(data: bytes) -> None:
        case.write_bytes(data)
        check_checkpoint(config, case, folder / "cache")

    def read(data: bytes) -> None:
        case.write_bytes(data)
        prepare_onnx(case, folder / "prepared.onnx", config)
        describe_onnx(folder / "prepared.onnx")

    models = {
        "onnx": tiny_networks.pose_onnx(),
        "onnx of opset 9": tiny_networks.pose_onnx(opset=9, ir=3, listed_initializers=True),
        "onnx of free size": tiny_networks.pose_onnx(shape=("n", 3, None, None)),
    }
    found = {name: model.SerializeToString() for name, model in models.items()}
    return [Seed(name, read, changed_onnx(real), real, apart) for name, real in found.items()]


@contextmanager
def _registry(folder: Path) -> Iterator[dict[str, list[Seed]]]:
    """A published version on a server of its own; its manifest and its channel are what is changed."""
    from moto import mock_aws

    with mock_aws():
        yield _of_registry(folder)


def _of_registry(folder: Path) -> dict[str, list[Seed]]:
    import boto3

    from hpe_tasks.registry.channels import read_channel
    from hpe_tasks.registry.layout import RegistryLayout
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.serving.served_model import ServedModel
    from hpe_tasks.storage.s3 import S3Location
    from support import sample_records as records

    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket="models")
    location = S3Location("models", "registry")
    registry, layout = ModelRegistry(client, location), RegistryLayout(location)
    files = records.write_files(folder / "published")
    published = registry.store(records.manifest(files), files)
    registry.promote(_MODEL, published.version, _CHANNEL, published=published)
    manifest, pointer = layout.manifest(_MODEL, published.version), layout.pointer(_MODEL, _CHANNEL)
    stored = {at: client.get_object(Bucket=at.bucket, Key=at.key)["Body"].read() for at in (manifest, pointer)}

    def put(at: S3Location, data: bytes) -> None:
        client.put_object(Bucket=at.bucket, Key=at.key, Body=data)

    def in_registry(data: bytes) -> None:
        put(manifest, data)
        registry.stored(_MODEL, published.version)

    def in_pointer(data: bytes) -> None:
        put(pointer, data)
        _as_function(folder / "function").load()

    def in_channel(data: bytes) -> None:
        put(pointer, data)
        read_channel(client, pointer)

    def seed(name: str, read: Callable[[bytes], object], at: S3Location) -> Seed:
        return Seed(name, read, changed_json(json.loads(stored[at])), stored[at])

    return {
        "manifest": [
            seed("manifest in the registry", in_registry, manifest),
            seed("manifest in the function", ServedModel.from_manifest, manifest),
        ],
        "pointer": [seed("pointer in the function", in_pointer, pointer)],
        "channel": [seed("pointer in the registry", in_channel, pointer)],
    }


def _as_function(folder: Path) -> Any:
    from hpe_tasks.serving.registry_source import RegistrySource

    return RegistrySource("s3://models/registry", _MODEL, channel=_CHANNEL, version=None, public_keys=(), folder=folder)
