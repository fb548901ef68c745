"""The Python environment of the Lambda function on this machine: its Python, its emulator, SAM.

Lambda runs another Python than the pipeline, so these live in a virtual environment of their own
(`docker/lambda/requirements.txt`), and only its interpreter is named here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hpe_tasks.errors import ConfigError

PYTHON_VERSION = "3.13"
"""Of the Lambda runtime that the package is made for."""


def lambda_python() -> Path:
    """Interpreter of that environment: HPE_LAMBDA_PYTHON, or `.venv-lambda` beside the environment that runs this.

    Raises:
        ConfigError: It is not there, or not the Python that the function runs on.
    """
    named = os.environ.get("HPE_LAMBDA_PYTHON")
    python = Path(named) if named else Path(sys.prefix).parent / ".venv-lambda" / "bin" / "python"
    hint = (
        f"Run `make setup`, or set HPE_LAMBDA_PYTHON to a Python {PYTHON_VERSION} that has "
        "docker/lambda/requirements.txt. A run needs it for its smoke test only: "
        "without it, set destination.smoke_test=false."
    )
    try:
        asked = subprocess.run(
            [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"Lambda's Python cannot be run as {python}: {error}.", hint=hint) from error
    if asked.stdout.strip() != PYTHON_VERSION:
        raise ConfigError(f"{python} is Python {asked.stdout.strip()}, the function's is {PYTHON_VERSION}.", hint=hint)
    # Not resolved: a virtual environment's interpreter is a link, and the link's place makes the environment.
    return python.absolute()
