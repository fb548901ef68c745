"""The network before quantization as a file that the function serves like the version's own.

It was published beside the version; of an older one it is written from the checkpoint that was. Whoever published
either may have put anything there: it is read in a process of its own.
"""

from __future__ import annotations

from pydantic import ValidationError

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import AccessError
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE, ENCODINGS_ROLE, ManifestFile, ModelManifest, version_of

WRITER = ("hpe_tasks.local_service.fp32_writer", "write_fp32")
"""Writes the file; named, not imported, for it imports torch."""


def network_of(manifest: ModelManifest) -> ModelConfig:
    """The network that a version without its float32 file was made of; raises AccessError where it cannot be built."""
    asked = {} if manifest.build is None else manifest.build.build_definition.external_parameters
    try:
        network = ModelConfig.model_validate(asked["model"])
    except KeyError:
        raise AccessError("The version does not say how its network was built: it is older than that.") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        told = f"{where}: {problem['msg']}"
        raise AccessError(f"The version's network is not one that can be built here: {told}.") from error
    if network.network.from_file:
        raise AccessError(
            "The version came from an ONNX file, which is not published beside it: it is older than that."
        )
    if not any(file.role == CHECKPOINT_ROLE for file in manifest.files):
        raise AccessError("The version was published without its checkpoint.")
    return network


def manifest_before(manifest: ModelManifest, file: ManifestFile) -> ModelManifest:
    """The manifest with another network file: fed, read and judged alike, and of a version of its own.

    Args:
        manifest: The version.
        file: The network before quantization.
    """
    # Where int8 kernels may clip a sum is no question of this one.
    serving = manifest.serving.model_copy(update={"processors": None})
    changed = {
        "version": version_of(file.sha256, serving, manifest.onnx.fingerprint, manifest.gate),
        "files": (file, manifest.file(ENCODINGS_ROLE)),
        "serving": serving,
        "proof": None,
    }
    return manifest.model_copy(update=changed)
