"""Losses compared with their formulas in float64."""

import numpy as np
import pytest
import torch

from preprocess.setting_specs import specs
from train.config import Config
from train.losses import loss_function, positive_weights

torch.manual_seed(0)
LOGITS, LABELS = torch.randn(8, 5), (torch.rand(8, 5) < 0.5).float()
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
NAMES = specs(Config)["loss"].choices


def exact(name: str, labels: torch.Tensor, weight: torch.Tensor) -> float:
    """Term by term, as in the papers."""
    terms = []
    for logits, truth in zip(LOGITS.double().tolist(), labels.double().tolist(), strict=True):
        for z, y, w in zip(logits, truth, weight.double().tolist(), strict=True):
            p = 1 / (1 + np.exp(-z))
            if name == "asymmetric":
                # gamma+ 1, gamma- 4, margin .05: the published code's (and timm's) defaults.
                shifted = max(p - 0.05, 0)
                positive = (1 - p) * np.log(p)
                negative = shifted**4 * np.log(1 - shifted)
            else:
                positive, negative = np.log(p), np.log(1 - p)
            terms.append(-(w * y * positive + (1 - y) * negative))
    return float(np.mean(terms))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_over_batch_and_classes_in_float32(name: str, weight: torch.Tensor | None, smoothing: float) -> None:
    expected = exact(name, LABELS * (1 - smoothing) + smoothing / 2, torch.ones(5) if weight is None else weight)
    loss = loss_function(name, LOGITS, LABELS, positive_weight=weight, smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_function(name, LOGITS.bfloat16(), LABELS).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_sigmoid_is_0_or_1(name: str) -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    for labels in ([[0.0, 1.0]], [[1.0, 0.0]]):
        (gradient,) = torch.autograd.grad(loss_function(name, logits, torch.tensor(labels)), logits)
        assert torch.isfinite(gradient).all()


def test_positive_weights_are_the_power_of_negatives_over_positives() -> None:
    labels = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], np.uint8)
    assert positive_weights(labels, 0) is None
    full, half = positive_weights(labels, 1.0), positive_weights(labels, 0.5)
    assert full is not None
    assert half is not None
    assert full.tolist() == [3.0, 1.0, 1.0, pytest.approx(1 / 3)]  # never, always: 1
    assert torch.allclose(half**2, full)
