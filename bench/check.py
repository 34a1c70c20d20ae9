"""The expected first batch of a row, computed with plain zarr-python and numpy in float64.

In: a row's first batch. Out: nothing, or `WrongBatchError`. The augmentation parameters come from `pipeline.order`, all
else is independent of the product. A row with a wrong batch is never timed.
"""

from typing import Any

import numcodecs.lz4
import numpy as np
import zarr

from bench.work import FLIPS, SEED, Row, RowBatch, Work
from pipeline.inputs import COURSE_MEAN, COURSE_STD
from pipeline.order import Augmentation, augmentation, epoch_order


class WrongBatchError(Exception):
    """A row's batch differs from the expected batch."""


def check(row: Row, work: Work, batch: RowBatch) -> None:
    """Compare the first batch of epoch 0 with the expected one.

    Raises:
        WrongBatchError: names the row, the chip and the difference.
    """
    store = work.store()
    chips = np.asarray(batch.chips)
    expected_chips = epoch_order(SEED, 0, np.arange(store.num_chips))[: len(chips)]
    if len(chips) != work.batch or len(set(chips.tolist())) != work.batch:
        raise WrongBatchError(f"{row.name}: expected {work.batch} different chips, found {len(set(chips.tolist()))}")
    if row.order == "project" and not np.array_equal(chips, expected_chips):
        raise WrongBatchError(
            f"{row.name}: the first batch holds chips {chips[:4]}..., expected {expected_chips[:4]}..."
        )
    if row.order == "library" and (np.diff(chips) > 0).all():
        raise WrongBatchError(f"{row.name}: the chips come in stored order; expected a shuffled order")
    if batch.chunks is not None:
        _check_chunks(row, work, batch)
        return
    if not np.array_equal(batch.labels.numpy(), store.labels[chips].astype(np.float32)):
        raise WrongBatchError(f"{row.name}: the labels differ from the labels of its chips")
    expected = expected_images(row, work, chips, _augmentation(row, work, batch))
    images = batch.images.numpy()
    if images.shape != expected.shape or images.dtype != np.float32:
        raise WrongBatchError(
            f"{row.name}: expected {expected.shape} float32 images, found {images.shape} {images.dtype}"
        )
    for index, chip in enumerate(chips.tolist()):
        if not np.allclose(images[index], expected[index], rtol=1e-5, atol=1e-4):
            raise WrongBatchError(f"{row.name}: the image of chip {chip} differs from the expected image")


def _augmentation(row: Row, work: Work, batch: RowBatch) -> Augmentation:
    if row.order == "project":
        return augmentation(
            SEED, 0, np.asarray(batch.chips), height=work.height, width=work.width, crop=work.crop, flips=FLIPS
        )
    drawn = batch.augmentation
    if drawn is None:
        raise WrongBatchError(
            f"{row.name}: expected the augmentation parameters with a batch in the library's order, found none"
        )
    slack = (work.height - work.crop[0], work.width - work.crop[1])
    for name, values, top in (("crop_y", drawn.crop_y, slack[0]), ("crop_x", drawn.crop_x, slack[1])):
        if (values < 0).any() or (values > top).any() or (top and len(np.unique(values)) < 3):
            raise WrongBatchError(f"{row.name}: {name} is not random in 0..{top}")
    for name, flips in (("flip_rows", drawn.flip_rows), ("mirror", drawn.mirror)):
        if len(np.unique(flips)) != 2:
            raise WrongBatchError(f"{row.name}: {name} is the same for all chips of the first batch")
    return drawn


def expected_images(row: Row, work: Work, chips: np.ndarray, drawn: Augmentation) -> np.ndarray:
    """(B, channels, crop height, crop width) float64: flip rows, crop, mirror, scale."""
    store = work.store()
    array: Any = zarr.open_group(store.path, mode="r")["tiles"]
    bands = row.bands or work.bands
    shape = (-1, 1, 1)
    if row.values == "course":
        mean, std = (255 * np.reshape(values, shape) for values in (COURSE_MEAN, COURSE_STD))
    else:
        scaling = work.scaling(bands)
        mean, std = np.reshape(scaling.mean, shape), np.reshape(scaling.std, shape)
    images = []
    for index, chip in enumerate(chips.tolist()):
        pixels = np.asarray(array[chip])
        pixels = pil_values(pixels) if row.values == "course" else pixels[list(store.band_indices(bands))]
        pixels = pixels[:, ::-1] if drawn.flip_rows[index] else pixels
        top, left = int(drawn.crop_y[index]), int(drawn.crop_x[index])
        pixels = pixels[:, top : top + work.crop[0], left : left + work.crop[1]]
        pixels = pixels[:, :, ::-1] if drawn.mirror[index] else pixels
        images.append((pixels.astype(np.float64) - mean) / std)
    return np.stack(images)


def pil_values(chip: np.ndarray) -> np.ndarray:
    """(B G R NIR, y, x) uint16 -> the values that PIL gives: high bytes, colours divided by NIR as by alpha."""
    high = (chip >> 8).astype(np.int64)
    colours, alpha = high[:3], high[3:]
    divided = np.minimum(255, colours * 255 // np.maximum(alpha, 1))
    return np.concatenate([np.where(alpha == 0, 0, np.where(alpha == 255, colours, divided)), alpha])


def _check_chunks(row: Row, work: Work, batch: RowBatch) -> None:
    """Inflate and unshuffle each compressed chunk and compare it with the chip's values."""
    assert batch.chunks is not None
    store, layout = work.store("lz4"), work.store("lz4").layout
    array: Any = zarr.open_group(store.path, mode="r")["tiles"]
    for index, chip in enumerate(batch.chips.tolist()):
        data = batch.images[index].numpy()
        blocks = []
        for first, size in zip(batch.chunks[0][index].tolist(), batch.chunks[1][index].tolist(), strict=True):
            length = layout.chunk_bytes.to_bytes(4, "little")  # numcodecs expects the length before the block
            try:
                blocks.append(numcodecs.lz4.decompress(length + data[first : first + size].tobytes()))
            except RuntimeError as error:
                raise WrongBatchError(f"{row.name}: a chunk of chip {chip} does not decode ({error})") from error
        planes = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(blocks), layout.itemsize, -1)
        values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(layout.dtype)
        if not np.array_equal(values.reshape(-1), np.asarray(array[chip]).reshape(-1)):
            raise WrongBatchError(f"{row.name}: the chunks of chip {chip} decode to other values")
