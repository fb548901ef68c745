"""Reading the JSON files of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpe_tasks.errors import DatasetError


def read_json(path: Path, *, if_missing: str) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        if_missing: What to do when it is not there.

    Raises:
        DatasetError: The file is missing, cannot be read, or is not JSON; names it.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist.", hint=if_missing) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.", hint="Check its rights.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}.", hint="The file may be cut off: fetch it again.") from error
