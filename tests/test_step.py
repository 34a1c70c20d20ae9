"""A step waits for nothing and copies no activation to another layout. Little time is spent outside of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import train
from torch.profiler import ProfilerActivity, profile

from models.build import build
from models.resnet import branch
from pipeline.loader import Batch
from train.config import Config, make_config
from train.device import Device
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop
from train.step import Trainer, make_trainer, train_step

# Each hands a value to the host, which on a GPU waits for it: .item(), float(), bool(), nonzero(), masks as indices.
WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select")
COPIES = ("aten::clone", "aten::contiguous", "aten::copy_", "aten::_to_copy")


def profiled(run: Callable[[], object]) -> list[Any]:
    """Everything that torch did during the call, also inside its kernels, with shapes and callers."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    return list(profiler.events())


def within_optimizer(event: Any) -> bool:
    """On the CPU the fused optimizer reads its counters, which are in host memory there."""
    while event is not None and not event.name.startswith("Optimizer.step"):
        event = event.cpu_parent
    return event is not None


def copied_activations(events: list[Any], batch_size: int) -> list[str]:
    """Copies of (batch, channels, height, width) tensors. (The CPU's convolutions also copy gradients of weights.)"""
    return [
        f"{event.name} {event.input_shapes[0]}"
        for event in events
        if event.name in COPIES and len(event.input_shapes[0]) == 4 and event.input_shapes[0][0] == batch_size
    ]


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
    """A batch as the loader gives it: a view of HWC memory."""
    return torch.rand(size, side, side, 4).permute(0, 3, 1, 2), (torch.rand(size, 17) < 0.3).float()


SETTINGS = [
    {},
    {"ema": 0.99, "smoothing": 0.1, "balance": 0.5, "loss": "asymmetric"},
    {"optimizer": "sgd", "schedule": "cosine", "accumulate": 2},
    {"amp": torch.bfloat16, "loss": "soft_margin"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_reads_no_value_from_the_device(settings: dict[str, Any]) -> None:
    made, config = trainer(**settings)
    images, labels = batch()
    for number in range(config.accumulate):
        train_step(made, images, labels, micro_batch=number)  # the optimizer allocates its state
    micro_batches = range(config.accumulate)
    events = profiled(lambda: [train_step(made, images, labels, micro_batch=number) for number in micro_batches])
    assert [event.name for event in events if event.name in WAITS and not within_optimizer(event)] == []
    names = Counter(event.name for event in events)
    assert names["aten::convolution_backward"] == 20 * config.accumulate  # the profile shows the backward pass


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_calls_nothing_that_copies_values_to_the_host(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU these calls cost nothing and are not in a profile; on a GPU each would wait for it."""
    made, config = trainer(**settings)
    images, labels = batch()
    called: list[str] = []
    for name in ("item", "cpu", "numpy", "tolist", "__float__", "__int__", "__bool__", "__index__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, counting(called, name))
    for number in range(2 * config.accumulate):
        train_step(made, images, labels, micro_batch=number % config.accumulate)
    assert called == []
    float(images.sum())
    assert called == ["__float__"]


def counting(called: list[str], name: str) -> Callable[..., Any]:
    real = getattr(torch.Tensor, name)

    def count(self: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        called.append(name)
        return real(self, *arguments, **more)

    return count


def test_no_activation_is_copied_in_a_step() -> None:
    """Under bf16 each activation is converted once, before its convolution: that is autocast."""
    made, _ = trainer()
    images, labels = batch(5)
    train_step(made, images, labels)
    assert copied_activations(profiled(lambda: train_step(made, images, labels)), 5) == []
    for parameter in made.net.parameters():
        if parameter.ndim == 4:
            assert parameter.grad is not None
            assert parameter.grad.is_contiguous(memory_format=torch.channels_last)


def test_task_3_packs_its_two_inputs_and_copies_nothing_else() -> None:
    made, _ = trainer(task=3)
    images, labels = batch(5)
    train_step(made, images, labels)
    copies = copied_activations(profiled(lambda: train_step(made, images, labels)), 5)
    assert {copy.split(" ", 1)[1] for copy in copies} == {"[5, 3, 32, 32]", "[5, 1, 32, 32]"}


def test_the_profile_shows_waits_and_copies() -> None:
    """The tests above can fail."""
    images, _ = batch(5)
    events = profiled(lambda: (images.contiguous(), float(images.sum())))
    assert copied_activations(events, 5)
    assert any(event.name == "aten::item" for event in events)


@pytest.mark.slow
def test_little_time_is_spent_outside_forward_backward_and_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU time of the thread that trains, in epochs at 224 px without their first step: hand-over, loss, schedule,
    book-keeping. The best of four epochs: the first may also make buffers.

    The optimiser's time has both of its calls in it: `zero_grad` frees the gradients, 45 MB, which takes 0.2 ms or,
    where the C library gives them back to the system at once, up to 10.
    """
    chips = write_chips(tmp_path / "tif", count=60, height=256, width=256)
    store = to_store(chips, tmp_path / "chips.zarr").path
    spent: dict[str, float] = Counter()
    steps: list[float] = []
    outside: list[float] = []
    real_backward, real_optimizer = torch.Tensor.backward, torch.optim.AdamW.step

    def timed(name: str, real: Any) -> Any:
        def run(*arguments: Any, **more: Any) -> Any:
            started = time.thread_time()
            result = real(*arguments, **more)
            spent[name] += time.thread_time() - started
            return result

        return run

    def begin_step(loop: RunLoop, batch: Batch) -> None:
        model = loop.trainer.model
        if "forward" not in vars(model):
            model.forward = timed("forward", model.forward)  # type: ignore[method-assign]
        steps.append(time.thread_time())
        if len(steps) == 2:
            spent.clear()  # the first step of an epoch waits for data; that of the run also allocates

    @contextmanager
    def measured(phase: str) -> Iterator[None]:
        yield
        if phase == "training":
            assert len(steps) == 5
            outside.append(1 - sum(spent.values()) / (time.thread_time() - steps[1]))
            steps.clear()

    monkeypatch.setattr(torch.Tensor, "backward", timed("backward", real_backward))
    monkeypatch.setattr(torch.optim.AdamW, "step", timed("optimizer", real_optimizer))
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", timed("optimizer", torch.optim.Optimizer.zero_grad))
    with use_hooks(Hooks(on_batch_start=begin_step, phase=measured)):
        ended = train(store, tmp_path / "run", "EPOCHS=4", "BATCH=8")
    assert ended.returncode == 0, ended.stderr
    assert len(outside) == 4
    assert 0 <= min(outside) < 0.03, outside
