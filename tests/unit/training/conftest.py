"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.data.sample import SampleSpec, make_sample


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set of eight images to train on; nothing may be changed in it."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=8, calibration=1, val=2, width=200, height=150, seed=2))
    return folder
