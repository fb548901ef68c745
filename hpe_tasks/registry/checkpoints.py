"""Checkpoints in the registry: each once under the digest of its content, and beside it what it came from.

Layout below the registry's prefix::

    checkpoints/sha256/<hex>.safetensors          the weights; never changed
    checkpoints/lineage/<hex>/<digest>.json       their lineage, named by its content without time, run and person

The weights are written first: a lineage is always that of a checkpoint which is there. A checkpoint that is trained
again, from the same data to the same bytes, is one object; compared with another live version it gets a further
lineage.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.retraining import CheckpointLineage
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import get_bytes, is_stored, put_new_bytes, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.registry.manifest import ModelManifest

_OF_THE_OCCASION = {"run", "created_at", "created_by"}


class CheckpointStore:
    """Checkpoints below a registry's prefix.

    Args:
        client: Must stay usable for as long as this is.
        root: The registry's bucket and prefix.
    """

    def __init__(self, client: S3Client, root: S3Location) -> None:
        self._client, self._root = client, root

    def address(self, sha256: str) -> S3Location:
        """Where a checkpoint lies, if it is registered."""
        return self._root / f"checkpoints/sha256/{sha256}.safetensors"

    def add(self, file: Path, lineage: CheckpointLineage) -> tuple[Artifact, bool]:
        """Register a checkpoint; twice is the same as once.

        Args:
            file: The weights.
            lineage: What they came from; its digest is the file's.

        Returns:
            The lineage as it lies there, and whether the checkpoint is new.

        Raises:
            DigestError: The file is not the one that the lineage names.
            AccessError: The bucket does not exist, or it refuses the credentials.
            TransientError: The server cannot be reached, or failed.
        """
        created = self._add_weights(file, lineage)
        return self._add_lineage(lineage), created

    def _add_weights(self, file: Path, lineage: CheckpointLineage) -> bool:
        """Store the weights where they are not there and whole; whether it was this call that stored them."""
        location, sha256, size_bytes = self.address(lineage.sha256), lineage.sha256, lineage.size_bytes
        if is_stored(self._client, location, sha256, size_bytes):
            return False
        if upload(self._client, file, location, sha256, only_new=True):
            return True
        # Somebody else has stored the same meanwhile, or there is something that is damaged.
        return not is_stored(self._client, location, sha256, size_bytes) and upload(
            self._client, file, location, sha256
        )

    def _add_lineage(self, lineage: CheckpointLineage) -> Artifact:
        name = digest_of(lineage.model_dump(mode="json", exclude=_OF_THE_OCCASION))[:16]
        location = self._root / f"checkpoints/lineage/{lineage.sha256}/{name}.json"
        data = lineage.model_dump_json(indent=2).encode() + b"\n"
        if not put_new_bytes(self._client, location, data, "writing the lineage"):
            # The first time stands.
            found = get_bytes(self._client, location, "reading the lineage")
            data = data if found is None else found.data
        return Artifact(uri=str(location), sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def checkpoint_suffix(manifest: ModelManifest) -> str:
    """What the name of a version's checkpoint ends with: it says how the file is read."""
    source = manifest.provenance.checkpoint_source
    if source == SAMPLE:
        source = ARCHITECTURES[manifest.serving.architecture].sample_checkpoint or ""
    name = PurePosixPath(source).name.lower()
    return next((end for end in (".pth.tar", ".tar.gz") if name.endswith(end)), PurePosixPath(name).suffix)
