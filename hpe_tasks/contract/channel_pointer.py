"""What the signature of a channel's pointer is made over, by whoever moves it and by the function that follows it.

The pointer is one object that is changed by compare-and-swap, so its signature stands in it, as `signature`: beside it,
the two could not change together. What is signed is everything else in it, and the registry that it belongs to: a
pointer of another channel, model or registry is not one of this. The line before keeps it apart from manifests, which
the same key signs: no manifest begins like that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpe_tasks.contract.canonical import canonical_json

LARGEST_COUNTER = 2**53 - 1
"""Beyond it, readers of JSON that know no whole numbers would round."""

_DOMAIN = b"hpe-tasks: pointer of a channel, 1\n"


def signed_bytes(pointer: Mapping[str, Any], registry: str) -> bytes:
    """The bytes that a pointer's signature is over.

    Args:
        pointer: The pointer's JSON object, as it is stored.
        registry: s3://bucket/prefix, without a slash at its end.

    Raises:
        ValueError: It holds what is neither a number nor text that can be written.
    """
    content = {name: value for name, value in pointer.items() if name != "signature"}
    return _DOMAIN + canonical_json({"pointer": content, "registry": registry})
