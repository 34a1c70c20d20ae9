"""An estimate of the GPU memory that a run needs, before it starts, and advice when the memory was not enough."""

import copy
import re

import torch
from torch import nn

from train.config import Config

CONTEXT_BYTES = 500 * 2**20  # CUDA itself, cuDNN's plans and workspaces


def saved_elements(net: nn.Module, image: tuple[int, int, int]) -> int:
    """Elements that autograd keeps per image of (channels, height, width) for the backward pass, without the weights.

    They are counted in a forward pass without data (device "meta"), so the count is right for any network.
    """
    shadow = copy.deepcopy(net).to("meta")
    for module in shadow.modules():
        if isinstance(module, nn.SyncBatchNorm):  # runs only on GPUs and on all ranks; a plain one keeps as much
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # both have the same state
    weights = {parameter.untyped_storage()._cdata for parameter in shadow.parameters()}
    num_elements: dict[int, int] = {}  # by storage
    alive = []  # the address of a storage may be used again after it is freed

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            num_elements[storage._cdata] = tensor.numel()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = shadow.train()(torch.empty(2, *image, device="meta"))  # BatchNorm needs several values per channel
    del logits
    return sum(num_elements.values()) // 2


def estimate_bytes(
    net: nn.Module, config: Config, image: tuple[int, int, int], *, amp: bool, ranks: int, loader_bytes: int = 0
) -> int:
    """Bytes on each GPU: weights, gradients, optimizer, moving average, activations of a micro-batch, and the loader.

    `loader_bytes` is of the loader that needs most: loaders take turns, and DALI has one memory pool for all.
    """
    total = sum(parameter.numel() for parameter in net.parameters())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    copies = 2 if config.optimizer == "adamw" else 1
    fixed = 4 * (total * (2 if config.ema else 1) + trainable * (1 + copies)) + (2 * total if amp else 0)
    chips = config.batch // config.accumulate // ranks
    return CONTEXT_BYTES + loader_bytes + fixed + chips * saved_elements(net, image) * (2 if amp else 4)


def too_much(config: Config, ranks: int) -> str:
    """The message for a GPU that has run out of memory."""
    twice, unit = config.accumulate * 2, config.accumulate * ranks  # BATCH is a multiple of `unit`
    remedies = [f"ACCUMULATE={twice} (the same step in smaller batches)"] if config.batch % (twice * ranks) == 0 else []
    if smaller := config.batch // 2 // unit * unit:
        remedies.append(f"BATCH={smaller}")
    remedies = remedies or ["a smaller CROP or ARCH"]
    return f"BATCH={config.batch}: the GPU has too little memory. Try {', or '.join(remedies)}."


# DALI has no exception type of its own for full memory: see `CUDAError` and `CUDABadAlloc` in its include/dali/core.
_DALI_FULL = re.compile(r"cudaErrorMemoryAllocation|CUDA allocation failed|Can't allocate \d+ bytes on device")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or DALI ran out of GPU memory. (DALI's errors are RuntimeError or MemoryError in Python.)"""
    return isinstance(error, torch.OutOfMemoryError) or _DALI_FULL.search(str(error)) is not None
