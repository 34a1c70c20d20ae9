"""Batches equal those of numpy for any batch size, threads, codec and earlier epochs; every test chip counts once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers.chips import BANDS, Chips

from pipeline.inputs import Inputs, course_inputs, raw_inputs
from pipeline.loader import ChipLoader, eval_loader, train_loader
from pipeline.order import augmentation
from preprocess import zarr_store
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store, open_store

TRAIN = np.arange(0, 300, 2)
UNSCALED = Inputs(kind="raw", bands=("red", "green", "nir"), mean=(0.0,) * 3, std=(1.0,) * 3)
CROP = (14, 14)


def by_chip(loader: ChipLoader, epoch: int, first_step: int = 0) -> dict[int, torch.Tensor]:
    """Images of one epoch by chip, copied."""
    return {
        int(chip): image.clone()
        for batch in loader.epoch(epoch, first_step)
        for chip, image in zip(batch.chips[: batch.num_valid], batch.images_nchw, strict=False)
    }


@pytest.mark.parametrize("flips", ["none", "horizontal", "both", "dihedral"])
@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_train_chips_equal_the_oracle(
    request: pytest.FixtureRequest, session_chips: Chips, kind: str, flips: str
) -> None:
    store: Store = request.getfixturevalue(kind)
    loader = train_loader(store, TRAIN, UNSCALED, batch_size=15, seed=3, flips=flips)
    images = by_chip(loader, 4)
    assert set(images) == set(TRAIN)
    parameters = augmentation(3, 4, TRAIN, height=16, width=16, crop=CROP, flips=flips)
    for row, chip in enumerate(TRAIN):
        expected = oracle.augment(session_chips.values[chip][[2, 1, 3]], parameters, row, CROP)
        assert np.array_equal(images[chip].numpy(), expected.astype(np.float32))


def test_chips_that_are_not_square_or_uint8(tmp_path: Path) -> None:
    from helpers.chips import to_store, write_chips

    for dtype in ("uint8", "uint16"):
        chips = write_chips(tmp_path / dtype, count=20, bands=3, height=24, width=40, dtype=dtype)
        store = to_store(chips, tmp_path / f"{dtype}.zarr")
        inputs = Inputs(kind="raw", bands=("blue", "red"), mean=(0.0,) * 2, std=(1.0,) * 2)
        loader = train_loader(store, np.arange(20), inputs, batch_size=5, flips="dihedral")
        parameters = augmentation(0, 0, np.arange(20), height=24, width=40, crop=(21, 35), flips="dihedral")
        for chip, image in by_chip(loader, 0).items():
            expected = oracle.augment(chips.values[chip][[2, 0]], parameters, chip, (21, 35))
            assert np.array_equal(image.numpy(), expected.astype(np.float32))


def test_every_crop_position_is_hit_exactly(tmp_path: Path) -> None:
    """DALI takes positions as float32 shares of the crop slack. Each must come back as its exact pixel."""
    from helpers.chips import to_store, write_chips

    chips = write_chips(tmp_path / "tif", count=400, bands=1, height=101, width=131)
    store = to_store(chips, tmp_path / "s.zarr")
    inputs = Inputs(kind="raw", bands=("band1",), mean=(0.0,), std=(1.0,))
    loader = train_loader(store, np.arange(400), inputs, batch_size=50, crop=(3, 5), flips="none")
    parameters = augmentation(0, 0, np.arange(400), height=101, width=131, crop=(3, 5), flips="none")
    assert len(set(parameters.crop_y)) > 90
    for chip, image in by_chip(loader, 0).items():
        assert np.array_equal(
            image.numpy(), oracle.augment(chips.values[chip], parameters, chip, (3, 5)).astype(np.float32)
        )


@pytest.mark.parametrize("test", ["center", "resize"])
def test_eval_counts_every_chip_once_and_repeats_to_the_bit(session_store: Store, test: str) -> None:
    chips = np.array([5, 1, 299, 7, 8, 100, 101])
    loader = eval_loader(session_store, chips, UNSCALED, batch_size=3, test=test)
    first, seen = [], []
    for batch in loader.epoch(0):
        assert batch.images_nchw.shape == (3, 3, 14, 14)
        seen += batch.chips[: batch.num_valid].tolist()
        first.append(batch.images_nchw.clone())
    assert seen == chips.tolist()
    assert len(loader) == 3
    second = [batch.images_nchw.clone() for batch in loader.epoch(1)]
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_center_equals_the_oracle(session_store: Store, session_chips: Chips) -> None:
    for crop in ((14, 14), (13, 11), (16, 16)):
        loader = eval_loader(session_store, np.arange(10), UNSCALED, batch_size=4, crop=crop)
        for chip, image in by_chip(loader, 0).items():
            expected = oracle.center(session_chips.values[chip][[2, 1, 3]], crop).astype(np.float32)
            assert np.array_equal(image.numpy(), expected)


def test_scaling_is_within_one_ulp(session_store: Store, session_chips: Chips) -> None:
    inputs = raw_inputs(session_store, ("nir", "red"), TRAIN)
    loader = eval_loader(session_store, np.arange(20), inputs, batch_size=5)
    for chip, image in by_chip(loader, 0).items():
        expected = oracle.scale(oracle.center(session_chips.values[chip][[3, 2]], CROP), inputs.mean, inputs.std)
        # (v - mean) * (1 / std) in float32: mean, its difference and the product round once each.
        error = np.abs(image.numpy() - expected)
        unit = np.spacing(np.maximum(np.abs(expected), 1 / np.reshape(inputs.std, (-1, 1, 1))).astype(np.float32))
        largest = np.reshape(np.array(inputs.mean) / inputs.std, (-1, 1, 1))
        assert (error <= 2 * np.maximum(unit, np.spacing(largest.astype(np.float32)))).all()


def test_course_chips_equal_the_formula(session_store: Store, session_chips: Chips) -> None:
    inputs = course_inputs(session_store, 4)
    loader = eval_loader(session_store, np.arange(20), inputs, batch_size=5)
    for chip, image in by_chip(loader, 0).items():
        shown = oracle.center(oracle.pil_course(session_chips.values[chip]), CROP)
        assert np.allclose(image.numpy(), oracle.scale(shown, inputs.mean, inputs.std), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "workers"), [(5, 1), (30, 2), (75, 3), (150, 7)])
def test_batch_size_and_threads_change_no_bit(session_store: Store, batch_size: int, workers: int) -> None:
    reference = by_chip(train_loader(session_store, TRAIN, UNSCALED, batch_size=10, workers=2), 2)
    loader = train_loader(session_store, TRAIN, UNSCALED, batch_size=batch_size, workers=workers)
    images = by_chip(loader, 2)
    assert list(images) == list(reference)
    assert all(torch.equal(images[chip], reference[chip]) for chip in images)


def test_epoch_5_directly_equals_epoch_5_after_0_to_4(session_store: Store) -> None:
    fresh = train_loader(session_store, TRAIN, UNSCALED, batch_size=20)
    used = train_loader(session_store, TRAIN, UNSCALED, batch_size=20)
    for epoch in range(5):
        assert len(list(used.epoch(epoch))) == 7
    direct, later = by_chip(fresh, 5), by_chip(used, 5)
    assert list(direct) == list(later)
    assert all(torch.equal(direct[chip], later[chip]) for chip in direct)


def test_an_epoch_from_the_middle_is_the_rest_of_it(session_store: Store) -> None:
    loader = train_loader(session_store, TRAIN, UNSCALED, batch_size=20)
    whole, rest = list(by_chip(loader, 1)), list(by_chip(loader, 1, first_step=3))
    assert rest == whole[60:]


@pytest.mark.parametrize("taken", [0, 1, 2, 6])
def test_breaking_off_leaves_the_loader_clean(session_store: Store, taken: int) -> None:
    loader = train_loader(session_store, TRAIN, UNSCALED, batch_size=20)
    expected = by_chip(loader, 1)
    batches = loader.epoch(0)
    for _ in range(taken):
        next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator
    again = by_chip(loader, 1)
    assert all(torch.equal(again[chip], expected[chip]) for chip in expected)


def test_the_short_train_batch_is_dropped(session_store: Store) -> None:
    loader = train_loader(session_store, TRAIN, UNSCALED, batch_size=40)
    sizes = [len(batch.chips) for batch in loader.epoch(0)]
    assert sizes == [40, 40, 40]
    assert len(loader) == 3


def test_one_batch_an_epoch(session_store: Store) -> None:
    """The epoch is shorter than DALI's queue."""
    loader = train_loader(session_store, TRAIN[:20], UNSCALED, batch_size=20)
    for epoch in range(3):
        assert [len(batch.chips) for batch in loader.epoch(epoch)] == [20]


