"""AP compared with scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from train.metrics import class_ap, mean_ap, probabilities


@pytest.mark.parametrize("ties", [False, True])
def test_ap_equals_scikit_learn_to_the_bit(ties: bool) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((3000, 17)) < rng.uniform(0.002, 0.9, 17)).astype(np.uint8)
    logits = rng.normal(size=(3000, 17)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    ap = class_ap(labels, logits)
    direct = [average_precision_score(labels[:, c], logits[:, c].astype(np.float64)) for c in range(17)]
    assert ap.tolist() == direct
    assert mean_ap(ap) == float(np.mean(direct))
    assert mean_ap(ap) == average_precision_score(labels, logits.astype(np.float64), average="macro")


def test_logits_rank_where_sigmoids_tie() -> None:
    labels = np.array([[1], [0], [1], [0]])
    logits = np.array([[40.0], [39.0], [38.0], [30.0]], np.float32)
    assert class_ap(labels, logits)[0] == average_precision_score(labels[:, 0], [4, 3, 2, 1])
    assert (torch.sigmoid(torch.from_numpy(logits[:3])) == 1).all()  # so probabilities would tie


def test_a_class_without_positives_is_absent_without_a_warning() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    logits = np.array([[0.3, 1], [0.1, 2], [0.2, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ap = class_ap(labels, logits)
    assert ap[0] == 1.0
    assert np.isnan(ap[1])
    assert mean_ap(ap) == 1.0
    assert np.isnan(mean_ap(np.array([np.nan])))


def test_probabilities_are_float64() -> None:
    found = probabilities(np.array([-100.0, 0.0, 20.0], np.float32))
    assert found.dtype == np.float64
    assert found[1] == 0.5
    assert found[2] < 1.0
