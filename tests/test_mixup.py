"""Mixup: shares against scipy's Beta distribution, blends against torchvision's MixUp and against float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from pipeline.loader import Batch
from train.mixup import Mixup

ALPHA = 0.2


def mixup(epoch: int = 1, seed: int = 0, alpha: float = ALPHA) -> Mixup:
    return Mixup(alpha, seed=seed, epoch=epoch, num_chips=20_000)


def batch(chips: np.ndarray) -> Batch:
    torch.manual_seed(0)
    images = torch.randn(len(chips), 3, 6, 6).contiguous(memory_format=torch.channels_last)
    return Batch(images, (torch.rand(len(chips), 5) < 0.5).float(), chips, len(chips))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_distribution_of_the_larger_part_of_a_beta_variable(alpha: float) -> None:
    def expected(share: np.ndarray) -> np.ndarray:
        beta = stats.beta(alpha, alpha)
        return np.asarray(beta.cdf(share) - beta.cdf(1 - share))

    shares = mixup(alpha=alpha).shares(np.arange(20_000))
    assert shares.min() >= 0.5
    assert stats.kstest(shares, expected).pvalue > 0.01


def test_a_share_is_a_function_of_seed_epoch_and_chip() -> None:
    chips = np.arange(100)
    shares = mixup().shares(chips)
    assert mixup().shares(chips[::-7]).tolist() == shares[::-7].tolist()
    assert not np.any(mixup(epoch=2).shares(chips) == shares)
    assert not np.any(mixup(seed=1).shares(chips) == shares)


def test_a_blend_is_the_sum_of_two_chips_in_their_shares() -> None:
    plain = batch(np.array([5, 3, 900, 17]))
    images, labels, shares = (
        plain.images_nchw.double().numpy(), plain.labels.double().numpy(), mixup().shares(plain.chips),
    )  # fmt: skip
    blended = mixup().blend(plain)
    for row in range(4):
        share, partner = shares[row], (row - 1) % 4
        for values, exact in ((blended.images_nchw, images), (blended.labels, labels)):
            difference = values[row].double().numpy() - share * exact[row] - (1 - share) * exact[partner]
            assert np.abs(difference).max() < 1e-6
    assert blended.images_nchw.is_contiguous(memory_format=torch.channels_last)
    assert (blended.images_nchw.dtype, blended.labels.dtype) == (torch.float32, torch.float32)
    assert blended.chips.tolist() == plain.chips.tolist()


def test_partners_are_those_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = batch(np.arange(8))
    share = 0.75  # torchvision draws one for the whole batch
    monkeypatch.setattr(Mixup, "shares", lambda self, chips: np.full(len(chips), share))
    monkeypatch.setattr("torch._sample_dirichlet", lambda alpha: torch.tensor([share, 1 - share]))
    expected = v2.MixUp(alpha=ALPHA, num_classes=5)(plain.images_nchw, plain.labels)
    blended = mixup().blend(plain)
    assert torch.allclose(blended.images_nchw, expected[0], rtol=0, atol=1e-6)
    assert torch.equal(blended.labels, expected[1])


def test_half_precision_stays_half_precision() -> None:
    plain = batch(np.arange(4))
    half = mixup().blend(replace(plain, images_nchw=plain.images_nchw.half()))
    assert half.images_nchw.dtype == torch.float16
    assert half.labels.dtype == torch.float32
