from __future__ import annotations

import torch

from hpe_tasks.networks.aimet_pose import AimetPose
from hpe_tasks.training.norms import add_batch_norms, without_batch_norms


def test_folded_batch_norms_change_nothing() -> None:
    torch.manual_seed(0)
    model = AimetPose()
    names = model.state_dict().keys()
    add_batch_norms(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        torch.stack([maps.square().mean() for maps in model(torch.randn(2, 3, 64, 64))]).sum().backward()
        optimizer.step()
    model.eval()
    plain = without_batch_norms(model)
    assert plain.state_dict().keys() == names
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        for expected, maps in zip(model(images), plain(images), strict=True):
            assert torch.allclose(expected, maps, atol=1e-5, rtol=1e-4)
