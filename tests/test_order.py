"""Order and augmentation are pure functions of (seed, epoch, chip)."""

import numpy as np
import pytest

from pipeline.order import FLIPS, augmentation, epoch_order, words

CHIPS = np.array([3, 9, 10, 57, 58, 200])
SIZE = {"height": 40, "width": 40, "crop": (35, 35)}


def test_words_are_philox_at_that_counter() -> None:
    ours = np.stack([words(7, 3, 9000, word) for word in range(4)], axis=1)
    for chip in (0, 1, 49, 4095, 4096, 8999):
        # numpy raises the counter before it makes numbers, so chip t is block t + 1.
        direct = np.random.Philox(key=np.array([7, 3], np.uint64)).advance(chip).random_raw(4)
        assert np.array_equal(ours[chip], direct)


def test_a_chip_does_not_depend_on_its_neighbours() -> None:
    many = augmentation(0, 5, np.arange(300), flips="dihedral", **SIZE)
    few = augmentation(0, 5, CHIPS, flips="dihedral", **SIZE)
    for name, values in vars(few).items():
        assert np.array_equal(values, getattr(many, name)[CHIPS])


def test_the_order_is_a_permutation_that_keeps_relative_places() -> None:
    whole = epoch_order(1, 2, np.arange(300))
    assert np.array_equal(np.sort(whole), np.arange(300))
    assert not np.array_equal(whole, np.arange(300))
    some = epoch_order(1, 2, CHIPS)
    assert np.array_equal(some, whole[np.isin(whole, CHIPS)])


def test_the_order_is_that_of_the_keys_also_if_chips_occur_twice() -> None:
    keys = words(1, 2, 300, 0)
    for chips in (np.arange(300), np.array([5, 2, 5, 299, 2, 0, 5])):
        assert epoch_order(1, 2, chips).tolist() == sorted(chips.tolist(), key=lambda chip: int(keys[chip]))


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(epoch_order(seed, epoch, np.arange(50))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("flips", FLIPS)
def test_parameters_take_all_their_values_and_no_others(flips: str) -> None:
    parameters = augmentation(0, 0, np.arange(4000), flips=flips, **SIZE)
    assert set(parameters.crop_y) == set(range(6)) == set(parameters.crop_x)
    kinds = {tuple(bits) for bits in zip(parameters.transpose, parameters.flip_rows, parameters.mirror, strict=True)}
    assert len(kinds) == {"none": 1, "horizontal": 2, "both": 4, "dihedral": 8}[flips]
    counts = np.bincount(parameters.crop_y)
    assert counts.min() > 4000 / 6 * 0.8


def test_chips_that_are_not_square_are_never_transposed() -> None:
    parameters = augmentation(0, 0, np.arange(500), height=40, width=30, crop=(35, 26), flips="dihedral")
    assert not parameters.transpose.any()
    assert parameters.flip_rows.any()


def test_a_crop_of_the_whole_chip_starts_at_zero() -> None:
    parameters = augmentation(0, 0, np.arange(50), height=16, width=16, crop=(16, 16), flips="none")
    assert not parameters.crop_y.any()
    assert not parameters.crop_x.any()
