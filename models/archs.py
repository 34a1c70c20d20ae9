"""The architectures: names of torchvision's ResNets. Imports nothing heavy, so that settings can be checked first.

Any other ResNet of torchvision works once its name stands here.
"""

from typing import Literal, get_args

Arch = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
]
ARCHS: tuple[str, ...] = get_args(Arch)
