"""The function's settings: environment variables, read once when it starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hpe_tasks.contract.channel_pointer import LARGEST_COUNTER
from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.names import SLUG, VERSION
from hpe_tasks.contract.public_keys import read_public_keys
from hpe_tasks.errors import ConfigError

# A function with this much memory has one vCPU.
_VCPU_MB = 1769

# Pillow itself refuses images with more pixels, as decompression bombs.
_PILLOW_MAX_PIXELS = 178_956_970
# What the function needs for an image, measured as peak memory: the most for each pixel is that of a WebP which is
# transparent and turned by its EXIF data. The rest is Python, the model and the request.
_BYTES_PER_PIXEL = 28
_BASE_MB = 250
_MOST_PIXELS, _FEWEST_PIXELS = 25_000_000, 1_000_000

_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s,]+)?")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_NAMESPACE = re.compile(r"[0-9A-Za-z._/#-][0-9A-Za-z._/#:-]{0,254}")


@frozen
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
        public_keys: Ed25519 public keys, 32 bytes each, one of which manifest and channel must be signed with
            (HPE_PUBLIC_KEY, base64 or PEM; two while the key is being changed, separated by a comma).
        min_counter: Smallest counter of the channel's pointer that is followed (HPE_CHANNEL_MIN_COUNTER; 0 by default).
        image_prefixes: s3:// prefixes that images may be read from (HPE_IMAGE_PREFIXES, separated by commas); none by
            default.
        cors_origins: Origins that browsers may call from, or `*` (HPE_CORS_ORIGINS, separated by commas); none by
            default.
        max_image_bytes: Largest image file in a request (HPE_MAX_IMAGE_BYTES).
        max_stored_image_bytes: Largest image file that is read from S3 (HPE_MAX_STORED_IMAGE_BYTES).
        max_pixels: Largest number of pixels of an image (HPE_MAX_PIXELS, at most 178,956,970, which is Pillow's limit;
            by default what the function's memory is enough for, 28 bytes a pixel beside 250 MB, but 1 to 25 million).
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
    public_keys: tuple[bytes, ...]
    min_counter: int
    image_prefixes: tuple[str, ...]
    cors_origins: tuple[str, ...]
    max_image_bytes: int
    max_stored_image_bytes: int
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
        variables = _Variables(environment)
        registry = variables.address("HPE_REGISTRY")
        model, channel, version = (variables.slug(f"HPE_{part}") for part in ("MODEL", "CHANNEL", "VERSION"))
        _check_registry(registry, model, channel, version)
        folder = variables.text("HPE_MODEL_DIR")
        if registry and folder:
            raise ConfigError(
                "HPE_MODEL_DIR and HPE_REGISTRY both name a model.", hint="Keep the one that is to be served."
            )
        public_keys = read_public_keys(variables.text("HPE_PUBLIC_KEY"))
        min_counter = variables.whole("HPE_CHANNEL_MIN_COUNTER", 0, 0, LARGEST_COUNTER)
        if min_counter and not (public_keys and channel):
            missing = "HPE_CHANNEL" if public_keys else "HPE_PUBLIC_KEY"
            raise ConfigError(
                f"HPE_CHANNEL_MIN_COUNTER is set, but {missing} is not.",
                hint="Counters of a channel that is followed count where its pointer must be signed.",
            )
        # Outside Lambda: one thread, and the largest images.
        memory_mb = variables.whole("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", _VCPU_MB, 1, 1_000_000)
        return cls(
            model_dir=package / (folder or "model"),
            registry=registry,
            model=model,
            channel=channel,
            version=version,
            refresh_s=variables.number("HPE_REFRESH_SECONDS", 60, 0, 86_400),
            public_keys=public_keys,
            min_counter=min_counter,
            image_prefixes=variables.addresses("HPE_IMAGE_PREFIXES"),
            cors_origins=variables.origins("HPE_CORS_ORIGINS"),
            max_image_bytes=variables.whole("HPE_MAX_IMAGE_BYTES", 4_500_000, 1, 1_000_000_000),
            max_stored_image_bytes=variables.whole("HPE_MAX_STORED_IMAGE_BYTES", 20_000_000, 1, 1_000_000_000),
            max_pixels=variables.whole("HPE_MAX_PIXELS", _pixels_within(memory_mb), 1, _PILLOW_MAX_PIXELS),
            threshold=variables.number("HPE_THRESHOLD", 0.2, 0, 1),
            threads=variables.whole("HPE_THREADS", max(1, memory_mb // _VCPU_MB), 1, 64),
            metrics_namespace=variables.namespace("HPE_METRICS_NAMESPACE", "HPE"),
        )


def _pixels_within(memory_mb: int) -> int:
    """Pixels of the largest image that a function with this much memory decodes, draws on and encodes."""
    return min(_MOST_PIXELS, max(_FEWEST_PIXELS, (memory_mb - _BASE_MB) * 1024**2 // _BYTES_PER_PIXEL))


class _Variables:
    """Environment variables; one that is empty counts as not set, as templates leave those of unused parameters."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str | None:
        return self._environment.get(name, "").strip() or None

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ConfigError(
                f"{name}={text!r} is not a number from {low:g} to {high:g}.", hint="Correct the variable."
            )
        return number

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        text = self.text(name)
        if text is not None and not re.fullmatch(r"[0-9]{1,16}", text):
            raise ConfigError(f"{name}={text!r} is not a whole number.", hint="Correct the variable.")
        return int(self.number(name, default, low, high))

    def slug(self, name: str) -> str | None:
        text = self.text(name)
        pattern = VERSION if name == "HPE_VERSION" else SLUG
        if text is not None and not re.fullmatch(pattern, text):
            raise ConfigError(f"{name}={text!r} does not match {pattern}.", hint="Correct the variable.")
        return text

    def address(self, name: str) -> str | None:
        text = self.text(name)
        return None if text is None else _address(name, text)

    def addresses(self, name: str) -> tuple[str, ...]:
        return tuple(_address(name, text) for text in self._list(name))

    def origins(self, name: str) -> tuple[str, ...]:
        origins = self._list(name)
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{name} holds {origin!r}, which is not an origin.",
                    hint="Write https://host, https://host:port or *.",
                )
        return origins

    def namespace(self, name: str, default: str) -> str:
        text = self.text(name) or default
        if not _NAMESPACE.fullmatch(text) or text.startswith("AWS/"):
            raise ConfigError(
                f"{name}={text!r} is not a namespace that CloudWatch accepts.",
                hint="Use letters, digits and . - _ / # : and do not begin with AWS/.",
            )
        return text

    def _list(self, name: str) -> tuple[str, ...]:
        return tuple(text.strip() for text in (self.text(name) or "").split(",") if text.strip())


