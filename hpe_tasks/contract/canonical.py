"""The one way to write a value as JSON before it is digested: another would change every version."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """A JSON-able value in UTF-8, with sorted keys and without blanks; raises ValueError for what is not a number."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
