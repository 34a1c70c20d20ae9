"""Test-time augmentation (TTA=1): the mean of a network's logits over the symmetries of its image.

They are the 8 symmetries of the square that FLIPS=dihedral knows, whatever FLIPS the run was trained with; of a
rectangle they are its 4 flips. Their order is fixed: the image as it is, its rows reversed, its columns reversed, both;
then the same four of its transpose.
"""

import torch
from torch import nn


class Symmetries(nn.Module):
    """Wraps a network. Input (B, channels, height, width); output (B, classes), the mean of the views' logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """Mean logits, float32 also with AMP; for an image and any of its symmetries they differ by rounding only.

        They are added one after the other, because the order in which `mean` adds differs between devices.
        """
        first, *others = views(images_nchw)
        total = self._logits(first)
        for view in others:
            total = total + self._logits(view)
        return total / (1 + len(others))

    def _logits(self, view: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(view)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def views(images_nchw: torch.Tensor) -> list[torch.Tensor]:
    """All flips of the image and, if it is square, of its transpose, in channels-last memory."""
    square = images_nchw.shape[2] == images_nchw.shape[3]
    bases = [images_nchw, images_nchw.transpose(2, 3)] if square else [images_nchw]
    flips: list[list[int]] = [[], [2], [3], [2, 3]]
    return [torch.flip(base, flip).contiguous(memory_format=torch.channels_last) for base in bases for flip in flips]
