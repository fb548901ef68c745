"""What the page says of the version that answers: where it comes from, what was measured, and its golden images."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.gate.accuracy import metric_of
from hpe_tasks.gate.references import BOX_SOURCES
from hpe_tasks.local_service.comparison import compare, read_people
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.crops import person_score
from hpe_tasks.registry.manifest import GoldenImage, ManifestFile, ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.golden import is_clear
from hpe_tasks.serving.verified_model import VerifiedModel
from hpe_tasks.storage.files import sha256_file

_NO_GOLDEN = (
    "This version was published without golden images, because destination.smoke_test was off. Versions that are "
    "published with it have some."
)


_DRAWN = "the project's own drawn people"


class VersionFiles(Protocol):
    """Where manifests and golden images come from."""

    def manifest(self, model: VerifiedModel) -> bytes:
        """The manifest that the function has verified, as it was stored."""

    def has(self, file: ManifestFile, /) -> bool:
        """Whether a file of a version is to be had."""

    def read(self, manifest: ModelManifest, file: ManifestFile) -> bytes:
        """A file of a version, verified."""


class RegistryFiles:
    """Files of versions in a registry."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def manifest(self, model: VerifiedModel) -> bytes:
        """The manifest with the digest that the function has verified."""
        served = model.model
        return self._registry.stored(served.name, served.version, sha256=model.manifest_sha256).data

    def has(self, _: ManifestFile, /) -> bool:
        """Whether there is such a file: a version in a registry has all of its own."""
        return True

    def read(self, manifest: ModelManifest, file: ManifestFile) -> bytes:
        """The blob of a file; raises AccessError or DigestError where it is missing or damaged."""
        with tempfile.TemporaryDirectory(prefix="hpe-golden-") as folder:
            return self._registry.download(manifest, file.role, Path(folder) / file.role).read_bytes()


class FolderFiles:
    """Files in the folder of an unpacked package: a golden image lies beside the model under the name of its role.

    A suffix does not matter: `golden-1`, `golden-1.jpg`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifest(self, model: VerifiedModel) -> bytes:
        """The folder's manifest; raises DigestError where it has changed since the function verified it."""
        try:
            data = (self._folder / MANIFEST).read_bytes()
        except OSError as error:
            raise AccessError(
                f"{self._folder / MANIFEST} cannot be read: {error.strerror}.", hint="Check it."
            ) from error
        if hashlib.sha256(data).hexdigest() != model.manifest_sha256:
            raise DigestError(
                f"{self._folder / MANIFEST} has changed since the function has read it.", hint="Start it again."
            )
        return data

    def has(self, file: ManifestFile, /) -> bool:
        """Whether the folder holds the file, whole."""
        return self._find(file) is not None

    def read(self, manifest: ModelManifest, file: ManifestFile) -> bytes:
        """The file; raises AccessError where the folder does not hold it."""
        path = self._find(file)
        if path is None:
            raise AccessError(
                f"{self._folder} holds no {file.role} of version {manifest.version}.", hint="Put it there."
            )
        return path.read_bytes()

    def _find(self, file: ManifestFile) -> Path | None:
        candidates = (self._folder / file.role, *sorted(self._folder.glob(f"{file.role}.*")))
        return next((path for path in candidates if path.is_file() and sha256_file(path) == file.sha256), None)


