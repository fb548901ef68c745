"""Versions as a person names them: by the model and a channel or a version, or by the version alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpe_tasks.contract.names import VERSION
from hpe_tasks.errors import AccessError, BadInputError

if TYPE_CHECKING:
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.registry.stored_versions import StoredManifest


def find_version(registry: ModelRegistry, named: str, *, channel: str) -> StoredManifest:
    """The manifest of `MODEL`, `MODEL@CHANNEL`, `MODEL@VERSION` or `VERSION`.

    Args:
        registry: Where it is looked for.
        named: As above; 16 hexadecimal digits are a version, of whichever model has it.
        channel: The channel that is meant where none is named.

    Raises:
        AccessError: There is no such model, channel or version.
        BadInputError: Several models have the version.
        ConfigError: A name that none can have.
        DigestError: The manifest is damaged.
    """
    if re.fullmatch(VERSION, named):
        return registry.stored(_model_of(registry, named), named)
    model, _, place = named.partition("@")
    if re.fullmatch(VERSION, place):
        return registry.stored(model, place)
    pointer = registry.show(model, place or channel)
    return registry.stored(model, pointer.version, sha256=pointer.manifest_sha256)


def _model_of(registry: ModelRegistry, version: str) -> str:
    """The model that has a version, which is made of content: seldom more than one."""
    models = registry.models()
    found = [model for model in models if any(stored.version == version for stored in registry.versions(model))]
    if not found:
        raise AccessError(
            f"No model has the version {version}.", hint=f"The registry's models: {', '.join(models) or 'none'}."
        )
    if len(found) > 1:
        raise BadInputError(
            f"The models {', '.join(found)} all have the version {version}.", hint=f"Write {found[0]}@{version}."
        )
    return found[0]
