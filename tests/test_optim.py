"""Parameter groups, schedules and the moving average, compared with torch."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from models.build import build
from models.resnet import branch
from train.config import Config, make_config
from train.optim import Ema, make_optimizer, make_schedule


def config(**settings: Any) -> Config:
    return make_config("default", task=1, store="s.zarr", **settings)


def resnet() -> nn.Module:
    return build("resnet18", (branch("red", "green", "blue"),), 5, None)


def test_norms_and_biases_have_no_weight_decay() -> None:
    net = resnet()
    decayed, free = make_optimizer(net, config(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in free["params"]} == {
        id(p) for name, p in net.named_parameters() if "bn" in name or "downsample.1" in name or name.endswith("bias")
    }
    assert len(decayed["params"]) + len(free["params"]) == len(list(net.parameters()))


def test_the_trunk_may_learn_slower_than_the_head() -> None:
    net = resnet()
    groups = make_optimizer(net, config(lr=0.1, trunk_lr=0.25)).param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        assert rate[id(parameter)] == (0.1 if name.startswith("fc.") else 0.025)


def test_the_optimizer_gets_only_trainable_parameters() -> None:
    net = resnet().requires_grad_(False)
    net.fc.requires_grad_(True)
    groups = make_optimizer(net, config(trunk_lr=0.5)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_equals_the_plain_step_of_torch(name: str) -> None:
    """Fused kernels on the CPU against the plain ones, in float64."""
    torch.manual_seed(0)
    one, two = (nn.Linear(7, 3).double() for _ in range(2))
    two.load_state_dict(one.state_dict())
    mine = make_optimizer(nn.ModuleDict({"fc": one}), config(optimizer=name, weight_decay=0.0, lr=0.01))
    kind = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0),
    }
    plain = kind[name](two.parameters())
    inputs = torch.randn(4, 7, dtype=torch.float64)
    for _ in range(5):
        for net, optimizer in ((one, mine), (two, plain)):
            optimizer.zero_grad()
            net(inputs).square().sum().backward()
            optimizer.step()
    assert torch.allclose(one.weight, two.weight, rtol=1e-12, atol=0)


def rates(settings: Config, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], settings.lr)
    schedule = make_schedule(optimizer, settings, steps)
    found = []
    for _ in range(steps * settings.epochs if settings.schedule != "step" else settings.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(found) < steps * settings.epochs else None
    return found


def oracle(schedule: Any, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(found) < count else None
    return found


def test_schedules_equal_those_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    expected = oracle(OneCycleLR(optimizer, 0.5, total_steps=40, pct_start=0.2, cycle_momentum=False), optimizer, 40)
    assert rates(config(lr=0.5, epochs=4, warmup=0.2), 10) == expected
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    expected = oracle(StepLR(optimizer, 2, 0.3), optimizer, 6)
    assert rates(config(lr=0.5, epochs=6, schedule="step", step_epochs=2, step_gamma=0.3), 10) == expected
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.5)
    expected = oracle(CosineAnnealingLR(optimizer, 40), optimizer, 40)
    assert rates(config(lr=0.5, epochs=4, schedule="cosine", warmup=0.0), 10) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.1), (4, 0.25), (2, 0.5), (20, 0.05), (1, 0.3), (1, 0.0)])
def test_one_cycle_works_for_any_number_of_steps(steps: int, warmup: float) -> None:
    """torch divides by 0 if the warm-up is exactly one step."""
    found = rates(config(lr=0.5, epochs=1, warmup=warmup), steps)
    assert all(0 < rate <= 0.5 for rate in found)
    if steps * warmup == 1:
        assert found == sorted(found, reverse=True)


def test_cosine_warms_up_in_a_straight_line() -> None:
    found = rates(config(lr=1.0, epochs=4, schedule="cosine", warmup=0.25), 10)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == 1.0
    assert found[25] == pytest.approx(0.5)
    assert found[39] == pytest.approx(0.5 * (1 + math.cos(math.pi * 29 / 30)))


def test_the_average_follows_weights_and_statistics() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema, expected = Ema(net, 0.9), {name: value.clone() for name, value in net.state_dict().items()}
    for update in range(20):
        with torch.no_grad():
            net[0].weight.add_(torch.randn(4, 3))
        net(torch.randn(5, 3))
        ema.update(update)
        decay = min(0.9, (1 + update) / (10 + update))
        for name, value in net.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    for name, value in ema.net.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-6), name
    assert not any(parameter.requires_grad for parameter in ema.net.parameters())