def _address(name: str, text: str) -> str:
    """An s3:// address without a slash at its end."""
    trimmed = text.rstrip("/")
    match = _ADDRESS.fullmatch(trimmed)
    if match is None or any(segment in ("", ".", "..") for segment in trimmed[5:].split("/")):
        raise ConfigError(f"{name} holds {text!r}, which is not an S3 address.", hint="Write it as s3://bucket/prefix.")
    return trimmed


def _check_registry(registry: str | None, model: str | None, channel: str | None, version: str | None) -> None:
    if registry is None:
        for name, value in (("HPE_MODEL", model), ("HPE_CHANNEL", channel), ("HPE_VERSION", version)):
            if value is not None:
                raise ConfigError(
                    f"{name} is set, but HPE_REGISTRY is not.",
                    hint=f"Name the registry as s3://bucket/prefix, or unset {name} to serve the package's model.",
                )
        return
    if model is None:
        raise ConfigError("HPE_REGISTRY is set, but HPE_MODEL is not.", hint="Name the model in the registry.")
    if (channel is None) == (version is None):
        state = "Neither HPE_CHANNEL nor HPE_VERSION is" if channel is None else "Both HPE_CHANNEL and HPE_VERSION are"
        raise ConfigError(f"{state} set.", hint="Set one: a channel is followed, a version is pinned.")
