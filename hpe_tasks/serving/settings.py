"""The function's settings: environment variables, read once when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServingSettings:
    """What the function is told by its environment; the variable of each setting stands behind it.

    Attributes:
        model_dir: Folder with manifest.json, model.onnx and, if signed, manifest.json.sig (HPE_MODEL_DIR; by default
            `model` in the package). Used unless a registry is named.
        registry: s3://bucket/prefix of the registry (HPE_REGISTRY).
        model: Name of the model in the registry (HPE_MODEL).
        channel: Channel to follow (HPE_CHANNEL); excludes `version`.
        version: Version to serve whatever the channel says (HPE_VERSION).
        refresh_s: Seconds after which the channel is read again (HPE_REFRESH_SECONDS).
        public_key: Ed25519 public key, 32 bytes, that the manifest must be signed with (HPE_PUBLIC_KEY, base64, or
            PEM).
        image_prefixes: s3:// prefixes that images may be read from (HPE_IMAGE_PREFIXES, separated by commas); none by
            default.
        cors_origins: Origins that browsers may call from, or `*` (HPE_CORS_ORIGINS, separated by commas); none by
            default.
        max_image_bytes: Largest image file (HPE_MAX_IMAGE_BYTES).
        max_pixels: Largest number of pixels of an image (HPE_MAX_PIXELS).
        threshold: Joints with lower scores are not drawn (HPE_THRESHOLD).
        threads: Threads of onnxruntime (HPE_THREADS; by default one for each full vCPU, 1769 MB of memory).
        metrics_namespace: Namespace of the CloudWatch metrics (HPE_METRICS_NAMESPACE).
    """

    model_dir: Path
    registry: str | None
    model: str | None
    channel: str | None
    version: str | None
    refresh_s: float
    public_key: bytes | None
    image_prefixes: tuple[str, ...]
    cors_origins: tuple[str, ...]
    max_image_bytes: int
    max_pixels: int
    threshold: float
    threads: int
    metrics_namespace: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], package: Path) -> ServingSettings:
        """Read the variables; raises ConfigError, naming the variable, for a value that makes no sense.

        Args:
            environment: Such as `os.environ`.
            package: Folder that the package was unpacked to.
        """
        raise NotImplementedError
