"""A device whose memory does not hold a batch: half of it at a time, with the same figures, and it is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from hpe_tasks.errors import ConfigError
from hpe_tasks.models.full_precision import as_function


class Small(nn.Module):
    """Two outputs, for at most so many images at a time, as a GPU of that size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 17, 4, 4)
        self.most = most
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        maps = self.layer(images)
        return maps, maps.amax(dim=1)


def network(most: int) -> Small:
    torch.manual_seed(0)
    return Small(most).eval()


IMAGES = np.random.default_rng(0).standard_normal((11, 3, 16, 12)).astype(np.float32)


def test_the_outputs_are_those_of_the_whole_batch(caplog: pytest.LogCaptureFixture) -> None:
    small = network(3)
    run, whole = as_function(small, ("maps", "most"), "cpu"), as_function(network(100), ("maps", "most"), "cpu")
    with caplog.at_level(logging.WARNING):
        given = run(IMAGES)
    for name, expected in whole(IMAGES).items():
        assert given[name].shape == expected.shape
        np.testing.assert_allclose(given[name], expected, rtol=1e-5, atol=1e-6)
    told = [record.message for record in caplog.records if "does not suffice" in record.message]
    assert told == [f"The memory does not suffice: from here on, {size} images at a time." for size in (6, 3)]
    assert small.seen == [11, 6, 3, 3, 3, 2]
    # The next batch begins with what has fitted.
    run(IMAGES[:5])
    assert small.seen[6:] == [3, 2]


def test_no_image_gives_no_map() -> None:
    assert as_function(network(3), ("maps", "most"), "cpu")(IMAGES[:0])["maps"].shape == (0, 17, 4, 3)


def test_one_image_that_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match="does not suffice for one image"):
        as_function(network(0), ("maps", "most"), "cpu")(IMAGES)
