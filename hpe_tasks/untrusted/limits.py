"""How much of this machine the reading of one file of unknown origin may take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpe_tasks.errors import ConfigError

_MEMORY, _CPU, _WALL = "HPE_READER_MEMORY_MB", "HPE_READER_CPU_S", "HPE_READER_WALL_S"

_CPU_S = 600
_WALL_S = 1800


@dataclass(frozen=True)
class Limits:
    """What a process that reads a file may take.

    Attributes:
        memory_bytes: Address space beyond that of its libraries.
        cpu_s: Processor time.
        wall_s: Time on the clock.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: int

    @classmethod
    def of(cls, file: Path, *, base_bytes: int, growth: int) -> Limits:
        """The limits for a file, by its size and what HPE_READER_MEMORY_MB, HPE_READER_CPU_S and _WALL_S say.

        Args:
            file: The file.
            base_bytes: Memory that an honest file of its format may take however small it is.
            growth: How many bytes of memory each of its bytes may take beyond that.

        Raises:
            ConfigError: A variable holds no positive number.
        """
        by_size = base_bytes + growth * file.stat().st_size
        megabytes = _variable(_MEMORY)
        return cls(
            memory_bytes=by_size if megabytes is None else megabytes * 10**6,
            cpu_s=_variable(_CPU) or _CPU_S,
            wall_s=_variable(_WALL) or _WALL_S,
        )


def _variable(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 10**9:
        raise ConfigError(f"{name} is {text!r}.", hint="Set it to a positive whole number, or unset it.")
    return int(text)
