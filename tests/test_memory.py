"""The estimate of GPU memory, and the message if it was not enough."""

from pathlib import Path

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import SETTINGS, train
from tiny import tiny_net, tiny_networks

from pipeline.loader import Batch
from preprocess.zarr_store import Store
from train.config import make_config
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop
from train.memory import estimate_bytes, is_out_of_memory, saved_elements, too_much
from train.sync_batchnorm import share_statistics


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("telemetry") / "tif", count=178)
    return to_store(chips, chips.folder.parent / "chips.zarr")


def test_the_estimate_counts_the_tensors_that_autograd_keeps() -> None:
    """Counted by hand for an image of 4 x 16 x 16: the inputs of conv1, bn1, conv2, bn2 and fc."""
    net = tiny_net("", 4, 3)
    conv1, conv2 = 8 * 8 * 8, 16 * 4 * 4
    by_hand = 4 * 16 * 16 + conv1 + conv1 + conv2 + 16
    num_saved = saved_elements(net, (4, 16, 16))
    assert (
        by_hand <= num_saved <= by_hand + 8 + 16 + 8 + 16
    )  # BatchNorm keeps mean and variance, too; counted for a batch of 2
    config = make_config("default", task=4, store="s", batch=64, accumulate=2)
    weights = sum(parameter.numel() for parameter in net.parameters())
    expected = 500 * 2**20 + 4 * weights * 4 + 32 * num_saved * 4
    assert estimate_bytes(net, config, (4, 16, 16), amp=False, ranks=1) == expected
    assert estimate_bytes(net, config, (4, 16, 16), amp=False, ranks=1, loader_bytes=10**9) == expected + 10**9


def test_the_estimate_for_several_gpus_needs_no_other_rank() -> None:
    """torch's SyncBatchNorm needs data and waits for all ranks."""
    net = tiny_net("", 4, 3)
    alone = saved_elements(net, (4, 16, 16))
    assert saved_elements(share_statistics(net, "cuda"), (4, 16, 16)) == alone


def test_resnet18_at_batch_16_needs_less_than_2_gb() -> None:
    from models.build import build
    from models.resnet import branch

    net = build("resnet18", (branch("red", "green", "blue", "nir"),), 17, None)
    for recipe in ("course", "default"):
        config = make_config(recipe, task=4, store="s", batch=16)
        assert estimate_bytes(net, config, (4, 224, 224), amp=False, ranks=1) < 2e9


def test_out_of_memory_is_one_line(store: Store, tmp_path: Path) -> None:
    def full(loop: RunLoop, batch: Batch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    with tiny_networks(), use_hooks(Hooks(on_batch_start=full)):
        ended = train(store.path, tmp_path / "run", *SETTINGS)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: BATCH=20: the GPU has too little memory. Try ACCUMULATE=2 (the same step in smaller batches), "
        "or BATCH=10.\n"
    )
    for settings, ranks, expected in (
        ({"batch": 15}, 1, "Try BATCH=7."),
        ({"batch": 16, "accumulate": 16}, 1, "Try a smaller CROP or ARCH."),
        ({"batch": 12}, 4, "Try BATCH=4."),
        ({"batch": 12, "accumulate": 2}, 2, "Try BATCH=4."),
    ):
        config = make_config("default", task=1, store="s", **settings)
        assert too_much(config, ranks).endswith(expected)
    for dali in (
        RuntimeError("Error in GPU operator: CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"),
        RuntimeError(
            "Critical error in pipeline:\nError in GPU operator `nvidia.dali.fn.flip`:\nCUDA allocation failed"
        ),
        RuntimeError("Can't allocate 4294967296 bytes on device 0."),
        MemoryError("CUDA allocation failed"),
    ):
        assert is_out_of_memory(dali)
    for other in (RuntimeError("another"), MemoryError(), RuntimeError("Can't allocate 512 bytes on host.")):
        assert not is_out_of_memory(other)
