"""Builds a network from an architecture, its branches and weights. Input channels: the branches' bands, in order.

Leaves the names and shapes of tensors to `weights`, conv1's filters to `resnet`, training to others.
"""

import hashlib
import socket
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from models.archs import ARCHS
from models.resnet import (
    RGB,
    SENTINEL_2,
    Branch,
    WeightsError,
    adapt_conv1,
    branch,
    make_resnet,
    padded,
    sentinel_2_channels,
)
from models.timm_nets import layers_of, make_timm
from models.two_branch import TwoBranch
from models.weights import Weights, check_names, check_values, weights_of

DOWNLOAD_TIMEOUT_S = 20.0  # without a network, an error must come instead of endless waiting


def build(arch: str, branches: tuple[Branch, ...], num_classes: int, weights: Weights | None = None, *,
          new_bands: str = "kaiming", pool: bool = True, stem: str = "imagenet",
          size: tuple[int, int] | None = None) -> nn.Module:  # fmt: skip
    """Make a network.

    Args:
        arch: one of `archs.ARCHS`, or a network of timm.
        branches: one branch gives a plain network, several give a `TwoBranch`.
        num_classes: outputs.
        weights: pretrained weights that the trunks start from, or None. The last layer always starts random.
        new_bands: conv1's filters for bands that have none in `weights`; one of `resnet.NEW_BANDS`.
        pool: see `resnet.make_resnet`.
        stem: see `resnet.make_resnet`.
        size: (height, width) of the images in pixels; networks of timm may depend on it.

    Raises:
        WeightsError: the weights do not fit.
        ArchError: timm cannot make the network.
    """
    if len(branches) == 1:
        num_bands = len(branches[0].bands)
        if arch in ARCHS:
            net = make_resnet(arch, num_bands, num_classes, pool=pool, stem=stem)
        else:
            net = make_timm(arch, num_bands, num_classes, size)
        trunks = [net]
    else:
        net = TwoBranch(arch, branches, num_classes, pool=pool, stem=stem, size=size)
        trunks = list(net.trunks)
    if weights is not None:
        weights = weights.split_last(layers_of(arch))
        for trunk, spec, (state, bands) in zip(trunks, branches, weights.for_branches(branches), strict=True):
            load_trunk(trunk, arch, spec, state, bands, weights.source, new_bands)
        check_values(weights.last, weights.source)
    return net


def load_trunk(
    net: nn.Module, arch: str, spec: Branch, state: dict[str, torch.Tensor], bands: tuple[str, ...] | None,
    source: str, new_bands: str,
) -> None:  # fmt: skip
    """Load pretrained weights into a trunk, except for the last layer.

    Args:
        net: from `resnet.make_resnet` or `timm_nets.make_timm`.
        arch: its architecture.
        spec: the trunk's bands.
        state: tensors by torchvision's or timm's names. The first layer has 3 channels (red, green, blue), or those of
            the branch.
        bands: of conv1's channels in `state`, if they are known; then channels are matched by name.
        source: where the weights come from; begins every error.
        new_bands: filters for bands that have none in `state`; see `resnet.adapt_conv1`.

    Raises:
        WeightsError: names the tensors that do not fit.
    """
    layers = layers_of(arch)
    fresh = {name: value for name, value in net.state_dict().items() if not layers.is_last(name)}
    first = tuple(f"{layer}.weight" for layer in layers.first)
    check_names(state, fresh, arch, source, first)
    values = check_values(state, source)
    for name in first:
        values[name] = _filters(values[name], fresh[name], spec, bands, f"{source}: expected {name}", new_bands)
    net.load_state_dict({**net.state_dict(), **values})


def _filters(
    pretrained: torch.Tensor, fresh: torch.Tensor, spec: Branch, bands: tuple[str, ...] | None, layer: str,
    new_bands: str,
) -> torch.Tensor:  # fmt: skip
    """Weights of the first layer, (outputs, bands of the branch, ...). `layer` begins every error.

    Filters of another side are those of another stem; then the layer stays new.
    """
    if pretrained.shape[2:] != fresh.shape[2:]:
        return fresh
    if bands is not None and set(padded(bands)) == set(padded(spec.bands)):
        return pretrained[:, [padded(bands).index(band) for band in padded(spec.bands)]]
    if bands is not None:
        return adapt_conv1(pretrained[:, [bands.index(band) for band in RGB]], branch(*spec.bands), fresh, new_bands)
    if pretrained.shape[1] == len(RGB):
        return adapt_conv1(pretrained, spec, fresh, new_bands)
    if pretrained.shape[1] == len(SENTINEL_2) and (channels := sentinel_2_channels(spec)):
        return pretrained[:, channels]
    if pretrained.shape != fresh.shape:
        others = (
            ", which can only be those of Sentinel-2 (B01 to B12)" if pretrained.shape[1] == len(SENTINEL_2) else ""
        )
        raise WeightsError(
            f"{layer} of {fresh.shape[1]} bands ({','.join(spec.bands)}) or of red,green,blue, "
            f"found {pretrained.shape[1]} bands{others}."
        )
    return pretrained


def head_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Parameters of the last linear layer."""
    classifier: Any = getattr(net, "get_classifier", None)
    heads = net.get_submodule("fc") if classifier is None else classifier()
    layers: tuple[nn.Module, ...] = heads if isinstance(heads, tuple) else (heads,)
    return [parameter for layer in layers for parameter in layer.parameters()]


def imagenet_file(arch: str) -> Path:
    """Where torchvision stores the ImageNet weights of an architecture."""
    url: str = torchvision.models.get_model_weights(arch).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def imagenet_weights(arch: str) -> Weights:
    """torchvision's default ImageNet weights, from its cache or downloaded into it. The hash is checked each time.

    Raises:
        WeightsError: the weights are not available here; the message says what to do.
    """
    if arch not in ARCHS:
        raise WeightsError(
            f"ImageNet weights of {arch} are not downloaded: it is a network of timm. Pass WEIGHTS=file.safetensors "
            "with timm's names, or WEIGHTS=none."
        )
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    path, timeout = imagenet_file(arch), socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        if path.exists():
            _check_hash(path)
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:  # torch raises the last for a download with a wrong hash
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"ImageNet weights of {arch} are not available here ({reason}). Copy {path.name} from the torchvision "
            f"cache of another machine to {path.parent}, or pass WEIGHTS=path.safetensors or WEIGHTS=none."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return weights_of(state, f"ImageNet weights ({path})")


def _check_hash(path: Path) -> None:
    """Compare a file in torchvision's cache with the hash in its name. torchvision does so only after a download.

    Raises:
        OSError: the file is damaged, or cannot be read.
    """
    if not path.is_file():
        raise OSError("the path in the cache exists, but is not a regular file")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
        raise OSError(f"the file in the cache is damaged: its SHA-256 begins with {digest[:8]}")
