"""Networks and weights for the tests of `models`."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision

from models.network_info import NetworkInfo
from models.resnet import WeightsError, branch, make_resnet
from models.weights import Weights, weights_of

RGB, RGBN, NIR = branch("red", "green", "blue"), branch("red", "green", "blue", "nir"), branch("nir")


def pretrained(arch: str = "resnet18") -> dict[str, torch.Tensor]:
    """A state dict such as torchvision publishes."""
    return dict(_pretrained(arch))


@functools.cache
def _pretrained(arch: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = torchvision.models.get_model(arch, weights=None).state_dict()
    return state


def plain(state: dict[str, torch.Tensor]) -> Weights:
    return weights_of(state, "w")


def network_info(*groups: str, **more: Any) -> NetworkInfo:
    """The network of a run on these bands, such as "red green blue"."""
    bands = tuple(tuple(group.split()) for group in groups)
    return NetworkInfo(
        **{"arch": "resnet18", "task": 1, "bands": bands, "input": "raw", "pool": True, "classes": ("a",), **more}
    )


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@functools.cache
def _meta_state(arch: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(make_resnet(arch, 3, 5).state_dict())


def meta_state(arch: str) -> dict[str, torch.Tensor]:
    """The names, shapes and dtypes of an architecture's tensors, without values. The dictionary may be changed."""
    return dict(_meta_state(arch))
