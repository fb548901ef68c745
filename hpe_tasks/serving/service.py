"""The function itself: from an invocation's event to its answer, with the model kept and renewed in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import ModelSource


class PoseService:
    """Answers invocations.

    Args:
        settings: What the environment says.
        source: Where models come from; the first is loaded at once, and its errors are raised here.
    """

    def __init__(self, settings: ServingSettings, source: ModelSource) -> None:
        raise NotImplementedError

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Answer one invocation: API Gateway (v1, v2), a function URL, or a direct invocation; never raises."""
        raise NotImplementedError
