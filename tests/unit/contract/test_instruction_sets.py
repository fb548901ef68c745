"""What this process can use; other processors are asked in test_processors.py."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from hpe_tasks.contract import instruction_sets as asked
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.contract.instruction_sets import instruction_sets


@pytest.mark.skipif(sys.platform != "linux", reason="the C library tells on Linux")
def test_this_machine_has_what_its_kernel_lists() -> None:
    """Less what tools/as_processor.py hides from these tests: of that the kernel knows nothing."""
    seen = instruction_sets()
    assert seen is not None
    assert cpu_features() == (platform.machine(), *seen)
    listed = cpu_features(Path("/proc/cpuinfo"))
    assert set(cpu_features()) <= set(listed)
    assert "AS_PROCESSOR" in os.environ or cpu_features() == listed


def test_the_kernels_list_is_read_where_the_c_library_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_function", lambda *_: None)
    assert instruction_sets() is None
    assert cpu_features() == cpu_features(Path("/proc/cpuinfo"))
