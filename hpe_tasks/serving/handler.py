"""The entry point that Lambda calls: `hpe_tasks.serving.handler.handler`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.serving.process import starting
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source
from hpe_tasks.serving.telemetry import describe, log

if TYPE_CHECKING:
    from hpe_tasks.serving.service import PoseService


def start() -> PoseService:
    """Load the model; logs and raises what keeps the function from starting."""
    try:
        settings = ServingSettings.from_environment(os.environ, Path(__file__).parents[2])
        source = open_source(settings)
        # Only now, because this brings NumPy, onnxruntime and Pillow: the source looks at the model meanwhile.
        from hpe_tasks.serving.service import PoseService

        # A request is what starts a function on demand; a snapshot and provisioned concurrency wait for none.
        awaited = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "on-demand"
        return PoseService(settings, source, rehearse=not awaited)
    except Exception as error:
        log("ERROR", "The function refuses to start.", **describe(error))
        raise


def _notice_restores(service: PoseService) -> None:
    """Have Lambda's SnapStart tell the service when it starts from a snapshot."""
    try:
        # Part of Lambda's runtimes, not of the package.
        from snapshot_restore_py import register_after_restore  # type: ignore[import-not-found]
    except ImportError:
        return
    register_after_restore(service.restored)


# A broken image makes Pillow warn on standard error, which would be lines in the log that are not JSON.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Loaded while Lambda initializes the function: a model that cannot be trusted keeps it from starting.
with starting():
    handler = start()
_notice_restores(handler)
