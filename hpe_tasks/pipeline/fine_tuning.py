"""A training that begins with a published version: its network and its checkpoint, and settings that spoil neither."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.fine_tuning import fine_tuning_stages
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import AccessError, BadInputError, HpeError
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.registry.checkpoints import checkpoint_suffix
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE, ModelManifest
from hpe_tasks.storage.files import sha256_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.publishing import ModelRegistry

_FROM_ITS_TRAINING = ("width_multiplier", "sigma")
"""Settings of the checkpoint's own training that its network goes with, and that no manifest has."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """What a version came from.

    Attributes:
        name: Of the model.
        version: The version.
        checkpoint: The weights on this machine, with the digest that the manifest says.
        stages: Of the training: the network's settings, those of a fine-tuning, and what was asked for.
    """

    name: str
    version: str
    checkpoint: Path
    stages: tuple[TrainingConfig, ...]


def starting_point(
    manifest: ModelManifest,
    registry: ModelRegistry,
    asked: Mapping[str, Any],
    *,
    workspace: str,
    cache: Path,
    s3: Callable[[], S3Client],
) -> StartingPoint:
    """Find the checkpoint of a published version, and the settings to train it on with.

    Args:
        manifest: The version.
        registry: Holds it.
        asked: Settings of the training that the user gives; they win.
        workspace: Where the run's own copy may lie, as HPE_WORKSPACE has it.
        cache: Folder of this machine for downloads.
        s3: Makes the S3 client, when one is needed.

    Raises:
        AccessError: The checkpoint is nowhere any more.
        BadInputError: The network is not one that can be trained; says what of it.
        ConfigError: A setting is not valid.
        DigestError: The checkpoint in the registry is damaged.
    """
    network = _trainable(manifest)
    checkpoint = checkpoint_of(manifest, registry, workspace=workspace, cache=cache, s3=s3)
    own = {name: value for name, value in _own_training(checkpoint).items() if name in _FROM_ITS_TRAINING}
    stages = fine_tuning_stages({**own, **network, "initial_weights": str(checkpoint)}, asked)
    return StartingPoint(manifest.name, manifest.version, checkpoint, stages)


def _trainable(manifest: ModelManifest) -> dict[str, Any]:
    """The settings of the version's network; raises BadInputError where a training would make another one of it."""
    serving, what = manifest.serving, f"Version {manifest.version} of {manifest.name!r}"
    network = ARCHITECTURES.get(serving.architecture)
    if network is None or network.from_file:
        raise BadInputError(
            f"{what} came from an ONNX file, which cannot be trained.",
            hint="Train where the file was made, or train one of the networks that the project builds.",
        )
    width, height = serving.input_sizes[0]
    wanted = {
        "architecture": serving.architecture,
        "codec": serving.codec,
        "skeleton": serving.skeleton,
        "input_width": width,
        "input_height": height,
    }
    if serving.skeleton not in _skeletons():
        raise BadInputError(
            f"{what} finds joints of its own ({', '.join(serving.joints[:3])}, …), which a training does not know.",
            hint=f"A training knows the joints of {', '.join(_skeletons())}.",
        )
    images = ModelConfig(checkpoint="unused", **{**wanted, **network.input})
    taken = {"channel_order": serving.channel_order, "mean": serving.mean, "std": serving.std}
    other = [name for name, value in taken.items() if getattr(images, name) != value]
    if _asked_of_the_run(manifest).get("caffe_style"):
        other.append("caffe_style")
    if other:
        raise BadInputError(
            f"{what} takes images otherwise than a training of {serving.architecture} shows them: its "
            f"{', '.join(other)}.",
            hint="Train it where it was trained before.",
        )
    return {**_kept(_asked_of_the_run(manifest), "width_multiplier"), **wanted}


def _skeletons() -> tuple[str, ...]:
    choices: tuple[str, ...] = TrainingConfig.model_json_schema()["properties"]["skeleton"]["enum"]
    return tuple(choices)


def _asked_of_the_run(manifest: ModelManifest) -> dict[str, Any]:
    """The section `model` of the configuration that the version was made with; empty in older manifests."""
    if manifest.build is None:
        return {}
    model = manifest.build.build_definition.external_parameters.get("model")
    return model if isinstance(model, dict) else {}


def _kept(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _own_training(checkpoint: Path) -> Mapping[str, Any]:
    from hpe_tasks.models.training_record import training_record

    own = training_record(checkpoint).get("training")
    return own if isinstance(own, dict) else {}


def checkpoint_of(
    manifest: ModelManifest,
    registry: ModelRegistry,
    *,
    workspace: str,
    cache: Path,
    s3: Callable[[], S3Client],
) -> Path:
    """The checkpoint that a version came from, on this machine and with the digest that the manifest says.

    It is published beside the version. Of versions from before that was so, it is looked for in the workspace of the
    run that made them, and where the run had it from.

    Raises:
        AccessError: It is at none of these places.
        DigestError: The one in the registry is damaged.
    """
    source, digest = manifest.provenance.checkpoint_source, manifest.provenance.checkpoint_sha256
    file = cache / "checkpoints" / "published" / f"{digest}{checkpoint_suffix(manifest)}"
    if file.is_file() and sha256_file(file) == digest:
        return file
    if any(one.role == CHECKPOINT_ROLE and one.sha256 == digest for one in manifest.files):
        return registry.download(manifest, CHECKPOINT_ROLE, file)
    tried = []
    for place, found in _elsewhere(manifest, workspace, cache, s3):
        try:
            kept = found()
        except HpeError as error:
            tried.append(f"{place}: {error.message}")
            continue
        if sha256_file(kept) == digest:
            return kept
        tried.append(f"{place}: another file lies there")
    raise AccessError(
        f"The checkpoint of version {manifest.version} of {manifest.name!r}, {source} with the SHA-256 {digest}, is "
        f"not published beside it, nor is it elsewhere. {' '.join(one.rstrip('.') + '.' for one in tried)}",
        hint="Put that file back where it was; versions that are published from now on bring theirs along.",
    )


def _elsewhere(
    manifest: ModelManifest, workspace: str, cache: Path, s3: Callable[[], S3Client]
) -> Iterator[tuple[str, Callable[[], Path]]]:
    source, run = manifest.provenance.checkpoint_source, manifest.provenance.run

    def in_workspace() -> Path:
        from hpe_tasks.pipeline.runs import find_run
        from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint

        made = find_run(run, workspace=workspace, cache=cache, s3=s3)
        return made.workspace.local(made.result(fetch_checkpoint).file)

    def at_source() -> Path:
        from hpe_tasks.pipeline.steps.inputs import checkpoint_file
        from hpe_tasks.storage.local_workspace import LocalWorkspace

        model = ModelConfig(architecture=manifest.serving.architecture, codec=manifest.serving.codec, checkpoint=source)
        return checkpoint_file(model, cache, s3, LocalWorkspace(cache))

    yield f"the run {run} in {workspace}", in_workspace
    yield "where it came from", at_source
