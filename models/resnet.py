"""torchvision's ResNets for any number of bands, and how conv1 is adapted to them.

Parameters have torchvision's names, so that a state dict of either fits the other, except for conv1 and fc.

conv1 of a pretrained network has filters for red, green and blue, (64, 3, 7, 7). The filters for a trunk's bands:

- A band that stands for a colour gets that colour's filter.
- A new band beside colours (NIR beside R, G, B) gets, by choice, a Kaiming-He filter (normal, fan-out, ReLU: as
  torchvision initialises every convolution; the default), the mean of the three filters, or a copy of red's.
- The bands of a trunk without any colour (NIR alone) share the sum of the three filters equally. With one band this is
  exactly the pretrained network fed with the band three times. With "copy-red" they share red's filter instead.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torchvision
from torch import nn

RGB = ("red", "green", "blue")  # the order of ImageNet's filters
# The order of the channels in weights that were trained on all bands of Sentinel-2, such as torchgeo's.
SENTINEL_2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_PADDED = {name.replace("B0", "B"): name for name in SENTINEL_2}
NEW_BANDS = ("kaiming", "mean", "copy-red")
STEMS = {"imagenet": 7, "small": 3}  # sides of conv1's filters


class WeightsError(Exception):
    """Weights that do not fit or are not available. The text is one line."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """The input of one trunk.

    bands: its channels. colours: for each channel the colour whose pretrained filter it gets (None: a new filter). The
    two differ only for INPUT=course, which feeds blue into red's filter as the reference project does.
    """

    bands: tuple[str, ...]
    colours: tuple[str | None, ...]


def padded(bands: tuple[str, ...]) -> tuple[str, ...]:
    """Names of bands, those of Sentinel-2 with two digits: B4 is B04. Unchanged if two bands would get one name."""
    names = tuple(_PADDED.get(band, band) for band in bands)
    return names if len(set(names)) == len(names) else bands


def sentinel_2_channels(spec: Branch) -> list[int]:
    """Where the bands of a branch are in SENTINEL_2, by padded names; red, green and blue are B04, B03 and B02. Empty
    if one is not there."""
    colours = dict(zip(RGB, ("B04", "B03", "B02"), strict=True))
    pairs = zip(spec.bands, spec.colours, strict=True)
    names = padded(tuple(colours[colour] if colour else band for band, colour in pairs))
    return [SENTINEL_2.index(name) for name in names] if set(names) <= set(SENTINEL_2) else []


def branch(*bands: str) -> Branch:
    """A branch where each of red, green and blue gets the filter of its own colour.

    Raises:
        TypeError: a band that is not a text, such as a tuple of bands.
    """
    if not bands or not all(isinstance(band, str) for band in bands):
        raise TypeError(
            f'expected names of bands, branch("red", "green"); found {", ".join(map(repr, bands)) or "none"}'
        )
    return Branch(bands=bands, colours=tuple(band if band in RGB else None for band in bands))


def make_resnet(
    arch: str, num_bands: int, num_classes: int | None, *, pool: bool = True, stem: str = "imagenet"
) -> nn.Module:
    """A randomly initialised torchvision ResNet.

    Args:
        arch: one of `archs.ARCHS`.
        num_bands: channels of conv1.
        num_classes: outputs of `fc`; None replaces it by the identity, for features (B, 512 or 2048).
        pool: max pooling after conv1. Without it all later layers have twice the resolution, for small chips.
        stem: one of `STEMS`. "imagenet": conv1 has 7 x 7 filters and stride 2. "small": 3 x 3 filters and stride 1, so
            that all later layers have twice the resolution.
    """
    net: Any = torchvision.models.get_model(arch, weights=None)
    old = net.conv1
    if num_bands != old.in_channels or stem == "small":
        kernel, stride, padding = (3, 1, 1) if stem == "small" else (old.kernel_size, old.stride, old.padding)
        net.conv1 = nn.Conv2d(num_bands, old.out_channels, kernel, stride=stride, padding=padding, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not pool:
        net.maxpool = nn.Identity()
    net.fc = nn.Identity() if num_classes is None else nn.Linear(net.fc.in_features, num_classes)
    return cast(nn.Module, net)


def num_features(arch: str) -> int:
    """Width of the features before `fc`."""
    return 512 if arch in ("resnet18", "resnet34") else 2048


def adapt_conv1(
    pretrained: torch.Tensor, spec: Branch, fresh: torch.Tensor, new_bands: str = "kaiming"
) -> torch.Tensor:
    """Weights of conv1 for a branch; the head of this file has the rules.

    Args:
        pretrained: (64, 3, 7, 7), input channels red, green, blue.
        spec: bands and the colours that they stand for.
        fresh: (64, bands, 7, 7), newly initialised; with "kaiming" new bands keep these filters.
        new_bands: one of `NEW_BANDS`.

    Returns:
        (64, bands, 7, 7).
    """
    filters = {"mean": pretrained.mean(dim=1, keepdim=True), "copy-red": pretrained[:, :1]}
    if not any(spec.colours):
        shared = filters["copy-red"] if new_bands == "copy-red" else pretrained.sum(dim=1, keepdim=True)
        return (shared / len(spec.bands)).expand_as(fresh).clone()
    weight = fresh.clone() if new_bands == "kaiming" else filters[new_bands].expand_as(fresh).clone()
    for channel, colour in enumerate(spec.colours):
        if colour is not None:
            weight[:, channel] = pretrained[:, RGB.index(colour)]
    return weight
