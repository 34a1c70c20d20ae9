"""Test-time augmentation is the mean over the 8 symmetries of a square."""

import numpy as np
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


def test_the_views_are_the_flips_of_dihedral_augmentation_in_a_fixed_order() -> None:
    chip = np.arange(9).reshape(1, 1, 3, 3)
    turned = chip.swapaxes(2, 3)
    expected = [np.flip(base, axes) if axes else base for base in (chip, turned) for axes in ((), (2,), (3,), (2, 3))]
    found = [view.numpy() for view in views(torch.from_numpy(chip))]
    assert [view.tolist() for view in found] == [view.tolist() for view in expected]
    assert len({view.tobytes() for view in found}) == 8


def test_with_amp_the_mean_is_taken_in_float32() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    image = torch.rand(5, 3, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = Symmetries(net)(image)
        logits = [net(view) for view in views(image)]
    assert logits[0].dtype == torch.bfloat16
    total = np.zeros((5, 3), np.float32)
    for each in logits:
        total = total + each.float().numpy()
    assert np.array_equal(found.numpy(), total / np.float32(8))
