"""How much GPU memory a run will take, before it takes it; and what to try when it was too much."""

import copy
import re

import torch
from torch import nn

from train.config import Config

CONTEXT_BYTES = 500 * 2**20  # CUDA itself, cuDNN's plans and workspaces


def saved_elements(net: nn.Module, image: tuple[int, int, int]) -> int:
    """Elements that autograd keeps of one image of (channels, height, width) for the backward pass, weights left out.

    Found by a forward pass without data, so it is right for any network.
    """
    shadow = copy.deepcopy(net).to("meta")
    for module in shadow.modules():
        if isinstance(module, nn.SyncBatchNorm):  # it runs on GPUs only, all ranks at once; a plain one keeps the same
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # both are nn.BatchNorm's, without more state
    weights = {parameter.untyped_storage()._cdata for parameter in shadow.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a storage's address may be used again once it is freed

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = tensor.numel()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = shadow.train()(torch.empty(2, *image, device="meta"))  # BatchNorm wants more than one value a channel
    del logits
    return sum(kept.values()) // 2


def estimate_bytes(
    net: nn.Module, config: Config, image: tuple[int, int, int], *, amp: bool, ranks: int, loader_bytes: int = 0
) -> int:
    """Bytes on each GPU: weights, gradients, optimiser, average, what the forward pass keeps of a rank's part, and
    `loader_bytes`, of the loader that takes most (they take turns, and DALI's pool is one for all)."""
    total = sum(parameter.numel() for parameter in net.parameters())
    learning = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    copies = 2 if config.optimizer == "adamw" else 1
    fixed = 4 * (total * (2 if config.ema else 1) + learning * (1 + copies)) + (2 * total if amp else 0)
    chips = config.batch // config.accumulate // ranks
    return CONTEXT_BYTES + loader_bytes + fixed + chips * saved_elements(net, image) * (2 if amp else 4)


def too_much(config: Config, ranks: int) -> str:
    """The line for a GPU that has run out of memory."""
    half, unit = config.accumulate * 2, config.accumulate * ranks  # BATCH is a multiple of `unit`
    tries = [f"ACCUMULATE={half} (the same update in smaller parts)"] if config.batch % (half * ranks) == 0 else []
    if smaller := config.batch // 2 // unit * unit:
        tries.append(f"BATCH={smaller}")
    tries = tries or ["a smaller CROP or ARCH"]
    return f"BATCH={config.batch}: the GPU's memory is not enough. Try {', or '.join(tries)}."


# What DALI says, which has no type of its own for it: `CUDAError` and `CUDABadAlloc` in its include/dali/core.
_DALI_FULL = re.compile(r"cudaErrorMemoryAllocation|CUDA allocation failed|Can't allocate \d+ bytes on device")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or DALI ran out of the GPU's memory. (Python shows DALI's as RuntimeError or MemoryError.)"""
    return isinstance(error, torch.OutOfMemoryError) or _DALI_FULL.search(str(error)) is not None
