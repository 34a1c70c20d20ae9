"""timm's networks for any number of bands, through timm's own `in_chans` and `num_classes`.

timm is an optional package. Only this module imports it, and only when such a network is made. Leaves torchvision's
ResNets to `resnet`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from models.archs import ARCHS, INSTALL_TIMM
from models.resnet import WeightsError


class ArchError(WeightsError):
    """A network that cannot be made here, or not for such chips. The text is one line."""


def make_timm(arch: str, num_bands: int, num_classes: int | None, size: tuple[int, int] | None) -> nn.Module:
    """A randomly initialised network of timm.

    Args:
        arch: its name in timm.
        num_bands: input channels.
        num_classes: outputs; None: features (B, n).
        size: (height, width) of the images. Networks of fixed size, such as ViT, are made for it.

    Raises:
        ArchError: timm is not installed, has no such network, or the network cannot take such images.
    """
    timm = _timm(arch)
    fixed = size is not None and _cfg(arch).get("fixed_input_size", False)
    try:
        net = timm.create_model(
            arch, pretrained=False, in_chans=num_bands, num_classes=num_classes or 0,
            **({"img_size": size} if fixed else {}),
        )  # fmt: skip
        if size is not None:
            count_features(net, num_bands, size)
    except Exception as error:  # timm's networks raise many types for sizes that they cannot take
        reason = " ".join(str(error).split())[:160]
        sides = f" for images of {size[0]} x {size[1]} pixels" if size else ""
        raise ArchError(f"ARCH={arch}: timm cannot make this network{sides} ({reason}). Set CROP or ARCH.") from error
    return cast(nn.Module, net)


def count_features(net: nn.Module, num_bands: int, size: tuple[int, int]) -> int:
    """Outputs of a network, from a forward pass."""
    with torch.no_grad():
        features = net.eval()(torch.zeros(1, num_bands, *size))
    net.train()
    if features.ndim != 2:
        raise ValueError(f"expected one vector per image, found {tuple(features.shape)}")
    return int(features.shape[1])


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Names of the layers that depend on the bands and on the classes; usually one each."""

    first: tuple[str, ...] = ("conv1",)
    last: tuple[str, ...] = ("fc",)

    def is_last(self, name: str) -> bool:
        """Whether a tensor belongs to the last layer."""
        return name.startswith(tuple(f"{layer}." for layer in self.last))


TORCHVISION = Layers()


def layers_of(arch: str) -> Layers:
    """The layers of an architecture.

    Raises:
        ArchError: see `make_timm`.
    """
    if arch in ARCHS:
        return TORCHVISION
    cfg = _cfg(arch)
    return Layers(first=_names(cfg.get("first_conv")), last=_names(cfg.get("classifier")))


def _names(value: str | Iterable[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _cfg(arch: str) -> dict[str, Any]:
    cfg = _timm(arch).get_pretrained_cfg(arch, allow_unregistered=True)
    return {} if cfg is None else cfg.to_dict()


def _timm(arch: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ArchError(f"ARCH={arch}: a network of timm, which is not installed. {INSTALL_TIMM}") from error
    if not timm.is_model(arch):
        raise ArchError(f"ARCH={arch}: timm {timm.__version__} has no network of this name.")
    return timm
