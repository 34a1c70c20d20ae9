"""Test-time augmentation: the mean of a network's logits over the 8 symmetries of the square (4 of a rectangle)."""

import torch
from torch import nn


class Symmetries(nn.Module):
    """Wraps a network. Input (B, channels, height, width); output (B, classes), the mean of the views' logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """Mean logits; for an image and any of its symmetries they differ by rounding only."""
        logits = [self.net(view) for view in views(images_nchw)]
        return torch.stack(logits).mean(dim=0)


def views(images_nchw: torch.Tensor) -> list[torch.Tensor]:
    """All flips of the image and, if it is square, of its transpose, in channels-last memory."""
    square = images_nchw.shape[2] == images_nchw.shape[3]
    bases = [images_nchw, images_nchw.transpose(2, 3)] if square else [images_nchw]
    flips: list[list[int]] = [[], [2], [3], [2, 3]]
    return [torch.flip(base, flip).contiguous(memory_format=torch.channels_last) for base in bases for flip in flips]
