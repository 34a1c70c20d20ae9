"""Architecture + branches + weights -> a model whose input channels are the branches' bands in order."""

import socket
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.resnet import Branch, WeightsError, load_trunk, make_resnet
from models.two_branch import TwoBranch

DOWNLOAD_TIMEOUT_S = 20.0  # a node without a network must say so, not hang


def build(arch: str, branches: tuple[Branch, ...], num_classes: int, state: dict[str, torch.Tensor] | None,
          source: str = "", *, new_bands: str = "kaiming", pool: bool = True) -> nn.Module:  # fmt: skip
    """Make a model.

    Args:
        arch: one of `resnet.ARCHS`.
        branches: one: a plain ResNet; more: `TwoBranch`.
        num_classes: outputs.
        state: pretrained trunk weights (torchvision's names) that every trunk starts from, or None.
        source: where `state` comes from, for error lines.
        new_bands: conv1's filters of bands that `state` knows nothing of; one of `resnet.NEW_BANDS`.
        pool: see `resnet.make_resnet`.

    Raises:
        WeightsError: the weights do not fit.
    """
    if len(branches) == 1:
        net = make_resnet(arch, len(branches[0].bands), num_classes, pool=pool)
        trunks = [net]
    else:
        net = TwoBranch(arch, branches, num_classes, pool=pool)
        trunks = list(net.trunks)
    if state is not None:
        for trunk, spec in zip(trunks, branches, strict=True):
            load_trunk(trunk, state, spec, source, new_bands)
    return net


def head_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Parameters of the last linear layer."""
    head = net.get_submodule("fc")
    return list(head.parameters())


def imagenet_file(arch: str) -> Path:
    """Where torchvision keeps, or looks for, the architecture's ImageNet weights."""
    url: str = torchvision.models.get_model_weights(arch).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def imagenet_state(arch: str) -> dict[str, torch.Tensor]:
    """torchvision's default ImageNet weights, from its cache or downloaded into it (then the hash is checked).

    Raises:
        WeightsError: they cannot be had; the line says what to do.
    """
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return state
    except (URLError, OSError, RuntimeError, EOFError, UnpicklingError) as error:  # the last two: a damaged file
        path = imagenet_file(arch)
        raise WeightsError(
            f"ImageNet weights of {arch} cannot be had here ({error}). Copy {path.name} from another machine's "
            f"torchvision cache to {path.parent}, or pass WEIGHTS=path.safetensors or WEIGHTS=none."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def file_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a safetensors file.

    Raises:
        WeightsError: no such file, or another kind of file.
    """
    if not path.is_file():
        raise WeightsError(f"WEIGHTS={path}: expected imagenet, none or a .safetensors file, found no such file.")
    try:
        state: dict[str, torch.Tensor] = load_file(path)
        return state
    except SafetensorError as error:
        raise WeightsError(f"WEIGHTS={path}: expected a safetensors file ({error}).") from error
