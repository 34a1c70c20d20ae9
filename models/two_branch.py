"""Late fusion, the network of Task 3: one trunk per group of bands, joined features, one linear layer."""

from typing import cast

import torch
from torch import nn

from models.archs import ARCHS
from models.resnet import Branch, make_resnet, num_features
from models.timm_nets import count_features, make_timm

ANY_SIZE = (224, 224)


class TwoBranch(nn.Module):
    """Trunks of one architecture side by side.

    Input (B, bands of all branches in order, height, width); output (B, classes) logits.
    """

    def __init__(
        self, arch: str, branches: tuple[Branch, ...], num_classes: int, *, pool: bool,
        size: tuple[int, int] | None = None, stem: str = "imagenet",
    ) -> None:  # fmt: skip
        super().__init__()
        self._widths = [len(spec.bands) for spec in branches]
        if arch in ARCHS:
            trunks = [make_resnet(arch, width, None, pool=pool, stem=stem) for width in self._widths]
            features = num_features(arch)
        else:
            trunks = [make_timm(arch, width, None, size) for width in self._widths]
            features = count_features(trunks[0], self._widths[0], size or ANY_SIZE)
        self.trunks = nn.ModuleList(trunks)
        self.fc = nn.Linear(features * len(branches), num_classes)

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """Logits."""
        groups = torch.split(images_nchw, self._widths, dim=1)
        features = [trunk(bands) for trunk, bands in zip(self.trunks, groups, strict=True)]
        return cast(torch.Tensor, self.fc(torch.cat(features, dim=1)))
