"""How names, versions and digests are written, and what a version's files are called: patterns without anchors."""

from __future__ import annotations

SLUG = r"[a-z0-9][a-z0-9._-]{0,62}"
"""A name that may be part of a key: of a model, a channel, or the role of a file."""

VERSION = r"[0-9a-f]{16}"
"""A version of a model: see `content_version`."""

SHA256 = r"[0-9a-f]{64}"
"""A SHA-256 in hexadecimal digits."""

MANIFEST = "manifest.json"
"""What describes a version, in the registry and in a package of the function."""

SIGNATURE = f"{MANIFEST}.sig"
"""The signature over the manifest's bytes, beside it."""