def test_batches_are_channels_last_views_and_stay_valid(session_store: Store) -> None:
    loader = train_loader(session_store, TRAIN, UNSCALED, batch_size=10)
    batches = list(loader.epoch(0))
    copies = [image.clone() for batch in loader.epoch(0) for image in batch.images_nchw]
    held = [image for batch in batches for image in batch.images_nchw]
    assert all(torch.equal(one, two) for one, two in zip(held, copies, strict=True))
    for batch in batches:
        images = batch.images_nchw
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images._base is not None  # a view: torch copied nothing
        assert images.data_ptr() == images.permute(0, 2, 3, 1).data_ptr()
        assert images.dtype == torch.float32
        expected = torch.from_numpy(session_store.labels[batch.chips].astype(np.float32))
        assert torch.equal(batch.labels, expected)


def test_damage_ends_the_epoch_with_its_line_and_nothing_hangs(tmp_path: Path, session_store: Store) -> None:
    copy = Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))
    path = zarr_store.shard_path(copy, 1)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    loader = train_loader(open_store(copy), np.arange(300), UNSCALED.__class__(
        kind="raw", bands=BANDS, mean=(0.0,) * 4, std=(1.0,) * 4), batch_size=20)  # fmt: skip
    with pytest.raises(DamagedChunkError, match="chip t_256 is damaged"):
        list(loader.epoch(0))


def test_statistics_are_those_of_the_train_split(session_store: Store, session_chips: Chips) -> None:
    inputs = raw_inputs(session_store, ("red",), TRAIN)
    values = session_chips.values[TRAIN, 2].astype(np.float64)
    assert inputs.mean[0] == pytest.approx(values.mean(), rel=1e-14)
    assert inputs.std[0] == pytest.approx(values.std(), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 151}, "batch_size=151: expected at most 150, the number of chips."),
        ({"flips": "maybe"}, "flips=maybe: expected one of none, horizontal, both, dihedral."),
        ({"crop": (17, 16)}, "crop=(17, 16)"),
        ({"crop": (0, 4)}, "crop=(0, 4)"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    session_store: Store, refused: Callable, arguments: dict, message: str
) -> None:
    settings = {"batch_size": 10, **arguments}
    assert message in refused(lambda: train_loader(session_store, TRAIN, UNSCALED, **settings))


def test_bands_that_the_store_lacks_are_refused(uint8_store: Store, refused: Callable) -> None:
    text = refused(lambda: raw_inputs(uint8_store, ("red", "nir"), np.arange(5)))
    assert "expected the band 'nir', but the store has red, green, blue" in text
