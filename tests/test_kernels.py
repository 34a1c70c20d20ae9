"""The compiled decoder is compared with the reference decoder; other tests compare that one with zarr-python."""

from pathlib import Path

import numpy as np
import pytest
from helpers.chips import DTYPES, to_store, write_chips

from pipeline import augment, kernels
from pipeline.chunks import ChunkReader
from preprocess import shard, zarr_store
from preprocess.codecs import CODECS


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(5, 3), (64, 64), (300, 200)])
def test_the_compiled_decoder_equals_the_reference(
    tmp_path: Path, codec: str, dtype: str, size: tuple[int, int]
) -> None:
    chips = write_chips(tmp_path / "tif", count=4, bands=3, height=size[0], width=size[1], dtype=dtype)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec)
    layout = store.layout
    path = zarr_store.shard_path(store.path, 0)
    offsets, sizes = shard.read_index(path, layout, 4)
    data = np.memmap(path, np.uint8, mode="r")
    one, two = (np.zeros((3, *size), dtype) for _ in range(2))
    reader = ChunkReader(store, ("blue", "red", "green"))
    for chip in range(4):
        chosen = offsets[chip][[2, 0, 1]], sizes[chip][[2, 0, 1]]
        shard.decode_chip(data, *chosen, layout, one, shard.decode_scratch(layout, 3))
        assert np.array_equal(one, chips.values[chip][[2, 0, 1]])
        reader.decode(np.array([chip]), two[None])
        assert np.array_equal(one, two)


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_is_refused(tmp_path: Path, codec: str, dtype: str) -> None:
    """All bits of one small chunk: in the payload, the stated length, the LZ4 block and the crc32c itself."""
    chips = write_chips(tmp_path / "tif", count=1, bands=1, height=4, width=4, dtype=dtype)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec)
    layout = store.layout
    path = zarr_store.shard_path(store.path, 0)
    offsets, sizes = shard.read_index(path, layout, 1)
    data = np.fromfile(path, np.uint8)
    addresses, no = offsets + data.ctypes.data, np.zeros(1, bool)
    chip, image = np.zeros((1, 1, 1, 4, 4), f"u{layout.itemsize}"), np.zeros((1, 4, 4, 1), np.float32)
    scratch, block = np.zeros((1, layout.chunk_bytes), np.uint8), np.zeros(16, np.float32)
    one, kind = np.ones(1, np.float32), CODECS[codec].kernel_kinds[dtype]

    def damaged() -> set[int]:
        results = {
            kernels.decode(addresses, sizes, chip, scratch[0], kind, no),
            augment.augment(
                addresses, sizes, image, scratch, block, (4, 4, 4), kind,
                no, no, np.zeros(1, np.int64), np.zeros(1, np.int64), no, one, one,
            ),
        }  # fmt: skip
        if codec == "lz4":
            encoded, table, used = np.zeros((1, 128), np.uint8), np.zeros((2, 1, 1), np.int32), np.zeros(1, np.int64)
            results.add(kernels.copy_encoded(addresses[0], sizes[0], encoded, *table, used, layout.chunk_bytes))
        return results

    assert damaged() == {-1}
    for byte in range(int(sizes[0, 0, 0])):
        for bit in range(8):
            data[byte] ^= 1 << bit
            assert damaged() == {0}
            data[byte] ^= 1 << bit
