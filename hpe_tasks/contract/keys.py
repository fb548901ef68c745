"""Keys of a registry's objects below its prefix: where the publisher writes and the function reads.

The names, versions and digests that they are made of are as the patterns of `names` say; nothing is checked here.
"""

from __future__ import annotations

from hpe_tasks.contract.names import MANIFEST, SIGNATURE

MODELS = "models"
"""The models lie below this key, each below its name."""

POINTER_SUFFIX = ".json"


def channels_key(name: str) -> str:
    """What the pointers of a model's channels lie below."""
    return f"{MODELS}/{name}/channels"


def pointer_key(name: str, channel: str) -> str:
    """What a channel serves."""
    return f"{channels_key(name)}/{channel}{POINTER_SUFFIX}"


def log_key(name: str) -> str:
    """What the records of the registry's log lie below."""
    return f"{MODELS}/{name}/log"


def versions_key(name: str) -> str:
    """What the versions of a model lie below."""
    return f"{MODELS}/{name}/versions"


def manifest_key(name: str, version: str) -> str:
    """A version's manifest."""
    return f"{versions_key(name)}/{version}/{MANIFEST}"


def signature_key(name: str, version: str) -> str:
    """The signature over a version's manifest."""
    return f"{versions_key(name)}/{version}/{SIGNATURE}"


def blob_key(sha256: str) -> str:
    """A file, stored once under the digest of its content."""
    return f"blobs/sha256/{sha256}"
