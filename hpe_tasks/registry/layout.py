"""Where everything of a registry lies below its prefix; names that may not be part of a key are refused."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from hpe_tasks.config.base import Slug
from hpe_tasks.contract.keys import (
    MODELS,
    channels_key,
    log_key,
    manifest_key,
    pointer_key,
    signature_key,
    versions_key,
)
from hpe_tasks.errors import ConfigError
from hpe_tasks.registry.manifest import Version
from hpe_tasks.storage.s3 import S3Location

POINTER_LIMIT_BYTES = 64 * 1024
RECORD_LIMIT_BYTES = 64 * 1024
SIGNATURE_LIMIT_BYTES = 1024
MANIFEST_LIMIT_BYTES = 4 * 1024**2
"""The most that is read of each: as much as the function reads (`serving.registry_source`), some ten times its size."""

_SLUG: TypeAdapter[str] = TypeAdapter(Slug)
_VERSION: TypeAdapter[str] = TypeAdapter(Version)


@dataclass(frozen=True)
class RegistryLayout:
    """Locations of a registry's objects.

    Attributes:
        root: Bucket and prefix.
    """

    root: S3Location

    @property
    def models(self) -> S3Location:
        """Everything but the blobs."""
        return self.root / MODELS

    def channels(self, name: str) -> S3Location:
        """The pointers of a model's channels."""
        return self.root / channels_key(_name(name))

    def versions(self, name: str) -> S3Location:
        """The versions of a model."""
        return self.root / versions_key(_name(name))

    def log(self, name: str) -> S3Location:
        """The records of what was done to a model's versions and channels."""
        return self.root / log_key(_name(name))

    def pointer(self, name: str, channel: str) -> S3Location:
        """What a channel serves."""
        return self.root / pointer_key(_name(name), _checked(_SLUG, channel, "channel"))

    def manifest(self, name: str, version: str) -> S3Location:
        """A version's manifest."""
        return self.root / manifest_key(_name(name), _version(version))

    def signature(self, name: str, version: str) -> S3Location:
        """The signature over a version's manifest."""
        return self.root / signature_key(_name(name), _version(version))


def _name(value: str) -> str:
    return _checked(_SLUG, value, "model name")


def _version(value: str) -> str:
    return _checked(_VERSION, value, "version")


def _checked(kind: TypeAdapter[str], value: str, what: str) -> str:
    """The value, if it may be part of a key."""
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        rule = (
            "16 hexadecimal digits"
            if kind is _VERSION
            else "lower-case letters, digits, '.', '_' and '-', and start with a letter or digit"
        )
        raise ConfigError(f"{value!r} is not a {what}.", hint=f"Use {rule}.") from error