class Versions:
    """The versions that the function has served since it started.

    Args:
        served: Gives the model that answers now.
        files: Where its manifest and its golden images are.
        origin: Where it is served from, in words: a channel, a pinned version, a folder.
        threshold: Smallest score of a joint that the function draws.
        channel: Gives what the function says of its channel; by default that it follows none.
    """

    def __init__(
        self,
        served: Callable[[], VerifiedModel],
        files: VersionFiles,
        *,
        origin: str,
        threshold: float,
        channel: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self._served = served
        self._files = files
        self._origin = origin
        self._threshold = threshold
        self._channel = channel
        self._known: dict[str, ModelManifest] = {}

    def describe(self) -> dict[str, Any]:
        """The version that answers now, for the page.

        Raises:
            DigestError: Its manifest cannot be read by this project.
            HpeError: The registry cannot be read.
        """
        manifest = self._manifest(self._served())
        metric = metric_of(manifest.onnx.stats)
        protocol, provenance = manifest.onnx.fingerprint, manifest.provenance
        here = [golden for golden in manifest.golden if self._files.has(manifest.file(golden.file))]
        return {
            "name": manifest.name,
            "version": manifest.version,
            "origin": self._origin,
            "channel": self._channel(),
            "published_at": provenance.created_at.isoformat(),
            "published_by": provenance.created_by,
            "architecture": manifest.serving.architecture,
            "codec": manifest.serving.codec,
            "takes_boxes": not CODECS[manifest.serving.codec].whole_images,
            "input_sizes": manifest.serving.input_sizes,
            "joints": len(manifest.serving.joints),
            "trained_on": provenance.trained_on,
            "checkpoint": provenance.checkpoint_source,
            "preset": provenance.preset,
            "recipe": _recipe_text(manifest.recipe),
            "accuracy": {
                "metric": metric.name,
                "meaning": metric.explanation,
                "figures": {form: metric.text(_main_figure(manifest, form)) for form in ("fp32", "quantsim", "onnx")},
                "persons": protocol.num_persons,
                "images": protocol.num_images,
                "dataset": _DRAWN if provenance.dataset_source == SAMPLE else provenance.dataset_source,
                "split": protocol.split,
                "subset": protocol.subset,
                "boxes": BOX_SOURCES[protocol.box_source],
            },
            "processor": list(manifest.onnx.cpu_features),
            "proof": _proof_text(manifest),
            "scores": _usual_scores(manifest),
            "threshold": self._threshold,
            "golden": [_golden_view(golden, manifest.serving.joints) for golden in here],
            "no_golden": "" if here else _why_none(manifest),
        }

    def golden(self, version: str, role: str) -> bytes:
        """The file of a golden image; raises AccessError where the version, served before, has none of this role."""
        manifest, golden = self._find(version, role)
        return self._files.read(manifest, manifest.file(golden.file))

    def compare(self, version: str, role: str, people: bytes) -> dict[str, Any]:
        """Compare the people of an answer, `people` as JSON, with those of a golden image.

        Raises:
            AccessError: The version has no such image.
            BadInputError: The answer does not hold people.
        """
        manifest, golden = self._find(version, role)
        joints = manifest.serving.joints
        return asdict(compare(golden, read_people(people, joints), joints))

    def _manifest(self, model: VerifiedModel) -> ModelManifest:
        known = self._known.get(model.manifest_sha256)
        if known is None:
            try:
                known = ModelManifest.model_validate_json(self._files.manifest(model))
            except ValidationError as error:
                raise DigestError(
                    f"The manifest of version {model.model.version} cannot be read: {error.errors()[0]['msg']}.",
                    hint="Another version of this project wrote it: publish the model again.",
                ) from error
            self._known[model.manifest_sha256] = known
        return known

    def _find(self, version: str, role: str) -> tuple[ModelManifest, GoldenImage]:
        for manifest in self._known.values():
            for golden in manifest.golden if manifest.version == version else ():
                if golden.file == role:
                    return manifest, golden
        raise AccessError(f"Version {version!r} has no golden image {role!r} here.", hint="Load the page again.")


def _main_figure(manifest: ModelManifest, form: str) -> float | None:
    stats: Any = getattr(manifest, form).stats
    return getattr(stats, metric_of(stats).columns[0].field)  # type: ignore[no-any-return]


def _recipe_text(recipe: QuantizationRecipe) -> str:
    parts = [
        f"weights {recipe.param_bw} bits {recipe.granularity.replace('_', ' ')}",
        f"activations {recipe.activation_bw} bits",
        f"ranges by {recipe.ranges}",
        *(["batch norms folded"] if recipe.fold_batch_norms else []),
        *(["cross-layer equalization"] if recipe.cross_layer_equalization else []),
        *(["channels evened out"] if recipe.channel_equalization else []),
    ]
    return ", ".join(parts)


def _proof_text(manifest: ModelManifest) -> str:
    """On which processors the file is proved to compute the same; empty where nothing was examined."""
    if manifest.proof is None:
        return ""
    proved = [name for name, family in manifest.proof.families.items() if family.proved]
    if not proved:
        return "nothing is proved of its int8 kernels"
    return f"from its weights, that no int8 kernel clips a sum on {' or '.join(proved)}"


def _usual_scores(manifest: ModelManifest) -> dict[str, Any] | None:
    """The score below which a person is unusual, and what that is known from.

    Manifests of older versions hold no scores of the evaluation: there it is the lowest score of a person who is seen
    clearly in a golden image. Of people in whole images these do not tell it.
    """
    if (spread := manifest.onnx.person_scores) is not None:
        return {"low": spread.low, "median": spread.median, "persons": spread.persons, "from": "evaluation"}
    scores = [
        person_score(np.array([joint[2] if joint else 0 for joint in person.joints], np.float32))
        for golden in manifest.golden
        for person in golden.people
        if is_clear(person)
    ]
    if not scores or CODECS[manifest.serving.codec].whole_images:
        return None
    low, median = min(scores), float(np.median(scores))
    return {"low": round(low, 3), "median": round(median, 3), "persons": len(scores), "from": "golden images"}


def _golden_view(golden: GoldenImage, joints: tuple[str, ...]) -> dict[str, Any]:
    people = [
        {
            "box": person.box,
            "joints": [
                {"name": name, "x": joint[0], "y": joint[1], "score": joint[2]}
                for name, joint in zip(joints, person.joints, strict=True)
                if joint is not None
            ],
        }
        for person in golden.people
    ]
    return {"role": golden.file, "width": golden.width, "height": golden.height, "people": people}


def _why_none(manifest: ModelManifest) -> str:
    if not manifest.golden:
        return _NO_GOLDEN
    roles = ", ".join(golden.file for golden in manifest.golden)
    return f"The folder of the model does not hold this version's golden images: put {roles} of the registry there."
