"""A step waits for nothing and moves nothing to another layout; little time is spent outside of it."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import to_store, write_chips
from test_train import train
from torch.utils._python_dispatch import TorchDispatchMode

from models.build import build
from models.resnet import branch
from train import loop
from train.config import Config, make_config
from train.device import Device
from train.step import Trainer, make_trainer, train_step

# Each hands a value to the host, which on a GPU waits for it: .item(), float(), bool(), nonzero(), masks as indices.
WAITS = {"_local_scalar_dense", "item", "equal", "nonzero", "is_nonzero", "masked_select", "unique2"}


class Ops(TorchDispatchMode):
    """Counts what torch is asked to do, backward included; `moved` are copies of images and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.moved: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        if (
            name in ("clone", "contiguous", "copy_", "_to_copy")
            and isinstance(result, torch.Tensor)
            and result.ndim == 4
        ):
            strides = [tensor.stride() for tensor in (*args, result) if isinstance(tensor, torch.Tensor)]
            if len(set(strides)) > 1:
                self.moved.append(f"{name} {tuple(result.shape)} {strides}")
        return result


def trainer(task: int = 4, amp: torch.dtype | None = None, **settings: Any) -> tuple[Trainer, Config]:
    config = make_config("default", task=task, store="s", **settings)
    torch.manual_seed(0)
    branches = tuple(branch(*group) for group in config.band_groups)
    net = build("resnet18", branches, 17, None).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = Device(device=torch.device("cpu"), amp=amp, name="CPU")
    return make_trainer(
        net.train(), config, device, 10, positive_weight=torch.ones(17) if config.balance else None
    ), config


def batch(size: int = 4, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """As the loader gives it: a view of HWC memory."""
    return torch.rand(size, side, side, 4).permute(0, 3, 1, 2), (torch.rand(size, 17) < 0.3).float()


SETTINGS = [
    {},
    {"ema": 0.99, "smoothing": 0.1, "balance": 0.5, "loss": "asymmetric"},
    {"optimizer": "sgd", "schedule": "cosine", "accumulate": 2},
    {"amp": torch.bfloat16, "loss": "soft_margin"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_value_is_asked_for_in_a_step(settings: dict[str, Any]) -> None:
    made, config = trainer(**settings)
    images, labels = batch()
    for part in range(config.accumulate):
        train_step(made, images, labels, part=part)  # the optimiser makes its state
    with Ops() as ops:
        for part in range(config.accumulate):
            train_step(made, images, labels, part=part)
    assert not WAITS & set(ops.names)
    assert ops.names["convolution_backward"] == 20 * config.accumulate  # it did look into the backward pass


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_no_activation_changes_its_layout_in_a_step(amp: torch.dtype | None) -> None:
    made, _ = trainer(amp=amp)
    images, labels = batch()
    train_step(made, images, labels)
    with Ops() as ops:
        train_step(made, images, labels)
    assert ops.moved == []
    for parameter in made.net.parameters():
        if parameter.ndim == 4:
            assert parameter.grad is not None
            assert parameter.grad.is_contiguous(memory_format=torch.channels_last)


def test_the_counter_sees_waits_and_moves() -> None:
    """The tests above can fail."""
    images, _ = batch()
    with Ops() as ops:
        images.contiguous()
        float(images.sum())
    assert "_local_scalar_dense" in ops.names
    assert len(ops.moved) == 1


def test_little_time_is_spent_outside_forward_backward_and_optimiser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch at 224 px, first step left out: data wait, hand-over, loss, schedule, book-keeping."""
    chips = write_chips(tmp_path / "tif", count=60, height=256, width=256)
    store = to_store(chips, tmp_path / "tiles.zarr").path
    spent: dict[str, float] = Counter()
    steps: list[float] = []
    real_step, real_backward, real_optimizer = loop.train_step, torch.Tensor.backward, torch.optim.AdamW.step

    def timed(name: str, real: Any) -> Any:
        def run(*arguments: Any, **more: Any) -> Any:
            started = time.perf_counter()
            result = real(*arguments, **more)
            spent[name] += time.perf_counter() - started
            return result

        return run

    def step(made: Trainer, *arguments: Any, **more: Any) -> Any:
        steps.append(time.perf_counter())
        if len(steps) == 2:
            spent.clear()  # the first step makes buffers
        if len(steps) == 1:
            made.model.forward = timed("forward", made.model.forward)
        return real_step(made, *arguments, **more)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(torch.Tensor, "backward", timed("backward", real_backward))
    monkeypatch.setattr(torch.optim.AdamW, "step", timed("optimizer", real_optimizer))
    monkeypatch.setattr(
        loop, "_check_losses", lambda fit: steps.append(time.perf_counter()) if fit.state.step else None
    )
    ended = train(store, tmp_path / "run", "--epochs", "1", "--batch", "8")
    assert ended.returncode == 0, ended.stderr
    total = steps[5] - steps[1]  # four steps, up to the end of the epoch
    print(f"outside: {1 - sum(spent.values()) / total:.4f} of {total:.2f} s; {dict(spent)}")
    assert 1 - sum(spent.values()) / total < 0.03
