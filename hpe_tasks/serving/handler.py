"""The entry point that Lambda calls: `hpe_tasks.serving.handler.handler`."""

from __future__ import annotations

import os
from pathlib import Path

from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import open_source

_settings = ServingSettings.from_environment(os.environ, Path(__file__).parents[2])
# Loaded while Lambda initializes the function: a model that cannot be trusted keeps it from starting.
handler = PoseService(_settings, open_source(_settings))
