"""Test-time augmentation is the mean over the 8 symmetries of a square."""

import torch
from torch import nn

from analysis.tta import Symmetries, views


class _Corner(nn.Module):
    """Logits that differ for each symmetry, because they depend on the positions of the values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weights = torch.arange(1.0, 1 + images.shape[-1], dtype=images.dtype)
        return torch.stack([(images[:, 0, 0] * weights).sum(1), images[:, 0, 1, 0] ** 2], dim=1)


def test_tta_is_the_mean_over_the_8_symmetries() -> None:
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    expected = torch.stack(
        [
            _Corner()(view)
            for k in range(4)
            for view in (torch.rot90(image, k, (2, 3)), torch.rot90(image, k, (2, 3)).flip(3))
        ]
    ).mean(0)
    found = Symmetries(_Corner())(image)
    assert torch.allclose(found, expected, rtol=1e-12)
    for view in views(image):
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(Symmetries(_Corner())(view), expected, rtol=1e-12)
    assert len(views(torch.rand(1, 1, 3, 5))) == 4
