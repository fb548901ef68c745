"""What a process that answers requests is told about memory and threads, before the large libraries are imported."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# <malloc.h>, glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc goes to by itself, which takes it some images to find out.
_KEPT_BYTES = 32 * 1024**2


@contextmanager
def starting() -> Iterator[None]:
    """Make a start short, and what runs after it quick.

    * Nothing that is imported is garbage: looking for some would take a tenth of the time. What is there at the end is
      for good, so that later looks pass it over.
    * NumPy's OpenBLAS would start a thread for each processor that it sees, which is more than a function has.
    * Memory of an image that was answered is kept for the next: the system takes as long to give it, page by page, as
      the network of a small model takes to run.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _keep_memory()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _keep_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Without an effect it does no harm: other C libraries know no such limits.
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES)
