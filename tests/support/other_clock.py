"""Programs that read another wall clock than this machine's: what workers see whose clocks are apart."""

from __future__ import annotations

from support.preloaded import library


def other_clock(ahead_s: int) -> dict[str, str]:
    """Environment of a program whose wall clock is so many seconds ahead; what it starts has the same."""
    return {"LD_PRELOAD": str(library("other_clock")), "OTHER_CLOCK_S": str(ahead_s)}
