"""Where the function's model comes from: the package itself, or a registry in S3; verified before it is used.

Imports nothing large, so that a source can look at its model while NumPy and onnxruntime are imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpe_tasks.contract.digests import FileDigest
from hpe_tasks.contract.names import MANIFEST, SIGNATURE
from hpe_tasks.contract.stored_graph import GRAPH
from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.serving.settings import ServingSettings

if TYPE_CHECKING:
    from hpe_tasks.serving.verified_model import VerifiedModel

MODEL = "model.onnx"


class ModelSource(Protocol):
    """Where models come from."""

    def load(self) -> VerifiedModel:
        """The model to serve now; raises DigestError, AccessError or TransientError where there is none to trust."""

    def newer(self, current: VerifiedModel) -> VerifiedModel | None:
        """Another model that is to be served from now on; None when `current` stays. Raises as `load` does."""

    @property
    def channel(self) -> dict[str, Any] | None:
        """What is known of the channel that is followed, to be shown to anybody; None where none is."""


def open_source(settings: ServingSettings) -> ModelSource:
    """The source that the settings name; no model is read yet."""
    if settings.registry is None or settings.model is None:
        return PackageSource(settings.model_dir, settings.public_keys)
    import tempfile

    from hpe_tasks.serving.registry_source import RegistrySource

    return RegistrySource(
        settings.registry,
        settings.model,
        channel=settings.channel,
        version=settings.version,
        public_keys=settings.public_keys,
        min_counter=settings.min_counter,
        # The only place that a Lambda function may write to.
        folder=Path(tempfile.gettempdir()) / "hpe-models",
    )


class PackageSource:
    """The model that lies in the function's package; its digest is made from now on, in a thread.

    Args:
        folder: Holds manifest.json, model.onnx and, if signed, manifest.json.sig.
        public_keys: The manifest must be signed with one of them; none accept it unsigned.
    """

    def __init__(self, folder: Path, public_keys: tuple[bytes, ...]) -> None:
        self._folder = folder
        self._public_keys = public_keys
        # What is loaded if the manifest agrees: a package holds a graph only if it was made by its onnxruntime.
        graph = folder / GRAPH
        self._expected = graph if graph.is_file() else folder / MODEL
        self._digest = FileDigest(self._expected)

    def load(self) -> VerifiedModel:
        """The package's model.

        Raises:
            AccessError: There is none.
            DigestError: The manifest, its signature or the model does not verify.
        """
        from hpe_tasks.serving.verified_model import VerifiedModel, model_file, network_file, verified_manifest

        path, file = self._folder / MANIFEST, self._folder / MODEL
        for needed in (path, file):
            if not needed.is_file():
                raise AccessError(
                    f"The package holds no model: {needed} does not exist.",
                    hint="Build it with --with-model, or name a registry with HPE_REGISTRY and HPE_MODEL.",
                )
        manifest = path.read_bytes()
        signature = self._folder / SIGNATURE
        model = verified_manifest(
            manifest, signature.read_bytes() if signature.is_file() else None, self._public_keys, str(path)
        )
        graph = self._folder / GRAPH
        network = network_file(model) if graph.is_file() else model_file(model)
        file = graph if network.optimized else file
        digest = self._digest if file == self._expected else FileDigest(file)
        if digest.result() != (network.size_bytes, network.sha256):
            raise DigestError(
                f"{file} is not the model that its manifest describes: its size or SHA-256 is another.",
                hint="Build the package again.",
            )
        return VerifiedModel(model, network, file, hashlib.sha256(manifest).hexdigest(), "package")

    def newer(self, current: VerifiedModel) -> None:
        """A package does not change."""

    channel = None
    """A package follows none."""
